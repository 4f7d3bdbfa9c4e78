"""Unlabelled images that a training labels itself, and how many of a step's images they are."""

import dataclasses
from pathlib import Path
from typing import ClassVar

from finetune.errors import UserError
from finetune.settings.flags import CommandSettings, dashed, flag

DEFAULT_THRESHOLD = 0.95  # FixMatch's and FlexMatch's.
_ADAPTIVE = "adaptive"


@dataclasses.dataclass(frozen=True)
class Threshold:
    """What a pseudo-label's probability must be above.

    Attributes:
        value: From 0 to 1.
        is_adaptive: Whether each class has its own, up to this value.
    """

    value: float
    is_adaptive: bool

    @classmethod
    def of_text(cls, text: str) -> "Threshold":
        """From 0.95, adaptive, or adaptive:0.95.

        Raises:
            UserError: It is none of them, or not from 0 to below 1.
        """
        word, _, number = text.partition(":")
        is_adaptive = word == _ADAPTIVE
        try:
            value = float((number or DEFAULT_THRESHOLD) if is_adaptive else text)
        except ValueError:
            value = -1.0
        if not 0 <= value < 1 or text == f"{_ADAPTIVE}:":
            raise UserError(
                f"--pseudo-label-threshold is {text!r}, but must be a probability below 1, adaptive, or both: "
                f"{_ADAPTIVE}:{DEFAULT_THRESHOLD}."
            )
        return cls(value, is_adaptive)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PseudoLabelSettings(CommandSettings):
    """Unlabelled images, labelled by the model itself after a first stage."""

    title: ClassVar[str] = "Pseudo-labels"

    unlabeled_dir: Path | None = flag(
        None,
        access="read",
        metavar="DIR",
        help="images without labels, at any depth, or records; those that the model is sure of are trained on, too",
    )
    unlabeled_split: str | None = flag(
        None, metavar="SPLIT", help="of records in --unlabeled-dir; their labels, if there are any, are not read"
    )
    pseudo_label_fraction: float = flag(
        0.25, above=0, at_most=0.5, metavar="F", help="part of each batch that pseudo-labelled images make"
    )
    pseudo_label_threshold: str = flag(
        str(DEFAULT_THRESHOLD),
        metavar="P|adaptive[:P]",
        help=f"which labels count: of a probability above P; adaptive: above up to P, {DEFAULT_THRESHOLD} where it "
        "isn't given, less for classes with few such images (FlexMatch)",
    )
    pseudo_label_refresh: int = flag(
        100,
        above=0,
        metavar="STEPS",
        help="label them so often; in a training of one stage so many steps come first without",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        _ = self.threshold  # Which refuses what is none.
        if self.unlabeled_dir is not None:
            return
        given = [
            dashed(field.name)
            for field in dataclasses.fields(self)
            if getattr(self, field.name) != field.default and field.name != "unlabeled_dir"
        ]
        if given:
            raise UserError(
                f"{' and '.join(given)} would have no effect: there are no unlabelled images.",
                "Give their folder with --unlabeled-dir.",
            )

    @property
    def threshold(self) -> Threshold:
        """As said."""
        return Threshold.of_text(self.pseudo_label_threshold)
