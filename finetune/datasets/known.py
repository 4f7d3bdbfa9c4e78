"""The data sets that slim knows, and how files of records are called.

The numbers of classes and channels are slim's (datasets/*.py). How many records there are is
counted from the files.
"""

import re
from dataclasses import dataclass
from pathlib import Path

SHARD_OF = r"(?P<index>\d+)-of-(?P<count>\d+)"

# NAME_SPLIT_00000-of-00005.tfrecord, also with hyphens; NAME_SPLIT.tfrecord, alone or with the shard's number behind.
NAMED_PATTERNS = (
    re.compile(rf"(?P<name>.+)[_-](?P<split>[A-Za-z0-9]+)[_-]{SHARD_OF}(\.tfrecords?)?"),
    re.compile(rf"(?P<name>.+)[_-](?P<split>[A-Za-z0-9]+)\.tfrecords?(-{SHARD_OF})?"),
)

# Other words for a split.
SPLIT_ALIASES = {"validation": ("val", "valid"), "val": ("validation",)}


@dataclass(frozen=True)
class KnownDataset:
    """One of slim's data sets.

    Attributes:
        name: As `--dataset-name` takes it.
        num_classes: Where no labels.txt says otherwise.
        channels: Of its images.
        missing_label: The label of a record that has none.
        unnamed_pattern: How its shards are called where the name isn't part of it.
    """

    name: str
    num_classes: int
    channels: int
    missing_label: int
    unnamed_pattern: re.Pattern[str] | None = None


KNOWN_DATASETS = {
    known.name: known
    for known in (
        KnownDataset("flowers", num_classes=5, channels=3, missing_label=0),
        KnownDataset("cifar10", num_classes=10, channels=3, missing_label=0),
        KnownDataset("mnist", num_classes=10, channels=1, missing_label=0),
        KnownDataset(
            "imagenet",
            num_classes=1001,  # 0 is background.
            channels=3,
            missing_label=-1,
            unnamed_pattern=re.compile(rf"(?P<split>train|validation)[_-]{SHARD_OF}(\.tfrecords?)?"),
        ),
        KnownDataset(
            "visualwakewords",
            num_classes=2,
            channels=3,
            missing_label=-1,
            unnamed_pattern=re.compile(rf"(?P<split>train|val)\.record-{SHARD_OF}"),
        ),
    )
}


@dataclass(frozen=True)
class ShardName:
    """What the name of a file of records says: which of how many, (0, 1) where it doesn't say."""

    path: Path
    dataset: str
    split: str
    index: int
    count: int


def parse_shard_name(path: Path) -> ShardName | None:
    """Reads a file's name as that of a record shard; None if it isn't called like one."""
    for pattern in NAMED_PATTERNS:
        if match := pattern.fullmatch(path.name):
            return _shard_name(path, match["name"], match)
    for known in KNOWN_DATASETS.values():
        if known.unnamed_pattern and (match := known.unnamed_pattern.fullmatch(path.name)):
            return _shard_name(path, known.name, match)
    return None


def _shard_name(path: Path, dataset: str, match: re.Match[str]) -> ShardName:
    return ShardName(path, dataset, match["split"], int(match["index"] or 0), int(match["count"] or 1))
