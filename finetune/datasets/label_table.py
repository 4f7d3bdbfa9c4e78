"""A folder of images with a table beside it that says their classes: CSV in any of its dialects."""

import contextlib
import csv
import io
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from finetune.datasets.folders import (
    ImageFolder,
    canonical_name,
    check_classes_of_splits,
    check_folder,
    class_name,
)
from finetune.datasets.image_walk import Reason, found_folder, list_folder
from finetune.datasets.label_lists import LabelLists
from finetune.datasets.remarks import Kind, Remark, remarks_on
from finetune.datasets.split_folders import known_split_words
from finetune.datasets.table_columns import (
    FILE_COLUMNS,
    LABEL_COLUMNS,
    SPLIT_COLUMNS,
    Columns,
    advice_on_columns,
    cell_at,
    column_name,
    find_columns,
    split_of,
    with_groups,
    with_weights,
)
from finetune.datasets.table_images import TableImages
from finetune.errors import UserError
from finetune.files.whole_files import is_special
from finetune.notices import few
from finetune.settings.flags import MOST_FLOAT

TABLE_SUFFIXES = (".csv", ".tsv")
DELIMITERS = (",", ";", "\t", "|")
BYTE_ORDER_MARKS = {b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}
MOST_NAMED = 5
MOST_TABLE_BYTES = 1 << 26  # A million images' names.


@dataclass(frozen=True)
class _Row:
    """A line of the table: its number, and what it says; the labels are None where they can't be read."""

    line: int
    file: str
    labels: tuple[str, ...] | None
    split: str
    weight: str = "1"
    group: str = ""

    @property
    def label(self) -> str:
        """The class, or all of them, in words."""
        return ", ".join(self.labels or ())

    @property
    def counts(self) -> float:
        """The weight as a number; NaN where it is none, or none that float32 holds."""
        try:
            weight = float(self.weight)
        except ValueError:
            return math.nan
        return weight if 0 <= weight <= MOST_FLOAT else math.nan

    def __str__(self) -> str:
        return f"line {self.line}: {self.file or '?'}"


def read_label_table(
    table: Path,
    images_dir: Path,
    *,
    skip: Path | None = None,
    group_column: str = "",
    must_have_groups: bool = False,
    lists: LabelLists | None = None,
) -> ImageFolder:
    """Finds the images that a table names, with the classes that it gives them.

    A row names an image by its path, relative to `images_dir` or to the table, by its file name, or by either without
    the ending.

    Args:
        table: CSV: separated by commas, semicolons, tabs or bars; UTF-8 or UTF-16; with a line of column names, or
            of two columns.
        images_dir: The folder of the images; they may lie in folders within.
        skip: A folder that is not looked into, where it lies in `images_dir`.
        group_column: Name of a column that says which images stay together; '': there is none.
        must_have_groups: Whether a table without that column is refused.
        lists: How rows say any number of labels, also none; None: each says one.

    Raises:
        UserError: No such table or folder; columns that aren't known; rows without a class, or that name no image, or
            several; images with two classes, splits or groups; no such column of groups.
    """
    check_folder(images_dir)
    found = ImageFolder(images_dir)
    images = TableImages(found, table.absolute().parent, str(skip.resolve()) if skip else None)
    lines = _read_lines(table, found)
    columns = find_columns(table, lines, images, found, lists)
    if columns is None:
        raise UserError(
            f"--labels-csv: {table} has the columns {', '.join(lines[0][1])}: it isn't known which of them names the "
            "file" + ("." if lists and lists.columns else " and which the class."),
            advice_on_columns(lines, lists),
        )
    columns = with_weights(table, lines, columns)
    if group_column:
        columns = with_groups(table, lines, columns, group_column, is_required=must_have_groups)
    rows = _rows(lines, columns, lists)
    if not rows:
        raise UserError(
            f"--labels-csv: {table} has names of columns, and no rows.",
            "Expected a line for each image: its file and its class.",
        )
    found.is_split = columns.split is not None
    _refuse(table, [row for row in rows if not row.file], rows, "name no file", "Name it, or take the rows out.")
    if lists is None:
        unlabelled = [row for row in rows if not row.labels]
        _refuse(table, unlabelled, rows, "have no class", "Name it, or take the rows out.")
    else:
        unreadable = [row for row in rows if row.labels is None]
        _refuse(table, unreadable, rows, "have neither 0 nor 1 in a column of --label-columns", "Write 0 or 1.")
        if not lists.columns:
            found.guesses += lists.doubts(
                [cell_at(cells, columns.labels[0]) for _, cells in lines[columns.has_names :]]
            )
    no_weight = [row for row in rows if math.isnan(row.counts)]
    mend = "Write 1 for an image that counts as usual, 0.5 for one that counts half, 0 for one that doesn't."
    _refuse(table, no_weight, rows, "have a weight that is no number from 0 on", mend)
    if columns.group is not None:
        mend = "Write it: a name of its own, where an image belongs to no other."
        _refuse(table, [row for row in rows if not row.group], rows, f"have no {group_column}", mend)
    row_of = _match(table, rows, images, found)
    for file, item in images.items.items():
        if file not in row_of:
            found.leave_out(item, Reason.NOT_LISTED)
    _divide(table, found, row_of, lists)
    if columns.weight is not None:
        _weigh(table, found, row_of)
    if columns.group is not None:
        found.groups = {file: canonical_name(row.group) for file, row in row_of.items()}
    return found


