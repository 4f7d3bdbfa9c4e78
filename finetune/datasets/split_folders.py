"""Whether the folders in a folder are classes, or splits that hold the classes, whatever the splits are called."""

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from finetune.datasets.image_walk import Found, Listing, list_folder
from finetune.datasets.split_words import SPLITS, canonical_split, is_split_word, split_words_in_words
from finetune.errors import UserError, nearest
from finetune.notices import few
from finetune.settings.choices import LAYOUTS

# A folder of images without classes, which comes with train and test folders in competitions.
UNLABELLED = "unlabelled"
UNLABELLED_WORDS = ("pred", "predict", "prediction", "predictions", "unlabelled", "unlabeled", "unsup")
# Words that stand beside these: `training_set`, `seg_train`, `Test Images`.
FILLERS = ("set", "data", "dataset", "image", "images", "img", "imgs", "folder", "dir", "split", "seg")
CLASSES, SPLITS_OF_CLASSES = LAYOUTS
MOST_NAMED = 8


class NoClassesError(UserError):
    """A folder of images without class folders: a table of labels may say the classes."""

    def __init__(self, message: str, mend: str | None = None) -> None:
        super().__init__(message, mend)
        self.message = message


@dataclass
class Layout:
    """What the folders in a folder are.

    Attributes:
        root: The folder that they lie in: the one that was asked about, or the only folder in it.
        classes: Where they are classes: the class folders.
        splits: Where they are splits: the folder of each, in the order train, validation, test.
        unlabelled: Folders of a split, or called like images to predict, that hold images without class folders.
        others: Folders that are called like no split, beside some that are.
    """

    root: Found
    classes: list[Found] = field(default_factory=list)
    splits: dict[str, Found] = field(default_factory=dict)
    unlabelled: list[Found] = field(default_factory=list)
    others: list[Found] = field(default_factory=list)


def split_called(name: str) -> str | None:
    """The split that a name stands for, in any case, or `UNLABELLED`; None: it is called like neither."""
    words = _words(name)
    if len(words) != 1:
        return None
    if words[0] in UNLABELLED_WORDS:
        return UNLABELLED
    return canonical_split(words[0]) if is_split_word(words[0]) else None


def known_split_words() -> str:
    """A sentence that lists them."""
    return (
        f"Known, in any case, and with set, data or images beside them, are {split_words_in_words()}; "
        f"{UNLABELLED}: {', '.join(UNLABELLED_WORDS)}."
    )


def recognise(root: Found, folders: list[Found], wanted: str | None) -> Layout:
    """Tells splits from classes: by their names, and by what they hold.

    Args:
        root: The folder.
        folders: The folders in it.
        wanted: "classes" or "splits" where the user knows; None: it is found out.

    Raises:
        UserError: It can't be told; splits are wanted, and there is no train folder.
        NoClassesError: Splits without class folders.
    """
    if wanted == CLASSES:
        return Layout(root, classes=folders)
    if not any(split_called(folder.path.name) == "train" for folder in folders):
        only = list_folder(folders[0]).folders if len(folders) == 1 else []
        if any(_is_train_of_classes(folder) for folder in only):
            return recognise(folders[0], only, wanted)
        _refuse_unknown_splits(root, folders, wanted)
        return Layout(root, classes=folders)
    layout = Layout(root)
    for folder in folders:
        _sort_in(layout, folder)
    if layout.others and wanted is None:
        is_only_split = len(layout.splits) + len(layout.unlabelled) == 1
        if is_only_split and not _is_train_of_classes(layout.splits["train"]):
            return Layout(root, classes=folders)
        raise UserError(
            f"{root.path} holds folders for splits and, beside them, {_names(layout.others)}.",
            "Give --layout splits to leave out what belongs to no split, --layout classes if all of them are classes.",
        )
    _find_class_folders(layout)
    return layout


def check_no_class_holds_splits(root: Path, classes: Mapping[str, Sequence[str]]) -> None:
    """Makes sure that what was taken for a class, for want of another sign, is no folder of splits of classes.

    Args:
        root: The folder of the classes.
        classes: For each of them its files, relative to the folder.

    Raises:
        UserError: A class holds folders in a folder that is called like the train split.
    """
    for files in classes.values():
        deep = [parts for parts in (file.split("/") for file in files) if len(parts) > len(("class", "split", "class"))]
        if any(split_called(split) == "train" for _, split, *_ in deep):
            folder, names = deep[0][0], sorted({parts[1] for parts in deep})
            raise UserError(
                f"{root} holds {few(sorted(classes), MOST_NAMED)}, and {folder} holds folders for splits: "
                f"{few(names, MOST_NAMED)}.",
                f"Give --images-dir {shlex.quote(str(root / folder))}, or --layout classes if {folder} is a class.",
            )


