"""Which columns of a table say what of images: their files, classes, splits, weights and groups."""

import shlex
from dataclasses import dataclass, replace
from pathlib import Path

from finetune.datasets.folders import ImageFolder
from finetune.datasets.label_lists import LabelLists
from finetune.datasets.remarks import Kind, Remark
from finetune.datasets.split_folders import split_called
from finetune.datasets.split_words import SPLITS
from finetune.datasets.table_images import TableImages
from finetune.errors import UserError, did_you_mean
from finetune.notices import few, tell_once
from finetune.settings.choices import MULTILABEL

# Names of columns, in any case, with blanks or dashes for underscores; the first ones count where there are several.
FILE_COLUMNS = (
    *("filename", "file_name", "filenames", "file", "files", "filepath", "file_path", "filepaths", "path", "paths"),
    *("image", "images", "image_name", "image_file", "image_filename", "image_path", "image_id", "imageid", "img"),
    *("img_name", "img_path", "img_id", "photo", "picture", "id", "uuid", "name"),
)
LABEL_COLUMNS = (
    *("label_name", "class_name", "classname", "category_name", "label", "labels", "class", "classes", "category"),
    *("target", "species", "breed", "diagnosis", "tag", "annotation"),
)
WEIGHT_COLUMNS = ("weight", "weights", "sample_weight", "sample_weights")
SPLIT_COLUMNS = ("split", "set", "subset", "partition", "data_set", "dataset")
MOST_LINES_TRIED = 20
MOST_NAMED = 5


@dataclass(frozen=True)
class Columns:
    """The index of the column that says what; of the labels there may be several."""

    file: int
    labels: tuple[int, ...]
    split: int | None = None
    has_names: bool = True
    weight: int | None = None
    group: int | None = None


def find_columns(
    table: Path, lines: list[tuple[int, list[str]]], images: TableImages, found: ImageFolder, lists: LabelLists | None
) -> Columns | None:
    """By the names in the first line, else by what the first lines hold; None: which is which can't be told.

    Args:
        table: The file, for messages.
        lines: Numbers of lines, and their cells.
        images: That may be named.
        found: Gets what is guessed.
        lists: How rows say any number of labels; None: each says one.

    Raises:
        UserError: As `LabelLists.places`.
    """
    if lists and lists.columns:
        return _columns_of_flags(table, lines, images, lists)
    return _columns_by_name(lines, images, found) or _columns_by_content(lines, images, found)


def _columns_by_name(lines: list[tuple[int, list[str]]], images: TableImages, found: ImageFolder) -> Columns | None:
    header = lines[0][1]
    names = [column_name(cell) for cell in header]
    files = [names.index(name) for name in FILE_COLUMNS if name in names]
    labels = [names.index(name) for name in LABEL_COLUMNS if name in names]
    splits = [names.index(name) for name in SPLIT_COLUMNS if name in names]
    first = [cells for _, cells in lines[1 : 1 + MOST_LINES_TRIED]]
    files.sort(key=lambda column: not any(_finds(images, cells, column) for cells in first))
    split = next((column for column in splits if _says_splits(column, names, lines)), None)
    taken = (*files[:1], *labels[:1], split)
    rest = [column for column, name in enumerate(names) if column not in taken and name not in WEIGHT_COLUMNS]
    if len(rest) == 1 and bool(files) != bool(labels):
        files, labels = files or rest, labels or rest
        rest = []
    elif not (files and labels):
        return None
    elif len(files) == 1 and len(labels) == 1:
        return Columns(files[0], (labels[0],), split)
    found.guesses.append(
        Remark(Kind.GUESSED, f"the column {header[files[0]]} names the file, {header[labels[0]]} the class")
    )
    return Columns(files[0], (labels[0],), split)


def _columns_of_flags(
    table: Path, lines: list[tuple[int, list[str]]], images: TableImages, lists: LabelLists
) -> Columns | None:
    """Of a table with a column for each class: the file's is called as one, or names an image in the first rows."""
    header = lines[0][1]
    names, labels = [column_name(cell) for cell in header], lists.places(header, str(table))
    first = [cells for _, cells in lines[1 : 1 + MOST_LINES_TRIED]]
    others = [column for column in range(len(header)) if column not in labels]
    known = [names.index(name) for name in FILE_COLUMNS if name in names and names.index(name) in others]
    files = sorted(known or others, key=lambda column: not any(_finds(images, cells, column) for cells in first))
    if not files or not (known or any(_finds(images, cells, files[0]) for cells in first)):
        return None
    splits = [names.index(name) for name in SPLIT_COLUMNS if name in names and names.index(name) in others]
    return Columns(files[0], labels, next((at for at in splits if _says_splits(at, names, lines)), None))


