"""From record shards to batches, with tf.data. Iterate them within `bad_records.reading`.

Records that can't be read are left out, where that is asked for, before anything is drawn: `without_undecodable`.

What is read in training is a function of (seed, epoch, example) alone: the order of an epoch follows from the seed and
the epoch's number, the augmentation of an image from these two and the image's bytes. So a run that is resumed at a
step sees what it would have seen without the break, to the bit, on any number of threads.
"""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import tensorflow as tf

from finetune.datasets.data_service import prepared_by_service
from finetune.datasets.dataset import Dataset
from finetune.datasets.decoding import ReadOptions, decode_image, hash_of_image, training_image
from finetune.datasets.record_index import RecordIndex, RecordPlaces
from finetune.datasets.record_streams import (
    AUTOTUNE,
    drawn_records,
    in_order,
    plain,
    read_each,
    records_in_order,
    seed_of_epoch,
    shuffled_numbers,
    shuffled_records,
)
from finetune.datasets.schema import ParsedRecord, parse_record
from finetune.types import Tensor

# Any large primes: labels or weights that differ give fingerprints that differ.
FINGERPRINT_OF_LABEL = 1_000_003
FINGERPRINT_OF_WEIGHT = 15_485_863
FINGERPRINTS_AT_A_TIME = 256
BITS_OF_ONE = 0x3F800000  # Of float32.


@dataclasses.dataclass(frozen=True)
class BatchShare:
    """The part of each step's images that one of several workers takes: they follow each other, in the workers' order.

    Attributes:
        worker: Its index, from 0.
        num_workers: How many there are.
        size: Images of each worker in a step.
    """

    worker: int
    num_workers: int
    size: int


def training_batches(
    dataset: Dataset,
    options: ReadOptions,
    *,
    batch_size: int,
    seed: int,
    start_step: int = 0,
    balanced: RecordIndex | None = None,
) -> tf.data.Dataset:
    """Endless shuffled, augmented batches; each epoch has each record once, and a batch may span two epochs.

    Args:
        dataset: The split.
        options: Of the images, which go through the training mode of the preprocessing, and of the labels.
        batch_size: Of all replicas together.
        seed: For the order and the augmentation.
        start_step: How many batches to leave out: they are read and shuffled, but not decoded.
        balanced: Of the split, to draw each class equally often (see `balanced_draws`) in place of each record once.

    Returns:
        Batches of images, float32 [B,image_size,image_size,channels] in the preprocessing's range, of labels, int64
        [B], or where an image has any number of them uint8 [B,num_outputs], 1 or 0 for each output, where records have
        weights of these, float32 [B], and of what tells the images apart, int64 [B,3]: a record's number in the split,
        its fingerprint, and the seed of its augmentation. Iterate within `reading`.
    """
    examples = training_examples(dataset, options, seed=seed, num_before=start_step * batch_size, balanced=balanced)
    return in_batches(examples, batch_size)


def training_examples(
    dataset: Dataset,
    options: ReadOptions,
    *,
    seed: int,
    num_before: int = 0,
    balanced: RecordIndex | None = None,
    share: BatchShare | None = None,
) -> tf.data.Dataset:
    """What `training_batches` makes batches of, from the example behind the first `num_before` on.

    Args:
        dataset: As of `training_batches`, and so are those that aren't named here.
        options: Likewise.
        seed: Likewise.
        num_before: Examples of whole steps.
        balanced: Likewise.
        share: Of them, to decode no other, and to read no other where each can be read from its place; None: all.
    """
    records = _training_records(dataset, options, seed, num_before, balanced, share)
    prepare = _training_example(dataset, options)
    return records.map(plain(prepare), num_parallel_calls=options.num_parallel_calls or AUTOTUNE, deterministic=True)


def served_batches(
    dataset: Dataset,
    options: ReadOptions,
    *,
    workers: Sequence[str],
    step_size: int,
    batch_size: int,
    seed: int,
    num_before: int = 0,
) -> tf.data.Dataset:
    """As `training_batches`, with what input workers have decoded and augmented.

    Args:
        dataset: As of `training_batches`, and so are those that aren't named here.
        options: Likewise.
        workers: `host:port` of each input worker.
        step_size: Images that one of them makes in its turn.
        batch_size: Likewise; divides `step_size`.
        seed: Likewise.
        num_before: Examples of whole steps.
    """
    # Input workers know nothing of this process's folder.
    shards = tuple(dataclasses.replace(shard, path=Path(shard.path).absolute()) for shard in dataset.shards)
    dataset = dataclasses.replace(dataset, shards=shards)
    batches = prepared_by_service(
        workers,
        _training_records(dataset, options, seed, num_before, None, None),
        _training_example(dataset, options),
        step_size=step_size,
        num_parallel_calls=options.num_parallel_calls,
    )
    batches = batches if batch_size == step_size else batches.rebatch(batch_size)
    return in_order(batches.prefetch(AUTOTUNE))


