"""LeNet preprocessing: small images cut to size and scaled; nothing random, in training as in evaluation.

Source: slim's lenet_preprocessing.py. Values out: [-1, 1).
"""

import tensorflow as tf

from finetune.preprocessing import steps
from finetune.types import Tensor

TRAINING_IS_RANDOM = False
CUTS_TO_SIZE = True
TAKES_CROP_AREA = False

# [0, 255] to [-1, 1): multiplied, then added.
SCALE = 1.0 / 128.0
OFFSET = -1.0


def training_window(image_shape: Tensor, height: int, width: int, seed: Tensor) -> None:
    """None: the whole image is taken."""
    del image_shape, height, width, seed


def distort(image: Tensor, height: int, width: int, seed: Tensor, *, changes_colours: bool = True) -> Tensor:
    """The same as `fit`."""
    del seed, changes_colours
    return fit(image, height, width)


def fit(image: Tensor, height: int, width: int) -> Tensor:
    """The middle of an image, uint8 [H,W,C], with black borders where it is too small: float32 [height,width,C]."""
    return tf.cast(tf.image.resize_with_crop_or_pad(image, height, width), tf.float32)


def to_network_range(image: Tensor) -> Tensor:
    """[0, 255] to [-1, 1)."""
    return image * SCALE + OFFSET


def evaluation_steps(height: int, width: int, channels: int) -> list[steps.Step]:
    """What `fit` and `to_network_range` do, as data."""
    return [steps.centre_crop_or_pad(height, width), steps.scale(SCALE, [OFFSET] * channels)]
