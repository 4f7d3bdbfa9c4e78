"""One split of a data set in record files: its shards, counts, classes and keys. No TensorFlow.

A folder that `finetune-convert` wrote says what it holds in dataset.json; in any other, slim's own among them, the
shards are found by their names and the records are counted. What is said and what is found must agree: the first
record is looked at always, and all labels where nothing but names of files says what the classes are.
"""

import contextlib
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from finetune.datasets.catalogue import FoundShards, ShardName, find_shards, in_order
from finetune.datasets.description import (
    FILE_NAME,
    LABELS_FILE,
    Description,
    read_description,
    read_labels,
)
from finetune.datasets.image_rules import RULES_OF_OTHER_RECORDS, ImageRules
from finetune.datasets.records import BYTES, ENCODED, FILENAME, INT64, LABEL, read_feature, read_features
from finetune.datasets.schema import LabelError, RecordSchema, find_schema
from finetune.datasets.split_words import canonical_split
from finetune.datasets.tfrecord import RecordFileError, count_records, find_compression, hash_content, read_records
from finetune.errors import UserError
from finetune.notices import tell_once
from finetune.published.known_datasets import KNOWN_DATASETS, KnownDataset

COPY_AGAIN = "Copy it again, or convert again."

# All labels of a split are looked at beforehand where that takes seconds; of a larger one, when they are read.
MOST_SCANNED_BYTES = 1 << 30
# So many outputs that no record has the label of are taken for a mistake, where they are most of all.
MOST_UNUSED_CLASSES = 1000