def _sort_in(layout: Layout, folder: Found) -> None:
    split = split_called(folder.path.name)
    if split is None:
        layout.others.append(folder)
    elif split == UNLABELLED:
        layout.unlabelled.append(folder)
    elif split in layout.splits:
        raise UserError(
            f"{layout.splits[split].path} and {folder.path} are both the {split} split.",
            "Move one of them elsewhere, or give --layout classes if they are classes.",
        )
    else:
        layout.splits[split] = folder


def _find_class_folders(layout: Layout) -> None:
    """Looks a level deeper where a split holds nothing but a folder of its own name, as `seg_train/seg_train` does."""
    train = _without_wrapper(layout.splits["train"], "train")
    class_folders = list_folder(train).folders
    if not class_folders:
        raise NoClassesError(
            f"{layout.root.path} holds splits ({_names([*layout.splits.values(), *layout.unlabelled])}), and no class "
            f"folders are in {train.path}.",
            "Expected a folder of images for each class in it; give --layout classes if the splits are the classes.",
        )
    class_names = [folder.path.name for folder in class_folders]
    splits = {"train": train}
    for split in SPLITS:
        if split in layout.splits and split != "train":
            folder = _without_wrapper(layout.splits[split], split)
            if _has_class_folders(folder, class_names):
                splits[split] = folder
            else:
                layout.unlabelled.append(layout.splits[split])
    layout.splits = splits


def _without_wrapper(folder: Found, split: str) -> Found:
    listing = list_folder(folder)
    if len(listing.folders) != 1 or listing.has_images():
        return folder
    only = listing.folders[0]
    return only if split_called(only.path.name) == split or not _words(only.path.name) else folder


def _has_class_folders(folder: Found, class_names: list[str]) -> bool:
    """Not so where there is but one folder, with images in it, that is called like no class, such as `unknown`."""
    folders = list_folder(folder).folders
    if len(folders) != 1 or nearest(folders[0].path.name, class_names):
        return bool(folders)
    return bool(list_folder(folders[0]).folders)


def _is_train_of_classes(folder: Found) -> bool:
    return split_called(folder.path.name) == "train" and _holds_folders_only(list_folder(folder))


def _holds_folders_only(listing: Listing) -> bool:
    return bool(listing.folders) and not listing.has_images()


def _refuse_unknown_splits(root: Found, folders: list[Found], wanted: str | None) -> None:
    """Refuses folders that hold nothing but folders of the same names: these may be the classes, they the splits."""
    if wanted == SPLITS_OF_CLASSES:
        raise UserError(
            f"--layout splits: no folder in {root.path} is called like the train split, only {_names(folders)}.",
            known_split_words(),
        )
    if len(folders) < 2:
        return
    if all(split_called(folder.path.name) for folder in folders):
        raise UserError(
            f"{root.path} holds folders for splits, {_names(folders)}, but none that is called like the train split.\n"
            f"  {known_split_words()}",
            f"Rename the train split, or give --layout classes if {_names(folders)} are the classes.",
        )
    names_within: list[set[str]] = []
    for folder in folders:
        listing = list_folder(folder)
        if not _holds_folders_only(listing):
            return
        names_within.append({within.path.name for within in listing.folders})
    common, all_names = set.intersection(*names_within), set.union(*names_within)
    if len(common) < 2 or 2 * len(common) < len(all_names):  # A single one, such as `images`, is no set of classes.
        return
    shared = sorted(common)
    if all(split_called(name) for name in shared):
        raise UserError(
            f"{root.path} holds {_names(folders)}, and each of them folders for splits: {few(shared, MOST_NAMED)}.",
            "Splits that hold classes are read, such as train/CLASS: arrange them so, or give --layout classes to have "
            "all of a class divided anew.",
        )
    raise UserError(
        f"{root.path} holds {_names(folders)}, which hold folders only, and the same ones: {few(shared, MOST_NAMED)}. "
        f"Those may be classes, and these splits, but none is called like the train split.\n  {known_split_words()}",
        f"Rename the splits, or give --layout classes if {_names(folders)} are the classes.",
    )


def _words(name: str) -> list[str]:
    """The words of a folder's name that say something."""
    return [word for word in re.split(r"[\W_]+", name.lower()) if word and word not in FILLERS]


def _names(folders: list[Found]) -> str:
    return few([folder.path.name for folder in folders], MOST_NAMED)
