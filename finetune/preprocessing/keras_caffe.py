"""Keras's preprocessing of VGG and ResNet, whose weights are from Caffe: the whole picture less the mean colour.

Source: `preprocess_input` of keras.applications.imagenet_utils, mode "caffe". Values out: 0 to 255 less the mean
colour, in the order red, green, blue: that these weights want them the other way round is seen to where Keras's network
is called (nets/keras_networks/network.py), so that pictures are the same everywhere.
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

RGB_MEANS = (123.68, 116.779, 103.939)


def to_network_range(image: Tensor) -> Tensor:
    """Takes ImageNet's mean colour off an image float32 [H,W,C]."""
    _, width, channels = image.shape
    return image - tf.tile([keras_pictures.of_channels(RGB_MEANS, channels)], [width, 1])


def evaluation_steps(height: int, width: int, channels: int) -> list[steps.Step]:
    """What `fit` and `to_network_range` do, as data."""
    means = keras_pictures.of_channels(RGB_MEANS, channels)
    return [*keras_pictures.resizing(height, width), steps.scale(1.0, [-mean for mean in means])]