def find_label_table(folder: Path, *, skip: Path | None = None) -> tuple[Path, Path] | None:
    """A table that says the classes of images, and their folder, for `read_label_table`; None where there is none.

    Args:
        folder: The table lies in it or in the one above; the images in it, or in one of the folders within.
        skip: A folder that is not looked into.
    """
    tables = sorted(folder.iterdir()) + sorted(folder.absolute().parent.iterdir())
    images_dirs = [folder, *(within.path for within in list_folder(found_folder(folder)).folders)]
    for table in tables:
        if table.suffix.lower() in TABLE_SUFFIXES:
            for images_dir in images_dirs:
                with contextlib.suppress(UserError):
                    read_label_table(table, images_dir, skip=skip)
                    return table, images_dir
    return None


def _read_lines(table: Path, found: ImageFolder) -> list[tuple[int, list[str]]]:
    """The table's lines with their numbers, without empty ones."""
    text = _read_text(table, found)
    reader = None
    try:
        delimiter = max(DELIMITERS, key=lambda delimiter: _rate(text, delimiter))
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True)
        lines = [(reader.line_num, [cell.strip() for cell in cells]) for cells in reader]
    except csv.Error as error:
        line = reader.line_num if reader else 1
        raise UserError(f"--labels-csv: {table}, line {line}: {error}.", "Save it as CSV.") from error
    lines = [(number, cells) for number, cells in lines if any(cells)]
    if not lines:
        raise UserError(f"--labels-csv: {table} is empty.", "Expected a line for each image: its file and its class.")
    return lines


def _read_text(table: Path, found: ImageFolder) -> str:
    try:
        if is_special(table):
            raise UserError(
                f"--labels-csv: {table} is a pipe, a socket or a device; a table was expected.", "Write it into a file."
            )
        if table.stat().st_size > MOST_TABLE_BYTES:
            raise UserError(
                f"--labels-csv: {table} has {table.stat().st_size:,} bytes, above the limit of {MOST_TABLE_BYTES:,}."
            )
        content = table.read_bytes()
    except OSError as error:
        raise UserError(f"--labels-csv: {table} can't be read: {error.strerror}.") from error
    encoding = next((name for mark, name in BYTE_ORDER_MARKS.items() if content.startswith(mark)), "utf-8")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError:
        text = content.decode("latin-1")
        found.guesses.append(Remark(Kind.GUESSED, f"{table.name} is read as Latin-1, as it is not UTF-8"))
    if "\0" in text:
        raise UserError(f"--labels-csv: {table} is no text.", "Save it as CSV, in UTF-8.")
    return text


def _rate(text: str, delimiter: str) -> tuple[int, int]:
    """How well a delimiter fits: known names of columns in the first line, and the number of columns."""
    cells = next(csv.reader(text.splitlines()[:1], delimiter=delimiter), [])
    names = [column_name(cell) for cell in cells]
    known = (FILE_COLUMNS, LABEL_COLUMNS, SPLIT_COLUMNS)
    return sum(not set(names).isdisjoint(of_role) for of_role in known), len(cells)


def _labels(cells: list[str], columns: Columns, lists: LabelLists | None) -> tuple[str, ...] | None:
    own = [cell_at(cells, column) for column in columns.labels]
    if lists is None:
        return tuple(filter(None, own))
    return lists.of_flags(own) if lists.columns else lists.of_list(own[0])


def _rows(lines: list[tuple[int, list[str]]], columns: Columns, lists: LabelLists | None) -> list[_Row]:
    return [
        _Row(
            number,
            cell_at(cells, columns.file),
            _labels(cells, columns, lists),
            "" if columns.split is None else cell_at(cells, columns.split),
            "1" if columns.weight is None else cell_at(cells, columns.weight),
            "" if columns.group is None else cell_at(cells, columns.group),
        )
        for number, cells in lines[columns.has_names :]
    ]


