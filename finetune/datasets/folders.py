"""Folders of images: which classes, which files, and whether the folder is split already."""

import os
import unicodedata
from dataclasses import dataclass, field
from pathlib import Path

from finetune.datasets.catalogue import ARCHIVE_SUFFIXES
from finetune.datasets.image_walk import Found, Reason, found_folder, list_folder, walk_images
from finetune.datasets.images import SUFFIXES
from finetune.datasets.remarks import Kind, Remark, remarks_on
from finetune.datasets.split_folders import Layout, NoClassesError, check_no_class_holds_splits, recognise
from finetune.errors import UserError, did_you_mean, nearest_siblings
from finetune.settings.choices import MULTILABEL

ClassFiles = dict[str, list[str]]


@dataclass
class ImageFolder:
    """What was found in a folder of images. File names are relative to it, with forward slashes.

    Attributes:
        root: The folder.
        splits: From split to class to its files. A folder of class folders has all in "train", to be divided.
        is_split: Whether the folder itself says the split of each image.
        split_folders: For each split the folder that is taken for it, relative to the folder that was asked about.
        left_out: By reason, the files and folders that are left out.
        renamed: Folders whose names are no text, and what their classes are called instead.
        guesses: What was guessed.
        weights: How much each file counts in training; empty: nothing is said of it.
        groups: Of each file which others it stays together with, by the table's column that was asked for; empty: there
            is no such column, or none was asked for.
        labels: From each file to its classes, sorted, where an image has any number of them; in `splits` it then stands
            under each of these. Empty: an image has the class that it stands under.
        files: Where an image has any number of labels, from split to its files, those without labels among them.
    """

    root: Path
    splits: dict[str, ClassFiles] = field(default_factory=dict)
    is_split: bool = False
    split_folders: dict[str, str] = field(default_factory=dict)
    left_out: dict[Reason, list[str]] = field(default_factory=dict)
    renamed: list[str] = field(default_factory=list)
    guesses: list[Remark] = field(default_factory=list)
    weights: dict[str, float] = field(default_factory=dict)
    groups: dict[str, str] = field(default_factory=dict)
    labels: dict[str, tuple[str, ...]] = field(default_factory=dict)
    files: dict[str, list[str]] = field(default_factory=dict)

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes in the order of their labels: sorted by code point, whatever the machine's language."""
        return tuple(sorted(self.splits["train"]))

    @property
    def ignored(self) -> tuple[str, ...]:
        """All that is left out, sorted."""
        return tuple(sorted(name for names in self.left_out.values() for name in names))

    def leave_out(self, found: Found, reason: Reason | None = None) -> None:
        """Notes that something is left out, for the reason that it carries or for this one."""
        name = readable_name(self.relative(found.path)) + ("/" if found.is_folder else "")
        self.left_out.setdefault(reason or found.reason or Reason.NO_IMAGE, []).append(name)

    def relative(self, path: Path) -> str:
        """A path's name relative to the folder, with forward slashes."""
        try:
            return path.relative_to(self.root).as_posix()
        except ValueError:  # It lies beside the folder, as the loose images around a `dataset/train` do.
            return Path(os.path.relpath(path, self.root)).as_posix()

    def remarks(self) -> tuple[Remark, ...]:
        """A remark for each kind of thing that was left out, changed or guessed."""
        left_out = [
            remarks_on(Kind.LEFT_OUT, sorted(self.left_out.get(reason, ())), *reason.value) for reason in Reason
        ]
        renamed = remarks_on(
            Kind.CHANGED,
            self.renamed,
            "class name that is not UTF-8: its bytes are written as escapes",
            "class names that are not UTF-8: their bytes are written as escapes",
        )
        taken = [f"{folder} as {split}" for split, folder in self.split_folders.items() if folder != split]
        splits = remarks_on(Kind.GUESSED, taken, "folder is taken as a split", "folders are taken as splits")
        return (*(remark for remarks in left_out for remark in remarks), *renamed, *splits, *self.guesses)


