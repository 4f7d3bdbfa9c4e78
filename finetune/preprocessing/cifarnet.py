"""CIFAR preprocessing: small images cut to size, not resized, and normalised one by one.

Source: slim's cifarnet_preprocessing.py, after Krizhevsky's cuda-convnet. Values out: mean 0 and standard deviation 1
in each image. Of a photograph no more is seen than a part of the output's size: the middle, or in training any.
"""

import tensorflow as tf

from finetune.preprocessing import steps
from finetune.preprocessing.geometry import random_flip
from finetune.preprocessing.seeds import Decision, seed_for
from finetune.types import Tensor

TRAINING_IS_RANDOM = True
CUTS_TO_SIZE = True
TAKES_CROP_AREA = False

MARGIN_PIXELS = 4
MAX_BRIGHTNESS_CHANGE = 63.0  # of 255
CONTRAST_RANGE = (0.2, 1.8)


def training_window(image_shape: Tensor, height: int, width: int, seed: Tensor) -> None:
    """None: the window may reach over the image's border, so `distort` cuts it."""
    del image_shape, height, width, seed


def distort(image: Tensor, height: int, width: int, seed: Tensor, *, changes_colours: bool = True) -> Tensor:
    """A random part of an image [H,W,C] in [0, 255], with a black margin, in random brightness and contrast.

    float32 [height,width,C], in [0, 255] but for what the colours add to it.
    """
    size = [height, width, image.shape[-1]]
    image = tf.image.stateless_random_crop(with_margin(image, height, width), size, seed_for(Decision.WINDOW, seed))
    image = random_flip(tf.cast(image, tf.float32), seed)
    if changes_colours:
        image = tf.image.stateless_random_brightness(image, MAX_BRIGHTNESS_CHANGE, seed_for(Decision.BRIGHTNESS, seed))
        image = tf.image.stateless_random_contrast(image, *CONTRAST_RANGE, seed_for(Decision.CONTRAST, seed))
    return image


def fit(image: Tensor, height: int, width: int) -> Tensor:
    """The middle of an image, uint8 [H,W,C], with black borders where it is too small: float32 [height,width,C]."""
    return tf.cast(tf.image.resize_with_crop_or_pad(image, height, width), tf.float32)


def to_network_range(image: Tensor) -> Tensor:
    """An image [H,W,C] with mean 0 and standard deviation 1."""
    return tf.image.per_image_standardization(image)


def evaluation_steps(height: int, width: int, channels: int) -> list[steps.Step]:
    """What `fit` and `to_network_range` do, as data; the channels make no difference."""
    del channels
    return [steps.centre_crop_or_pad(height, width), steps.standardise()]


def with_margin(image: Tensor, height: int, width: int) -> Tensor:
    """An image [H,W,C] in a black margin of 4 pixels, or as many more as it lacks to [height,width]."""
    missing = tf.maximum([height, width] - tf.shape(image)[:2], 0)
    before = missing // 2
    margins = MARGIN_PIXELS + tf.stack([before, missing - before], axis=1)
    return tf.pad(image, tf.concat([margins, [[0, 0]]], axis=0))
