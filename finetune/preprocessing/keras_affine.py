"""Keras's ImageDataGenerator as tutorials have it: rotated, shifted, sheared, zoomed and mirrored in one movement.

Source: Chollet, "Building powerful image classification models using very little data", the Keras blog, 2016, with
rotation_range=40, width_shift_range=0.2, height_shift_range=0.2, shear_range=0.2, zoom_range=0.2,
horizontal_flip=True, fill_mode="nearest"; the movements are those of Keras's apply_affine_transform. Its shear was an
angle in radians until Keras 2.1.3 (keras-team/keras#8868) and is one in degrees since: 0.2 was written for 11.5
degrees, and 0.2 degrees move no pixel of an image by a whole one. Here it is what was meant.
"""

import math

import tensorflow as tf

from finetune.preprocessing.geometry import random_flip, transform
from finetune.preprocessing.seeds import Decision, seed_for
from finetune.types import Tensor

ROTATION_DEGREES = 40.0
SHIFT_FRACTION = 0.2
SHEAR_DEGREES = math.degrees(0.2)
ZOOM_RANGE = (0.8, 1.2)  # Of what is seen: below 1 the image grows. Height and width have each their own.


def random_affine(image: Tensor, seed: Tensor) -> Tensor:
    """Moves an image, float32 [H,W,C], at random; beyond its border is the border's pixel."""
    height, width, _ = image.shape
    parts = tf.random.stateless_uniform([6], seed_for(Decision.AFFINE, seed), -1.0, 1.0)
    rotation, shift_x, shift_y, shear, zoom_x, zoom_y = tf.unstack(parts)
    middle, spread = sum(ZOOM_RANGE) / 2, (ZOOM_RANGE[1] - ZOOM_RANGE[0]) / 2
    matrix = affine_matrix(
        height,
        width,
        rotation_degrees=rotation * ROTATION_DEGREES,
        shift=(shift_x * SHIFT_FRACTION * width, shift_y * SHIFT_FRACTION * height),
        shear_degrees=shear * SHEAR_DEGREES,
        zoom=(middle + spread * zoom_x, middle + spread * zoom_y),
    )
    return random_flip(transform(image, matrix, fill_mode="NEAREST"), seed)


def affine_matrix(
    height: int,
    width: int,
    *,
    rotation_degrees: Tensor,
    shift: tuple[Tensor, Tensor],
    shear_degrees: Tensor,
    zoom: tuple[Tensor, Tensor],
) -> Tensor:
    """From pixels (x, y, 1) of the outcome to those of the image, float32 [2,3], around its middle.

    Args:
        height: Of the image, in pixels.
        width: The same.
        rotation_degrees: The angle that Keras calls theta.
        shift: In pixels, along x and y.
        shear_degrees: The angle.
        zoom: Factors of x and y.
    """
    rotation, shear = rotation_degrees * (math.pi / 180), shear_degrees * (math.pi / 180)
    rotated = _matrix([[tf.cos(rotation), -tf.sin(rotation), 0], [tf.sin(rotation), tf.cos(rotation), 0]])
    shifted = _matrix([[1, 0, shift[0]], [0, 1, shift[1]]])
    sheared = _matrix([[1, -tf.sin(shear), 0], [0, tf.cos(shear), 0]])
    zoomed = _matrix([[zoom[0], 0, 0], [0, zoom[1], 0]])
    x, y = (width - 1) / 2, (height - 1) / 2
    to_middle, from_middle = _matrix([[1, 0, -x], [0, 1, -y]]), _matrix([[1, 0, x], [0, 1, y]])
    return (from_middle @ rotated @ shifted @ sheared @ zoomed @ to_middle)[:2]


def _matrix(rows: list[list[Tensor]]) -> Tensor:
    """float32 [3,3] with these two rows."""
    return tf.stack([tf.stack([tf.cast(value, tf.float32) for value in row]) for row in [*rows, [0, 0, 1]]])
