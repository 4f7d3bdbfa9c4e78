"""Settings of decisions: temperature and threshold, chosen by `finetune-eval`, used by all that classify."""

import dataclasses
import math
from typing import ClassVar, Literal

from finetune.errors import UserError
from finetune.settings.choices import CALIBRATIONS, NO_DECISION
from finetune.settings.flags import CommandSettings, flag
from finetune.settings.threshold import RULES_HELP, ThresholdRule, parse_rule

_POSITIVE_HELP = "that the threshold is for, against all others; not given: the second of two"
_TITLE = "Decisions"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ChoiceSettings(CommandSettings):
    """What is chosen on a split, and kept in decision.json beside the checkpoint."""

    title: ClassVar[str] = _TITLE

    threshold: str | None = flag(
        None,
        metavar="RULE",
        help=f"choose the probability from which on an image is of the positive class, or, with several labels an "
        f"image, of each class: {RULES_HELP}; a number judges that one; none: the likeliest class; not given: what was "
        "chosen for this checkpoint",
    )
    positive_class: str | None = flag(None, metavar="NAME", help=f"class {_POSITIVE_HELP}")
    calibrate: str | None = flag(
        None,
        choices=CALIBRATIONS,
        help="temperature: fit what logits are divided by for calibrated probabilities; none: leave them as they are; "
        "not given: what decision.json has for this checkpoint",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.threshold not in (None, NO_DECISION) and self.threshold_by_hand is None:
            parse_rule(str(self.threshold))
        if self.positive_class is not None and self.threshold == NO_DECISION:
            raise UserError("--positive-class and --threshold none don't go together.", "Leave one of them out.")

    @property
    def threshold_by_hand(self) -> float | None:
        """The threshold that is given as a number; None where there is none."""
        return None if self.threshold is None else _probability(self.threshold)

    @property
    def rule(self) -> ThresholdRule | None:
        """What a threshold is to be chosen by; None: none is."""
        if self.threshold in (None, NO_DECISION) or self.threshold_by_hand is not None:
            return None
        return parse_rule(str(self.threshold))

    @property
    def chooses(self) -> bool:
        """Whether decision.json is to be written."""
        return self.rule is not None or self.calibrate == "temperature"


@dataclasses.dataclass(frozen=True, kw_only=True)
class UseSettings(CommandSettings):
    """What of decision.json is used, or what in its place."""

    title: ClassVar[str] = _TITLE

    threshold: float | Literal["none"] | None = flag(
        None,
        at_least=0,
        at_most=1,
        metavar="P",
        help="probability from which on an image is of the positive class, or, with several labels an image, of each; "
        "none: the likeliest class; not given: what finetune-eval chose for this checkpoint",
    )
    positive_class: str | None = flag(None, metavar="NAME", help=f"class {_POSITIVE_HELP}")
    calibrate: str | None = flag(
        None,
        choices=(NO_DECISION,),
        help="none: leave out the temperature that finetune-eval fitted for this checkpoint, and a threshold with it",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.positive_class is not None and not isinstance(self.threshold, float):
            raise UserError("--positive-class needs a --threshold of its own.", "Such as --threshold 0.3")


def _probability(text: str) -> float | None:
    """The probability that a text is; None where it is no number.

    Raises:
        UserError: It is a number, but no probability.
    """
    try:
        number = float(text)
    except ValueError:
        return None
    if not math.isfinite(number) or not 0 <= number <= 1:
        raise UserError(f"--threshold is {text}, but a probability is at least 0 and at most 1.")
    return number
