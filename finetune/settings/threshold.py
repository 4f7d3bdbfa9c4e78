"""Rules that a threshold is chosen by: texts such as `recall>=0.95` as what they ask for."""

import dataclasses
import math
import re
from typing import Literal

from finetune.errors import UserError, did_you_mean

RULES_HELP = "max-f1, recall>=0.95, precision>=0.9 or cost:FN=5,FP=1"

_FORMS = f"{RULES_HELP}, with numbers of your own"
_NAMES = ("max-f1", "recall", "precision", "cost")
_AT_LEAST = re.compile(r"(recall|precision)\s*>=\s*([^\s]+)")


@dataclasses.dataclass(frozen=True)
class ThresholdRule:
    """What a threshold is chosen by.

    Attributes:
        measure: "f1": the highest F1; "recall": the highest precision where recall is high enough; "precision": the
            highest recall where precision is high enough; "cost": the lowest cost of mistakes.
        at_least: Of "recall" and "precision": what is high enough, above 0 and at most 1.
        false_negative_cost: Of "cost": what an image of the class costs that is taken for none, at least 0.
        false_positive_cost: Of "cost": what an image of another class costs that is taken for one, at least 0.
    """

    measure: Literal["f1", "recall", "precision", "cost"]
    at_least: float = 0.0
    false_negative_cost: float = 0.0
    false_positive_cost: float = 0.0

    def __str__(self) -> str:
        """As `parse_rule` takes it."""
        if self.measure == "f1":
            return "max-f1"
        if self.measure == "cost":
            return f"cost:FN={_short(self.false_negative_cost)},FP={_short(self.false_positive_cost)}"
        return f"{self.measure}>={_short(self.at_least)}"


def parse_rule(text: str, option: str = "--threshold") -> ThresholdRule:
    """The rule that a text stands for.

    Args:
        text: `max-f1`, `recall>=SHARE`, `precision>=SHARE` or `cost:FN=COST,FP=COST`.
        option: The flag that messages name.

    Raises:
        UserError: It stands for none.
    """
    words = text.strip()
    if words == "max-f1":
        return ThresholdRule("f1")
    if match := _AT_LEAST.fullmatch(words):
        share = _number(match[2], option, text)
        if not 0 < share <= 1:
            raise UserError(f"{option}: {text!r} asks for a share that isn't above 0 and at most 1.")
        return ThresholdRule("recall" if match[1] == "recall" else "precision", at_least=share)
    name, colon, costs = words.partition(":")
    if name == "cost" and colon:
        return _cost_rule(costs, option, text)
    raise UserError(
        f"{option}: {text!r} is no rule; it takes {_FORMS}.", did_you_mean(re.split("[^a-z1-]", words)[0], _NAMES)
    )


def _cost_rule(costs: str, option: str, text: str) -> ThresholdRule:
    pairs = [part.split("=", 1) for part in costs.split(",")]
    by_name = {pair[0].strip().upper(): _number(pair[-1], option, text) for pair in pairs if len(pair) == 2}
    if by_name.keys() != {"FN", "FP"} or len(pairs) != 2:
        raise UserError(f"{option}: {text!r} must name both costs, once each.", "Write cost:FN=5,FP=1")
    false_negative, false_positive = by_name["FN"], by_name["FP"]
    if min(by_name.values()) < 0 or max(by_name.values()) == 0:
        raise UserError(f"{option}: {text!r}: costs are at least 0, and not both of them 0.")
    return ThresholdRule("cost", false_negative_cost=false_negative, false_positive_cost=false_positive)


def _number(word: str, option: str, text: str) -> float:
    try:
        number = float(word)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise UserError(f"{option}: {text!r}: {word.strip()!r} is no finite number.")
    return number


def _short(number: float) -> str:
    """The number to the last bit, without a zero behind the point."""
    return repr(float(number)).removesuffix(".0")
