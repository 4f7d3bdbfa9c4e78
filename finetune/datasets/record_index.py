"""Where the records of a split lie, and what has to be known of all of them before the first step: classes, weights.

20 bytes for a record, so that an index of millions is small beside one batch of images. No TensorFlow.
"""

import functools
import threading
from dataclasses import dataclass

import numpy as np

from finetune.datasets.dataset import OR_SKIP, Dataset, bad_record, check_labels, usable_records
from finetune.datasets.schema import LabelError
from finetune.datasets.tfrecord import RecordFileError, read_record_at, record_offsets
from finetune.errors import UserError
from finetune.progress import progress
from finetune.types import Array


class RecordPlaces:
    """Where each record of a split lies, found file by file when one of its records is first read.

    Attributes:
        dataset: The split, of files that are neither compressed nor have damaged records that are left out.
    """

    def __init__(self, dataset: Dataset) -> None:
        """Finds nothing yet."""
        self.dataset = dataset
        self._firsts = _firsts(dataset)
        self._offsets: dict[int, Array] = {}
        self._finding = threading.Lock()

    @staticmethod
    def can_be_found(dataset: Dataset) -> bool:
        """Whether records can be read without those in front of them."""
        return not any(shard.compression for shard in dataset.shards) and not dataset.num_skipped

    def read(self, number: int) -> bytes:
        """A record, read from its place.

        Raises:
            RecordFileError: The file is damaged.
        """
        shard, within = _shard_of(self._firsts, number)
        with self._finding:
            if shard not in self._offsets:
                self._offsets[shard] = self._find(shard)
        offsets = self._offsets[shard]
        path = self.dataset.shards[shard].path
        if within >= len(offsets):
            raise RecordFileError(f"{path} holds {len(offsets)} records, and is said to hold more", within)
        return read_record_at(path, within, int(offsets[within]))

    def _find(self, shard: int) -> Array:
        offsets = np.fromiter(record_offsets(self.dataset.shards[shard].path), np.int64)
        chosen = self.dataset.shards[shard].chosen
        return offsets if chosen is None else offsets[np.frombuffer(chosen, np.uint8) != 0]


def _firsts(dataset: Dataset) -> Array:
    """The number of each shard's first record."""
    return np.cumsum([0, *(shard.num_records for shard in dataset.shards[:-1])])


def _shard_of(firsts: Array, number: int) -> tuple[int, int]:
    """The shard that a record is in, and its number there."""
    shard = int(np.searchsorted(firsts, number, side="right")) - 1
    return shard, number - int(firsts[shard])


@dataclass(frozen=True, eq=False)
class RecordIndex:
    """The records of a split, by their number in it.

    Attributes:
        dataset: The split.
        outputs: Of the network, that stand for their classes, int64 [N]; where an image has any number of labels uint8
            [N,num_outputs], 1 or 0 for each output.
        weights: How much they count in training, float32 [N]; None: all alike.
        offsets: Byte at which each begins in its shard, without compression, int64 [N].
    """

    dataset: Dataset
    outputs: Array
    weights: Array | None
    offsets: Array

    @functools.cached_property
    def firsts(self) -> Array:
        """The number of each shard's first record."""
        return _firsts(self.dataset)

    def read(self, number: int) -> bytes:
        """A record, read from its place.

        Raises:
            RecordFileError: It isn't there any more, or is damaged.
        """
        shard, within = _shard_of(self.firsts, number)
        return read_record_at(self.dataset.shards[shard].path, within, int(self.offsets[number]))


def index_records(dataset: Dataset, labels_offset: int) -> RecordIndex:
    """Reads all records of a split, once, and keeps nothing of their images.

    Raises:
        UserError: A record is damaged, has no label or a weight that is none; no image counts.
    """
    offsets = np.empty([dataset.num_examples], np.int64)
    outputs = _room_for_outputs(dataset, labels_offset)
    weights = np.ones([dataset.num_examples], np.float32)
    position = 0
    with progress(f"Classes of {dataset.split}", dataset.num_examples, "records") as advance:
        for shard in dataset.shards:
            try:
                for record in usable_records(shard) if shard.num_records else ():
                    try:
                        labels = check_labels(record.data, dataset.schema, labels_offset, dataset.num_classes)
                        weights[position] = dataset.schema.read_weight(record.data)
                    except LabelError as error:
                        raise bad_record(shard.path, record, str(error), error.mend) from error
                    of_record = [dataset.output_of(label, labels_offset) for label in labels]
                    if dataset.schema.has_lists:
                        outputs[position, of_record] = 1
                    else:
                        (outputs[position],) = of_record
                    offsets[position] = record.offset
                    position += 1
                    advance(1)
            except RecordFileError as error:
                raise UserError(f"The shard {error}.", OR_SKIP) from error
    if dataset.schema.has_weights and not weights.any():
        raise UserError(
            f"All images of the split {dataset.split} have the weight 0: there is nothing to train on.",
            "Give some of them a weight above 0 and convert again.",
        )
    return RecordIndex(dataset, outputs, weights if dataset.schema.has_weights else None, offsets)


def _room_for_outputs(dataset: Dataset, labels_offset: int) -> Array:
    if dataset.schema.has_lists:
        return np.zeros([dataset.num_examples, dataset.num_outputs(labels_offset)], np.uint8)
    return np.empty([dataset.num_examples], np.int64)
