"""From record shards to batches, with tf.data.

Records that can't be read are left out, where that is asked for, before anything is drawn: `without_undecodable`.

What is read in training is a function of (seed, epoch, example) alone: the order of an epoch follows from the seed and
the epoch's number, the augmentation of an image from these two and the image's bytes. So a run that is resumed at a
step sees what it would have seen without the break, to the bit, on any number of threads.
"""

import contextlib
import dataclasses
import itertools
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from finetune.datasets.balanced_draws import BalancedDraws
from finetune.datasets.dataset import (
    OR_SKIP,
    WRONG_DESCRIPTION,
    Dataset,
    Shard,
    bad_record,
    check_label,
    skipped_in_words,
    skipped_record,
    usable_records,
    without,
)
from finetune.datasets.record_index import RecordIndex
from finetune.datasets.schema import LabelError, ParsedRecord, parse_record
from finetune.datasets.tfrecord import RecordFileError
from finetune.errors import UserError
from finetune.preprocessing import Preprocessing
from finetune.preprocessing.geometry import crop
from finetune.progress import progress
from finetune.types import Tensor

log = logging.getLogger("finetune")

SHUFFLE_BUFFER_BYTES = 256 << 20
# Part of the order: neither may depend on the machine.
NUM_INTERLEAVED_SHARDS = 8
GRAPH_SEED = 1

# Any large primes: labels or weights that differ give fingerprints that differ.
FINGERPRINT_OF_LABEL = 1_000_003
FINGERPRINT_OF_WEIGHT = 15_485_863
FINGERPRINTS_AT_A_TIME = 256
BITS_OF_ONE = 0x3F800000  # Of float32.

AUTOTUNE = tf.data.AUTOTUNE

# To which part of its size a JPEG can be decoded.
JPEG_RATIOS = np.array([1, 2, 4, 8])

# TensorFlow quotes what it can't parse in its message, and then may fail to make a Python string of it.
BAD_DATA_ERRORS = (tf.errors.InvalidArgumentError, UnicodeDecodeError)
# The last is a number of records that isn't the expected one.
BAD_FILE_ERRORS = (tf.errors.DataLossError, tf.errors.NotFoundError, tf.errors.FailedPreconditionError)