def canonical_name(name: str) -> str:
    """The name in Unicode's composed form: macOS hands out decomposed names of the same files."""
    return unicodedata.normalize("NFC", name)


def readable_name(name: str) -> str:
    """The name as text that can be written anywhere: bytes of a file's name that are no UTF-8 become escapes."""
    return canonical_name(name).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def is_no_text(name: str) -> bool:
    """Whether a file's name holds bytes that are no UTF-8."""
    return any("\udc80" <= character <= "\udcff" for character in name)


def class_name(name: str) -> str:
    """A class's name out of a folder's, or out of a table.

    Raises:
        UserError: labels.txt can't hold it.
    """
    readable = readable_name(name)
    if readable.splitlines() != [readable]:
        raise UserError(f"The class {readable!r} has a line break in its name, which labels.txt can't hold.")
    return readable


def scan_images(
    root: Path, *, skip: Path | None = None, layout: str | None = None, may_share: bool = False
) -> ImageFolder:
    """Finds the images under `root`: class folders, or folders for splits that hold class folders.

    Images may lie in folders within a class folder, and behind links. What is left out is noted.

    Args:
        root: The folder of images.
        skip: A folder that is not looked into, where it lies in `root`.
        layout: "classes" or "splits" where the user says what the folders are; None: it is found out.
        may_share: Whether an image may be in several classes.

    Raises:
        UserError: No such folder; a class with no images; splits that disagree about the classes; folders that may be
            splits or classes; an image in two classes.
        NoClassesError: No class folders, or one only.
    """
    check_folder(root)
    scan = _Scan(found_folder(root), str(skip.resolve()) if skip else None, layout, may_share=may_share)
    _check_classes(scan.found)
    return scan.found


def check_folder(root: Path) -> None:
    """Makes sure that there is a folder of images.

    Raises:
        UserError: There is no such folder.
    """
    if root.is_dir():
        return
    if root.exists():
        is_archive = root.name.lower().endswith(ARCHIVE_SUFFIXES)
        raise UserError(
            f"{root} is a file; a folder of images was expected.",
            "Unpack it, and give the folder with --images-dir." if is_archive else "Give the folder that holds it.",
        )
    raise UserError(f"The image folder {root} doesn't exist.", nearest_siblings(root, only_folders=True))


