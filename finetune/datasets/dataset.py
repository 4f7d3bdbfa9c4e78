"""One split of a data set in record files: its shards, counts, classes and keys. No TensorFlow.

Records that can't be read may be left out. Which these are is settled before anything is read for training: its order
follows from the number of records, so that one left out on the way would make another run of a resumed one.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from finetune.datasets.image_rules import RULES_OF_OTHER_RECORDS, ImageRules
from finetune.datasets.records import file_name_of
from finetune.datasets.schema import LabelError, RecordSchema
from finetune.datasets.tfrecord import (
    RecordFileError,
    StoredRecord,
    hash_content,
    salvage_records,
)
from finetune.errors import UserError
from finetune.notices import few
from finetune.settings.choices import MULTILABEL, SINGLE_LABEL

OR_SKIP = "Copy it again, or convert again; finetune-train and finetune-eval leave it out with --on-corrupt skip."
WRONG_DESCRIPTION = "Convert the images again, or remove dataset.json: the shards can be read without it."

MOST_NAMED = 5
NOT_CHOSEN = b"\0"
SEPARATOR = "\n  "


class SkippedRecord(NamedTuple):
    """A record that is left out since it can't be read: its number, counted from 0, its first byte, and why.

    The reason names the record, too, but not the file.
    """

    number: int
    offset: int
    reason: str


@dataclass(frozen=True)
class Shard:
    """A file of records.

    Attributes:
        path: The file.
        num_records: As dataset.json says, or as counted; without those that are left out.
        num_bytes: Its size.
        sha256: None until it is worth reading the file for it.
        compression: In TensorFlow's words: "GZIP", "ZLIB" or "", none.
        skipped: The records that are left out.
        num_lost: Records beyond those that dataset.json counts, but that aren't found in a damaged shard.
        chosen: A byte for each record of the file, not 0 where it is of the data set; None: all are.
    """

    path: Path
    num_records: int
    num_bytes: int
    sha256: str | None = None
    compression: str = ""
    skipped: tuple[SkippedRecord, ...] = ()
    num_lost: int = 0
    chosen: bytes | None = None


@dataclass(frozen=True)
class Dataset:
    """One split of a data set.

    Attributes:
        name: The data set's; the folder's where its files have no name.
        split: As its files have it.
        shards: In the order of their numbers.
        num_classes: Labels are 0 to num_classes - 1, as they stand in the records.
        class_names: The index is the label; None where they aren't known.
        schema: How its records are read.
        outputs: Of a network, for each label from the labels' offset on; None: the label less the offset.
        image_rules: How image files became its pixels.
        whole: The split, where this is only a part of it.
        num_network_outputs: Where the network has outputs for more classes than these; None: as many.
    """

    name: str
    split: str
    shards: tuple[Shard, ...]
    num_classes: int
    class_names: tuple[str, ...] | None
    schema: RecordSchema = RecordSchema()
    outputs: tuple[int, ...] | None = None
    image_rules: ImageRules = RULES_OF_OTHER_RECORDS
    whole: "Dataset | None" = None
    num_network_outputs: int | None = None

    @property
    def task(self) -> str:
        """Whether an image has one label or any number of them, a word of `TASKS`."""
        return MULTILABEL if self.schema.has_lists else SINGLE_LABEL

    def num_outputs(self, labels_offset: int) -> int:
        """How many outputs a network has for these classes.

        Args:
            labels_offset: The lowest label that it has an output for.
        """
        return self.num_network_outputs or self.num_classes - labels_offset

    def output_of(self, label: int, labels_offset: int) -> int:
        """The output of a network that stands for a class.

        Args:
            label: Of a record, checked.
            labels_offset: The lowest one.
        """
        return label - labels_offset if self.outputs is None else self.outputs[label - labels_offset]

    @property
    def num_examples(self) -> int:
        """How many records the split has."""
        return sum(shard.num_records for shard in self.shards)

    @property
    def num_bytes(self) -> int:
        """The size of its shards."""
        return sum(shard.num_bytes for shard in self.shards)

    @property
    def num_skipped(self) -> int:
        """How many of its records are left out since they can't be read."""
        return sum(len(shard.skipped) + shard.num_lost for shard in self.shards)


def content_hash(dataset: Dataset) -> str:
    """A hash of all the split's bytes, in order: for cache keys, and to say what a run was trained on.

    Taken from dataset.json for shards that are not newer than it; others are read. Compression makes no difference;
    records that are left out, or of which only a part is taken, do.
    """
    digest = hashlib.sha256()
    for shard in dataset.shards:
        digest.update(bytes.fromhex(shard.sha256 or hash_content(shard.path)))
        if shard.skipped:
            digest.update(f"without {[skipped.offset for skipped in shard.skipped]}".encode())
        if shard.chosen is not None:
            digest.update(b"of which " + shard.chosen)
    return digest.hexdigest()


