"""Curves and areas of the classes of an evaluation, each against the rest. No TensorFlow."""

import dataclasses
import functools

import numpy as np

from finetune.evaluation.curves import (
    NUM_RESAMPLES,
    AreaIntervals,
    Areas,
    Curves,
    area_intervals,
    areas_of,
    curves_of,
    mean_areas,
)
from finetune.evaluation.metrics import Scores
from finetune.types import Array

# Beyond so many logits, in float32 as much as 200 MB, an evaluation keeps none that it isn't told to write.
MOST_LOGITS = 50_000_000
# Up to so many classes each has intervals, and its curve is drawn; of more the areas alone are computed.
MOST_CLASSES_WITH_INTERVALS = 50
_ROWS_AT_ONCE = 4096


def keeps_logits(num_images: int, num_classes: int) -> bool:
    """Whether an evaluation keeps the logits of so many images."""
    return num_images * num_classes <= MOST_LOGITS


class ClassProbabilities:
    """Softmax probabilities of one class after the other; all at once might fill the memory.

    To the last bit those of `log_softmax`.
    """

    def __init__(self, logits: Array, temperature: float = 1.0) -> None:
        self._logits, self._temperature = logits, temperature
        starts = range(0, len(logits), _ROWS_AT_ONCE)
        parts = [self._normaliser(logits[start : start + _ROWS_AT_ONCE]) for start in starts]
        self._highest, self._log_sums = (np.concatenate(each) for each in zip(*parts, strict=True))

    def of(self, label: int) -> Array:
        """Of one class: float64 [N]."""
        shifted = self._logits[:, label].astype(np.float64) / self._temperature - self._highest
        return np.exp(shifted - self._log_sums)

    def _normaliser(self, logits: Array) -> tuple[Array, Array]:
        wide = logits.astype(np.float64) / self._temperature
        highest = wide.max(axis=1)
        return highest, np.log(np.exp(wide - highest[:, np.newaxis]).sum(axis=1))


@dataclasses.dataclass(frozen=True)
class ClassAreas:
    """How well each class is told from the rest.

    Attributes:
        labels: Of two classes the positive one, of more all.
        areas: By `labels`.
        intervals: By `labels`; empty where there are too many classes.
        mean: Macro mean over `labels`.
        mean_intervals: Of the macro mean.
        num_resamples: Of the bootstrap; 0: there was none.
        scores: Of the split, with logits.
        temperature: What these are divided by.
    """

    labels: tuple[int, ...]
    areas: tuple[Areas, ...]
    intervals: tuple[AreaIntervals, ...]
    mean: Areas
    mean_intervals: AreaIntervals
    num_resamples: int
    scores: Scores
    temperature: float

    def curves(self, label: int) -> Curves | None:
        """Of one class; None where the images are all of it, or none is."""
        return curves_of(self._probabilities.of(label), self.scores.labels == label)

    @functools.cached_property
    def _probabilities(self) -> ClassProbabilities:
        assert self.scores.logits is not None
        return ClassProbabilities(self.scores.logits, self.temperature)


def class_areas(scores: Scores, positive: int | None = None, temperature: float = 1.0) -> ClassAreas | None:
    """The areas of all classes; None where the logits weren't kept, or are too many, or there is but one class.

    Args:
        scores: Of a split.
        positive: Of two classes the one that is looked for; None: the second.
        temperature: What logits are divided by.
    """
    is_possible = scores.num_classes > 1 and keeps_logits(scores.num_examples, scores.num_classes)
    if scores.logits is None or not is_possible:
        return None
    probabilities = ClassProbabilities(scores.logits, temperature)
    is_binary = scores.num_classes == 2
    labels = (1 if positive is None else positive,) if is_binary else tuple(range(scores.num_classes))
    areas = tuple(areas_of(probabilities.of(label), scores.labels == label) for label in labels)
    num_resamples = NUM_RESAMPLES if len(labels) <= MOST_CLASSES_WITH_INTERVALS else 0
    columns = [(probabilities.of(label), scores.labels == label) for label in labels if num_resamples]
    intervals, of_mean = area_intervals(columns, num_resamples=num_resamples)
    return ClassAreas(labels, areas, tuple(intervals), mean_areas(areas), of_mean, num_resamples, scores, temperature)
