"""One split of a data set in record files: its shards, counts and classes. No TensorFlow.

A folder that `finetune-convert` wrote says what it holds in dataset.json; in any other, slim's own among them, the
shards are found by their names and the records are counted.
"""

import hashlib
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from finetune.datasets.description import (
    FILE_NAME,
    LABELS_FILE_NAME,
    Description,
    read_description,
    read_labels,
)
from finetune.datasets.image_rules import RULES_OF_OTHER_RECORDS, ImageRules
from finetune.datasets.known import KNOWN_DATASETS, SPLIT_ALIASES, KnownDataset, ShardName, parse_shard_name
from finetune.datasets.records import read_label
from finetune.datasets.tfrecord import RecordFileError, count_records, read_records
from finetune.errors import UserError, did_you_mean

# From the names of data sets in a folder to their splits to the shards of each.
Catalogue = dict[str, dict[str, list[ShardName]]]


@dataclass(frozen=True)
class Shard:
    """A file of records; `sha256` is None until it is worth reading the file for it."""

    path: Path
    num_records: int
    num_bytes: int
    sha256: str | None = None


@dataclass(frozen=True)
class Dataset:
    """One split of a data set.

    Attributes:
        name: The data set's.
        split: As its files have it.
        shards: In the order of their numbers.
        num_classes: Labels are 0 to num_classes - 1, as they stand in the records.
        class_names: The index is the label; None where they aren't known.
        missing_label: The label of a record that has none.
        channels: Of the images, 1 or 3.
        image_rules: How image files became its pixels.
    """

    name: str
    split: str
    shards: tuple[Shard, ...]
    num_classes: int
    class_names: tuple[str, ...] | None
    missing_label: int
    channels: int
    image_rules: ImageRules = RULES_OF_OTHER_RECORDS

    @property
    def num_examples(self) -> int:
        """How many records the split has."""
        return sum(shard.num_records for shard in self.shards)

    @property
    def num_bytes(self) -> int:
        """The size of its shards."""
        return sum(shard.num_bytes for shard in self.shards)


def find_dataset(dataset_dir: Path, name: str | None, split: str) -> Dataset:
    """Finds one split of a data set.

    Args:
        dataset_dir: The folder with the shards, and labels.txt and dataset.json where there are such.
        name: Of the data set; None where the folder holds only one.
        split: "train", "validation" or what the files have.

    Raises:
        UserError: No such folder, data set or split; several data sets and no name; a shard that is missing, truncated
            or no TFRecord file; a split without records.
    """
    catalogue = catalogue_shards(dataset_dir)
    found_name = _choose_name(catalogue, dataset_dir, name)
    splits = catalogue[found_name]
    found_split = _choose_split(splits, dataset_dir, found_name, split)
    known = KNOWN_DATASETS.get(name or found_name)
    description = read_description(dataset_dir)
    if description and description.name == found_name:
        shards = _described_shards(dataset_dir, description, found_split)
        class_names: tuple[str, ...] | None = description.classes
    else:
        description = None
        shards = _counted_shards(splits[found_split])
        labels_path = dataset_dir / LABELS_FILE_NAME
        class_names = read_labels(labels_path) if labels_path.exists() else None
    if not any(shard.num_records for shard in shards):
        raise UserError(f"The {found_split} split of {found_name} in {dataset_dir} has no records.")
    return Dataset(
        name=name or found_name,
        split=found_split,
        shards=shards,
        num_classes=len(class_names) if class_names else _num_classes(known, splits),
        class_names=class_names,
        missing_label=known.missing_label if known and not description else -1,
        channels=known.channels if known and not description else 3,
        image_rules=description.image_rules if description else RULES_OF_OTHER_RECORDS,
    )


def find_splits(dataset_dir: Path, name: str | None) -> tuple[str, ...]:
    """The splits that a data set has files of.

    Raises:
        UserError: No such folder or data set; several data sets and no name.
    """
    catalogue = catalogue_shards(dataset_dir)
    return tuple(sorted(catalogue[_choose_name(catalogue, dataset_dir, name)]))


def content_hash(dataset: Dataset) -> str:
    """A hash of all the split's bytes, in order: for cache keys, and to say what a run was trained on.

    Taken from dataset.json for shards that are not newer than it; others are read.
    """
    digest = hashlib.sha256()
    for shard in dataset.shards:
        digest.update(bytes.fromhex(shard.sha256 or _hash_file(shard.path)))
    return digest.hexdigest()


