"""VGG preprocessing: the aspect ratio is kept, and the mean colour of ImageNet is taken off.

Source: Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition",
https://arxiv.org/abs/1409.1556, section 3, and slim's vgg_preprocessing.py. Values out: 0 to 255 less the mean colour,
that is -123.68 to 151.06.
"""

import tensorflow as tf

from finetune.preprocessing import steps
from finetune.preprocessing.geometry import random_flip, resize_bilinear
from finetune.preprocessing.resizing import middle, resize_short_side
from finetune.preprocessing.seeds import Decision, seed_for
from finetune.types import Tensor

TRAINING_IS_RANDOM = True
CUTS_TO_SIZE = False
TAKES_CROP_AREA = False

RGB_MEANS = (123.68, 116.78, 103.94)
GREY_MEAN = 0.2989 * 123.68 + 0.587 * 116.78 + 0.114 * 103.94  # the weights are those of tf.image.rgb_to_grayscale
SHORT_SIDE_PIXELS = 256
USUAL_SIZE_PIXELS = 224
MAX_TRAINING_SCALE = 2  # in training the short side is up to twice as long: 256 to 512 pixels


def training_window(image_shape: Tensor, height: int, width: int, seed: Tensor) -> Tensor:
    """A random window at a random scale, int32 [y, x, height, width] in pixels, of an image of shape int32 [H,W,C].

    It is what [height,width] takes up of the image once its short side is resized to 256 to 512 pixels. Cutting it
    first and resizing it after, not the other way round as slim does, moves its borders by less than a pixel and
    resizes no pixel in vain.
    """
    least = short_side(height, width)
    most = least * MAX_TRAINING_SCALE
    side = tf.random.stateless_uniform([], seed_for(Decision.SIDE, seed), least, most + 1, dtype=tf.int32)
    sides = image_shape[:2]
    scale = tf.reduce_min(sides) / side
    window_sides = tf.maximum(tf.cast(tf.round([height * scale, width * scale]), tf.int32), 1)
    num_positions = tf.cast(sides - window_sides + 1, tf.float32)
    corner = tf.cast(num_positions * tf.random.stateless_uniform([2], seed_for(Decision.WINDOW, seed)), tf.int32)
    return tf.concat([corner, window_sides], axis=0)


def distort(window: Tensor, height: int, width: int, seed: Tensor, *, changes_colours: bool = True) -> Tensor:
    """A window, uint8 [H,W,C], resized, and flipped in half of all cases; its colours are not changed in any case.

    float32 [height,width,C] in [0, 255].
    """
    del changes_colours
    return random_flip(resize_bilinear(window, height, width), seed)


def fit(image: Tensor, height: int, width: int) -> Tensor:
    """The middle of an image, uint8 [H,W,C], resized to a short side of 256 pixels: float32 [height,width,C].

    In [0, 255]. For outputs larger than 256 pixels, which slim refuses, see `short_side`.
    """
    return middle(resize_short_side(image, short_side(height, width)), height, width)


def evaluation_steps(height: int, width: int, channels: int) -> list[steps.Step]:
    """What `fit` and `to_network_range` do, as data."""
    return [
        steps.resize_short_side(short_side(height, width)),
        steps.centre_crop(height, width),
        steps.scale(1.0, [-mean for mean in mean_colour(channels)]),
    ]


def short_side(height: int, width: int) -> int:
    """Pixels of the image's short side before [height,width] is cut out of it; in training the least.

    256 whatever the output, as in slim, while it fits. For larger outputs it grows with them, so that the output is the
    same part of the image as 224 is of 256.
    """
    size = max(height, width)
    return SHORT_SIDE_PIXELS if size <= SHORT_SIDE_PIXELS else round(size * SHORT_SIDE_PIXELS / USUAL_SIZE_PIXELS)


def to_network_range(image: Tensor) -> Tensor:
    """Takes ImageNet's mean colour off an image float32 [H,W,3], or the grey of that colour off [H,W,1]."""
    _, width, channels = image.shape
    # A row of means, as TensorFlow takes five times as long to subtract a single pixel from an image.
    return image - tf.tile([mean_colour(channels)], [width, 1])


def mean_colour(channels: int) -> tuple[float, ...]:
    """ImageNet's mean, one number for each of 3 channels, or that of its grey for 1."""
    return RGB_MEANS if channels == 3 else (GREY_MEAN,)