@dataclasses.dataclass(frozen=True)
class ReadOptions:
    """What is made of a record's image and label.

    Attributes:
        preprocessing: What images go through.
        image_size: Height and width of what comes out, in pixels.
        channels: 1 or 3. Images of another kind are converted as they are decoded.
        labels_offset: Subtracted from each label (slim: 1 for networks without a background class).
        num_parallel_calls: How many images are decoded at a time; None: chosen while running.
        num_readers: How many shards are read at a time; None: chosen while running.
    """

    preprocessing: Preprocessing
    image_size: int
    channels: int
    labels_offset: int = 0
    num_parallel_calls: int | None = None
    num_readers: int | None = None


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
        [B], where records have weights of these, float32 [B], and of what tells the images apart, int64 [B,3]: a
        record's number in the split, its fingerprint, and the seed of its augmentation. Iterate within `reading`.
    """
    examples = training_examples(dataset, options, seed=seed, num_before=start_step * batch_size, balanced=balanced)
    return in_batches(examples, batch_size)


def training_examples(
    dataset: Dataset, options: ReadOptions, *, seed: int, num_before: int = 0, balanced: RecordIndex | None = None
) -> tf.data.Dataset:
    """What `training_batches` makes batches of, from the example behind the first `num_before` on."""
    first_epoch, offset = divmod(num_before, dataset.num_examples)

    def read_epoch(epoch: Tensor) -> tf.data.Dataset:
        epoch_seed = seed_of_epoch(seed, epoch)
        num_left_out = tf.where(epoch == first_epoch, tf.constant(offset, tf.int64), 0)
        records = _shuffled_records(dataset, epoch_seed, options.num_readers).skip(num_left_out)
        return records.map(lambda number, serialized: (number, serialized, epoch_seed[0]))

    prepare = _training_example(dataset, options)
    epochs = tf.data.Dataset.range(first_epoch, tf.int64.max)
    if balanced is None:
        records = epochs.flat_map(_plain(read_epoch))
    else:
        records = _drawn_records(balanced, options, seed, first_epoch, offset)
    return records.map(_plain(prepare), num_parallel_calls=options.num_parallel_calls or AUTOTUNE, deterministic=True)


def in_batches(examples: tf.data.Dataset, batch_size: int) -> tf.data.Dataset:
    """Batches, in order, of examples without end."""
    batches = examples.batch(batch_size, drop_remainder=True)  # Nothing is dropped: the records never end.
    return in_order(batches.prefetch(AUTOTUNE))


def _drawn_records(
    index: RecordIndex, options: ReadOptions, seed: int, first_epoch: int, offset: int
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
        serialized = tf.numpy_function(lambda each: index.read(int(each)), [number], tf.string, stateful=False)
        return number, tf.ensure_shape(serialized, []), seed_of_epoch(seed, drawn_before)[0]

    scalar = tf.TensorSpec([], tf.int64)
    return tf.data.Dataset.from_generator(draw, output_signature=(scalar, scalar)).map(
        _plain(read), num_parallel_calls=options.num_readers or AUTOTUNE, deterministic=True
    )


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
        records = records.filter(_plain(lambda number, _: tf.reduce_any(number == wanted))).take(len(numbers))
    batches = (
        records.map(
            _plain(lambda number, serialized: prepare(number, serialized, epoch_seed)),
            num_parallel_calls=options.num_parallel_calls or AUTOTUNE,
            deterministic=True,
        )
        .batch(batch_size)
        .prefetch(AUTOTUNE)
    )
    return in_order(batches)


def seed_of_epoch(seed: int, epoch: Tensor) -> Tensor:
    """Integers [2]: the first for the augmentation, both for the order."""
    return tf.random.stateless_uniform(
        [2],
        seed=tf.stack([tf.constant(seed, tf.int64), tf.cast(epoch, tf.int64)]),
        minval=None,
        maxval=None,
        dtype=tf.int64,
    )


def _training_example(dataset: Dataset, options: ReadOptions) -> Callable[[Tensor, Tensor, Tensor], tuple[Tensor, ...]]:
    """From a record, its number, and the first integer of an epoch's seed to an image, its label, and its identity.

    Where records have weights, the image's stands in front of its identity.
    """

    def prepare(number: Tensor, serialized: Tensor, epoch_seed: Tensor) -> tuple[Tensor, ...]:
        record = parse_record(serialized, dataset.schema)
        label = _checked_label(record, dataset, options.labels_offset)
        image, image_hash = training_image(record.encoded, options, epoch_seed)
        weights = (_checked_weight(record),) if dataset.schema.has_weights else ()
        fingerprint = fingerprint_of(image_hash, label, record.weight)
        return image, label, *weights, tf.stack([number, fingerprint, epoch_seed])

    return prepare


def training_image(encoded: Tensor, options: ReadOptions, epoch_seed: Tensor) -> tuple[Tensor, Tensor]:
    """An image as training has it in an epoch, [H,W,C], and the hash of its file, by which its augmentation differs."""
    image_hash = _image_hash(encoded)
    image_seed = tf.stack([epoch_seed, image_hash])
    window = decode_training_window(encoded, options, image_seed)
    image = options.preprocessing.finish_training(window, options.image_size, options.image_size, image_seed)
    return image, image_hash


def fingerprints_in_order(dataset: Dataset, labels_offset: int) -> tf.data.Dataset:
    """The fingerprints of a split's records in the order of its files, int64 [B]: iterate within `reading`."""

    def fingerprint(serialized: Tensor) -> Tensor:
        record = parse_record(serialized, dataset.schema)
        label = _checked_label(record, dataset, labels_offset)
        return fingerprint_of(_image_hash(record.encoded), label, record.weight)

    records = records_in_order(dataset).map(_plain(fingerprint), num_parallel_calls=AUTOTUNE, deterministic=True)
    return records.batch(FINGERPRINTS_AT_A_TIME)


def _image_hash(encoded: Tensor) -> Tensor:
    return tf.strings.to_hash_bucket_fast(encoded, tf.int64.max)


