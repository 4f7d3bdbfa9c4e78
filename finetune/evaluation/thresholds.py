"""A threshold for one class's scores, chosen by a rule, and what its decisions come to. No TensorFlow."""

import dataclasses
import math

import numpy as np

from finetune.errors import UserError
from finetune.settings.threshold import ThresholdRule
from finetune.types import Array


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What decisions for or against one class come to; a quotient by zero counts as 0, as scikit-learn has it.

    Attributes:
        true_positives: Images of the class that were taken for it.
        false_positives: Images of other classes that were taken for it.
        false_negatives: Images of the class that were not.
        true_negatives: All others.
    """

    true_positives: int
    false_positives: int
    false_negatives: int
    true_negatives: int

    @property
    def precision(self) -> float:
        """The share that is right of what was taken for the class, 0 to 1."""
        return _share(self.true_positives, self.true_positives + self.false_positives)

    @property
    def recall(self) -> float:
        """The share of the class that was taken for it, 0 to 1."""
        return _share(self.true_positives, self.true_positives + self.false_negatives)

    @property
    def f1(self) -> float:
        """The harmonic mean of precision and recall, 0 to 1."""
        return _share(2 * self.true_positives, 2 * self.true_positives + self.false_positives + self.false_negatives)

    def cost(self, rule: ThresholdRule) -> float:
        """What the mistakes cost, by the costs of the rule."""
        return self.false_negatives * rule.false_negative_cost + self.false_positives * rule.false_positive_cost


@dataclasses.dataclass(frozen=True)
class ChosenThreshold:
    """A threshold: scores of at least `value` are of the class.

    Attributes:
        value: One of the scores; just above the highest of them where nothing is best taken for the class.
        outcome: What it comes to on the images that it was chosen on.
    """

    value: float
    outcome: Outcome


def outcome_at(scores: Array, is_positive: Array, threshold: float) -> Outcome:
    """What it comes to that scores [N] of at least the threshold are of the class; `is_positive`, bool [N], says which
    are.
    """
    is_taken = scores >= threshold
    num_right, num_taken = int(np.count_nonzero(is_taken & is_positive)), int(np.count_nonzero(is_taken))
    num_positive = int(np.count_nonzero(is_positive))
    return _outcome(num_right, num_taken, num_positive, len(scores))


def choose_threshold(
    scores: Array, is_positive: Array, rule: ThresholdRule, option: str = "--threshold"
) -> ChosenThreshold:
    """The threshold that a rule asks for. Every score is one that could be; of equally good ones the highest is taken.

    Args:
        scores: float [N], finite.
        is_positive: bool [N], which images are of the class.
        rule: What is asked for.
        option: The flag that messages name.

    Raises:
        UserError: There are no images of the class, or no others; no threshold fulfils the rule, the best that one
            reaches is told.
    """
    num_positive = int(np.count_nonzero(is_positive))
    if not 0 < num_positive < len(scores):
        which = "no images of the class" if num_positive == 0 else "no images of other classes"
        raise UserError(f"{option}: the split has {which}: there is nothing to choose a threshold by.")
    order = np.argsort(-scores, kind="stable")
    falling = scores[order]
    is_last_of_equals = np.append(falling[1:] != falling[:-1], True)
    values = falling[is_last_of_equals]
    right = np.cumsum(is_positive[order])[is_last_of_equals]
    taken = np.flatnonzero(is_last_of_equals) + 1
    if rule.measure == "cost":  # Only there may it be best to take nothing for the class.
        values = np.concatenate([[math.nextafter(falling[0], math.inf)], values])
        right, taken = np.concatenate([[0], right]), np.concatenate([[0], taken])
    best = _best(right, taken, num_positive, rule, option)
    outcome = _outcome(int(right[best]), int(taken[best]), num_positive, len(scores))
    return ChosenThreshold(float(values[best]), outcome)


def _best(right: Array, taken: Array, num_positive: int, rule: ThresholdRule, option: str) -> int:
    """Index of the best threshold, by how many images each takes for the class, and how many of these are of it."""
    if rule.measure == "f1":
        return int(np.argmax(2 * right / (num_positive + taken)))
    if rule.measure == "cost":
        costs = (num_positive - right) * rule.false_negative_cost + (taken - right) * rule.false_positive_cost
        return int(np.argmin(costs))
    precision, recall = right / taken, right / num_positive
    asked, other = (recall, precision) if rule.measure == "recall" else (precision, recall)
    if asked.max() < rule.at_least:
        best = int(np.argmax(asked))
        raise UserError(
            f"{option}: no threshold fulfils {rule}: the highest {rule.measure} is {asked[best]:.4g}, with a "
            f"{'precision' if rule.measure == 'recall' else 'recall'} of {other[best]:.4g}.",
            f"Ask for less, such as {option} '{rule.measure}>={math.floor(asked[best] * 1000) / 1000:g}', or max-f1.",
        )
    return int(np.argmax(np.where(asked >= rule.at_least, other, -1.0)))


def _outcome(num_right: int, num_taken: int, num_positive: int, num_images: int) -> Outcome:
    false_positives, false_negatives = num_taken - num_right, num_positive - num_right
    return Outcome(num_right, false_positives, false_negatives, num_images - num_taken - false_negatives)


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0