def _training_records(
    dataset: Dataset,
    options: ReadOptions,
    seed: int,
    num_before: int,
    balanced: RecordIndex | None,
    share: BatchShare | None,
) -> tf.data.Dataset:
    """Numbers in the split, serialized records, and the first integers of their epochs' seeds."""
    first_epoch, offset = divmod(num_before, dataset.num_examples)

    def of_epochs(epoch_of: Callable[[Tensor], tf.data.Dataset]) -> tf.data.Dataset:
        """What a data set for each epoch's seed has, one after the other, with the seed's first integer."""

        def of_epoch(epoch: Tensor) -> tf.data.Dataset:
            epoch_seed = seed_of_epoch(seed, epoch)
            num_left_out = tf.where(epoch == first_epoch, tf.constant(offset, tf.int64), 0)
            return epoch_of(epoch_seed).skip(num_left_out).map(lambda *found: (*found, epoch_seed[0]))

        return tf.data.Dataset.range(first_epoch, tf.int64.max).flat_map(plain(of_epoch))

    if balanced is not None:
        records = drawn_records(balanced, options.num_readers, seed, first_epoch, offset)
        records = records if share is None else _of_share(records, share)
    elif share is not None and RecordPlaces.can_be_found(dataset):
        places = RecordPlaces(dataset)
        numbers = _of_share(of_epochs(lambda epoch_seed: shuffled_numbers(dataset, epoch_seed)), share)
        records = numbers.map(
            plain(lambda number, epoch_seed: (number, read_each(places.read, number), epoch_seed)),
            num_parallel_calls=options.num_readers or AUTOTUNE,
            deterministic=True,
        )
    else:
        records = of_epochs(lambda epoch_seed: shuffled_records(dataset, epoch_seed, options.num_readers))
        records = records if share is None else _of_share(records, share)
    return records


def _of_share(records: tf.data.Dataset, share: BatchShare) -> tf.data.Dataset:
    """Those of one worker, of the records, or their numbers, of whole steps."""

    def is_own(place: Tensor, record: Tensor) -> Tensor:
        return place // share.size % share.num_workers == share.worker

    return records.enumerate().filter(plain(is_own)).map(plain(lambda place, record: record))


def in_batches(examples: tf.data.Dataset, batch_size: int) -> tf.data.Dataset:
    """Batches, in order, of examples without end."""
    batches = examples.batch(batch_size, drop_remainder=True)  # Nothing is dropped: the records never end.
    return in_order(batches.prefetch(AUTOTUNE))


def view_batches(
    dataset: Dataset,
    options: ReadOptions,
    *,
    batch_size: int,
    seed: int,
    view: int,
    numbers: Sequence[int] | None = None,
) -> tf.data.Dataset:
    """Each record once, in the order of the files, augmented as epoch number `view` of `training_batches` augments it.

    Args:
        dataset: The split.
        options: Of the images, which go through the training mode of the preprocessing, and of the labels.
        batch_size: Of all batches but the last.
        seed: For the augmentation.
        view: Number of the view; another one, another outcome of the augmentation.
        numbers: Of the records in the split, where not all are wanted.

    Returns:
        Batches of images, labels and what tells them apart, as those of `training_batches`. Iterate within `reading`.
    """
    epoch_seed = seed_of_epoch(seed, view)[0]
    prepare = _training_example(dataset, options)
    records = records_in_order(dataset).enumerate()
    if numbers is not None:
        wanted = tf.constant(numbers, tf.int64)
        records = records.filter(plain(lambda number, _: tf.reduce_any(number == wanted))).take(len(numbers))
    batches = (
        records.map(
            plain(lambda number, serialized: prepare(number, serialized, epoch_seed)),
            num_parallel_calls=options.num_parallel_calls or AUTOTUNE,
            deterministic=True,
        )
        .batch(batch_size)
        .prefetch(AUTOTUNE)
    )
    return in_order(batches)


