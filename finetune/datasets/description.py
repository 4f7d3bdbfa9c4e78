"""dataset.json: what a converted data set holds, written beside its shards.

    version            of this file's format
    name, seed         of the data set and of its division
    classes            their names; the index is the label
    splits             for each split: num_examples, num_examples_per_class, and its shards with file, num_records,
                       num_bytes and sha256
    formats            how many records of each format ("jpg", "png")
    images             the rules by which image files became pixels: `background` and `sample_bits` (see image_rules.py)
    reencoded          how many images were encoded anew, by what they were before
    changed            how many images were changed beyond that, by what was done
    guessed            what was taken for granted about the images, a sentence each
    corrupt            files left out, with the reason
    ignored            files that are no images, or lie outside the class folders
    duplicates         count and files of each picture that is in more than one split

File names are relative, with forward slashes; there is no path of the machine in it.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune.datasets.image_rules import RULES_OF_OTHER_RECORDS, ImageRules
from finetune.errors import UserError

FILE_NAME = "dataset.json"
LABELS_FILE_NAME = "labels.txt"
VERSION = 1


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


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes it readably, in ASCII, which any file name survives."""
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="ascii")


def read_description(dataset_dir: Path) -> Description | None:
    """Reads the folder's dataset.json; None where there is none.

    Raises:
        UserError: It can't be read as one.
    """
    path = dataset_dir / FILE_NAME
    if not path.exists():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["version"] != VERSION:
            raise UserError(
                f"{path} has version {content['version']}, this program reads {VERSION}.", "Convert the images again."
            )
        shards = {
            split: tuple(
                ShardDescription(shard["file"], shard["num_records"], shard["num_bytes"], shard["sha256"])
                for shard in part["shards"]
            )
            for split, part in content["splits"].items()
        }
        rules = ImageRules.from_json(content["images"]) if "images" in content else RULES_OF_OTHER_RECORDS
        return Description(content["name"], tuple(content["classes"]), shards, rules)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path} can't be read as a data set's description ({type(error).__name__}: {error}).",
            "Convert the images again, or remove this file: the shards can be read without it.",
        ) from error


def write_labels(path: Path, classes: tuple[str, ...]) -> None:
    """Writes slim's labels.txt: `id:name` a line."""
    lines = "".join(f"{label}:{name}\n" for label, name in enumerate(classes))
    path.write_bytes(lines.encode("utf-8", "surrogateescape"))


def read_labels(path: Path) -> tuple[str, ...]:
    """The class names of a labels.txt; a number that it leaves out is its own name.

    Raises:
        UserError: A line that isn't `id:name`, or a number given twice.
    """
    names: dict[int, str] = {}
    lines = path.read_bytes().decode("utf-8", "surrogateescape").splitlines()
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        label, colon, name = line.partition(":")
        if not (colon and label.strip().isdecimal()):
            raise UserError(f"{path}, line {number}: {line!r} is not of the form id:name, such as 0:daisy.")
        if int(label) in names:
            raise UserError(f"{path}, line {number}: the class {int(label)} was named before.")
        names[int(label)] = name
    return tuple(names.get(label, str(label)) for label in range(max(names, default=-1) + 1))
