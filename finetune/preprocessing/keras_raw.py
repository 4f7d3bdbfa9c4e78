"""Keras's preprocessing of its networks that bring pixels into their range themselves: the whole picture, 0 to 255.

Such are EfficientNet, ConvNeXt and MobileNet V3, whose `preprocess_input` does nothing. Values out: [0, 255].
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


def to_network_range(image: Tensor) -> Tensor:
    """Leaves an image in [0, 255]."""
    return image


def evaluation_steps(height: int, width: int, channels: int) -> list[steps.Step]:
    """What `fit` does, as data."""
    return [*keras_pictures.resizing(height, width), steps.scale(1.0, [0.0] * channels)]