def catalogue_shards(dataset_dir: Path) -> Catalogue:
    """The files of records in a folder, by their names.

    Raises:
        UserError: No such folder.
    """
    if not dataset_dir.is_dir():
        siblings = (path.name for path in dataset_dir.absolute().parent.glob("*") if path.is_dir())
        raise UserError(f"The data set folder {dataset_dir} doesn't exist.", did_you_mean(dataset_dir.name, siblings))
    catalogue: Catalogue = defaultdict(lambda: defaultdict(list))
    for path in sorted(dataset_dir.iterdir()):
        if shard := parse_shard_name(path):
            catalogue[shard.dataset][shard.split].append(shard)
    return catalogue


def _choose_name(catalogue: Catalogue, dataset_dir: Path, name: str | None) -> str:
    if not catalogue:
        raise UserError(
            f"{dataset_dir} holds no files of records, such as NAME_train_00000-of-00005.tfrecord.",
            "Make them from images: finetune-convert --images-dir FOLDER --dataset-dir FOLDER.",
        )
    if name in catalogue:
        return str(name)
    names = sorted(catalogue)
    only = KNOWN_DATASETS.get(names[0]) if len(names) == 1 else None
    if name is None and len(names) > 1:
        raise UserError(f"{dataset_dir} holds several data sets: {', '.join(names)}.", "Name one with --dataset-name.")
    if name is None or (only and only.unnamed_pattern):  # Such files bear no name: any name will do.
        return names[0]
    raise UserError(f"{dataset_dir} holds no data set {name}, but {', '.join(names)}.", did_you_mean(name, names))


def _choose_split(splits: Mapping[str, object], dataset_dir: Path, name: str, split: str) -> str:
    for spelling in (split, *SPLIT_ALIASES.get(split, ())):
        if spelling in splits:
            return spelling
    found = ", ".join(sorted(splits))
    raise UserError(f"{name} in {dataset_dir} has no {split} split; found: {found}.", "Name one of those with --split.")


def _described_shards(dataset_dir: Path, description: Description, split: str) -> tuple[Shard, ...]:
    if split not in description.shards:
        raise UserError(
            f"{dataset_dir / FILE_NAME} knows no {split} split, but the folder holds shards of one.",
            "Convert the images again with --overwrite.",
        )
    written = (dataset_dir / FILE_NAME).stat().st_mtime_ns
    shards = []
    for described in description.shards[split]:
        path = dataset_dir / described.file
        if not path.exists():
            raise UserError(f"The shard {path} is missing; dataset.json lists it.", "Copy it again, or convert again.")
        status = path.stat()
        num_bytes = status.st_size
        if num_bytes != described.num_bytes:
            what = "truncated" if num_bytes < described.num_bytes else "too long"
            raise UserError(
                f"The shard {path} is {what}: {num_bytes} bytes, dataset.json says {described.num_bytes}.",
                "Copy it again, or convert again.",
            )
        is_as_written = status.st_mtime_ns <= written
        shards.append(Shard(path, described.num_records, num_bytes, described.sha256 if is_as_written else None))
    return tuple(shards)


def _counted_shards(names: list[ShardName]) -> tuple[Shard, ...]:
    _check_complete(names)
    try:
        return tuple(
            Shard(name.path, count_records(name.path), name.path.stat().st_size)
            for name in sorted(names, key=lambda name: name.index)
        )
    except RecordFileError as error:
        raise UserError(f"The shard {error}.", "Copy it again, or convert again.") from error


def _check_complete(names: list[ShardName]) -> None:
    counts = {name.count for name in names}
    if len(counts) > 1 or len({name.index for name in names}) < len(names):
        files = ", ".join(name.path.name for name in names[:3])
        raise UserError(
            f"{names[0].path.parent} holds two sets of shards for the {names[0].split} split ({files} ...).",
            "Remove the one that isn't wanted.",
        )
    missing = sorted(set(range(counts.pop())) - {name.index for name in names})
    if missing:
        raise UserError(
            f"{len(missing)} of {names[0].count} shards of the {names[0].split} split are missing from "
            f"{names[0].path.parent}; the first is number {missing[0]:05d}.",
            "Copy them again, or convert again.",
        )


def _num_classes(known: KnownDataset | None, splits: Mapping[str, list[ShardName]]) -> int:
    """Without names of classes: what is known of the data set, else one more than the highest label in any split."""
    if known:
        return known.num_classes
    highest = max(_highest_label(shard.path) for shards in splits.values() for shard in shards)
    if highest < 0:
        raise UserError("No record has a label, and no labels.txt names the classes.", "Convert the images again.")
    return highest + 1


def _highest_label(path: Path) -> int:
    highest = -1
    try:
        for index, serialized in enumerate(read_records(path)):
            try:
                label = read_label(serialized)
            except ValueError as error:
                raise UserError(f"{path}: record {index} is no tf.train.Example: {error}.") from error
            highest = max(highest, -1 if label is None else label)
    except RecordFileError as error:
        raise UserError(f"The shard {error}.", "Copy it again, or convert again.") from error
    return highest


def _hash_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
