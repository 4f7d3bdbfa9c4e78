"""Three ways from a whole picture to the network's square (`--resize`), the same in training and wherever it is used.

They take the place of what a family does by itself: inception's 87.5 % squashed, vgg's middle of a larger picture,
cifarnet's and lenet's middle without resizing.
"""

import tensorflow as tf

from finetune.preprocessing import steps
from finetune.preprocessing.geometry import resize_bilinear
from finetune.types import Tensor

# The middle of [0, 255]: what borders are filled with is neither dark nor light, and near 0 for inception and vgg.
FILLING = 127.5


def resized(image: Tensor, height: int, width: int, way: str) -> Tensor:
    """A whole image, uint8 [H,W,C], as float32 [height,width,C] in [0, 255], by one of `RESIZES`.

    squash: whatever the aspect ratio; crop: the middle, by the short side; pad: all of it, by the long side, in grey.
    """
    if way == "squash":
        return resize_bilinear(image, height, width)
    if way == "crop":
        return middle(resize_short_side(image, max(height, width)), height, width)
    assert way == "pad", way
    return padded(resize_long_side(image, min(height, width)), height, width)


def resizing_steps(height: int, width: int, way: str) -> list[steps.Step]:
    """What `resized` does, as data."""
    if way == "squash":
        return [steps.resize(height, width)]
    if way == "crop":
        return [steps.resize_short_side(max(height, width)), steps.centre_crop(height, width)]
    return [steps.resize_long_side(min(height, width)), steps.pad(height, width, FILLING)]


def resize_short_side(image: Tensor, pixels: int) -> Tensor:
    """Resizes an image [H,W,C] to a short side of so many pixels, the aspect ratio kept; float32."""
    sides = tf.cast(tf.shape(image)[:2], tf.float32)
    # In this order and in float32, for slim's rounding of the long side.
    scale = pixels / tf.reduce_min(sides)
    return resize_bilinear(image, *tf.unstack(tf.cast(tf.round(sides * scale), tf.int32)))


def resize_long_side(image: Tensor, pixels: int) -> Tensor:
    """Resizes an image [H,W,C] to a long side of so many pixels, the aspect ratio kept; float32."""
    sides = tf.cast(tf.shape(image)[:2], tf.float32)
    scale = pixels / tf.reduce_max(sides)
    return resize_bilinear(image, *tf.unstack(tf.maximum(tf.cast(tf.round(sides * scale), tf.int32), 1)))


def middle(image: Tensor, height: int, width: int) -> Tensor:
    """Cuts [height,width] out of the middle of an image [H,W,C] that is no smaller."""
    y, x = tf.unstack((tf.shape(image)[:2] - [height, width]) // 2)
    return tf.slice(image, [y, x, 0], [height, width, image.shape[-1]])


def padded(image: Tensor, height: int, width: int) -> Tensor:
    """An image float32 [H,W,C] that is no larger, in the middle of [height,width], the odd pixel after it."""
    missing = [height, width] - tf.shape(image)[:2]
    before = missing // 2
    borders = tf.concat([tf.stack([before, missing - before], axis=1), [[0, 0]]], axis=0)
    return tf.ensure_shape(tf.pad(image, borders, constant_values=FILLING), [height, width, image.shape[-1]])
