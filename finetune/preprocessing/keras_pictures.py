"""What Keras's families of preprocessing share: the whole picture, resized, and nothing random unless it is asked for.

Keras leaves it to its users how pictures become squares. Here they are resized whatever their aspect ratio, as
`image_dataset_from_directory` and `load_img` do it, and sampled as for all other networks.
"""

from collections.abc import Sequence

from finetune.preprocessing import steps
from finetune.preprocessing.geometry import resize_bilinear
from finetune.types import Tensor

_GREY = (0.2989, 0.587, 0.114)  # the weights of tf.image.rgb_to_grayscale


def training_window(image_shape: Tensor, height: int, width: int, seed: Tensor) -> None:
    """None: the whole image is taken."""
    del image_shape, height, width, seed


def distort(image: Tensor, height: int, width: int, seed: Tensor, *, changes_colours: bool = True) -> Tensor:
    """The same as `fit`."""
    del seed, changes_colours
    return fit(image, height, width)


def fit(image: Tensor, height: int, width: int) -> Tensor:
    """A whole image, uint8 [H,W,C], resized: float32 [height,width,C] in [0, 255]."""
    return resize_bilinear(image, height, width)


def resizing(height: int, width: int) -> list[steps.Step]:
    """What `fit` does, as data."""
    return [steps.resize(height, width)]


def of_channels(colour: Sequence[float], channels: int) -> Sequence[float]:
    """A colour's red, green and blue for images of 3 channels, its grey for those of one."""
    return colour if channels == 3 else (sum(weight * part for weight, part in zip(_GREY, colour, strict=True)),)
