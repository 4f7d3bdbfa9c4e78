"""Cutting, resizing and flipping one image [H,W,C]: what several families share."""

import tensorflow as tf

from finetune.preprocessing.seeds import Decision, seed_for
from finetune.types import Tensor


def crop(image: Tensor, window: Tensor) -> Tensor:
    """Cuts `window`, int32 [y, x, height, width] in pixels, out of an image [H,W,C] of any type."""
    y, x, height, width = tf.unstack(window)
    return image[y : y + height, x : x + width]


def resize_bilinear(image: Tensor, height: int | Tensor, width: int | Tensor) -> Tensor:
    """Resizes an image [H,W,C] of any number type to float32 [height,width,C] in the same value range.

    The sampling of TensorFlow 1, in which slim's weights were trained: output pixel i looks at input position
    i * input / output. `tf.image.resize` looks at pixel centres, up to half a pixel away: not what these weights know.
    """
    images = tf.cast(image, tf.float32)[tf.newaxis]  # the resizing of bytes is slower than this and that of floats
    return tf.raw_ops.ResizeBilinear(images=images, size=[height, width], half_pixel_centers=False)[0]


def random_flip(image: Tensor, seed: Tensor) -> Tensor:
    """Mirrors an image [H,W,C] left to right in half of all cases."""
    return tf.image.stateless_random_flip_left_right(image, seed_for(Decision.FLIP, seed))


def random_turn(image: Tensor, seed: Tensor) -> Tensor:
    """Turns an image [H,W,C] by no, one, two or three quarters, all equally likely; height and width may swap."""
    num_quarters = tf.random.stateless_uniform([], seed_for(Decision.TURN, seed), 0, 4, dtype=tf.int32)
    return tf.image.rot90(image, num_quarters)


def transform(image: Tensor, matrix: Tensor, *, fill_mode: str, fill_value: float = 0.0) -> Tensor:
    """An image float32 [H,W,C] moved by an affine map, sampled bilinearly; its size stays.

    Args:
        image: float32 [H,W,C].
        matrix: float32 [2,3]: from pixel (x, y, 1) of what comes out to that of `image` which it shows, counted from 0.
        fill_mode: "NEAREST": beyond the border is the border's pixel; "CONSTANT": `fill_value`.
        fill_value: For "CONSTANT".
    """
    moved = tf.raw_ops.ImageProjectiveTransformV3(
        images=image[tf.newaxis],
        transforms=tf.concat([tf.reshape(matrix, [1, 6]), [[0.0, 0.0]]], axis=1),
        output_shape=tf.shape(image)[:2],
        fill_value=fill_value,
        interpolation="BILINEAR",
        fill_mode=fill_mode,
    )
    return tf.ensure_shape(moved[0], image.shape)
