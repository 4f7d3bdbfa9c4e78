"""decision.json beside a checkpoint: a temperature and a threshold, chosen on a split, and the weights they are for."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from finetune.files.json_files import MayLack, Number, read_json
from finetune.files.whole_files import write_json
from finetune.notices import few, tell_once
from finetune.settings.threshold import parse_rule

DECISION_FILE = "decision.json"

_CHOSEN_ON = {"split": str, "data_sha256": str, "num_images": Number(int, at_least=1)}
_SHAPE = {
    "checkpoint": str,
    "step": int | None,
    "weights_sha256": str,
    "classes": [str],
    "scored_with": {...: str | int | None},
    "temperature": MayLack({"value": Number(at_least=1e-6, at_most=1e6), "chosen_on": _CHOSEN_ON}),
    "threshold": MayLack(
        {
            # Just above 1 where it is best to take nothing for the class.
            "value": Number(at_least=0, at_most=math.nextafter(1.0, math.inf)),
            "positive_class": str,
            "rule": str,
            "chosen_on": _CHOSEN_ON,
        }
    ),
}
_MEND = "Move it away: the network's own probabilities then decide, or choose anew with finetune-eval."


@dataclasses.dataclass(frozen=True)
class ChosenOn:
    """The images that something was chosen on.

    Attributes:
        split: Name of the split.
        data_sha256: Hash of all its bytes.
        num_images: How many of it were scored.
    """

    split: str
    data_sha256: str
    num_images: int


@dataclasses.dataclass(frozen=True)
class Temperature:
    """What logits are divided by.

    Attributes:
        value: Above 0; more than 1 makes probabilities less sure.
        chosen_on: What it was fitted on.
    """

    value: float
    chosen_on: ChosenOn


@dataclasses.dataclass(frozen=True)
class Threshold:
    """From which probability on an image is taken for a class; below it for the likeliest of the others.

    Attributes:
        value: The probability.
        positive_class: Name of the class.
        rule: That chose it; None: it was given by hand.
        chosen_on: What it was chosen on; None: by hand.
    """

    value: float
    positive_class: str
    rule: str | None = None
    chosen_on: ChosenOn | None = None

    def __str__(self) -> str:
        """In words."""
        if self.chosen_on is None:
            return f"{self.positive_class} from a probability of {self.value:.4g} on, by hand"
        return (
            f"{self.positive_class} from a probability of {self.value:.4g} on, by {self.rule} on {self.chosen_on.split}"
        )


Part = TypeVar("Part", Temperature, Threshold)


@dataclasses.dataclass(frozen=True)
class Decision:
    """How logits become a class; without either of them, the likeliest one."""

    temperature: Temperature | None = None
    threshold: Threshold | None = None

    @property
    def divisor(self) -> float:
        """What logits are divided by."""
        return 1.0 if self.temperature is None else self.temperature.value

    def cut(self, class_names: Sequence[str]) -> tuple[int, float] | None:
        """Number of the positive class, and its threshold; None where the likeliest class is taken."""
        if self.threshold is None:
            return None
        return list(class_names).index(self.threshold.positive_class), self.threshold.value

    def facts(self) -> dict[str, Any]:
        """As JSON has it: what there is of the two."""
        return {name: dataclasses.asdict(part) for name, part in vars(self).items() if part is not None}


@dataclasses.dataclass(frozen=True)
class Scorer:
    """What gives the probabilities that a decision is about.

    Attributes:
        checkpoint: Name of the checkpoint.
        step: Its global step; None where it holds none.
        weights_sha256: Hash of the weights.
        classes: Names of the outputs, in their order.
        scored_with: What else the probabilities hang on, by name.
    """

    checkpoint: str
    step: int | None
    weights_sha256: str
    classes: tuple[str, ...]
    scored_with: Mapping[str, str | int | None]


def read_decision(folder: Path, scorer: Callable[[], Scorer]) -> Decision:
    """What was chosen for this scorer, by decision.json in a checkpoint's folder; empty where there is none.

    What was chosen for another one is told, and not used.

    Args:
        folder: Of the checkpoint.
        scorer: Gives what the probabilities are from, where there is a file.

    Raises:
        UserError: The file can't be read, or holds something else.
    """
    path = folder / DECISION_FILE
    if not path.exists():
        return Decision()
    content = read_json(path, _SHAPE, _MEND)
    if "threshold" in content:
        parse_rule(content["threshold"]["rule"], str(path))
    other = _difference(content, scorer())
    if other is not None:
        tell_once(f"{path} was chosen for {other}: it is not used.")
        return Decision()
    return Decision(_made(Temperature, content.get("temperature")), _made(Threshold, content.get("threshold")))


def write_decision(folder: Path, scorer: Scorer, decision: Decision) -> None:
    """Writes decision.json."""
    write_json(folder / DECISION_FILE, {**dataclasses.asdict(scorer), **decision.facts()})


def _difference(content: Mapping[str, Any], scorer: Scorer) -> str | None:
    """What a file's decision was chosen for that this scorer isn't, in words; None where it is the same."""
    threshold = content.get("threshold")
    if content["weights_sha256"] != scorer.weights_sha256:
        step = "" if content["step"] is None else f", step {content['step']}"
        return f"other weights, of {content['checkpoint']}{step}"
    if tuple(content["classes"]) != scorer.classes:
        return "other names of the classes, or another order"
    if threshold is not None and threshold["positive_class"] not in scorer.classes:
        return f"a class {threshold['positive_class']!r} that the network doesn't have"
    then, now = content["scored_with"], scorer.scored_with
    others = [
        f"{name} {then.get(name)} (here {now.get(name)})" for name in {**then, **now} if then.get(name) != now.get(name)
    ]
    return few(others) if others else None


def _made(kind: type[Part], part: Mapping[str, Any] | None) -> Part | None:
    """A temperature or a threshold of what the file says of it."""
    if part is None:
        return None
    names = [field.name for field in dataclasses.fields(kind) if field.name != "chosen_on"]
    chosen_on = ChosenOn(**{name: part["chosen_on"][name] for name in _CHOSEN_ON})
    return kind(**{name: part[name] for name in names}, chosen_on=chosen_on)
