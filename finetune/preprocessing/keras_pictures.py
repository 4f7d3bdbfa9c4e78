"""Keras's families of preprocessing: the whole picture, resized, and nothing random unless it is asked for.

Source: `preprocess_input` of keras.applications.imagenet_utils, in its modes "tf", "caffe" and "torch"; the networks of
"raw", EfficientNet, ConvNeXt and MobileNet V3, bring pixels into their range themselves.

Keras leaves it to its users how pictures become squares. Here they are resized whatever their aspect ratio, as
`image_dataset_from_directory` and `load_img` do it, and sampled as for all other networks. Channels stay red, green,
blue: that the weights of "caffe" want them the other way round, and those of "torch" a division by each colour's
deviation, is seen to where Keras's network is called (nets/keras_networks/network.py), so that pictures are the same
everywhere.
"""

import dataclasses
from typing import ClassVar

import tensorflow as tf

from finetune.preprocessing import steps
from finetune.preprocessing.geometry import resize_bilinear
from finetune.types import Tensor

_GREY = (0.2989, 0.587, 0.114)  # the weights of tf.image.rgb_to_grayscale


@dataclasses.dataclass(frozen=True)
class KerasFamily:
    """What the module of another family has.

    Attributes:
        scale: What pixels of 0 to 255 are multiplied by.
        offset: What is added to all of them after that, where it is one number for all colours.
        mean_colour: What is taken off red, green and blue after that.
    """

    scale: float = 1.0
    offset: float = 0.0
    mean_colour: tuple[float, ...] = ()

    TRAINING_IS_RANDOM: ClassVar[bool] = False
    CUTS_TO_SIZE: ClassVar[bool] = True  # No part of a picture is chosen: --resize makes it square, as in evaluation.
    TAKES_CROP_AREA: ClassVar[bool] = False

    def training_window(self, image_shape: Tensor, height: int, width: int, seed: Tensor) -> None:
        """None: the whole image is taken."""
        del image_shape, height, width, seed

    def distort(self, image: Tensor, height: int, width: int, seed: Tensor, *, changes_colours: bool = True) -> Tensor:
        """The same as `fit`."""
        del seed, changes_colours
        return self.fit(image, height, width)

    def fit(self, image: Tensor, height: int, width: int) -> Tensor:
        """A whole image, uint8 [H,W,C], resized: float32 [height,width,C] in [0, 255]."""
        return resize_bilinear(image, height, width)

    def to_network_range(self, image: Tensor) -> Tensor:
        """An image float32 [H,W,C] in [0, 255] scaled and shifted."""
        _, width, channels = image.shape
        # A row, as TensorFlow takes five times as long to add a single pixel to an image.
        return image * self.scale + tf.tile([self._offsets(channels)], [width, 1])

    def evaluation_steps(self, height: int, width: int, channels: int) -> list[steps.Step]:
        """What `fit` and `to_network_range` do, as data."""
        return [steps.resize(height, width), steps.scale(self.scale, self._offsets(channels))]

    def _offsets(self, channels: int) -> list[float]:
        """One for each channel; of an image of one the mean colour's grey is taken off."""
        if not self.mean_colour:
            return [self.offset] * channels
        grey = sum(weight * part for weight, part in zip(_GREY, self.mean_colour, strict=True))
        return [-part for part in (self.mean_colour if channels == 3 else (grey,))]


KERAS_FAMILIES = {
    "keras_caffe": KerasFamily(mean_colour=(123.68, 116.779, 103.939)),
    "keras_raw": KerasFamily(),
    "keras_tf": KerasFamily(scale=1.0 / 127.5, offset=-1.0),
    "keras_torch": KerasFamily(scale=1.0 / 255.0, mean_colour=(0.485, 0.456, 0.406)),
}