def _columns_by_content(lines: list[tuple[int, list[str]]], images: TableImages, found: ImageFolder) -> Columns | None:
    """Of a table of two columns without their names: one of them names an image in the very first line."""
    first = lines[0][1]
    files = [column for column in range(len(first)) if _finds(images, first, column)]
    if len(first) != 2 or not files:
        return None
    file = files[0]
    found.guesses.append(Remark(Kind.GUESSED, f"the table has no column names; column {file + 1} names the file"))
    return Columns(file, (1 - file,), has_names=False)


def _finds(images: TableImages, cells: list[str], column: int) -> bool:
    return column < len(cells) and bool(images.find(cells[column]) or images.find_by_end(cells[column]))


def with_weights(table: Path, lines: list[tuple[int, list[str]]], columns: Columns) -> Columns:
    """With the column of the weights, where one is called so.

    Raises:
        UserError: Several are.
    """
    header = lines[0][1] if columns.has_names else []
    taken = (columns.file, *columns.labels, columns.split)
    found = [at for at, name in enumerate(header) if column_name(name) in WEIGHT_COLUMNS and at not in taken]
    if not found:
        return columns
    if len(found) > 1:
        raise UserError(
            f"--labels-csv: {table} has more than one column of weights: {', '.join(header[at] for at in found)}.",
            "Keep one, or call the others otherwise.",
        )
    tell_once(f"{table}: the column {header[found[0]]} says how much each image counts in training.")
    return replace(columns, weight=found[0])


def with_groups(
    table: Path, lines: list[tuple[int, list[str]]], columns: Columns, name: str, *, is_required: bool
) -> Columns:
    """With the column of the groups, where there is one of this name.

    Raises:
        UserError: There are several, or there is none and one is required.
    """
    header = lines[0][1] if columns.has_names else []
    found = [at for at, cell in enumerate(header) if cell == name]
    found = found or [at for at, cell in enumerate(header) if column_name(cell) == column_name(name)]
    if len(found) > 1:
        raise UserError(
            f"--group-by: {table} has more than one column {name}: {', '.join(header[at] for at in found)}.",
            "Call the others otherwise.",
        )
    if found:
        return replace(columns, group=found[0])
    if is_required:
        raise UserError(f"--group-by: {table} has no column {name}.", did_you_mean(name, header))
    return columns


def _says_splits(column: int, names: list[str], lines: list[tuple[int, list[str]]]) -> bool:
    """Whether a column holds splits: one that is called so must, others do where any of them is known."""
    return names[column] == SPLIT_COLUMNS[0] or any(split_of(cell_at(cells, column)) for _, cells in lines[1:])


def advice_on_columns(lines: list[tuple[int, list[str]]], lists: LabelLists | None) -> str:
    """What mends a table whose columns can't be told."""
    header, first = lines[0][1], [cells for _, cells in lines[1 : 1 + MOST_LINES_TRIED]]
    ones = [
        name
        for column, name in enumerate(header)
        if first and all(cell_at(cells, column) in ("0", "1", "0.0", "1.0") for cells in first)
    ]
    flags = f"--label-columns {shlex.quote(','.join(ones))}"
    if lists and lists.columns:
        return "Call the column of the file filename in the first line."
    if len(ones) > 1 and lists is not None:
        return f"{few(ones, MOST_NAMED)} hold 0 and 1 only: if each is a class, give {flags}"
    if len(ones) > 1:
        return (
            f"{few(ones, MOST_NAMED)} hold 0 and 1 only: write the name of the one that is 1 into one column, label. "
            f"If several may be: --task {MULTILABEL} {flags}"
        )
    return "Call them filename and label in its first line."


def column_name(cell: str) -> str:
    """A name of a column, in small letters and with underscores."""
    return "_".join(cell.lower().replace("-", " ").replace("_", " ").split())


def split_of(cell: str) -> str | None:
    """The split that a cell names; None: it names none."""
    split = split_called(cell)
    return split if split in SPLITS else None


def cell_at(cells: list[str], column: int) -> str:
    """A cell of a line; empty where the line is too short."""
    return cells[column] if column < len(cells) else ""
