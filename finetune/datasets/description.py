"""dataset.json: what a converted data set holds, written beside its shards.

    version            of this file's format
    task               "multilabel" where an image has any number of labels; not there: it has one
    name, seed         of the data set and of its division
    classes            their names; the index is the label
    splits             for each split: num_examples, num_examples_per_class, where an image has any number of labels
                       num_without_labels, and its shards with file, num_records, num_bytes and sha256
    weights            where images have weights, for each split the least, the most and the mean
    formats            how many records of each format ("jpg", "png")
    images             the rules by which image files became pixels: `background` and `sample_bits` (see image_rules.py)
    reencoded          how many images were encoded anew, by what they were before
    changed            how many images were changed beyond that, by what was done
    guessed            what was taken for granted about the images, a sentence each
    corrupt            files left out, with the reason
    ignored            files and folders left out for other reasons
    remarks            what was left out, changed, guessed or looks doubtful: kind, what, count, and some examples
    duplicates         count and files of each picture that is in more than one split
    contradictions     count and files of each picture that is in more than one class
    near_duplicates    where they were looked for: from which similarity on, how many pairs were found, how many of them
                       are in different splits and classes, and the table of them beside this file
    groups             where images were kept together: by what, how many groups, and how many images were asked for

File names are relative, with forward slashes; there is no path of the machine in it.
"""

import codecs
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune.datasets.image_rules import IMAGE_RULES_SHAPE, RULES_OF_OTHER_RECORDS, ImageRules
from finetune.errors import UserError
from finetune.files.json_files import MayLack, Number, read_json
from finetune.files.whole_files import TextTooLongError, is_special, read_bytes, write_text
from finetune.notices import has_control, on_one_line, tell_once
from finetune.settings.choices import SINGLE_LABEL, TASKS

FILE_NAME = "dataset.json"
LABELS_FILE = "labels.txt"
NEAR_DUPLICATES_FILE = "near_duplicates.csv"
NEAR_DUPLICATES_SHEET = "near_duplicates.html"
VERSION = 1

OTHER_FILE = "Save it as text in UTF-8, a line id:name for each class, such as 0:daisy."
COUNT = Number(int, at_least=0)
SHAPE = {
    "name": str,
    "classes": [str],
    "splits": {
        ...: {
            "num_examples": COUNT,
            "shards": [{"file": str, "num_records": COUNT, "num_bytes": COUNT, "sha256": str}],
        }
    },
    "images": MayLack(IMAGE_RULES_SHAPE),
    "task": MayLack(str),
}
MEND = "Convert the images again, or remove this file: the shards can be read without it."

MOST_SHOWN = 80  # Characters of a line that can't be read.

NUMBERED_LINE = re.compile(r"(?P<label>[0-9]{1,18})\s*:\s*(?P<name>.*)")
OTHER_SEPARATOR = re.compile(r"[0-9]+\s*[\s,;=]\s*\S")
NUMBER_LAST = re.compile(r".*\S\s*[,;:=\t]\s*[0-9]+$")
OTHER_FORM = re.compile(r"item\s*\{|[{\[]")  # Protobuf's text form, which detectors are trained with; JSON.
BYTE_ORDER_MARKS = {  # UTF-32's begins with UTF-16's.
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF32_LE: "utf-32-le",
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}


@dataclass(frozen=True)
class ShardDescription:
    """A shard as dataset.json has it."""

    file: str
    num_records: int
    num_bytes: int
    sha256: str


@dataclass(frozen=True)
class Description:
    """What reading a data set needs of its dataset.json."""

    name: str
    classes: tuple[str, ...]
    shards: Mapping[str, tuple[ShardDescription, ...]]
    image_rules: ImageRules
    task: str = SINGLE_LABEL


def read_description(dataset_dir: Path) -> Description | None:
    """Reads the folder's dataset.json; None where there is none.

    Raises:
        UserError: It can't be read as one.
    """
    path = dataset_dir / FILE_NAME
    if not path.exists():
        return None
    content = read_json(path, {"version": Number(int)}, MEND)
    if content["version"] != VERSION:
        raise UserError(
            f"{path} has version {content['version']}, this program reads {VERSION}.", "Convert the images again."
        )
    content = read_json(path, SHAPE, MEND)
    shards = {
        split: tuple(
            ShardDescription(shard["file"], shard["num_records"], shard["num_bytes"], shard["sha256"])
            for shard in part["shards"]
        )
        for split, part in content["splits"].items()
    }
    for split, part in content["splits"].items():
        _check_sum(path, split, part["num_examples"], shards[split])
    task = content.get("task", SINGLE_LABEL)
    if task not in TASKS:
        raise UserError(f"{path} has the task {task!r}, this program knows {' and '.join(TASKS)}.", MEND)
    return Description(content["name"], tuple(content["classes"]), shards, _image_rules(path, content), task)


