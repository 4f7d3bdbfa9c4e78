"""The serialized records of a split, with tf.data: in the order of its files, shuffled, or drawn in balance.

The order of an epoch is a function of (seed, epoch) alone, on any number of threads.
"""

import itertools
import os
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf

from finetune.datasets.balanced_draws import BalancedDraws
from finetune.datasets.dataset import Dataset, Shard, usable_records
from finetune.datasets.record_index import RecordIndex
from finetune.types import Tensor

SHUFFLE_BUFFER_BYTES = 256 << 20
# Part of the order: neither may depend on the machine.
NUM_INTERLEAVED_SHARDS = 8
GRAPH_SEED = 1

AUTOTUNE = tf.data.AUTOTUNE


def records_in_order(dataset: Dataset) -> tf.data.Dataset:
    """The serialized records of a split in the order of its files, scalar strings."""
    shards = tf.data.Dataset.from_tensor_slices(_shard_rows(dataset.shards))
    return shards.flat_map(plain(_shard_opener(dataset))).apply(_of_expected_length(dataset))


def shuffled_records(dataset: Dataset, epoch_seed: Tensor, num_readers: int | None) -> tf.data.Dataset:
    """All records once, each behind its number in the split.

    Shards come in random order, some are read in turns, records are shuffled in a buffer of bounded size.
    """
    open_shard = _shard_opener(dataset)
    return _shuffled(
        dataset,
        epoch_seed,
        lambda shard: open_shard(shard).enumerate(tf.strings.to_number(shard[2], tf.int64)),
        num_readers,
    )


def shuffled_numbers(dataset: Dataset, epoch_seed: Tensor) -> tf.data.Dataset:
    """The numbers of all records once, in the order of `shuffled_records`; no file is read."""

    def numbers(shard: Tensor) -> tf.data.Dataset:
        first, number = (tf.strings.to_number(text, tf.int64) for text in (shard[2], shard[4]))
        return tf.data.Dataset.range(first, first + number)

    return _shuffled(dataset, epoch_seed, numbers, num_readers=1)


def read_each(read: Callable[[int], bytes], number: Tensor) -> Tensor:
    """The record of a number, a scalar string, read by Python."""
    serialized = tf.numpy_function(lambda each: read(int(each)), [number], tf.string, stateful=False)
    return tf.ensure_shape(serialized, [])


def _shuffled(
    dataset: Dataset, epoch_seed: Tensor, of_shard: Callable[[Tensor], tf.data.Dataset], num_readers: int | None
) -> tf.data.Dataset:
    # tf.data mixes the graph's seed into its own; without this, tf.random.set_seed would change the order.
    tf.compat.v1.set_random_seed(GRAPH_SEED)
    shards = tf.random.experimental.stateless_shuffle(_shard_rows(dataset.shards), epoch_seed)
    mean_bytes = dataset.num_bytes / dataset.num_examples
    buffer_size = min(dataset.num_examples, max(1, int(SHUFFLE_BUFFER_BYTES / mean_bytes)))
    return (
        tf.data.Dataset.from_tensor_slices(shards)
        .interleave(
            plain(of_shard),
            cycle_length=NUM_INTERLEAVED_SHARDS,
            block_length=1,
            num_parallel_calls=min(num_readers, NUM_INTERLEAVED_SHARDS) if num_readers else AUTOTUNE,
            deterministic=True,
        )
        .apply(_of_expected_length(dataset))
        .shuffle(buffer_size, seed=epoch_seed[1], reshuffle_each_iteration=False)
    )


def drawn_records(
    index: RecordIndex, num_readers: int | None, seed: int, first_epoch: int, offset: int
) -> tf.data.Dataset:
    """Records of each class equally often, each with its number and the first integer of its augmentation's seed.

    Each is read from its own place in its file: drawn out of a stream, the few images of a rare class would come often
    where they lie, and nowhere else. An image's augmentation follows from how often it was drawn before, as it follows
    from the epoch where each is drawn once in one.
    """
    draws = BalancedDraws(index.outputs, seed)

    def draw() -> Iterator[tuple[int, int]]:
        for epoch in itertools.count(first_epoch):
            numbers, rounds = draws.epoch(epoch)
            start = offset if epoch == first_epoch else 0
            yield from zip(numbers[start:], rounds[start:], strict=True)

    def read(number: Tensor, drawn_before: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return number, read_each(index.read, number), seed_of_epoch(seed, drawn_before)[0]

    scalar = tf.TensorSpec([], tf.int64)
    return tf.data.Dataset.from_generator(draw, output_signature=(scalar, scalar)).map(
        plain(read), num_parallel_calls=num_readers or AUTOTUNE, deterministic=True
    )


def seed_of_epoch(seed: int, epoch: Tensor) -> Tensor:
    """Integers [2]: the first for the augmentation, both for the order."""
    return tf.random.stateless_uniform(
        [2],
        seed=tf.stack([tf.constant(seed, tf.int64), tf.cast(epoch, tf.int64)]),
        minval=None,
        maxval=None,
        dtype=tf.int64,
    )


def _open_shard(row: Tensor) -> tf.data.Dataset:
    return tf.data.TFRecordDataset(row[0], compression_type=row[1])


def _open_chosen(row: Tensor) -> tf.data.Dataset:
    """The records of a shard that are of the data set."""
    chosen = tf.io.decode_raw(row[3], tf.uint8)
    records = _open_shard(row).enumerate().filter(lambda number, _: chosen[number] != 0)
    return records.map(lambda _, serialized: serialized)


def _shard_opener(dataset: Dataset) -> Callable[[Tensor], tf.data.Dataset]:
    """From a row of `_shard_rows` to the records of the shard.

    TensorFlow's reader gives up a shard at the first damaged record: where some are left out, Python reads.
    """
    if not dataset.num_skipped:
        return _open_shard if all(shard.chosen is None for shard in dataset.shards) else _open_chosen
    shards = {os.fsencode(shard.path): shard for shard in dataset.shards}

    def read(path: bytes) -> Iterator[bytes]:
        return (record.data for record in usable_records(shards[path]))

    return lambda row: tf.data.Dataset.from_generator(
        read, args=(row[0],), output_signature=tf.TensorSpec([], tf.string)
    )


def _shard_rows(shards: tuple[Shard, ...]) -> Tensor:
    """Path, compression, number of the first record, which records are of the data set, and how many; strings [N,5]."""
    firsts = itertools.accumulate((shard.num_records for shard in shards), initial=0)
    return tf.constant(
        [
            [
                os.fsencode(shard.path),
                shard.compression.encode(),
                str(first).encode(),
                shard.chosen or b"",
                str(shard.num_records).encode(),
            ]
            for shard, first in zip(shards, firsts, strict=False)
        ]
    )


def _of_expected_length(dataset: Dataset) -> Callable[[tf.data.Dataset], tf.data.Dataset]:
    """Fails when the files hold another number of records than they are said to, or did when they were counted."""
    return tf.data.experimental.assert_cardinality(dataset.num_examples)


def in_order(batches: tf.data.Dataset) -> tf.data.Dataset:
    """The same on any number of threads."""
    options = tf.data.Options()
    options.deterministic = True
    return batches.with_options(options)


def plain(function: Any) -> Any:
    """Without autograph, which only makes building the graph slower: there is no Python to translate in it."""
    return tf.autograph.experimental.do_not_convert(function)
