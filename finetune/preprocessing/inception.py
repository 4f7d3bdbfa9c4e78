"""Inception preprocessing: a random part of the image in random colours to train on, its middle to evaluate on.

Source: slim's inception_preprocessing.py in its fast mode, which is the one that its scripts use: bilinear resizing
only, brightness before saturation, no hue and no contrast. The random window is that of Szegedy et al., "Going Deeper
with Convolutions", https://arxiv.org/abs/1409.4842. Values out: [-1, 1].
"""

import tensorflow as tf

from finetune.preprocessing import steps
from finetune.preprocessing.geometry import random_flip, resize_bilinear
from finetune.preprocessing.seeds import Decision, seed_for
from finetune.types import Tensor

TRAINING_IS_RANDOM = True
CUTS_TO_SIZE = False
TAKES_CROP_AREA = True

CENTRAL_FRACTION = 0.875
MIN_IMAGE_COVERED = 0.1
ASPECT_RATIO_RANGE = (0.75, 1.33)
AREA_RANGE = (0.05, 1.0)
MAX_ATTEMPTS = 100
MAX_BRIGHTNESS_CHANGE = 32.0  # of 255
SATURATION_RANGE = (0.5, 1.5)
# [0, 255] to [-1, 1]: multiplied, then added.
SCALE = 2.0 / 255.0
OFFSET = -1.0


def training_window(
    image_shape: Tensor, height: int, width: int, seed: Tensor, crop_area: tuple[float, ...] = ()
) -> Tensor:
    """A random window, int32 [y, x, height, width] in pixels, of an image whose shape int32 [H,W,C] is given.

    `crop_area` are the least and the largest share of the image's area. Where there is none the least is a tenth: of
    slim's two bounds, 0.05 of the area and 0.1 of the whole image taken as the object, the second decides. Where no try
    of 100 fits, as in a very long image, it is the whole image. The size [height,width] of what comes out doesn't
    matter.
    """
    del height, width
    whole_image = tf.constant([[[0.0, 0.0, 1.0, 1.0]]])
    begin, size, _ = tf.image.stateless_sample_distorted_bounding_box(
        image_shape,
        whole_image,
        seed_for(Decision.WINDOW, seed),
        min_object_covered=0.0 if crop_area else MIN_IMAGE_COVERED,
        aspect_ratio_range=ASPECT_RATIO_RANGE,
        area_range=crop_area or AREA_RANGE,
        max_attempts=MAX_ATTEMPTS,
    )
    return tf.concat([begin[:2], size[:2]], axis=0)


def distort(window: Tensor, height: int, width: int, seed: Tensor, *, changes_colours: bool = True) -> Tensor:
    """Resizes a window, uint8 [H,W,C], then flips and colours it at random: float32 [height,width,C] in [0, 255]."""
    image = random_flip(resize_bilinear(window, height, width), seed)
    return random_colours(image, seed) if changes_colours else image


def fit(image: Tensor, height: int, width: int) -> Tensor:
    """The middle 87.5 % of each side of an image, uint8 [H,W,C], resized: float32 [height,width,C] in [0, 255]."""
    middle = tf.image.central_crop(image, CENTRAL_FRACTION)
    return resize_bilinear(middle, height, width)


def evaluation_steps(height: int, width: int, channels: int) -> list[steps.Step]:
    """What `fit` and `to_network_range` do, as data."""
    return [
        steps.central_crop(CENTRAL_FRACTION),
        steps.resize(height, width),
        steps.scale(SCALE, [OFFSET] * channels),
    ]


def random_colours(image: Tensor, seed: Tensor) -> Tensor:
    """Changes brightness, then saturation (of a grey image brightness alone) of float32 [H,W,C] in [0, 255]; clips."""
    image = tf.image.stateless_random_brightness(image, MAX_BRIGHTNESS_CHANGE, seed_for(Decision.BRIGHTNESS, seed))
    if image.shape[-1] == 3:
        image = tf.image.stateless_random_saturation(image, *SATURATION_RANGE, seed_for(Decision.SATURATION, seed))
    return tf.clip_by_value(image, 0.0, 255.0)


def to_network_range(image: Tensor) -> Tensor:
    """[0, 255] to [-1, 1]."""
    return image * SCALE + OFFSET
