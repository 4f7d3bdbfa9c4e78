"""Accuracy over coverage: how many of the surest predictions are right, if the others are "don't know". No TensorFlow.

The risk-coverage curve of selective classification (El-Yaniv and Wiener 2010,
https://www.jmlr.org/papers/v11/el-yaniv10a.html), with accuracy in the place of risk.
"""

import dataclasses

import numpy as np

from finetune.evaluation.metrics import Scores
from finetune.types import Array

TOLD_COVERAGES = (1.0, 0.95, 0.9, 0.8, 0.7, 0.5)


@dataclasses.dataclass(frozen=True)
class CoveragePoint:
    """What `--reject-below` comes to.

    Attributes:
        coverage: Share of the images that get a class.
        accuracy: Share of these that is right.
        reject_below: The lowest probability among them.
    """

    coverage: float
    accuracy: float
    reject_below: float


@dataclasses.dataclass(frozen=True)
class Coverage:
    """Images by falling probability of the prediction; equal ones are taken or rejected together.

    Attributes:
        coverages: float64 [G], rising to 1.
        accuracies: float64 [G], of the images taken.
        probabilities: float64 [G], falling: the lowest one taken.
        risk_area: Area under the risk-coverage curve (AURC): the mean, over all images, of the error rate among those
            that are as sure or surer; 0 to 1, the lower the better.
    """

    coverages: Array
    accuracies: Array
    probabilities: Array
    risk_area: float

    def points(self) -> list[CoveragePoint]:
        """At some coverages, each the least one that is reached of those told."""
        places = dict.fromkeys(int(np.searchsorted(self.coverages, least - 1e-12)) for least in TOLD_COVERAGES)
        arrays = (self.coverages, self.accuracies, self.probabilities)
        return [CoveragePoint(*(float(values[place]) for values in arrays)) for place in places]


def coverage_of(scores: Scores) -> Coverage:
    """The curve of a split."""
    order = np.argsort(-scores.probabilities, kind="stable")
    falling = scores.probabilities[order]
    ends = np.flatnonzero(np.append(falling[1:] != falling[:-1], True))
    taken = ends + 1
    accuracies = np.cumsum(scores.is_right[order])[ends] / taken
    risk_area = float(np.sum(np.diff(taken, prepend=0) * (1 - accuracies)) / len(falling))
    return Coverage(taken / len(falling), accuracies, falling[ends], risk_area)
