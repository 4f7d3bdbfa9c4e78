"""A split found in its folder: its record files, classes and schema. No TensorFlow.

A folder that `finetune-convert` wrote says what it holds in dataset.json; in any other, slim's own among them, the
shards are found by their names and the records are counted. What is said and what is found must agree: the first
record is looked at always, and all labels where nothing but names of files says what the classes are.
"""

import contextlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from finetune.datasets.catalogue import FoundShards, ShardName, find_shards, in_order
from finetune.datasets.dataset import (
    OR_SKIP,
    WRONG_DESCRIPTION,
    Dataset,
    Shard,
    SkippedRecord,
    bad_record,
    check_labels,
    reasons_of,
    skipped_record,
    usable_records,
)
from finetune.datasets.description import (
    FILE_NAME,
    LABELS_FILE,
    Description,
    read_description,
    read_labels,
)
from finetune.datasets.image_rules import RULES_OF_OTHER_RECORDS
from finetune.datasets.records import BYTES, ENCODED, INT64, LABEL, read_features
from finetune.datasets.schema import LabelError, RecordSchema, find_schema
from finetune.datasets.split_words import canonical_split
from finetune.datasets.tfrecord import (
    RecordFileError,
    StoredRecord,
    count_records,
    find_compression,
    salvage_records,
)
from finetune.errors import UserError
from finetune.files.whole_files import is_special
from finetune.notices import few, has_control, tell_once
from finetune.published.known_datasets import KNOWN_DATASETS, KnownDataset
from finetune.settings.choices import MULTILABEL, SINGLE_LABEL

COPY_AGAIN = "Copy it again, or convert again."
SHA256 = re.compile("[0-9a-f]{64}")
# All labels of a split are looked at beforehand where that takes seconds; of a larger one, when they are read.
MOST_SCANNED_BYTES = 1 << 30
# So many outputs that no record has the label of are taken for a mistake, where they are most of all.
MOST_UNUSED_CLASSES = 1000


def find_dataset(
    dataset_dir: Path,
    name: str | None,
    split: str,
    *,
    labels_offset: int = 0,
    image_key: str = ENCODED,
    label_key: str = LABEL,
    on_corrupt: str = "fail",
    task: str = SINGLE_LABEL,
) -> Dataset:
    """Finds one split of a data set.

    Args:
        dataset_dir: The folder with the shards, and labels.txt and dataset.json where there are such.
        name: Of the data set; None where the folder holds only one.
        split: "train", "validation" or what the files have.
        labels_offset: The lowest label that the network will have an output for.
        image_key: Of the image in the records.
        label_key: Of the label in the records.
        on_corrupt: "skip" leaves out records that are damaged or no Example; all of the split are read for it.
        task: Whether a record holds one label or a list of them, a word of `TASKS`.

    Raises:
        UserError: No such folder, data set or split; several data sets and no name; a shard that is missing, truncated
            or no TFRecord file; another number of records than dataset.json says; a split without records; a first
            record that can't be read; a label that is no class; lists of labels that are to be read as single ones.
    """
    found = find_shards(dataset_dir, name)
    found_split = found.choose_split(split)
    if is_special(found.folder / FILE_NAME):
        raise UserError(f"{found.folder / FILE_NAME} is a pipe, a socket or a device.", WRONG_DESCRIPTION)
    described = read_description(found.folder)
    if described and described.name != found.dataset:
        described = None
    if described:
        _check_task(found.folder, described, task)
    names, may_skip = found.splits[found_split], on_corrupt == "skip"
    shards = (
        _described_shards(found.folder, described, found_split, may_skip=may_skip)
        if described
        else _counted_shards(names, may_skip=may_skip)
    )
    if not any(shard.num_records for shard in shards):
        raise UserError(f"The {found_split} split of {found.title} has no records{_why_none(shards)}.")
    _tell_compressed(found.folder, shards, found_split)
    class_names = _class_names(found.folder, described)
    schema = _schema_of(shards, image_key, label_key, class_names, task)
    _tell_kind(found.folder, schema)
    known = KNOWN_DATASETS.get(name or found.dataset)
    num_classes = _num_classes_told(found.folder, schema, known, class_names)
    if num_classes is None:
        num_classes = _num_classes_found(found, found_split, shards, schema, labels_offset)
    elif described or sum(shard.num_bytes for shard in shards) > MOST_SCANNED_BYTES:
        _check_first_record(shards, schema, labels_offset, num_classes)
    else:
        labels = _check_labels(shards, schema, labels_offset, num_classes)
        if known and not class_names and max(labels, default=0) < num_classes - 1:
            tell_once(
                f"{found.folder}: {known.name} has {num_classes} classes, but the labels of {found_split} end at "
                f"{max(labels)}."
            )
        if class_names and class_names[0] == "0" and min(labels, default=0) == 1:
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


