"""What a step lessens: which loss, how much each image counts in it, which images are drawn, and how they are mixed."""

import dataclasses
import math
from collections.abc import Mapping
from typing import ClassVar

from finetune.errors import UserError
from finetune.settings.choices import LOSSES
from finetune.settings.flags import CommandSettings, flag

BALANCED = "balanced"
AUTO = "auto"
NONE = "none"


@dataclasses.dataclass(frozen=True)
class ObjectiveSettings(CommandSettings):
    """The loss, and classes and images that count for more, or are shown more often, than others."""

    title: ClassVar[str] = "Loss and imbalance"

    loss: str = flag("cross-entropy", choices=LOSSES, help="focal: images that are told with certainty count for less")
    focal_gamma: float = flag(2.0, at_least=0, help="of focal: the higher, the less they count; 0: cross-entropy")
    class_weights: tuple[str, ...] = flag(
        (),
        metavar="balanced|CLASS=W,...",
        help="how much images of a class count in the loss, by the class's name, others 1; balanced: rare classes as "
        "much as frequent ones",
    )
    balanced_sampling: bool = flag(False, help="draw images of each class equally often, rare ones again and again")
    positive_weights: tuple[str, ...] = flag(
        (),
        metavar="auto|none|CLASS=W,...",
        help="with multilabel: how much images that have a class count for it, others 1; auto: images without it over "
        "images with it, in the training split",
    )
    mixup: float = flag(
        0.0, at_least=0, metavar="ALPHA", help="blend each image and its label with another's of the batch, 0.2 usually"
    )
    cutmix: float = flag(
        0.0,
        at_least=0,
        metavar="ALPHA",
        help="paste a piece of another image of the batch, 1.0 usually; with mixup: each for half of the batches",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        parse_class_weights(self.class_weights)
        parse_class_weights(self.own_positive_weights, "--positive-weights")
        if self.balanced_sampling and self.class_weights == (BALANCED,):
            raise UserError(
                "--class-weights balanced and --balanced-sampling each make up for rare classes: together they would "
                "count as many times too much as they are rare.",
                "Give one of them.",
            )
        if self.focal_gamma != 2.0 and self.loss != "focal":
            raise UserError(f"--focal-gamma is of the loss focal, but the loss is {self.loss}.", "Give --loss focal.")

    @property
    def own_positive_weights(self) -> tuple[str, ...]:
        """Those by the names of classes; empty: none, or as many as are found in the data."""
        return () if self.positive_weights in ((AUTO,), (NONE,)) else self.positive_weights

    @property
    def mixing_flag(self) -> str:
        """The flag that mixes images; empty where none does."""
        return "--mixup" if self.mixup else "--cutmix" if self.cutmix else ""


def parse_class_weights(texts: tuple[str, ...], option: str = "--class-weights") -> Mapping[str, float]:
    """Weights by the names of classes from `CLASS=WEIGHT` texts of a flag; empty for none, and for `balanced`.

    Raises:
        UserError: A text is none, a class is named twice, or no class could count.
    """
    weights: dict[str, float] = {}
    if texts == (BALANCED,) and option == "--class-weights":
        return weights
    for text in texts:
        name, _, number = text.rpartition("=")
        try:
            weight = float(number)
        except ValueError:
            weight = math.nan
        if not name or not 0 <= weight < math.inf:
            raise UserError(
                f"{option}: {text!r} is not CLASS=WEIGHT with a weight from 0 on.",
                f"Give {AUTO if option == '--positive-weights' else BALANCED} alone, or classes by name, such as "
                f"{option} daisy=2,rose=0.5",
            )
        if name in weights:
            raise UserError(f"{option} names the class {name!r} twice.", "Give it one weight.")
        weights[name] = weight
    return weights
