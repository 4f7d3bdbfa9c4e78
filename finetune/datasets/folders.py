"""Folders of images: which classes, which files, and whether the folder is split already."""

import os
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from finetune.datasets.images import SUFFIXES, is_image
from finetune.errors import UserError, did_you_mean, nearest_siblings

SPLITS = ("train", "validation", "test")
SPLIT_FOLDERS = {
    "train": "train",
    "validation": "validation",
    "val": "validation",
    "valid": "validation",
    "test": "test",
}

ClassFiles = dict[str, list[str]]


@dataclass
class ImageFolder:
    """What was found in a folder of images. File names are relative to it, with forward slashes.

    Attributes:
        root: The folder.
        splits: From split to class to its files. A folder of class folders has all in "train", to be divided.
        is_split: Whether the folder itself has a folder for each split.
        split_folders: The folder's name for each split, where it has such folders.
        ignored: Files that are no images and aren't called like images, and images outside the class folders.
    """

    root: Path
    splits: dict[str, ClassFiles] = field(default_factory=dict)
    is_split: bool = False
    split_folders: dict[str, str] = field(default_factory=dict)
    ignored: list[str] = field(default_factory=list)

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes in the order of their labels: sorted by code point, whatever the machine's language."""
        return tuple(sorted(self.splits["train"]))


def canonical_name(name: str) -> str:
    """The name in Unicode's composed form: macOS hands out decomposed names of the same files."""
    return unicodedata.normalize("NFC", name)


def scan_images(root: Path, *, skip: Path | None = None) -> ImageFolder:
    """Finds the images under `root`: class folders, or train/validation(/test) folders of class folders.

    Images may lie in folders within a class folder. Names that start with a dot are passed over.

    Args:
        root: The folder of images.
        skip: A folder that is not looked into, where it lies in `root`.

    Raises:
        UserError: No such folder; no class folders; a class with no images; splits that disagree about the classes.
    """
    if not root.is_dir():
        raise UserError(f"The image folder {root} doesn't exist.", nearest_siblings(root, only_folders=True))
    found = ImageFolder(root)
    folders = [path for path in _folders(root) if skip is None or path.resolve() != skip.resolve()]
    if not folders:
        raise UserError(
            f"{root} holds no class folders: one folder of images for each class was expected.",
            "Give the folder that holds them with --images-dir.",
        )
    _note_loose_images(found, root)
    split_of = {path: SPLIT_FOLDERS.get(path.name.lower()) for path in folders}
    found.is_split = "train" in split_of.values() and all(_folders(path) for path in folders if split_of[path])
    if not found.is_split:
        found.splits["train"] = _scan_classes(found, folders)
    else:
        _scan_splits(found, split_of)
    _check_classes(found)
    return found


def _scan_splits(found: ImageFolder, split_of: Mapping[Path, str | None]) -> None:
    strangers = [path.name for path, split in split_of.items() if split is None]
    if strangers:
        raise UserError(
            f"{found.root} holds folders for splits and, beside them, {', '.join(strangers)}.",
            "Move what belongs to no split elsewhere, or rename the class folder that is called like a split.",
        )
    for path, split in split_of.items():
        if split in found.splits:
            raise UserError(f"{path} and {found.root / found.split_folders[split]} are both the {split} split.")
        found.split_folders[str(split)] = path.name
        found.splits[str(split)] = _scan_classes(found, _folders(path))
        _note_loose_images(found, path)


def _scan_classes(found: ImageFolder, folders: list[Path]) -> ClassFiles:
    classes: ClassFiles = {}
    for folder in folders:
        name = canonical_name(folder.name)
        if name in classes:
            raise UserError(f"{folder.parent} holds two folders for the class {name} that only differ in Unicode form.")
        if name.splitlines() != [name]:
            raise UserError(f"The class folder {name!r} has a line break in its name, which labels.txt can't hold.")
        classes[name] = _files_under(found, folder)
    return classes


def _files_under(found: ImageFolder, folder: Path) -> list[str]:
    files: list[str] = []
    for directory, subfolders, names in os.walk(folder):
        subfolders[:] = sorted(name for name in subfolders if not _is_hidden(name))
        for name in sorted(names):
            if _is_hidden(name):
                continue
            path = Path(directory, name)
            file = path.relative_to(found.root).as_posix()
            is_meant = path.suffix.lower() in SUFFIXES
            (files if is_meant or is_image(path) else found.ignored).append(file)
    return files


def _note_loose_images(found: ImageFolder, folder: Path) -> None:
    loose = (path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and path.is_file())
    found.ignored.extend(sorted(path.relative_to(found.root).as_posix() for path in loose))


def _check_classes(found: ImageFolder) -> None:
    train = found.splits["train"]
    if not any(train.values()):
        raise UserError(
            f"{found.root} holds no images.",
            f"Expected {found.root}/CLASS/*.jpg, or /train/CLASS/*.jpg where it is split.",
        )
    for split, classes in found.splits.items():
        empty = sorted(name for name, files in classes.items() if not files)
        if empty:
            raise UserError(
                f"No images for {_plural('class', empty)} {', '.join(empty)}"
                + (f" in {split}." if found.is_split else "."),
                "Put images there, or remove the folder.",
            )
        unknown = sorted(set(classes) - set(train))
        if unknown:
            raise UserError(
                f"The {split} split has {_plural('class', unknown)} that train lacks: {', '.join(unknown)}.",
                did_you_mean(unknown[0], sorted(train)),
            )
    if len(train) == 1:
        only = next(iter(train))
        raise UserError(
            f"{found.root} holds one class only, {only}: a classifier needs two or more.",
            f"If the classes are folders in {only}, give --images-dir {found.root / only}.",
        )


def _folders(path: Path) -> list[Path]:
    return sorted(child for child in path.iterdir() if child.is_dir() and not _is_hidden(child.name))


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def _plural(word: str, items: list[str]) -> str:
    return word if len(items) == 1 else f"{word}es"
