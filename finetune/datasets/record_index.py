"""What has to be known of all records of a split before the first step: their classes, weights, and where they lie.

20 bytes for a record, so that an index of millions is small beside one batch of images. No TensorFlow.
"""

import functools
from dataclasses import dataclass

import numpy as np

from finetune.datasets.dataset import OR_SKIP, Dataset, bad_record, check_label, usable_records
from finetune.datasets.schema import LabelError
from finetune.datasets.tfrecord import RecordFileError, read_record_at
from finetune.errors import UserError
from finetune.progress import progress
from finetune.types import Array


@dataclass(frozen=True, eq=False)
class RecordIndex:
    """The records of a split, by their number in it.

    Attributes:
        dataset: The split.
        outputs: Of the network, that stand for their classes, int64 [N].
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
        return np.cumsum([0, *(shard.num_records for shard in self.dataset.shards[:-1])])

    def read(self, number: int) -> bytes:
        """A record, read from its place.

        Raises:
            RecordFileError: It isn't there any more, or is damaged.
        """
        shard = int(np.searchsorted(self.firsts, number, side="right")) - 1
        within = number - int(self.firsts[shard])
        return read_record_at(self.dataset.shards[shard].path, within, int(self.offsets[number]))


def index_records(dataset: Dataset, labels_offset: int) -> RecordIndex:
    """Reads all records of a split, once, and keeps nothing of their images.

    Raises:
        UserError: A record is damaged, has no label or a weight that is none; no image counts.
    """
    labels, offsets = np.empty([2, dataset.num_examples], np.int64)
    weights = np.ones([dataset.num_examples], np.float32)
    position = 0
    with progress(f"Classes of {dataset.split}", dataset.num_examples, "records") as advance:
        for shard in dataset.shards:
            try:
                for record in usable_records(shard) if shard.num_records else ():
                    try:
                        label = check_label(record.data, dataset.schema, labels_offset, dataset.num_classes)
                        weights[position] = dataset.schema.read_weight(record.data)
                    except LabelError as error:
                        raise bad_record(shard.path, record, str(error), error.mend) from error
                    labels[position], offsets[position] = label - labels_offset, record.offset
                    position += 1
                    advance(1)
            except RecordFileError as error:
                raise UserError(f"The shard {error}.", OR_SKIP) from error
    if dataset.schema.has_weights and not weights.any():
        raise UserError(
            f"All images of the split {dataset.split} have the weight 0: there is nothing to train on.",
            "Give some of them a weight above 0 and convert again.",
        )
    outputs = labels if dataset.outputs is None else np.asarray(dataset.outputs)[labels]
    return RecordIndex(dataset, outputs, weights if dataset.schema.has_weights else None, offsets)
