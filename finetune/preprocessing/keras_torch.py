"""Keras's preprocessing of DenseNet, whose weights are from Torch: the whole picture less the mean colour.

Source: `preprocess_input` of keras.applications.imagenet_utils, mode "torch". Values out: 0 to 1 less the mean
colour. The division by the deviation of each colour is done where the network is called
(nets/keras_networks/network.py).
"""

import tensorflow as tf

from finetune.preprocessing import keras_pictures, steps
from finetune.preprocessing.keras_pictures import distort, fit, training_window
from finetune.types import Tensor

__all__ = [
    "CUTS_TO_SIZE",
    "TAKES_CROP_AREA",
    "TRAINING_IS_RANDOM",
    "distort",
    "evaluation_steps",
    "fit",
    "to_network_range",
    "training_window",
]

TRAINING_IS_RANDOM = False
CUTS_TO_SIZE = True  # No part of a picture is chosen: --resize makes it square, as in evaluation.
TAKES_CROP_AREA = False

SCALE = 1.0 / 255.0
RGB_MEANS = (0.485, 0.456, 0.406)


def to_network_range(image: Tensor) -> Tensor:
    """Takes ImageNet's mean colour off an image float32 [H,W,C], which is brought to [0, 1] before."""
    _, width, channels = image.shape
    return image * SCALE - tf.tile([keras_pictures.of_channels(RGB_MEANS, channels)], [width, 1])


def evaluation_steps(height: int, width: int, channels: int) -> list[steps.Step]:
    """What `fit` and `to_network_range` do, as data."""
    means = keras_pictures.of_channels(RGB_MEANS, channels)
    return [*keras_pictures.resizing(height, width), steps.scale(SCALE, [-mean for mean in means])]
