"""Settings of the probabilities from which on an image has a class, where it may have any number of them."""

import dataclasses
from typing import ClassVar

from finetune.errors import UserError
from finetune.settings.choices import MULTILABEL
from finetune.settings.flags import CommandSettings, flag
from finetune.settings.threshold import RULES_HELP, ThresholdRule, parse_rule

_NOT_GIVEN = "not given: those that finetune-eval chose for this checkpoint, else 0.5"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ChosenThresholdSettings(CommandSettings):
    """Which thresholds are chosen on a split, and kept beside the checkpoint."""

    title: ClassVar[str] = "Decisions"

    threshold: str | None = flag(
        None,
        metavar="RULE",
        help=f"with {MULTILABEL}: choose for each class the probability from which on an image has it, {RULES_HELP}; a "
        f"number judges that one for all; {_NOT_GIVEN}",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.threshold is not None and number_of(self.threshold) is None:
            parse_rule(self.threshold)

    @property
    def threshold_rule(self) -> ThresholdRule | None:
        """What thresholds are chosen by; None: they aren't."""
        is_rule = self.threshold is not None and number_of(self.threshold) is None
        return parse_rule(str(self.threshold)) if is_rule else None


@dataclasses.dataclass(frozen=True, kw_only=True)
class UsedThresholdSettings(CommandSettings):
    """Which thresholds count where images are classified."""

    title: ClassVar[str] = "Decisions"

    threshold: float | None = flag(
        None,
        at_least=0,
        at_most=1,
        metavar="P",
        help=f"with {MULTILABEL}: probability from which on an image has a class, the same for all; {_NOT_GIVEN}",
    )


def number_of(text: str) -> float | None:
    """The probability that a text is; None where it is no number.

    Raises:
        UserError: It is a number, but no probability.
    """
    try:
        number = float(text)
    except ValueError:
        return None
    if not 0 <= number <= 1:
        raise UserError(f"--threshold is {text}, but a probability is at least 0 and at most 1.")
    return number