class _Scan:
    """One look through a folder."""

    def __init__(self, root: Found, skip: str | None, wanted: str | None, *, may_share: bool) -> None:
        self._skip = skip
        self._may_share = may_share
        self._class_of: dict[str, tuple[str, str]] = {}
        self.found = ImageFolder(root.path)
        folders = self._folders(root)
        if not folders:
            raise NoClassesError(
                f"{root.path} holds no class folders: one folder of images for each class was expected.",
                "Give the folder that holds them with --images-dir.",
            )
        layout = recognise(root, folders, wanted)
        self.found.root = layout.root.path
        self._list(root)
        if layout.root != root:
            self._list(layout.root)
        if layout.splits:
            self._scan_splits(layout, root)
        else:
            self.found.splits["train"] = self._scan_classes(layout.classes)
            if wanted is None:
                check_no_class_holds_splits(self.found.root, self.found.splits["train"])

    def _scan_splits(self, layout: Layout, asked: Found) -> None:
        self.found.is_split = True
        for split, folder in layout.splits.items():
            self.found.split_folders[split] = readable_name(folder.path.relative_to(asked.path).as_posix())
            if folder.path.parent != layout.root.path:
                self._list(folder._replace(path=folder.path.parent))
            self.found.splits[split] = self._scan_classes(self._list(folder))
        for folder in layout.unlabelled:
            self._leave_out_images(folder, Reason.UNLABELLED)
        for folder in layout.others:
            self.found.leave_out(folder, Reason.NO_SPLIT)

    def _scan_classes(self, folders: list[Found]) -> ClassFiles:
        classes: ClassFiles = {}
        for folder in folders:
            name = class_name(folder.path.name)
            if name in classes:
                raise UserError(
                    f"{folder.path.parent} holds two folders for the class {name}, whose names differ in bytes only.",
                    "Rename one of them, or put the images of both into one.",
                )
            if is_no_text(folder.path.name):
                self.found.renamed.append(f"{name} for what reads {_as_latin_1(folder.path.name)} in Latin-1")
            classes[name] = self._files_of_class(name, folder)
        return classes

    def _files_of_class(self, name: str, folder: Found) -> list[str]:
        images: list[Found] = []
        for item in walk_images(folder, skip=self._skip):
            if item.reason is None:
                images.append(item)
            else:
                self.found.leave_out(item)
        of_class: dict[str, str] = {}
        for image in sorted(images, key=lambda image: image.is_link):  # Its own name before those of links to it.
            if image.real in of_class:
                self.found.leave_out(image, Reason.SEEN_FILE)
            else:
                of_class[image.real] = self.found.relative(image.path)
                self._check_class(image.real, name, of_class[image.real])
        return sorted(of_class.values())

    def _check_class(self, real: str, name: str, file: str) -> None:
        other_name, other_file = self._class_of.setdefault(real, (name, file))
        if other_name != name and not self._may_share:
            raise UserError(
                f"An image is in two classes, by a link: {readable_name(other_file)} is {readable_name(file)}.",
                f"Remove one of the two: it is wrong. Or, if an image may have several classes: --task {MULTILABEL}",
            )

    def _folders(self, folder: Found) -> list[Found]:
        return [within for within in list_folder(folder).folders if within.real != self._skip]

    def _list(self, folder: Found) -> list[Found]:
        """The folders in a folder; images that lie beside them are noted, and folders that are passed over."""
        listing = list_folder(folder)
        for file in listing.files:
            if file.path.suffix.lower() in SUFFIXES:
                self.found.leave_out(file, Reason.LOOSE)
        for item in listing.left_out:
            if item.is_folder or item.reason in (Reason.BROKEN_LINK, Reason.SPECIAL):
                self.found.leave_out(item)
        return self._folders(folder)

    def _leave_out_images(self, folder: Found, reason: Reason) -> None:
        images = [item for item in walk_images(folder, skip=self._skip) if item.reason is None]
        for image in images:
            self.found.leave_out(image, reason)
        if not images:
            self.found.leave_out(folder, Reason.EMPTY)


def check_classes_of_splits(found: ImageFolder) -> None:
    """Makes sure that no split has a class that train lacks.

    Raises:
        UserError: One has.
    """
    train = found.splits["train"]
    for split, classes in found.splits.items():
        unknown = sorted(set(classes) - set(train))
        if unknown:
            raise UserError(
                f"The {split} split has {_plural('class', unknown)} that train lacks: {', '.join(unknown)}.",
                did_you_mean(unknown[0], sorted(train)),
            )


def _check_classes(found: ImageFolder) -> None:
    train = found.splits["train"]
    left_out = "".join(f"\n  {remark}" for remark in found.remarks() if remark.kind is Kind.LEFT_OUT)
    if not any(train.values()):
        raise UserError(
            f"{found.root} holds no images.{left_out}",
            f"Expected {found.root}/CLASS/*.jpg, or /train/CLASS/*.jpg where it is split.",
        )
    for split, classes in found.splits.items():
        empty = sorted(name for name, files in classes.items() if not files)
        if empty:
            raise UserError(
                f"No images for {_plural('class', empty)} {', '.join(empty)}"
                + (f" in {split}.{left_out}" if found.is_split else f".{left_out}"),
                "Put images there, or remove the folder.",
            )
    check_classes_of_splits(found)
    if len(train) == 1:
        only = next(iter(train))
        raise NoClassesError(
            f"{found.root} holds one class only, {only}: a classifier needs two or more.",
            f"If the classes are folders in {only}, give --images-dir {found.root / only}.",
        )


def _as_latin_1(name: str) -> str:
    return name.encode("utf-8", "surrogateescape").decode("latin-1")


def _plural(word: str, items: list[str]) -> str:
    return word if len(items) == 1 else f"{word}es"
