"""Classes decided by a threshold in place of the highest probability, and what that comes to. No TensorFlow."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from finetune.errors import UserError, did_you_mean, nearest
from finetune.evaluation.class_areas import ClassProbabilities
from finetune.evaluation.metrics import Scores
from finetune.evaluation.thresholds import Outcome, outcome_at
from finetune.notices import few, tell_once
from finetune.runs.decision_file import Threshold
from finetune.settings.threshold import ThresholdRule, parse_rule
from finetune.types import Array

POSITIVE_CLASS = "--positive-class"


@dataclasses.dataclass(frozen=True)
class Judgement:
    """What a threshold's decisions come to on a split.

    Attributes:
        threshold: The threshold.
        positive: Number of its class.
        decisions: int64 [N], the classes that are decided for.
        accuracy: Share of the decisions that is right.
        outcome: The class against the rest.
        is_on_its_own_split: Whether the threshold was chosen on the very images that it is judged on.
    """

    threshold: Threshold
    positive: int
    decisions: Array
    accuracy: float
    outcome: Outcome
    is_on_its_own_split: bool

    @property
    def rule(self) -> ThresholdRule | None:
        """What the threshold was chosen by; None: by hand."""
        return None if self.threshold.rule is None else parse_rule(self.threshold.rule)

    @property
    def cost(self) -> float | None:
        """What the mistakes cost; None where the rule has no costs."""
        rule = self.rule
        return self.outcome.cost(rule) if rule is not None and rule.measure == "cost" else None

    @property
    def caution(self) -> str | None:
        """What to say beside the figures; None where there is nothing."""
        if not self.is_on_its_own_split:
            return None
        return "the threshold was chosen on these very images, which flatters it: judge it on another split"


def find_positive(name: str | None, class_names: Sequence[str]) -> int:
    """Number of the class that a threshold is for.

    Args:
        name: As `--positive-class` has it; None: of two classes the second, which is said.
        class_names: Of the network.

    Raises:
        UserError: There is no such class, or several; none is named, and there are more than two.
    """
    names = list(class_names)
    if name is None and len(names) == 2:
        tell_once(f"{POSITIVE_CLASS} isn't given: it is the second of the two classes, {names[1]}.")
        return 1
    if name is None:
        raise UserError(
            f"--threshold: of {len(names)} classes it must be said which one the threshold is for.",
            f"Give {POSITIVE_CLASS}, one of {few(names, 10)}; it is taken against all others.",
        )
    if names.count(name) > 1:
        raise UserError(f"{POSITIVE_CLASS}: {names.count(name)} classes are called {name!r}.", "Give them other names.")
    if name not in names:
        raise UserError(
            f"{POSITIVE_CLASS}: there is no class {name!r}.",
            did_you_mean(name, nearest(name, names)) or f"The classes are {few(names, 10)}.",
        )
    return names.index(name)


def decide(probabilities: Array, cut: tuple[int, float] | None) -> Array:
    """The class of each row of probabilities, float64 [B,num_classes]: int64 [B].

    Args:
        probabilities: Of all classes.
        cut: Number and threshold of a class: rows that give it at least as much are of it, all others of the likeliest
            other class. None: the likeliest class.
    """
    if cut is None:
        return probabilities.argmax(axis=1)
    positive, threshold = cut
    others = probabilities.copy()
    others[:, positive] = -1.0
    return np.where(probabilities[:, positive] >= threshold, positive, others.argmax(axis=1))


def judge(scores: Scores, threshold: Threshold, positive: int, *, temperature: float, data_sha256: str) -> Judgement:
    """What a threshold comes to on a split.

    Args:
        scores: Of the split, with logits.
        threshold: To be judged.
        positive: Number of its class.
        temperature: What logits are divided by.
        data_sha256: Hash of the split's bytes.
    """
    assert scores.logits is not None
    probabilities = ClassProbabilities(scores.logits, temperature).of(positive)
    others = scores.logits.copy()
    others[:, positive] = -np.inf
    decisions = np.where(probabilities >= threshold.value, positive, others.argmax(axis=1))
    chosen_on = threshold.chosen_on
    return Judgement(
        threshold,
        positive,
        decisions,
        accuracy=float(np.mean(decisions == scores.labels)),
        outcome=outcome_at(probabilities, scores.labels == positive, threshold.value),
        is_on_its_own_split=chosen_on is not None and chosen_on.data_sha256 == data_sha256,
    )
