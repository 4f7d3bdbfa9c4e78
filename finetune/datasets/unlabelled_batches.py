"""From images without labels to what training and labelling are given, with tf.data."""

import contextlib
import dataclasses
import logging
from collections.abc import Callable, Iterable, Iterator

import tensorflow as tf

from finetune.datasets.decoding import BAD_DATA_ERRORS, ReadOptions, decode_image, training_image
from finetune.datasets.pipeline import FINGERPRINT_OF_LABEL, fingerprint_of
from finetune.datasets.record_streams import AUTOTUNE, in_order, seed_of_epoch
from finetune.datasets.unlabelled import COPY_AGAIN, MOST_NAMED, StoredImage, UnlabelledImages
from finetune.errors import UserError
from finetune.notices import few
from finetune.progress import progress
from finetune.types import Tensor

log = logging.getLogger("finetune")

# An image's number, its pseudo-label, and the epoch whose augmentation it has.
Pick = tuple[int, int, int]


def picked_examples(
    images: UnlabelledImages,
    options: ReadOptions,
    picks: Callable[[], Iterable[Pick]],
    *,
    seed: int,
    are_weighted: bool = False,
) -> tf.data.Dataset:
    """Augmented images with their pseudo-labels, in the order of the picks.

    Args:
        images: From which they are picked.
        options: Of the images, which go through the training mode of the preprocessing.
        picks: From the first on; they may never end.
        seed: For the augmentation.
        are_weighted: Whether labelled images have weights: then these have 1.

    Returns:
        Images, float32 [image_size,image_size,channels], labels, weights where there are such, and what tells them
        apart, int64 [3]: see `identity`.
    """

    def read() -> Iterator[tuple[bytes, int, int, int]]:
        return ((images.encoded(number), number, label, epoch) for number, label, epoch in picks())

    def prepare(encoded: Tensor, number: Tensor, label: Tensor, epoch: Tensor) -> tuple[Tensor, ...]:
        epoch_seed = seed_of_epoch(seed, epoch)[0]
        image, image_hash = training_image(encoded, options, epoch_seed)
        weights = (tf.constant(1.0),) if are_weighted else ()
        return image, label, *weights, tf.stack(identity(number, fingerprint_of(image_hash, 0), label, epoch_seed))

    numbers = (tf.TensorSpec([], tf.int64),) * 3
    return tf.data.Dataset.from_generator(read, output_signature=(tf.TensorSpec([], tf.string), *numbers)).map(
        tf.autograph.experimental.do_not_convert(prepare),
        num_parallel_calls=options.num_parallel_calls or AUTOTUNE,
        deterministic=True,
    )


def identity(number: Tensor, fingerprint: Tensor, label: Tensor, seed: Tensor) -> list[Tensor]:
    """What a step notes of a pseudo-labelled image, three integers.

    Its number is below 0, which no record's of the training split is. The fingerprint is of the image alone, and the
    last, which else is the seed of the augmentation or a view, hangs on the label as well: another label is another
    step.
    """
    return [-1 - number, fingerprint, seed + FINGERPRINT_OF_LABEL * (1 + label)]


def unlabelled_view_batches(
    images: UnlabelledImages, options: ReadOptions, *, batch_size: int, seed: int, view: int
) -> tf.data.Dataset:
    """Each image once, augmented as in epoch number `view`; labels that mean nothing, and what tells images apart."""
    every = picked_examples(images, options, lambda: ((n, 0, view) for n in range(len(images.records))), seed=seed)
    return in_order(every.batch(batch_size).prefetch(AUTOTUNE))


def unlabelled_evaluation_batches(
    images: UnlabelledImages, options: ReadOptions, *, batch_size: int
) -> tf.data.Dataset:
    """Each image once, as evaluation has it: images [B,image_size,image_size,channels], and labels that mean nothing.

    The last batch may be smaller.
    """

    def read() -> Iterator[bytes]:
        return (images.encoded(number) for number in range(len(images.records)))

    def prepare(encoded: Tensor) -> tuple[Tensor, Tensor]:
        image = decode_image(encoded, options.channels)
        prepared = options.preprocessing.evaluate(image, options.image_size, options.image_size)
        return prepared, tf.constant(0, tf.int64)

    encoded = tf.data.Dataset.from_generator(read, output_signature=tf.TensorSpec([], tf.string))
    batches = encoded.map(
        tf.autograph.experimental.do_not_convert(prepare),
        num_parallel_calls=options.num_parallel_calls or AUTOTUNE,
        deterministic=True,
    ).batch(batch_size)
    return in_order(batches.prefetch(AUTOTUNE))


@contextlib.contextmanager
def reading_unlabelled(images: UnlabelledImages) -> Iterator[None]:
    """Turns a failure to decode an image within this context into a mistake that names it.

    Raises:
        UserError: An image can't be decoded.
    """
    try:
        yield
    except BAD_DATA_ERRORS:
        bad = next((number for number in range(len(images.records)) if not _can_be_decoded(images, number)), None)
        if bad is None:
            raise
        raise UserError(
            f"--unlabeled-dir: {images.records[bad].name} can't be decoded as an image.", COPY_AGAIN
        ) from None


def without_undecodable_images(images: UnlabelledImages) -> UnlabelledImages:
    """The images without those that can't be decoded, each of which is decoded for it; says so.

    Raises:
        UserError: None is left.
    """
    kept: list[StoredImage] = []
    bad: list[StoredImage] = []
    with progress("Checking the unlabelled images", len(images.records)) as advance:
        for number, record in enumerate(images.records):
            (kept if _can_be_decoded(images, number) else bad).append(record)
            advance(1)
    if bad:
        names = few([record.name for record in bad], MOST_NAMED)
        log.warning("--on-corrupt skip: %d unlabelled images can't be decoded and are left out: %s", len(bad), names)
    if not kept:
        raise UserError(f"--unlabeled-dir: no image of {images.source} can be decoded.", "Convert them again.")
    return dataclasses.replace(images, records=tuple(kept), records_sha256=None if bad else images.records_sha256)


def _can_be_decoded(images: UnlabelledImages, number: int) -> bool:
    try:
        decode_image(tf.constant(images.encoded(number)), channels=3)
    except BAD_DATA_ERRORS:
        return False
    return True