def _described_shards(folder: Path, description: Description, split: str, *, may_skip: bool) -> tuple[Shard, ...]:
    if split not in description.shards:
        raise UserError(
            f"{folder / FILE_NAME} knows no {split} split, but the folder holds shards of one.",
            "Convert the images again with --overwrite.",
        )
    written = (folder / FILE_NAME).stat().st_mtime_ns
    shards = []
    for described in description.shards[split]:
        path = folder / described.file
        if path.parent != folder or not SHA256.fullmatch(described.sha256):
            raise UserError(
                f"{folder / FILE_NAME} describes a shard {described.file!r} with the hash {described.sha256!r}; a file "
                "of the same folder and 64 hexadecimal digits were expected.",
                WRONG_DESCRIPTION,
            )
        if not path.is_file():
            raise UserError(
                f"The shard {path} is missing; {FILE_NAME} lists it.",
                f"Copy it again, or convert again; without {FILE_NAME} the shards that are there are read.",
            )
        status = path.stat()
        is_as_written = status.st_mtime_ns <= written and status.st_size == described.num_bytes
        if status.st_size != described.num_bytes and (not may_skip or _compression(path)):
            raise _other_size(path, status.st_size, described.num_bytes)
        shards.append(Shard(path, described.num_records, status.st_size, described.sha256 if is_as_written else None))
    if may_skip:
        return tuple(_salvaged(shard, described=shard.num_records) for shard in shards)
    if sum(shard.num_bytes for shard in shards) <= MOST_SCANNED_BYTES:  # Of more, when all of them have been read.
        for shard in shards:
            _check_count(shard)
    return tuple(shards)


def _check_count(shard: Shard) -> None:
    """Makes sure that a shard holds as many records as dataset.json says; by their lengths alone."""
    with _shard_errors_told():
        num_records = count_records(shard.path)
    if num_records != shard.num_records:
        raise UserError(
            f"The shard {shard.path} holds {num_records} records, but {FILE_NAME} says {shard.num_records}.",
            WRONG_DESCRIPTION,
        )


def _salvaged(shard: Shard, *, described: int | None = None) -> Shard:
    """The shard without the records that can't be read, all of which are read for it."""
    num_records, skipped = 0, []
    with _shard_errors_told():
        for found in salvage_records(shard.path):
            try:
                if isinstance(found, RecordFileError):
                    raise found
                read_features(found.data)
                num_records += 1
            except RecordFileError as error:
                reason = str(error).removeprefix(str(shard.path)).removeprefix(":").strip()
                skipped.append(SkippedRecord(error.number, error.offset, reason))
            except ValueError as error:
                skipped.append(skipped_record(found, f"no tf.train.Example: {error}"))
    if shard.num_bytes == 0:
        skipped.append(SkippedRecord(0, 0, "the shard is empty"))
    num_lost = 0 if described is None else described - num_records - len(skipped)
    if num_lost and not (skipped and num_lost > 0):
        _check_count(shard)
    return replace(shard, num_records=num_records, skipped=tuple(skipped), num_lost=num_lost)


def _why_none(shards: Sequence[Shard]) -> str:
    reasons = reasons_of(shards)
    return f" that can be read: {few(reasons, 1)}" if reasons else ""


def _other_size(path: Path, num_bytes: int, described_bytes: int) -> UserError:
    compression = _compression(path)
    if compression:
        return UserError(
            f"The shard {path} is compressed ({compression}), other than the one that dataset.json describes.",
            "Unpack it; or remove dataset.json: the shards are read without it.",
        )
    what = "truncated" if num_bytes < described_bytes else "too long"
    return UserError(f"The shard {path} is {what}: {num_bytes} bytes, dataset.json says {described_bytes}.", OR_SKIP)


def _compression(path: Path) -> str:
    with _shard_errors_told():
        return find_compression(path)