def evaluation_batches(dataset: Dataset, options: ReadOptions, *, batch_size: int) -> tf.data.Dataset:
    """Each record of the split once, in the order of the files; the last batch may be smaller.

    Args:
        dataset: The split.
        options: Of the images, which go through the evaluation mode of the preprocessing, and of the labels.
        batch_size: Of all batches but the last.

    Returns:
        Batches of images, float32 [B,image_size,image_size,channels] in the preprocessing's range, labels, int64 [B],
        or where an image has any number of them uint8 [B,num_outputs], and file names, string [B] ('' where the record
        has none). Iterate within `reading`.
    """

    def prepare(serialized: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        record = parse_record(serialized, dataset.schema)
        image = decode_image(record.encoded, options.channels)
        prepared = options.preprocessing.evaluate(image, options.image_size, options.image_size)
        return prepared, _checked_label(record, dataset, options.labels_offset), record.filename

    batches = (
        records_in_order(dataset)
        .map(plain(prepare), num_parallel_calls=options.num_parallel_calls or AUTOTUNE, deterministic=True)
        .batch(batch_size)
        .prefetch(AUTOTUNE)
    )
    return in_order(batches)


def _training_example(dataset: Dataset, options: ReadOptions) -> Callable[[Tensor, Tensor, Tensor], tuple[Tensor, ...]]:
    """From a record, its number, and the first integer of an epoch's seed to an image, its label, and its identity.

    Where records have weights, the image's stands in front of its identity.
    """

    def prepare(number: Tensor, serialized: Tensor, epoch_seed: Tensor) -> tuple[Tensor, ...]:
        record = parse_record(serialized, dataset.schema)
        label = _checked_label(record, dataset, options.labels_offset)
        image, image_hash = training_image(record.encoded, options, epoch_seed)
        weights = (_checked_weight(record),) if dataset.schema.has_weights else ()
        fingerprint = fingerprint_of(image_hash, _as_number(label), record.weight)
        return image, label, *weights, tf.stack([number, fingerprint, epoch_seed])

    return prepare


def fingerprints_in_order(dataset: Dataset, labels_offset: int) -> tf.data.Dataset:
    """The fingerprints of a split's records in the order of its files, int64 [B]: iterate within `reading`."""

    def fingerprint(serialized: Tensor) -> Tensor:
        record = parse_record(serialized, dataset.schema)
        label = _checked_label(record, dataset, labels_offset)
        return fingerprint_of(hash_of_image(record.encoded), _as_number(label), record.weight)

    records = records_in_order(dataset).map(plain(fingerprint), num_parallel_calls=AUTOTUNE, deterministic=True)
    return records.batch(FINGERPRINTS_AT_A_TIME)


def fingerprint_of(image_hash: Tensor, label: Tensor, weight: Tensor | float = 1.0) -> Tensor:
    """Of what training sees of a record, int64, 1 to 2^31 - 1.

    That is its image, the output that stands for its class, and its weight, float32, 1 being as good as none.
    """
    of_weight = tf.cast(tf.bitcast(tf.cast(weight, tf.float32), tf.int32), tf.int64) - BITS_OF_ONE
    content = image_hash + FINGERPRINT_OF_LABEL * label + FINGERPRINT_OF_WEIGHT * of_weight
    return 1 + tf.math.floormod(content, 2**31 - 1)


def _as_number(label: Tensor) -> Tensor:
    """An integer that stands for what `_checked_label` gives: itself, or a hash of several labels."""
    if label.shape.rank == 0:
        return label
    return tf.strings.to_hash_bucket_fast(tf.strings.reduce_join(tf.strings.as_string(label)), 2**31 - 1)


def _checked_label(record: ParsedRecord, dataset: Dataset, labels_offset: int) -> Tensor:
    """The output of the network that stands for the record's class, int64.

    Where an image has any number of labels: for each output 1 or 0, uint8 [num_outputs].
    """
    is_class = (record.label >= labels_offset) & (record.label < dataset.num_classes)
    is_sound = tf.reduce_all(is_class)
    if dataset.schema.has_lists:
        is_sound &= tf.size(tf.unique(record.label)[0]) == tf.size(record.label)
    with tf.control_dependencies([tf.debugging.Assert(is_sound, ["label outside of the classes", record.label])]):
        label = record.label - labels_offset
    output = label if dataset.outputs is None else tf.gather(tf.constant(dataset.outputs, tf.int64), label)
    if not dataset.schema.has_lists:
        return output
    return tf.reduce_sum(tf.one_hot(output, dataset.num_outputs(labels_offset), dtype=tf.uint8), axis=0)


def _checked_weight(record: ParsedRecord) -> Tensor:
    is_weight = tf.math.is_finite(record.weight) & (record.weight >= 0)
    with tf.control_dependencies([tf.debugging.Assert(is_weight, ["no weight", record.weight])]):
        return tf.identity(record.weight)
