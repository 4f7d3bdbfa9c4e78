"""Preprocessing by name: from a decoded image to what a network takes. Reading the table needs no TensorFlow.

An image is uint8 [H,W,C] with C, 1 or 3, known when the graph is built; what comes out has as many channels. So a
network on grey images (`--use-grayscale`) needs nothing but images decoded to one channel: `decode_jpeg(channels=1)`,
`decode_png(channels=1)` and `tf.image.rgb_to_grayscale` agree on it.
"""

import dataclasses
import importlib
from typing import Any

from finetune.errors import UserError, did_you_mean
from finetune.nets import NAMES, get_spec
from finetune.nets.keras_networks.model_file import is_model_file
from finetune.preprocessing.steps import Step
from finetune.settings.augmentation import OWN_WINDOWS, WINDOWS_OF, AugmentationSettings
from finetune.types import Tensor

_OF_KERAS = ("keras_caffe", "keras_raw", "keras_tf", "keras_torch")
AS_SLIM = AugmentationSettings()


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """A family of preprocessing: what images go through before the network.

    All randomness is a function of `seed`, int32[2] or int64[2]: one seed, one outcome. Training may be done in one go
    by `train`, or in two by `training_window` and `finish_training`, so that no more of a file need be decoded than the
    window: the outcome is the same.

    Attributes:
        name: Of the family, and of the module beside this one that holds its functions and says whether its training
            is random; those of Keras's families lie in `keras_pictures`.
        augmentation: What training does at random.
        resize: How a whole picture becomes the network's square, one of `RESIZES`; None: as the family does it. Random
            windows of inception and vgg are no whole pictures, and stay their own; cifarnet cuts its from the square.
    """

    name: str
    augmentation: AugmentationSettings = AS_SLIM
    resize: str | None = None

    @property
    def is_random(self) -> bool:
        """Whether training's outcome for an image depends on the seed."""
        by_itself = {"none": False, **dict.fromkeys(OWN_WINDOWS, self._functions.TRAINING_IS_RANDOM)}
        return self.augmentation.random_erasing > 0 or by_itself.get(self.augmentation.augmentation, True)

    @property
    def takes_crop_area(self) -> bool:
        """Whether training cuts random windows of an area that can be said."""
        return self._windows is not None and self._windows.TAKES_CROP_AREA

    def training_window(self, image_shape: Tensor, height: int, width: int, seed: Tensor) -> Tensor | None:
        """The part of an image to train on, int32 [y, x, height, width] in pixels, or None if all of it is needed.

        Args:
            image_shape: int32 [H,W,C].
            height: Of what comes out of the preprocessing, in pixels.
            width: The same.
            seed: The image's seed.
        """
        if self._windows is None:
            return None
        area = (self.augmentation.crop_area,) if self._windows.TAKES_CROP_AREA else ()
        return self._windows.training_window(image_shape, height, width, seed, *area)

    def finish_training(self, window: Tensor, height: int, width: int, seed: Tensor) -> Tensor:
        """What is left to do for training once the window, uint8 [H,W,C], is cut: float32 [height,width,C].

        Where `training_window` gives None the window is the whole image.
        """
        from finetune.preprocessing.augment import augment
        from finetune.preprocessing.random_erasing import erase

        if self.resize is not None and self._cuts_to_size:
            window = self._fit(window, height, width)

        image = augment(self.augmentation, self._windows, self._fit, window, height, width, seed)
        if self.augmentation.random_erasing:
            image = erase(image, self.augmentation.random_erasing, seed)
        return self._functions.to_network_range(image)

    def train(self, image: Tensor, height: int, width: int, seed: Tensor) -> Tensor:
        """Preprocesses an image, uint8 [H,W,C], for training: float32 [height,width,C]."""
        import tensorflow as tf

        from finetune.preprocessing.geometry import crop

        window = self.training_window(tf.shape(image), height, width, seed)
        if window is not None:
            image = crop(image, window)
        return self.finish_training(image, height, width, seed)

    def evaluate(self, image: Tensor, height: int, width: int) -> Tensor:
        """Preprocesses an image, uint8 [H,W,C], for evaluation, without any randomness: float32 [height,width,C]."""
        return self._functions.to_network_range(self._fit(image, height, width))

    def evaluation_steps(self, height: int, width: int, channels: int) -> list[Step]:
        """What `evaluate` does to an image of so many channels, as data for other programs."""
        own = self._functions.evaluation_steps(height, width, channels)
        if self.resize is None:
            return own
        from finetune.preprocessing.resizing import resizing_steps

        return [*resizing_steps(height, width, self.resize), own[-1]]  # The last one brings values into range.

    @property
    def trains_on_windows(self) -> bool:
        """Whether training sees random parts of pictures that `resize` has nothing to do with."""
        return self._windows is not None and not self._cuts_to_size

    @property
    def _cuts_to_size(self) -> bool:
        """Whether training's picture is cut, not resized, to the network's size."""
        return self.augmentation.augmentation in OWN_WINDOWS and self._functions.CUTS_TO_SIZE

    def _fit(self, image: Tensor, height: int, width: int) -> Tensor:
        """A whole image, uint8 [H,W,C], as float32 [height,width,C] in [0, 255]."""
        if self.resize is None:
            return self._functions.fit(image, height, width)
        from finetune.preprocessing.resizing import resized

        return resized(image, height, width, self.resize)

    @property
    def _windows(self) -> Any:
        """The family whose random windows training sees; None: it sees whole pictures."""
        augmentation = self.augmentation.augmentation
        family = self.name if augmentation in OWN_WINDOWS else WINDOWS_OF.get(augmentation)
        return None if family is None else _functions_of(family)

    @property
    def _functions(self) -> Any:
        return _functions_of(self.name)