def _counted_shards(names: list[ShardName], *, may_skip: bool) -> tuple[Shard, ...]:
    shards = []
    for name in in_order(names):
        shard = Shard(name.path, 0, name.path.stat().st_size, compression=_compression(name.path))
        if may_skip:
            shards.append(_salvaged(shard))
            continue
        if not shard.num_bytes:
            raise UserError(
                f"The shard {name.path} is empty: it has 0 bytes.",
                f"{OR_SKIP} If it is meant to hold no records, so is it left out.",
            )
        with _shard_errors_told():
            shards.append(replace(shard, num_records=count_records(name.path)))
    return tuple(shards)


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
    for name in described.classes if described else ():
        if has_control(name):
            raise UserError(f"{folder / FILE_NAME} has a class {name!r}, with a control character.", WRONG_DESCRIPTION)
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


def _schema_of(
    shards: Sequence[Shard], image_key: str, label_key: str, class_names: tuple[str, ...] | None, task: str
) -> RecordSchema:
    """By the first record of these shards."""
    path, record = _first_record(shards)
    with _record_errors_told(path, record):
        features = read_features(record.data)
        schema = find_schema(features, image_key, label_key, class_names, has_lists=task == MULTILABEL)
        schema.read_labels(record.data)
        return schema


def _check_task(folder: Path, described: Description, task: str) -> None:
    """Lists can't be read as single labels; single labels are lists of one, which is told."""
    if described.task == MULTILABEL and task != MULTILABEL:
        raise UserError(
            f"{folder / FILE_NAME} says that an image of {described.name} has any number of labels, and one label an "
            "image was expected.",
            f"Give --task {MULTILABEL}, or the records that the network was trained on.",
        )
    if described.task != MULTILABEL and task == MULTILABEL:
        tell_once(f"{folder}: each image of {described.name} has one label, which is read as a list of one.")


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


def _num_classes_found(
    found: FoundShards, split: str, shards: Sequence[Shard], schema: RecordSchema, labels_offset: int
) -> int:
    """One more than the highest label in any split."""
    labels = _labels_of_all_splits(found, split, shards, schema)
    if not labels:
        raise UserError(f"No image in {found.folder} has a label.", "Name the key of the label with --label-key.")
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


def _labels_of_all_splits(found: FoundShards, split: str, shards: Sequence[Shard], schema: RecordSchema) -> set[int]:
    """Other splits may lack labels, as published test splits do."""
    labels: set[int] = set()
    for other, names in found.splits.items():
        with contextlib.suppress(*(() if other == split else (UserError,))):
            of_other = shards if other == split else [Shard(name.path, 0, 0) for name in in_order(names)]
            task = MULTILABEL if schema.has_lists else SINGLE_LABEL
            of_split = _schema_of(of_other, schema.image_key, schema.label_key, schema.class_names, task)
            for path, record in _records(of_other):
                with _record_errors_told(path, record):
                    labels.update(of_split.read_labels(record.data))
    return labels


def _check_labels(shards: Sequence[Shard], schema: RecordSchema, labels_offset: int, num_classes: int) -> set[int]:
    """The labels of all records, each checked."""
    labels: set[int] = set()
    for path, record in _records(shards):
        with _record_errors_told(path, record):
            labels.update(check_labels(record.data, schema, labels_offset, num_classes))
    return labels


def _check_first_record(shards: Sequence[Shard], schema: RecordSchema, labels_offset: int, num_classes: int) -> None:
    path, record = _first_record(shards)
    with _record_errors_told(path, record):
        check_labels(record.data, schema, labels_offset, num_classes)


def _tell_unused_output(folder: Path, labels_offset: int) -> None:
    if labels_offset == 0:
        tell_once(f"{folder}: no record has the label 0, which gets an output all the same without --labels-offset 1.")


def _first_record(shards: Sequence[Shard]) -> tuple[Path, StoredRecord]:
    for found in _records(shards):
        return found
    raise UserError(f"The {len(shards)} shards from {shards[0].path} on hold no records.", COPY_AGAIN)


def _records(shards: Sequence[Shard]) -> Iterator[tuple[Path, StoredRecord]]:
    """All records that aren't left out, each with its file."""
    for shard in shards:
        with _shard_errors_told():
            for record in usable_records(shard):
                yield shard.path, record


@contextlib.contextmanager
def _shard_errors_told() -> Iterator[None]:
    try:
        yield
    except RecordFileError as error:
        raise UserError(f"The shard {error}.", OR_SKIP) from error


@contextlib.contextmanager
def _record_errors_told(path: Path, record: StoredRecord) -> Iterator[None]:
    try:
        yield
    except LabelError as error:
        raise bad_record(path, record, str(error), error.mend) from error
    except ValueError as error:
        raise bad_record(path, record, f"no tf.train.Example: {error}", OR_SKIP) from error