def _image_rules(path: Path, content: Mapping[str, Any]) -> ImageRules:
    try:
        return ImageRules.from_json(content["images"]) if "images" in content else RULES_OF_OTHER_RECORDS
    except UserError as error:
        raise UserError(f"{path}: {str(error).splitlines()[0]}", MEND) from error


def _check_sum(path: Path, split: str, num_examples: int, shards: tuple[ShardDescription, ...]) -> None:
    num_records = sum(shard.num_records for shard in shards)
    if num_records != num_examples:
        raise UserError(
            f"{path} says that {split} has {num_examples} images, but its shards {num_records} records.",
            MEND,
        )


def write_labels(path: Path, classes: Sequence[str]) -> None:
    """Writes slim's labels.txt, whole or not at all: `id:name` a line."""
    write_text(path, "".join(f"{label}:{name}\n" for label, name in enumerate(classes)))


def read_labels(path: Path) -> tuple[str, ...]:
    """The class names of a labels.txt: `id:name` a line, or, where no line is so, one name a line in order.

    A number that the file leaves out is its own name. UTF-8 or, with a byte-order mark, UTF-16 or UTF-32.

    Raises:
        UserError: A line that isn't `id:name` among such lines, a number without a name or given twice, more numbers
            left out than named.
    """
    if is_special(path):
        raise UserError(f"{path} is a pipe, a socket or a device; a line id:name for each class was expected.")
    lines = [(number, line.strip()) for number, line in enumerate(_decode_labels(path).splitlines(), start=1)]
    lines = [(number, line) for number, line in lines if line]
    if lines and not any(NUMBERED_LINE.match(line) for _, line in lines):
        return _names_in_order(path, lines)
    names: dict[int, str] = {}
    for number, line in lines:
        match = NUMBERED_LINE.fullmatch(line)
        if match is None:
            raise UserError(f"{path}, line {number}: {_shown(line)} is not of the form id:name, such as 0:daisy.")
        label, name = int(match["label"]), match["name"]
        if not name:
            raise UserError(f"{path}, line {number}: the class {label} has no name.", "Write one, or remove the line.")
        if label in names:
            raise UserError(f"{path}, line {number}: the class {label} was named before.")
        names[label] = name
    _check_gaps(path, names)
    _tell_namesakes(path, names)
    return tuple(names.get(label, str(label)) for label in range(max(names, default=-1) + 1))


def _shown(line: str) -> str:
    return repr(line if len(line) <= MOST_SHOWN else f"{line[:MOST_SHOWN]}…")


def _decode_labels(path: Path) -> str:
    try:
        content = read_bytes(path)
    except OSError as error:
        raise UserError(f"{path} can't be read: {error.strerror}.") from error
    except TextTooLongError as error:
        raise UserError(f"{error}: a labels.txt has a line for each class, such as 0:daisy.") from error
    for mark, encoding in BYTE_ORDER_MARKS.items():
        if content.startswith(mark):
            return content.removeprefix(mark).decode(encoding, "replace")
    if b"\0" in content:
        raise UserError(
            f"{path} is no text in UTF-8: it holds zero bytes, as UTF-16 without a byte-order mark does.",
            "Save it as UTF-8.",
        )
    return content.decode("utf-8", "surrogateescape")


def _names_in_order(path: Path, lines: list[tuple[int, str]]) -> tuple[str, ...]:
    number, first = lines[0]
    for at, line in lines:
        if has_control(line.replace("\t", " ")):
            raise UserError(
                f"{path}, line {at}: {on_one_line(line)[:MOST_SHOWN]} holds control characters, and no line is of "
                "the form id:name: this is no list of names.",
                OTHER_FILE,
            )
    looks_otherwise = OTHER_FORM.match(first) or any(
        all(form.match(line) for _, line in lines) for form in (OTHER_SEPARATOR, NUMBER_LAST)
    )
    if looks_otherwise:
        raise UserError(f"{path}, line {number}: {_shown(first)} is not of the form id:name, such as 0:daisy.")
    names = [name for _, name in lines]
    tell_once(f"{path}: no line is of the form id:name, so they are taken for names in order: 0 is {names[0]}.")
    _tell_namesakes(path, dict(enumerate(names)))
    return tuple(names)


def _check_gaps(path: Path, names: Mapping[int, str]) -> None:
    highest = max(names, default=-1)
    num_left_out = highest + 1 - len(names)
    if num_left_out > len(names):
        raise UserError(
            f"{path} names {len(names)} classes, but the highest number is {highest}: {num_left_out} are left out.",
            "Number the classes from 0 on; a line such as 7:7 names one that is left out on purpose.",
        )
    if num_left_out:
        first = next(label for label in range(highest) if label not in names)
        tell_once(f"{path} leaves out {num_left_out} of the numbers to {highest}, the first is {first}: called so.")


def _tell_namesakes(path: Path, names: Mapping[int, str]) -> None:
    first_of: dict[str, int] = {}
    for label, name in names.items():
        if name in first_of:
            tell_once(f"{path} calls both {first_of[name]} and {label} {name!r}; only their numbers tell them apart.")
            return
        first_of[name] = label
