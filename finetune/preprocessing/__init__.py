"""Preprocessing by name: from a decoded image to what a network takes. Reading the table needs no TensorFlow.

An image is uint8 [H,W,C] with C, 1 or 3, known when the graph is built; what comes out has as many channels. So a
network on grey images (`--use-grayscale`) needs nothing but images decoded to one channel: `decode_jpeg(channels=1)`,
`decode_png(channels=1)` and `tf.image.rgb_to_grayscale` agree on it.
"""

import dataclasses
import importlib
from types import ModuleType

from finetune.errors import UserError, did_you_mean
from finetune.nets import MODELS, get_spec
from finetune.preprocessing.steps import Step
from finetune.settings.choices import AUGMENTATIONS
from finetune.types import Tensor


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """A family of preprocessing: what images go through before the network.

    All randomness is a function of `seed`, int32[2] or int64[2]: one seed, one outcome. Training may be done in one go
    by `train`, or in two by `training_window` and `finish_training`, so that no more of a file need be decoded than the
    window: the outcome is the same.

    Attributes:
        name: Of the family, and of the module beside this one that holds its functions and says whether its training
            is random.
        augmentation: What training does. "default": as the family does it; "crop": the same without changes of colour;
            "flip": evaluation's preprocessing, mirrored in half of all cases; "none": evaluation's preprocessing.
        resize: How a whole picture becomes the network's square, one of `RESIZES`; None: as the family does it. Random
            windows of inception and vgg are no whole pictures, and stay their own; cifarnet cuts its from the square.
    """

    name: str
    augmentation: str = "default"
    resize: str | None = None

    @property
    def is_random(self) -> bool:
        """Whether training's outcome for an image depends on the seed."""
        return self.augmentation == "flip" or (self._cuts and self._functions.TRAINING_IS_RANDOM)

    def training_window(self, image_shape: Tensor, height: int, width: int, seed: Tensor) -> Tensor | None:
        """The part of an image to train on, int32 [y, x, height, width] in pixels, or None if all of it is needed.

        Args:
            image_shape: int32 [H,W,C].
            height: Of what comes out of the preprocessing, in pixels.
            width: The same.
            seed: The image's seed.
        """
        return self._functions.training_window(image_shape, height, width, seed) if self._cuts else None

    def finish_training(self, window: Tensor, height: int, width: int, seed: Tensor) -> Tensor:
        """What is left to do for training once the window, uint8 [H,W,C], is cut: float32 [height,width,C].

        Where `training_window` gives None the window is the whole image.
        """
        if self._cuts:
            if self.resize is not None and self._functions.CUTS_TO_SIZE:
                window = self._resized(window, height, width)
            in_colour = self.augmentation == "default"
            return self._functions.finish_training(window, height, width, seed, changes_colours=in_colour)
        from finetune.preprocessing.geometry import random_flip

        image = self.evaluate(window, height, width)
        return random_flip(image, seed) if self.augmentation == "flip" else image

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
        if self.resize is None:
            return self._functions.evaluate(image, height, width)
        return self._functions.normalise(self._resized(image, height, width))

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
        return self._cuts and not self._functions.CUTS_TO_SIZE

    def _resized(self, image: Tensor, height: int, width: int) -> Tensor:
        from finetune.preprocessing.resizing import resized

        assert self.resize is not None
        return resized(image, height, width, self.resize)

    @property
    def _cuts(self) -> bool:
        return self.augmentation in ("default", "crop")

    @property
    def _functions(self) -> ModuleType:
        return importlib.import_module(f"{__name__}.{self.name}")


FAMILIES = {
    family.name: family
    for family in (
        Preprocessing("cifarnet"),  # cut to size; mean 0 and standard deviation 1 in each image
        Preprocessing("inception"),  # resized; -1 to 1
        Preprocessing("lenet"),  # cut to size; -1 to 1
        Preprocessing("vgg"),  # resized, aspect ratio kept; 0 to 255 less ImageNet's mean colour
    )
}


def get_preprocessing(name: str, augmentation: str = "default", resize: str | None = None) -> Preprocessing:
    """The preprocessing called `name`, or that of the network called `name`, with one of `AUGMENTATIONS` in training.

    With one of `RESIZES` whole pictures become squares in that way, not in the family's.

    Raises:
        UserError: There is no such preprocessing, network or augmentation; the nearest are named.
    """
    if augmentation not in AUGMENTATIONS:
        raise UserError(
            f"--augmentation: there is no augmentation {augmentation!r}.", did_you_mean(augmentation, AUGMENTATIONS)
        )
    if name in FAMILIES:
        family = FAMILIES[name]
    elif name in MODELS or ":" in name:
        family = FAMILIES[get_spec(name).preprocessing]
    else:
        raise UserError(
            f"--preprocessing: there is no preprocessing {name!r}, nor a network of that name.",
            did_you_mean(name, [*FAMILIES, *MODELS]),
        )
    return dataclasses.replace(family, augmentation=augmentation, resize=resize)
