"""Random erasing: a rectangle of an image becomes noise.

Source: Zhong et al., "Random Erasing Data Augmentation", https://arxiv.org/abs/1708.04896. The rectangle takes 2 % to
a third of the image, its height is 0.3 to 3.3 times its width, its place is any. Each value in it is drawn by itself
from 0 to 255: of the paper's fillings the one that did best. The aspect ratio is drawn by its logarithm, lest
rectangles lie more often than they stand.
"""

import tensorflow as tf

from finetune.preprocessing.seeds import Decision, seed_for
from finetune.types import Tensor

AREA_RANGE = (0.02, 1 / 3)
ASPECT_RANGE = (0.3, 3.3)
MAX_ATTEMPTS = 10


def erase(image: Tensor, probability: float, seed: Tensor) -> Tensor:
    """Erases a rectangle of an image float32 [H,W,C] in [0, 255], in so many cases."""
    height, width, channels = image.shape
    chance, top, left = tf.unstack(tf.random.stateless_uniform([3], seed_for(Decision.ERASURE, seed)))
    sides = _sides(height, width, seed_for(Decision.RECTANGLE, seed))
    sides = tf.where(chance < probability, sides, 0)
    corner = tf.cast(tf.stack([top, left]) * tf.cast([height, width] - sides + 1, tf.float32), tf.int32)
    rows, columns = (
        (tf.range(length) >= corner[axis]) & (tf.range(length) < corner[axis] + sides[axis])
        for axis, length in enumerate((height, width))
    )
    noise = tf.random.stateless_uniform([height, width, channels], seed_for(Decision.NOISE, seed), 0.0, 255.0)
    return tf.where(rows[:, tf.newaxis, tf.newaxis] & columns[:, tf.newaxis], noise, image)


def _sides(height: int, width: int, seed: Tensor) -> Tensor:
    """Height and width of a rectangle in pixels, int32 [2]: the first of ten that fits; zeros where none does."""
    areas, ratios = tf.unstack(tf.random.stateless_uniform([2, MAX_ATTEMPTS], seed))
    areas = height * width * (AREA_RANGE[0] + areas * (AREA_RANGE[1] - AREA_RANGE[0]))
    logarithms = tf.math.log(tf.constant(ASPECT_RANGE))
    ratios = tf.exp(logarithms[0] + ratios * (logarithms[1] - logarithms[0]))
    sides = tf.cast(tf.round(tf.stack([tf.sqrt(areas * ratios), tf.sqrt(areas / ratios)], axis=1)), tf.int32)
    fits = tf.reduce_all(sides <= [height, width], axis=1)
    return tf.where(tf.reduce_any(fits), tf.gather(sides, tf.argmax(tf.cast(fits, tf.int32))), 0)
