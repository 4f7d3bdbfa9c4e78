"""One augmentation of a training image, `finetune-train --augmentation`, before values are in the network's range."""

from collections.abc import Callable
from typing import Any

from finetune.preprocessing.geometry import random_flip, random_turn
from finetune.preprocessing.keras_affine import random_affine
from finetune.preprocessing.randaugment import randaugment
from finetune.settings.augmentation import AugmentationSettings
from finetune.types import Tensor

Fit = Callable[[Tensor, int, int], Tensor]


def augment(
    settings: AugmentationSettings,
    windows: Any,
    fit: Fit,
    window: Tensor,
    height: int,
    width: int,
    seed: Tensor,
) -> Tensor:
    """The training picture of a window, uint8 [H,W,C]: float32 [height,width,C].

    In [0, 255] but for what cifarnet's own colours add.

    Args:
        settings: What is done.
        windows: The family that cut the window; None: there is none.
        fit: Makes [height,width,C] in [0, 255] of a whole image.
        window: What is cut out for `settings` by `windows`, or the whole image where nothing is.
        height: Of what comes out, in pixels.
        width: The same.
        seed: The image's.
    """
    match settings.augmentation:
        case "none":
            return fit(window, height, width)
        case "flip":
            return random_flip(fit(window, height, width), seed)
        case "turns":
            return random_flip(fit(random_turn(window, seed), height, width), seed)
        case "keras":
            return random_affine(fit(window, height, width), seed)
    assert windows is not None
    if settings.augmentation == "randaugment":
        image = windows.distort(window, height, width, seed, changes_colours=False)
        return randaugment(image, settings.num_operations, settings.strength, seed)
    return windows.distort(window, height, width, seed, changes_colours=settings.augmentation != "crop")