def _functions_of(family: str) -> Any:
    """The family's module, or what has the same functions."""
    if family in _OF_KERAS:
        from finetune.preprocessing.keras_pictures import KERAS_FAMILIES

        return KERAS_FAMILIES[family]
    return importlib.import_module(f"{__name__}.{family}")


FAMILIES = {
    family.name: family
    for family in (
        Preprocessing("cifarnet"),  # cut to size; mean 0 and standard deviation 1 in each image
        Preprocessing("inception"),  # resized; -1 to 1
        Preprocessing("keras_caffe"),  # resized; 0 to 255 less ImageNet's mean colour
        Preprocessing("keras_raw"),  # resized; 0 to 255
        Preprocessing("keras_tf"),  # resized; -1 to 1
        Preprocessing("keras_torch"),  # resized; 0 to 1 less ImageNet's mean colour
        Preprocessing("lenet"),  # cut to size; -1 to 1
        Preprocessing("vgg"),  # resized, aspect ratio kept; 0 to 255 less ImageNet's mean colour
    )
}


def get_preprocessing(
    name: str, augmentation: AugmentationSettings = AS_SLIM, resize: str | None = None
) -> Preprocessing:
    """The preprocessing called `name`, or that of the network called `name`, with an augmentation of its training.

    With one of `RESIZES` whole pictures become squares in that way, not in the family's.

    Raises:
        UserError: There is no such preprocessing or network, the nearest are named; a part of the augmentation has no
            effect with it.
    """
    if name in FAMILIES:
        family = FAMILIES[name]
    elif name in NAMES or ":" in name or is_model_file(name):
        family = FAMILIES[get_spec(name).preprocessing]
    else:
        raise UserError(
            f"--preprocessing: there is no preprocessing {name!r}, nor a network of that name.",
            did_you_mean(name, [*FAMILIES, *NAMES]),
        )
    preprocessing = dataclasses.replace(family, augmentation=augmentation, resize=resize)
    if augmentation.crop_area and not preprocessing.takes_crop_area:
        own = f"--augmentation {augmentation.augmentation} of the preprocessing {family.name}"
        raise augmentation.no_windows(own)
    return preprocessing