def _match(table: Path, rows: list[_Row], images: TableImages, found: ImageFolder) -> dict[str, _Row]:
    """From each image that the table names to its row."""
    missing: list[_Row] = []
    ambiguous: list[_Row] = []
    by_end: list[str] = []
    rows_of: dict[str, list[_Row]] = defaultdict(list)
    for row in rows:
        matches = images.find(row.file)
        if not matches and (matches := images.find_by_end(row.file)):
            by_end.append(row.file)
        if len(matches) == 1:
            rows_of[matches[0]].append(row)
        else:
            (ambiguous if matches else missing).append(row)
    where = f"name no image in {found.root}"
    mend = "Give the folder that the table is about with --images-dir, or take the rows out."
    if missing and (alike := images.find_alike(missing[0].file)):
        mend = f"Did you mean {alike}? Write the names as the files have them."
    mend = f"It holds {few(list(images.items), MOST_NAMED) or 'no images'}. {mend}"
    _refuse(table, missing, rows, where, mend)
    where = f"name more than one image in {found.root}"
    _refuse(table, ambiguous, rows, where, "Write the path from there, with the ending.")
    _refuse_contradictions(table, rows_of)
    found.guesses += remarks_on(
        Kind.GUESSED,
        by_end,
        "row names a path that is not here; its end is taken",
        "rows name paths that are not here; their ends are taken",
    )
    repeated = [f"line {row.line}" for same in rows_of.values() for row in same[1:]]
    found.guesses += remarks_on(Kind.LEFT_OUT, repeated, "row that repeats another", "rows that repeat others")
    return {file: same[0] for file, same in rows_of.items()}


def _refuse(table: Path, refused: Sequence[_Row], rows: Sequence[_Row], what: str, mend: str) -> None:
    if refused:
        raise UserError(
            f"--labels-csv: {len(refused):,} of the {len(rows):,} rows of {table} {what} "
            f"({few(refused, MOST_NAMED, '; ')}).",
            mend,
        )


def _refuse_contradictions(table: Path, rows_of: Mapping[str, list[_Row]]) -> None:
    for what, mend in (("label", "classes"), ("split", "splits"), ("counts", "weights"), ("group", "groups")):
        contradicting = [
            f"{file}: " + ", ".join(f"{getattr(row, what)} in line {row.line}" for row in same)
            for file, same in rows_of.items()
            if len({getattr(row, what) for row in same}) > 1
        ]
        if contradicting:
            raise UserError(
                f"--labels-csv: {table} gives different {mend} to {len(contradicting):,} "
                f"{'image' if len(contradicting) == 1 else 'images'} ({few(contradicting, MOST_NAMED, '; ')}).",
                "Keep one row for each image.",
            )


def _divide(table: Path, found: ImageFolder, row_of: Mapping[str, _Row], lists: LabelLists | None) -> None:
    unknown = sorted({row.split for row in row_of.values() if found.is_split and not split_of(row.split)})
    if unknown:
        raise UserError(
            f"--labels-csv: {table} has splits that aren't known: {', '.join(repr(name) for name in unknown)}.",
            f"{known_split_words()} Or call the column otherwise, to have it passed over.",
        )
    for file in sorted(row_of):
        row = row_of[file]
        split, labels = split_of(row.split) or "train", tuple(map(class_name, row.labels or ()))
        classes = found.splits.setdefault(split, {})
        for label in labels:
            classes.setdefault(label, []).append(file)
        if lists is not None:
            found.labels[file] = labels
            found.files.setdefault(split, []).append(file)
    if "train" not in found.splits:
        raise UserError(f"--labels-csv: {table} has no image of the train split.", known_split_words())
    unused = [name for name in (lists.columns if lists else ()) if class_name(name) not in found.classes]
    if unused:
        raise UserError(
            f"--labels-csv: {table} has no image of the train split with {few(unused)}: there is nothing to learn of "
            f"{'it' if len(unused) == 1 else 'them'}.",
            "Leave it out of --label-columns, or give images.",
        )
    if lists is not None and not found.classes:
        raise UserError(f"--labels-csv: {table} has no image of the train split with a label.")
    if len(found.classes) == 1:
        raise UserError(
            f"--labels-csv: {table} has one class only, {found.classes[0]}: a classifier needs two or more.",
            "Is that the column of the classes? It is the one called label.",
        )
    check_classes_of_splits(found)


def _weigh(table: Path, found: ImageFolder, row_of: Mapping[str, _Row]) -> None:
    found.weights = {file: row.counts for file, row in row_of.items()}
    trained_on = found.files.get("train") or [file for files in found.splits["train"].values() for file in files]
    if not any(found.weights[file] for file in trained_on):
        raise UserError(
            f"--labels-csv: {table} has the weight 0 for all {len(trained_on):,} images of the train split: there is "
            "nothing to train on.",
            "Give some of them a weight above 0, or take the column out: then all count alike.",
        )
