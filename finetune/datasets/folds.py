"""Folds: a split divided into parts of equal size and mixture, each to be left out of one training.

Where an image goes is a function of the seed, of its bytes, and of the bytes and classes of the others, never of the
place that its record has: the images of each class are taken in the order of a hash of seed and bytes, and each goes to
the fold that has the fewest of the class, and of those to the one that is the smallest. Records with the same bytes are
one image, for a copy of what is trained on would tell nothing as a test; where they contradict each other, the lowest
class counts. Where records name groups, as `finetune-convert --group-by` writes them, a group is in one fold: groups
are dealt, the largest first, so that each fold has about as much of each class.
"""

import dataclasses
import hashlib
import logging
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterator

import numpy as np

from finetune.datasets.dataset import OR_SKIP, Dataset, Shard, bad_record, check_label, usable_records
from finetune.datasets.records import GROUP, read_feature
from finetune.datasets.schema import LabelError
from finetune.datasets.splits import deal
from finetune.datasets.tfrecord import RecordFileError, StoredRecord
from finetune.errors import UserError
from finetune.notices import few
from finetune.types import Array

log = logging.getLogger("finetune")

NO_FOLD = 0
HASH_BYTES = 8


@dataclasses.dataclass(frozen=True)
class Folds:
    """Which fold each record of a split is in.

    Attributes:
        num_folds: They are numbered from 1.
        by_shard: For each shard an array by a record's number in its file, uint16; 0: the record is left out.
        counts: Records by fold and class, int64 [num_folds,num_classes].
        num_copies: Records that are copies of an image that another record holds.
    """

    num_folds: int
    by_shard: tuple[Array, ...]
    counts: Array
    num_copies: int

    @property
    def sha256(self) -> str:
        """Of the assignment, in the order of the records."""
        return hashlib.sha256(b"".join(folds.astype("<u2").tobytes() for folds in self.by_shard)).hexdigest()

    def only(self, dataset: Dataset, fold: int) -> Dataset:
        """The part of the split that is one fold."""
        return _part(dataset, [folds == fold for folds in self.by_shard])

    def without(self, dataset: Dataset, fold: int) -> Dataset:
        """The part of the split that is in all other folds."""
        return _part(dataset, [(folds != fold) & (folds != NO_FOLD) for folds in self.by_shard])

    def of_records(self, dataset: Dataset) -> Array:
        """The fold of each record of the split, in the order of its files, but for those that it leaves out."""
        parts = []
        for shard, folds in zip(dataset.shards, self.by_shard, strict=True):
            is_left_out = np.isin(np.arange(len(folds)), [skipped.number for skipped in shard.skipped])
            parts.append(folds[(folds != NO_FOLD) & ~is_left_out])
        return np.concatenate(parts)


def assign_folds(dataset: Dataset, num_folds: int, seed: int, labels_offset: int = 0) -> Folds:
    """Divides a split into folds, all of whose records are read for it.

    Args:
        dataset: The split.
        num_folds: How many.
        seed: Another seed, another division.
        labels_offset: The lowest label.

    Raises:
        UserError: There are fewer images than folds; a record can't be read, or has no label that is a class.
    """
    hashes, groups, labels, numbers = _read(dataset, seed, labels_offset)
    images, image_of_record, copies = np.unique(hashes, return_inverse=True, return_counts=True)
    if groups.any():
        unit_of_record = _joined(image_of_record, groups)
        _check_number(unit_of_record.max() + 1, "groups, or images that are in none", num_folds, dataset.split)
        folds = _deal_groups(unit_of_record, labels, num_folds)[unit_of_record]
    else:
        _check_number(len(images), "different images", num_folds, dataset.split)
        label_of_image = np.full(len(images), dataset.num_classes)
        np.minimum.at(label_of_image, image_of_record, labels)
        folds = _deal(label_of_image, copies, num_folds)[image_of_record]
    counts = np.zeros([num_folds, dataset.num_classes], np.int64)
    np.add.at(counts, (folds - 1, labels), 1)
    return Folds(num_folds, _by_shard(dataset, folds, numbers), counts, len(hashes) - len(images))


def _check_number(number: int, of_what: str, num_folds: int, split: str) -> None:
    if number < num_folds:
        raise UserError(
            f"--folds {num_folds}: the split {split} has {number} {of_what}.",
            f"Give --folds {number} or less." if number > 1 else "Leave --folds out.",
        )


def rows_in_whole(part: Dataset) -> Array:
    """The positions of a part's records in the whole split, int64 [N]; both leave the same ones out."""
    are_chosen = []
    for shard in part.shards:
        is_chosen = np.frombuffer(shard.chosen or b"", np.uint8) != 0
        left_out = [skipped.number for skipped in shard.skipped if skipped.number < len(is_chosen)]
        are_chosen.append(np.delete(is_chosen, left_out))
    return np.flatnonzero(np.concatenate(are_chosen))


def warn_of_rare_classes(folds: Folds, class_names: tuple[str, ...] | None) -> None:
    """Says which classes have too few images to be in each fold."""
    totals = folds.counts.sum(axis=0)
    names = class_names or tuple(map(str, range(len(totals))))
    rare = [f"{names[label]} ({totals[label]})" for label in np.flatnonzero((totals > 0) & (folds.counts == 0).any(0))]
    if rare:
        log.warning(
            "Too few images to be in each of the %d folds: %s. Where they are left out they count in no recall.",
            folds.num_folds,
            few(rare),
        )