def fingerprint_of(image_hash: Tensor, label: Tensor, weight: Tensor | float = 1.0) -> Tensor:
    """Of what training sees of a record, int64, 1 to 2^31 - 1.

    That is its image, the output that stands for its class, and its weight, float32, 1 being as good as none.
    """
    of_weight = tf.cast(tf.bitcast(tf.cast(weight, tf.float32), tf.int32), tf.int64) - BITS_OF_ONE
    content = image_hash + FINGERPRINT_OF_LABEL * label + FINGERPRINT_OF_WEIGHT * of_weight
    return 1 + tf.math.floormod(content, 2**31 - 1)


def evaluation_batches(dataset: Dataset, options: ReadOptions, *, batch_size: int) -> tf.data.Dataset:
    """Each record of the split once, in the order of the files; the last batch may be smaller.

    Args:
        dataset: The split.
        options: Of the images, which go through the evaluation mode of the preprocessing, and of the labels.
        batch_size: Of all batches but the last.

    Returns:
        Batches of images, float32 [B,image_size,image_size,channels] in the preprocessing's range, labels, int64 [B],
        and file names, string [B] ('' where the record has none). Iterate within `reading`.
    """

    def prepare(serialized: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        record = parse_record(serialized, dataset.schema)
        image = decode_image(record.encoded, options.channels)
        prepared = options.preprocessing.evaluate(image, options.image_size, options.image_size)
        return prepared, _checked_label(record, dataset, options.labels_offset), record.filename

    batches = (
        records_in_order(dataset)
        .map(_plain(prepare), num_parallel_calls=options.num_parallel_calls or AUTOTUNE, deterministic=True)
        .batch(batch_size)
        .prefetch(AUTOTUNE)
    )
    return in_order(batches)


@contextlib.contextmanager
def reading(dataset: Dataset, labels_offset: int = 0) -> Iterator[None]:
    """Turns a failure to read the data set within this context into a mistake that names the shard and the record.

    Raises:
        UserError: A record is damaged, no Example, no image, or has no label or one outside of the classes; a shard
            holds another number of records than expected.
    """
    try:
        yield
    except (*BAD_DATA_ERRORS, *BAD_FILE_ERRORS) as error:
        # tf.data doesn't say which record it failed at, and the failure may not be the data's at all.
        log.info("Reading failed; looking for the record among %d of %s.", dataset.num_examples, dataset.split)
        found = find_bad_record(dataset, labels_offset)
        if found is None:
            raise
        raise found from error


def find_bad_record(dataset: Dataset, labels_offset: int = 0) -> UserError | None:
    """Reads the split record by record and tells of the first that can't be used; None if all can."""
    for shard in dataset.shards:
        num_records = 0
        try:
            for record in usable_records(shard):
                problem = _find_problem(record.data, dataset, labels_offset)
                if problem:
                    return bad_record(shard.path, record, problem.what, problem.mend)
                num_records += 1
        except RecordFileError as error:
            return UserError(f"The shard {error}.", OR_SKIP)
        if num_records != shard.num_records:
            return UserError(
                f"The shard {shard.path} holds {num_records} records, but {shard.num_records} were expected: so many "
                "dataset.json says, or were counted at the start.",
                f"Let nothing write into it meanwhile. {WRONG_DESCRIPTION}",
            )
    return None


def without_undecodable(dataset: Dataset, labels_offset: int = 0) -> Dataset:
    """The split without the records whose images can't be decoded, each of which is decoded for it; says so.

    Raises:
        UserError: A record lacks its label, or has one that is no class: that is no damage; no record is left.
    """
    whole = _decodable(dataset)
    shards, position = [], 0
    for shard in dataset.shards:
        skipped = []
        for record in usable_records(shard) if shard.num_records else ():
            problem = None if position in whole else _find_problem(record.data, dataset, labels_offset)
            if problem and not problem.is_damage:
                raise bad_record(shard.path, record, problem.what, problem.mend)
            if problem:
                skipped.append(skipped_record(record, problem.what))
            position += 1
        shards.append(without(shard, skipped))
    dataset = dataclasses.replace(dataset, shards=tuple(shards))
    if dataset.num_skipped:
        log.warning("%s", skipped_in_words(dataset))
    if not dataset.num_examples:
        raise UserError(f"No record of the {dataset.split} split can be read.", "Convert the images again.")
    return dataset


def _decodable(dataset: Dataset) -> set[int]:
    """The positions of the records whose images can be decoded, counted over all shards without what is left out."""

    def decode(position: Tensor, serialized: Tensor) -> tuple[Tensor, Tensor]:
        # The size is asked for lest TensorFlow leave out what nobody needs.
        return position, tf.size(decode_image(parse_record(serialized, dataset.schema).encoded, channels=3))

    positions = (
        records_in_order(dataset)
        .enumerate()
        .map(_plain(decode), num_parallel_calls=AUTOTUNE, deterministic=True)
        .ignore_errors()
    )
    found = set()
    with progress(f"Checking the images of {dataset.split}", dataset.num_examples) as advance:
        for position, _ in positions.as_numpy_iterator():
            found.add(int(position))
            advance(1)
    return found


class _Problem(NamedTuple):
    """What is wrong with a record, what mends it, and whether it is damage rather than a label that isn't as meant."""

    what: str
    mend: str
    is_damage: bool = True


def _find_problem(serialized: bytes, dataset: Dataset, labels_offset: int) -> _Problem | None:
    """What is wrong with a record; None if nothing is."""
    convert_again = f"finetune-convert checks each image. {OR_SKIP}"
    try:
        check_label(serialized, dataset.schema, labels_offset, dataset.num_classes)
        dataset.schema.read_weight(serialized)
        record = parse_record(serialized, dataset.schema)
    except LabelError as error:
        return _Problem(str(error), error.mend, is_damage=False)
    except (ValueError, *BAD_DATA_ERRORS):
        return _Problem("no tf.train.Example of an image and its class", convert_again)
    try:
        decode_image(record.encoded, channels=3)
    except BAD_DATA_ERRORS:
        filename = record.filename.numpy().decode("utf-8", "replace")
        num_bytes = len(record.encoded.numpy())
        of_file = f" ({filename})" if filename else ""
        return _Problem(f"its {num_bytes} bytes can't be decoded as an image{of_file}", convert_again)
    return None


def decode_image(encoded: Tensor, channels: int) -> Tensor:
    """Decodes JPEG, PNG, GIF (its first picture) or BMP bytes to uint8 [H,W,channels].

    Grey is repeated for 3 channels, colour is weighted for 1, transparency and the low byte of 16 bits are dropped.
    """
    if channels == 3:
        image = tf.io.decode_image(encoded, channels=3, expand_animations=False)
    else:
        # For the rarer formats TensorFlow decodes to colour only.
        image = tf.cond(
            _starts_with(encoded, b"\xff\xd8\xff") | _starts_with(encoded, b"\x89PNG"),
            lambda: tf.io.decode_image(encoded, channels=1, expand_animations=False),
            lambda: tf.image.rgb_to_grayscale(tf.io.decode_image(encoded, channels=3, expand_animations=False)),
        )
    return tf.ensure_shape(image, [None, None, channels])


def decode_training_window(encoded: Tensor, options: ReadOptions, image_seed: Tensor) -> Tensor:
    """Decodes what the preprocessing trains on, uint8 [H,W,channels].

    Of a JPEG no more than the window that is cut out, and at a half, a quarter or an eighth of its size where that
    still has `image_size` pixels: what the decoder leaves out costs no time, and resizing would leave it out anyway.
    """
    size, channels = options.image_size, options.channels

    def window_of(height_width_channels: Tensor) -> Tensor:
        return options.preprocessing.training_window(height_width_channels, size, size, image_seed)

    def from_jpeg() -> Tensor:
        # The chroma of the window's last column may differ by a few levels from that of a decoded and cut image.
        window = window_of(tf.io.extract_jpeg_shape(encoded))
        decoders = [
            lambda ratio=ratio: tf.io.decode_and_crop_jpeg(encoded, window // ratio, channels=channels, ratio=ratio)
            for ratio in JPEG_RATIOS
        ]
        num_halvings = tf.reduce_sum(tf.cast(tf.reduce_min(window[2:]) >= size * JPEG_RATIOS[1:], tf.int32))
        return tf.switch_case(num_halvings, decoders)

    def from_other() -> Tensor:
        image = decode_image(encoded, channels)
        return crop(image, window_of(tf.shape(image)))

    crops_first = window_of(tf.constant([1, 1, channels])) is not None
    if not crops_first:
        return decode_image(encoded, channels)
    window = tf.cond(_starts_with(encoded, b"\xff\xd8\xff"), from_jpeg, from_other)
    return tf.ensure_shape(window, [None, None, channels])


def _shuffled_records(dataset: Dataset, epoch_seed: Tensor, num_readers: int | None) -> tf.data.Dataset:
    """All records once, each behind its number in the split.

    Shards come in random order, some are read in turns, records are shuffled in a buffer of bounded size.
    """
    # tf.data mixes the graph's seed into its own; without this, tf.random.set_seed would change the order.
    tf.compat.v1.set_random_seed(GRAPH_SEED)
    shards = tf.random.experimental.stateless_shuffle(_shard_rows(dataset.shards), epoch_seed)
    mean_bytes = dataset.num_bytes / dataset.num_examples
    buffer_size = min(dataset.num_examples, max(1, int(SHUFFLE_BUFFER_BYTES / mean_bytes)))
    open_shard = _shard_opener(dataset)
    return (
        tf.data.Dataset.from_tensor_slices(shards)
        .interleave(
            _plain(lambda shard: open_shard(shard).enumerate(tf.strings.to_number(shard[2], tf.int64))),
            cycle_length=NUM_INTERLEAVED_SHARDS,
            block_length=1,
            num_parallel_calls=min(num_readers, NUM_INTERLEAVED_SHARDS) if num_readers else AUTOTUNE,
            deterministic=True,
        )
        .apply(_of_expected_length(dataset))
        .shuffle(buffer_size, seed=epoch_seed[1], reshuffle_each_iteration=False)
    )


def records_in_order(dataset: Dataset) -> tf.data.Dataset:
    """The serialized records of a split in the order of its files, scalar strings."""
    shards = tf.data.Dataset.from_tensor_slices(_shard_rows(dataset.shards))
    return shards.flat_map(_plain(_shard_opener(dataset))).apply(_of_expected_length(dataset))


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
    """Paths, compressions, numbers of the first records, and which records are of the data set, strings [N,4]."""
    firsts = itertools.accumulate((shard.num_records for shard in shards), initial=0)
    return tf.constant(
        [
            [os.fsencode(shard.path), shard.compression.encode(), str(first).encode(), shard.chosen or b""]
            for shard, first in zip(shards, firsts, strict=False)
        ]
    )


def _of_expected_length(dataset: Dataset) -> Callable[[tf.data.Dataset], tf.data.Dataset]:
    """Fails when the files hold another number of records than they are said to, or did when they were counted."""
    return tf.data.experimental.assert_cardinality(dataset.num_examples)


def _checked_label(record: ParsedRecord, dataset: Dataset, labels_offset: int) -> Tensor:
    """The output of the network that stands for the record's class."""
    is_class = (record.label >= labels_offset) & (record.label < dataset.num_classes)
    with tf.control_dependencies([tf.debugging.Assert(is_class, ["label outside of the classes", record.label])]):
        label = record.label - labels_offset
    return label if dataset.outputs is None else tf.gather(tf.constant(dataset.outputs, tf.int64), label)


def _checked_weight(record: ParsedRecord) -> Tensor:
    is_weight = tf.math.is_finite(record.weight) & (record.weight >= 0)
    with tf.control_dependencies([tf.debugging.Assert(is_weight, ["no weight", record.weight])]):
        return tf.identity(record.weight)


def _starts_with(encoded: Tensor, magic: bytes) -> Tensor:
    return tf.strings.substr(encoded, 0, len(magic)) == magic


def _plain(function: Any) -> Any:
    """Without autograph, which only makes building the graph slower: there is no Python to translate in it."""
    return tf.autograph.experimental.do_not_convert(function)


def in_order(batches: tf.data.Dataset) -> tf.data.Dataset:
    """The same on any number of threads."""
    options = tf.data.Options()
    options.deterministic = True
    return batches.with_options(options)
