"""Keras's preprocessing of its networks that are from TensorFlow: the whole picture, -1 to 1.

Source: `preprocess_input` of keras.applications.imagenet_utils, mode "tf". Values out: [-1, 1].
"""

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

# [0, 255] to [-1, 1]: multiplied, then added.
SCALE = 1.0 / 127.5
OFFSET = -1.0


def to_network_range(image: Tensor) -> Tensor:
    """[0, 255] to [-1, 1]."""
    return image * SCALE + OFFSET


def evaluation_steps(height: int, width: int, channels: int) -> list[steps.Step]:
    """What `fit` and `to_network_range` do, as data."""
    return [*keras_pictures.resizing(height, width), steps.scale(SCALE, [OFFSET] * channels)]
