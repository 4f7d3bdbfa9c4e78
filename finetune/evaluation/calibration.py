"""Whether probabilities mean what they say: of the predictions given 80 %, are 80 % right? No TensorFlow."""

import dataclasses

import numpy as np

from finetune.evaluation.metrics import Scores
from finetune.types import Array

NUM_BINS = 15


@dataclasses.dataclass(frozen=True)
class Calibration:
    """Predictions in bins of equal width by their probability (Guo et al. 2017, https://arxiv.org/abs/1706.04599).

    A bin holds its upper edge, not its lower one. The figures of an empty bin are NaN.

    Attributes:
        edges: float64 [NUM_BINS + 1], 0 to 1.
        counts: int64 [NUM_BINS], predictions in the bin.
        accuracies: float64 [NUM_BINS], the share of them that is right.
        confidences: float64 [NUM_BINS], their mean probability.
    """

    edges: Array
    counts: Array
    accuracies: Array
    confidences: Array

    @property
    def expected_error(self) -> float:
        """Mean distance of accuracy and confidence over all predictions, each taken with its bin; 0 to 1."""
        gaps = np.abs(self.accuracies - self.confidences)
        return float(np.nansum(gaps * self.counts) / self.counts.sum())


def calibration(scores: Scores) -> Calibration:
    """Puts the predictions into bins."""
    edges = np.linspace(0.0, 1.0, NUM_BINS + 1)
    bins = np.digitize(scores.probabilities, edges[1:-1], right=True)
    counts = np.bincount(bins, minlength=NUM_BINS)

    def mean_of(values: Array) -> Array:
        totals = np.bincount(bins, weights=values, minlength=NUM_BINS)
        return np.divide(totals, counts, out=np.full(NUM_BINS, np.nan), where=counts > 0)

    return Calibration(edges, counts, mean_of(scores.is_right), mean_of(scores.probabilities))