def _deal(label_of_image: Array, copies: Array, num_folds: int) -> Array:
    """The fold of each image, uint16, of images in the order that they are to be dealt in."""
    of_class: dict[int, list[int]] = defaultdict(lambda: [0] * num_folds)
    in_all = [0] * num_folds
    folds = np.empty(len(label_of_image), np.uint16)
    for image in np.argsort(label_of_image, kind="stable").tolist():
        counts = of_class[label_of_image[image]]
        fold = min(range(num_folds), key=lambda number: (counts[number], in_all[number]))
        counts[fold] += int(copies[image])
        in_all[fold] += int(copies[image])
        folds[image] = fold + 1
    return folds


def _joined(image_of_record: Array, groups: Array) -> Array:
    """What stays together with each record, by number from 0, int64 [N]: its group, and whatever has its image.

    Args:
        image_of_record: Numbers of images, in the order of their hashes.
        groups: Hashes of groups, 0 where a record is in none.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    is_grouped = groups != 0
    _, group_of_record = np.unique(groups[is_grouped], return_inverse=True)
    num_images = int(image_of_record.max()) + 1
    num_nodes = num_images + int(group_of_record.max()) + 1
    edges = image_of_record[is_grouped], num_images + group_of_record
    graph = coo_array((np.ones(len(group_of_record)), edges), shape=(num_nodes, num_nodes))
    _, component_of_node = connected_components(graph, directed=False)
    component_of_image = component_of_node[:num_images]
    # Numbered by the first of their images: by the hash of that, and not by a place in the files.
    _, first, place = np.unique(component_of_image, return_index=True, return_inverse=True)
    number_of_component = np.argsort(np.argsort(first))
    return number_of_component[place][image_of_record]


def _deal_groups(unit_of_record: Array, labels: Array, num_folds: int) -> Array:
    """The fold of each unit, uint16, of units in the order that they are to be dealt in."""
    counts: list[Counter[int]] = [Counter() for _ in range(int(unit_of_record.max()) + 1)]
    for unit, label in zip(unit_of_record.tolist(), labels.tolist(), strict=True):
        counts[unit][label] += 1
    share = {label: number / num_folds for label, number in Counter(labels.tolist()).items()}
    return np.array(deal(counts, [share] * num_folds), np.uint16) + np.uint16(1)


def _read(dataset: Dataset, seed: int, labels_offset: int) -> tuple[Array, Array, Array, list[Array]]:
    """Of all records the hashes of seed and image, and of their groups, uint64 [N], and the labels [N]; of each shard
    the numbers.
    """
    key = seed.to_bytes(8, "little", signed=True)
    hashes, groups, labels, numbers = array("Q"), array("Q"), array("q"), []
    for shard in dataset.shards:
        of_shard = array("q")
        for record in _records(shard):
            image, group, label = _image_group_and_label(shard, record, dataset, labels_offset)
            hashes.append(_hash(image, key))
            groups.append(_hash(group, key) if group else 0)
            labels.append(label)
            of_shard.append(record.number)
        if len(of_shard) != shard.num_records:
            raise UserError(
                f"The shard {shard.path} holds {len(of_shard)} records, but {shard.num_records} were counted.",
                "Let nothing write into it meanwhile.",
            )
        numbers.append(np.array(of_shard))
    return np.array(hashes), np.array(groups), np.array(labels), numbers


def _hash(content: bytes, key: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(content, digest_size=HASH_BYTES, key=key).digest(), "big")


def _records(shard: Shard) -> Iterator[StoredRecord]:
    try:
        yield from usable_records(shard)
    except RecordFileError as error:
        raise UserError(f"The shard {error}.", OR_SKIP) from error


def _image_group_and_label(
    shard: Shard, record: StoredRecord, dataset: Dataset, labels_offset: int
) -> tuple[bytes, bytes, int]:
    try:
        label = check_label(record.data, dataset.schema, labels_offset, dataset.num_classes)
        feature = read_feature(record.data, dataset.schema.image_key)
        group_feature = read_feature(record.data, GROUP)
    except LabelError as error:
        raise bad_record(shard.path, record, str(error), error.mend) from error
    except ValueError as error:
        raise bad_record(shard.path, record, f"no tf.train.Example: {error}", OR_SKIP) from error
    image = feature.values[0] if feature and feature.values else None
    if not isinstance(image, bytes):
        raise bad_record(shard.path, record, f"no image under {dataset.schema.image_key}", OR_SKIP)
    group = group_feature.values[0] if group_feature and group_feature.values else b""
    if not isinstance(group, bytes):
        raise bad_record(shard.path, record, f"{GROUP} is no text", OR_SKIP)
    return image, group, label


def _by_shard(dataset: Dataset, folds: Array, numbers: list[Array]) -> tuple[Array, ...]:
    """From the folds of all records, one after the other, to arrays by a record's number in its file."""
    by_shard, first = [], 0
    for shard, of_shard in zip(dataset.shards, numbers, strict=True):
        by_number = np.full(int(of_shard.max()) + 1 if len(of_shard) else 0, NO_FOLD, np.uint16)
        by_number[of_shard] = folds[first : first + shard.num_records]
        by_shard.append(by_number)
        first += shard.num_records
    return tuple(by_shard)


def _part(dataset: Dataset, are_chosen: list[Array]) -> Dataset:
    shards = tuple(
        dataclasses.replace(shard, num_records=int(is_chosen.sum()), chosen=is_chosen.astype(np.uint8).tobytes())
        for shard, is_chosen in zip(dataset.shards, are_chosen, strict=True)
    )
    return dataclasses.replace(dataset, shards=shards, whole=dataset)
