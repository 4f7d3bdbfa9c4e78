"""Changes of one image of a given strength, as Pillow makes them: what RandAugment draws from.

All take and give float32 [H,W,C] in [0, 255] with C, 1 or 3, known. Each is Pillow's to its rounding: `ImageOps` for
contrast, histogram, solarizing and posterizing, `ImageEnhance` for the four factors, `Image.transform` and
`Image.rotate` for the movements, bilinear, with grey where nothing is.
"""

import math

import tensorflow as tf

from finetune.preprocessing.geometry import transform
from finetune.types import Tensor

FILL = 128.0  # Of the authors' program.
GREY_WEIGHTS = (0.299, 0.587, 0.114)  # Of ITU-R 601-2, as Pillow has them.
LEVELS = 256


def autocontrast(image: Tensor) -> Tensor:
    """Stretches each channel to 0 to 255; one that has a single value stays."""
    low = tf.reduce_min(image, axis=[0, 1])
    high = tf.reduce_max(image, axis=[0, 1])
    stretched = (image - low) * (255.0 / tf.maximum(high - low, 1.0))
    return tf.where(high > low, stretched, image)


def equalize(image: Tensor) -> Tensor:
    """Levels each channel's histogram."""
    channels = image.shape[-1]
    values = tf.cast(tf.round(image), tf.int32) + LEVELS * tf.range(channels)
    counts = tf.math.bincount(tf.reshape(values, [-1]), minlength=LEVELS * channels, maxlength=LEVELS * channels)
    counts = tf.reshape(counts, [channels, LEVELS])
    highest = tf.reduce_max(tf.where(counts > 0, tf.range(LEVELS), 0), axis=1)
    of_highest = tf.gather(counts, highest, batch_dims=1)
    step = (tf.reduce_sum(counts, axis=1) - of_highest)[:, tf.newaxis] // 255
    before = tf.cumsum(counts, axis=1, exclusive=True)
    levelled = tf.minimum((before + step // 2) // tf.maximum(step, 1), 255)
    table = tf.where(step > 0, levelled, tf.range(LEVELS))
    return tf.cast(tf.gather(tf.reshape(table, [-1]), values), tf.float32)


def solarize(image: Tensor, threshold: float) -> Tensor:
    """Inverts what is `threshold` or brighter."""
    return tf.where(image < threshold, image, 255.0 - image)


def posterize(image: Tensor, bits: int) -> Tensor:
    """Keeps the highest bits of each value."""
    step = float(2 ** (8 - bits))
    return tf.floor(tf.round(image) / step) * step


def color(image: Tensor, factor: Tensor) -> Tensor:
    """0: grey, 1: as it is, above: more colourful; a grey image stays."""
    return image if image.shape[-1] == 1 else _blend(_grey(image), image, factor)


def contrast(image: Tensor, factor: Tensor) -> Tensor:
    """0: all of the image's mean grey, 1: as it is, above: more contrast."""
    levels = tf.cast(tf.round(_grey(image)), tf.int64)  # Sums of whole numbers don't hang on the number of threads.
    mean = tf.reduce_sum(levels) / tf.size(levels, tf.int64)
    return _blend(tf.cast(tf.floor(mean + 0.5), tf.float32), image, factor)


def brightness(image: Tensor, factor: Tensor) -> Tensor:
    """0: black, 1: as it is, above: brighter."""
    return _blend(tf.zeros([]), image, factor)


def sharpness(image: Tensor, factor: Tensor) -> Tensor:
    """0: each pixel the mean of itself, five times, and its neighbours; 1: as it is, above: sharper."""
    height, width, _ = image.shape
    if min(height, width) < 3:
        return image
    neighbourhoods = 9 * tf.nn.avg_pool2d(image[tf.newaxis], ksize=3, strides=1, padding="VALID")[0]
    smooth = (neighbourhoods + 4 * image[1:-1, 1:-1]) / 13
    change = tf.pad(smooth - image[1:-1, 1:-1], [[1, 1], [1, 1], [0, 0]])  # The border has too few neighbours.
    return _blend(image + change, image, factor)


def rotate(image: Tensor, degrees: Tensor) -> Tensor:
    """Turns around the middle, against the clock."""
    height, width, _ = image.shape
    angle = degrees * (math.pi / 180)
    cosine, sine = tf.cos(angle), tf.sin(angle)
    x, y = (width - 1) / 2, (height - 1) / 2
    rows = [[cosine, -sine, x - cosine * x + sine * y], [sine, cosine, y - sine * x - cosine * y]]
    return _moved(image, rows)


def shear_x(image: Tensor, factor: Tensor) -> Tensor:
    """Shifts each row by so much of its distance from the upper edge."""
    # Pillow counts from the corner of a pixel, the map from its middle.
    return _moved(image, [[1.0, factor, factor / 2], [0.0, 1.0, 0.0]])


def shear_y(image: Tensor, factor: Tensor) -> Tensor:
    """Shifts each column by so much of its distance from the left edge."""
    return _moved(image, [[1.0, 0.0, 0.0], [factor, 1.0, factor / 2]])


def translate_x(image: Tensor, fraction: Tensor) -> Tensor:
    """Shifts by a part of the width."""
    return _moved(image, [[1.0, 0.0, fraction * image.shape[1]], [0.0, 1.0, 0.0]])


def translate_y(image: Tensor, fraction: Tensor) -> Tensor:
    """Shifts by a part of the height."""
    return _moved(image, [[1.0, 0.0, 0.0], [0.0, 1.0, fraction * image.shape[0]]])


def _grey(image: Tensor) -> Tensor:
    """float32 [H,W,1]."""
    return image if image.shape[-1] == 1 else tf.reduce_sum(image * GREY_WEIGHTS, axis=-1, keepdims=True)


def _blend(degenerate: Tensor, image: Tensor, factor: Tensor) -> Tensor:
    """From one, at 0, to the other, at 1, and beyond."""
    return tf.clip_by_value(degenerate + factor * (image - degenerate), 0.0, 255.0)


def _moved(image: Tensor, rows: list[list[Tensor]]) -> Tensor:
    return transform(image, tf.stack([tf.stack(row) for row in rows]), fill_mode="CONSTANT", fill_value=FILL)