def usable_records(shard: Shard) -> Iterator[StoredRecord]:
    """The records of a shard that are of the data set, but for those that are left out.

    Raises:
        RecordFileError: One is damaged, or the file can't be read.
    """
    left_out = {skipped.offset for skipped in shard.skipped}
    try:
        for found in salvage_records(shard.path):
            if found.offset in left_out:
                continue
            if isinstance(found, RecordFileError):
                raise found
            if shard.chosen is None or shard.chosen[found.number : found.number + 1] != NOT_CHOSEN:
                yield found
    except OSError as error:
        raise RecordFileError(f"{shard.path} can't be read: {error.strerror}") from error


def without(shard: Shard, skipped: Sequence[SkippedRecord]) -> Shard:
    """The shard, with more of its records left out."""
    return replace(
        shard, num_records=shard.num_records - len(skipped), skipped=tuple(sorted({*shard.skipped, *skipped}))
    )


def skipped_record(record: StoredRecord | RecordFileError, problem: str) -> SkippedRecord:
    """A record to leave out, and what is wrong with it."""
    reason = f"record {record.number}, which begins at byte {record.offset}: {problem}"
    return SkippedRecord(record.number, record.offset, reason)


def skipped_in_words(dataset: Dataset) -> str:
    """How many records are left out, which are the first of them, and why."""
    examples = reasons_of(dataset.shards)
    all_records = dataset.num_examples + dataset.num_skipped
    what = f"{dataset.num_skipped:,} of {all_records:,} records of {dataset.split} can't be read and are left out"
    return f"--on-corrupt skip: {what}:" + f"\n  {few(examples, MOST_NAMED, SEPARATOR)}"


def reasons_of(shards: Sequence[Shard]) -> list[str]:
    """Why records of these files are left out, each with its file."""
    return [f"{shard.path.name}: {skipped.reason}" for shard in shards for skipped in shard.skipped]


def bad_record(path: Path, record: StoredRecord, problem: str, mend: str) -> UserError:
    """A mistake about a record, which is named by its shard, number, first byte and file name."""
    try:
        name = file_name_of(record.data)
    except ValueError:
        name = ""
    called = f", and is called {name}" if name and name not in problem else ""
    return UserError(
        f"{path}, record {record.number} (counted from 0): {problem}; it begins at byte {record.offset}{called}.", mend
    )


def check_labels(serialized: bytes, schema: RecordSchema, labels_offset: int, num_classes: int) -> tuple[int, ...]:
    """The labels of a record, one where records have no lists, if all of them are classes.

    Args:
        serialized: The record.
        schema: Of its split.
        labels_offset: The lowest label.
        num_classes: One more than the highest label.

    Raises:
        LabelError: The record has no label, or one that is none of the classes.
        ValueError: These bytes are no Example.
    """
    labels = schema.read_labels(serialized)
    others = [label for label in labels if not labels_offset <= label < num_classes]
    if others:
        raise _no_class(others[0], serialized, labels_offset, num_classes)
    return labels


def check_label(serialized: bytes, schema: RecordSchema, labels_offset: int, num_classes: int) -> int:
    """As `check_labels`, of records that have no lists."""
    (label,) = check_labels(serialized, schema, labels_offset, num_classes)
    return label


def _no_class(label: int, serialized: bytes, labels_offset: int, num_classes: int) -> LabelError | UserError:
    if labels_offset >= num_classes:
        return UserError(
            f"--labels-offset is {labels_offset}, but the data has {num_classes} classes.",
            "It is the label of the first class, 0 or 1.",
        )
    mend = (
        "Classes come from labels.txt (id:name a line), without it from the data set's name; the lowest from "
        "--labels-offset."
    )
    if label == num_classes and labels_offset <= 1:
        mend += " Where labels begin at 1, labels.txt must, too (1:daisy)"
        mend += "." if labels_offset else "; then give --labels-offset 1."
    if 0 <= label < labels_offset:
        mend = f"If the labels of these records begin at {label}, give --labels-offset {label}."
    classes = f"{labels_offset} to {num_classes - 1}"
    return LabelError(f"the label is {label}{_of_file(serialized)}, but the classes are {classes}", mend)


def _of_file(serialized: bytes) -> str:
    name = file_name_of(serialized)
    return f" ({name})" if name else ""