@dataclass(frozen=True)
class Shard:
    """A file of records.

    Attributes:
        path: The file.
        num_records: As dataset.json says, or as counted.
        num_bytes: Its size.
        sha256: None until it is worth reading the file for it.
        compression: In TensorFlow's words: "GZIP", "ZLIB" or "", none.
    """

    path: Path
    num_records: int
    num_bytes: int
    sha256: str | None = None
    compression: str = ""


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
    """

    name: str
    split: str
    shards: tuple[Shard, ...]
    num_classes: int
    class_names: tuple[str, ...] | None
    schema: RecordSchema = RecordSchema()
    outputs: tuple[int, ...] | None = None
    image_rules: ImageRules = RULES_OF_OTHER_RECORDS

    @property
    def num_examples(self) -> int:
        """How many records the split has."""
        return sum(shard.num_records for shard in self.shards)

    @property
    def num_bytes(self) -> int:
        """The size of its shards."""
        return sum(shard.num_bytes for shard in self.shards)


def find_dataset(
    dataset_dir: Path,
    name: str | None,
    split: str,
    *,
    labels_offset: int = 0,
    image_key: str = ENCODED,
    label_key: str = LABEL,
) -> Dataset:
    """Finds one split of a data set.

    Args:
        dataset_dir: The folder with the shards, and labels.txt and dataset.json where there are such.
        name: Of the data set; None where the folder holds only one.
        split: "train", "validation" or what the files have.
        labels_offset: The lowest label that the network will have an output for.
        image_key: Of the image in the records.
        label_key: Of the label in the records.

    Raises:
        UserError: No such folder, data set or split; several data sets and no name; a shard that is missing, truncated
            or no TFRecord file; a split without records; a first record that can't be read; a label that is no class.
    """
    found = find_shards(dataset_dir, name)
    found_split = found.choose_split(split)
    described = read_description(found.folder)
    if described and described.name != found.dataset:
        described = None
    shards = (
        _described_shards(found.folder, described, found_split)
        if described
        else _counted_shards(found.splits[found_split])
    )
    if not any(shard.num_records for shard in shards):
        raise UserError(f"The {found_split} split of {found.title} has no records.")
    _tell_compressed(found.folder, shards, found_split)
    class_names = _class_names(found.folder, described)
    paths = [shard.path for shard in shards]
    schema = _schema_of(paths, image_key, label_key, class_names)
    _tell_kind(found.folder, schema)
    known = KNOWN_DATASETS.get(name or found.dataset)
    num_classes = _num_classes_told(found.folder, schema, known, class_names)
    if num_classes is None:
        num_classes = _num_classes_found(found, found_split, schema, labels_offset)
    elif described or sum(shard.num_bytes for shard in shards) > MOST_SCANNED_BYTES:
        _check_first_record(paths, schema, labels_offset, num_classes)
    else:
        labels = _check_labels(paths, schema, labels_offset, num_classes)
        if known and not class_names and max(labels) < num_classes - 1:
            tell_once(
                f"{found.folder}: {known.name} has {num_classes} classes, but the labels of {found_split} end at "
                f"{max(labels)}."
            )
        if class_names and class_names[0] == "0" and min(labels) == 1:
            _tell_unused_output(found.folder, labels_offset)
    return Dataset(
        name=name or found.dataset or found.folder.resolve().name,
        split=found_split,
        shards=shards,
        num_classes=num_classes,
        class_names=class_names,
        schema=schema,
        image_rules=described.image_rules if described else RULES_OF_OTHER_RECORDS,
    )


def find_splits(dataset_dir: Path, name: str | None) -> tuple[str, ...]:
    """The splits that a data set has files of, "validation" where the files call it val.

    Raises:
        UserError: No such folder or data set; several data sets and no name.
    """
    return tuple(sorted({canonical_split(split) for split in find_shards(dataset_dir, name).splits}))


def content_hash(dataset: Dataset) -> str:
    """A hash of all the split's bytes, in order: for cache keys, and to say what a run was trained on.

    Taken from dataset.json for shards that are not newer than it; others are read. Compression makes no difference.
    """
    digest = hashlib.sha256()
    for shard in dataset.shards:
        digest.update(bytes.fromhex(shard.sha256 or hash_content(shard.path)))
    return digest.hexdigest()


def check_label(serialized: bytes, schema: RecordSchema, labels_offset: int, num_classes: int) -> int:
    """The label of a record, if it is one of the classes.

    Args:
        serialized: The record.
        schema: Of its split.
        labels_offset: The lowest label.
        num_classes: One more than the highest label.

    Raises:
        LabelError: The record has no label, or one that is none of the classes.
        ValueError: These bytes are no Example.
    """
    label = schema.read_label(serialized)
    if labels_offset <= label < num_classes:
        return label
    if labels_offset >= num_classes:
        raise UserError(
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
    raise LabelError(f"the label is {label}{_of_file(serialized)}, but the classes are {classes}", mend)


def _of_file(serialized: bytes) -> str:
    feature = read_feature(serialized, FILENAME)
    name = feature.values[0] if feature and feature.values else b""
    return f" ({name.decode('utf-8', 'replace')})" if isinstance(name, bytes) and name else ""


def _described_shards(folder: Path, description: Description, split: str) -> tuple[Shard, ...]:
    if split not in description.shards:
        raise UserError(
            f"{folder / FILE_NAME} knows no {split} split, but the folder holds shards of one.",
            "Convert the images again with --overwrite.",
        )
    written = (folder / FILE_NAME).stat().st_mtime_ns
    shards = []
    for described in description.shards[split]:
        path = folder / described.file
        if not path.exists():
            raise UserError(
                f"The shard {path} is missing; {FILE_NAME} lists it.",
                f"Copy it again, or convert again; without {FILE_NAME} the shards that are there are read.",
            )
        status = path.stat()
        num_bytes = status.st_size
        if num_bytes != described.num_bytes:
            raise _other_size(path, num_bytes, described.num_bytes)
        is_as_written = status.st_mtime_ns <= written
        shards.append(Shard(path, described.num_records, num_bytes, described.sha256 if is_as_written else None))
    return tuple(shards)


def _other_size(path: Path, num_bytes: int, described_bytes: int) -> UserError:
    with _shard_errors_told():
        compression = find_compression(path)
    if compression:
        return UserError(
            f"The shard {path} is compressed ({compression}), other than the one that dataset.json describes.",
            "Unpack it; or remove dataset.json: the shards are read without it.",
        )
    what = "truncated" if num_bytes < described_bytes else "too long"
    return UserError(f"The shard {path} is {what}: {num_bytes} bytes, dataset.json says {described_bytes}.", COPY_AGAIN)


def _counted_shards(names: list[ShardName]) -> tuple[Shard, ...]:
    with _shard_errors_told():
        return tuple(
            Shard(
                name.path,
                count_records(name.path),
                name.path.stat().st_size,
                compression=find_compression(name.path),
            )
            for name in in_order(names)
        )


def _tell_compressed(folder: Path, shards: tuple[Shard, ...], split: str) -> None:
    kinds = sorted({shard.compression for shard in shards if shard.compression})
    if kinds:
        num_compressed = sum(bool(shard.compression) for shard in shards)
        tell_once(
            f"{folder}: {num_compressed} of {len(shards)} shards of {split} are compressed ({', '.join(kinds)}): they "
            "are unpacked to count their records, and again whenever they are read."
        )


def _class_names(folder: Path, described: Description | None) -> tuple[str, ...] | None:
    """Of labels.txt, else of dataset.json; both may be there, and then labels.txt may have been edited."""
    path = folder / LABELS_FILE
    if not path.exists():
        return described.classes if described else None
    names = read_labels(path)
    if not described:
        return names or None
    if len(names) != len(described.classes):
        raise UserError(
            f"{path} names {len(names)} classes, {FILE_NAME} beside it {len(described.classes)}.",
            "Correct labels.txt, or remove it: the names in dataset.json then count.",
        )
    for label, (name, converted) in enumerate(zip(names, described.classes, strict=True)):
        if name != converted.strip():
            tell_once(f"{path} calls the class {label} {name!r}, {FILE_NAME} {converted!r}: labels.txt counts.")
            return names
    return described.classes


def _schema_of(paths: list[Path], image_key: str, label_key: str, class_names: tuple[str, ...] | None) -> RecordSchema:
    """By the first record of these shards."""
    path, index, serialized = _first_record(paths)
    with _record_errors_told(path, index):
        schema = find_schema(read_features(serialized), image_key, label_key, class_names)
        schema.read_label(serialized)
        return schema


def _tell_kind(folder: Path, schema: RecordSchema) -> None:
    what = None
    if schema.num_values > 1:
        what = f"one-hot lists: {schema.num_values} numbers, so many classes"
    elif schema.label_kind == BYTES:
        what = "texts: digits are the number of a class"
        what += ", others are looked up in labels.txt" if schema.class_names else ""
    elif schema.label_kind != INT64:
        what = f"of the kind {schema.label_kind}: read as whole numbers"
    if what:
        tell_once(f"{folder}: labels under {schema.label_key} are {what}.")


def _num_classes_told(
    folder: Path, schema: RecordSchema, known: KnownDataset | None, class_names: tuple[str, ...] | None
) -> int | None:
    """By labels.txt; else by the length of one-hot labels; else by what is known of the data set."""
    if class_names and schema.num_values not in (1, len(class_names)):
        raise UserError(
            f"Labels under {schema.label_key} are lists of {schema.num_values} numbers, but there are names of "
            f"{len(class_names)} classes in {folder}.",
            "Correct labels.txt, or name another key with --label-key.",
        )
    if class_names:
        return len(class_names)
    if schema.num_values > 1:
        return schema.num_values
    if known:
        tell_once(f"{folder}: no labels.txt; {known.name}, as the data set is called, has {known.num_classes} classes.")
        return known.num_classes
    return None


def _num_classes_found(found: FoundShards, split: str, schema: RecordSchema, labels_offset: int) -> int:
    """One more than the highest label in any split."""
    labels = _labels_of_all_splits(found, split, schema)
    highest, num_unused = max(labels), max(labels) + 1 - len(labels)
    if num_unused > max(MOST_UNUSED_CLASSES, len(labels)):
        raise UserError(
            f"The highest label in {found.folder} is {highest}, but only {len(labels)} different labels are found: "
            "they seem to be no numbers of classes.",
            "Name the key of the label with --label-key, or number the classes from 0.",
        )
    if min(labels) < labels_offset:
        raise UserError(
            f"The lowest label in {found.folder} is {min(labels)}, but the lowest class is {labels_offset}.",
            "Leave --labels-offset out." if labels_offset else "Name the key of the label with --label-key.",
        )
    named = found.dataset or "the shards bear no data set's name"
    unused = f", {num_unused} of them without records" if num_unused else ""
    of_imagenet = "" if found.dataset else "; ImageNet's 1,001 only with --dataset-name imagenet"
    tell_once(f"{found.folder}: no labels.txt ({named}); {highest + 1} classes by the labels{unused}{of_imagenet}.")
    if min(labels) == 1:
        _tell_unused_output(found.folder, labels_offset)
    return highest + 1


def _labels_of_all_splits(found: FoundShards, split: str, schema: RecordSchema) -> set[int]:
    """Other splits may lack labels, as published test splits do."""
    labels: set[int] = set()
    for other, names in found.splits.items():
        with contextlib.suppress(*(() if other == split else (UserError,))):
            paths = [name.path for name in in_order(names)]
            of_split = _schema_of(paths, schema.image_key, schema.label_key, schema.class_names)
            for path, index, serialized in _records(paths):
                with _record_errors_told(path, index):
                    labels.add(of_split.read_label(serialized))
    return labels


def _check_labels(paths: list[Path], schema: RecordSchema, labels_offset: int, num_classes: int) -> set[int]:
    """The labels of all records, each checked."""
    labels = set()
    for path, index, serialized in _records(paths):
        with _record_errors_told(path, index):
            labels.add(check_label(serialized, schema, labels_offset, num_classes))
    return labels


def _check_first_record(paths: list[Path], schema: RecordSchema, labels_offset: int, num_classes: int) -> None:
    path, index, serialized = _first_record(paths)
    with _record_errors_told(path, index):
        check_label(serialized, schema, labels_offset, num_classes)


def _tell_unused_output(folder: Path, labels_offset: int) -> None:
    if labels_offset == 0:
        tell_once(f"{folder}: no record has the label 0, which gets an output all the same without --labels-offset 1.")


def _first_record(paths: list[Path]) -> tuple[Path, int, bytes]:
    for found in _records(paths):
        return found
    raise UserError(f"The {len(paths)} shards from {paths[0]} on hold no records.", COPY_AGAIN)


def _records(paths: list[Path]) -> Iterator[tuple[Path, int, bytes]]:
    """All records, each with its file and its number there."""
    for path in paths:
        with _shard_errors_told():
            for index, serialized in enumerate(read_records(path)):
                yield path, index, serialized


@contextlib.contextmanager
def _shard_errors_told() -> Iterator[None]:
    try:
        yield
    except RecordFileError as error:
        raise UserError(f"The shard {error}.", COPY_AGAIN) from error


@contextlib.contextmanager
def _record_errors_told(path: Path, index: int) -> Iterator[None]:
    try:
        yield
    except LabelError as error:
        raise UserError(f"{path}, record {index} (counted from 0): {error}.", error.mend) from error
    except ValueError as error:
        raise UserError(
            f"{path}, record {index} (counted from 0): no tf.train.Example: {error}.", COPY_AGAIN
        ) from error
