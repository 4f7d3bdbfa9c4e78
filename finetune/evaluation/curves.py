"""How well scores part the images of one class from all others: ROC and precision-recall curves, areas, intervals.

scikit-learn computes the curves and the areas; the bootstrap's areas, some thousand at once, are computed here. No
TensorFlow.
"""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

from finetune.types import Array

NUM_RESAMPLES = 1000
_MOST_NUMBERS = 500_000  # Of the resamples that are worked on at once: so few stay in a processor's cache.


@dataclasses.dataclass(frozen=True)
class Curves:
    """Of one class against all others, over all thresholds.

    Attributes:
        false_positive_rates: float64 [R], rising from 0 to 1: the share of the others that is taken for the class.
        true_positive_rates: float64 [R], rising from 0 to 1: the share of the class that is taken for it.
        precisions: float64 [P], the last one 1.
        recalls: float64 [P], falling from 1 to 0.
    """

    false_positive_rates: Array
    true_positive_rates: Array
    precisions: Array
    recalls: Array


@dataclasses.dataclass(frozen=True)
class Areas:
    """Areas under the two curves, 0 to 1; None where the images are all of the class, or none is.

    Attributes:
        roc_auc: Of the ROC curve: how likely an image of the class has a higher score than another one.
        average_precision: The mean precision over the steps of recall, without interpolation.
    """

    roc_auc: float | None
    average_precision: float | None


@dataclasses.dataclass(frozen=True)
class AreaIntervals:
    """95 % percentile bootstrap intervals of `Areas`; None where there is no area, or no resample has one."""

    roc_auc: tuple[float, float] | None
    average_precision: tuple[float, float] | None


def curves_of(scores: Array, is_positive: Array) -> Curves | None:
    """The curves of scores, float [N], and labels, bool or 0 and 1 [N]; None where the labels are all the same."""
    from sklearn.metrics import precision_recall_curve, roc_curve

    if not _has_both(is_positive):
        return None
    false_positive_rates, true_positive_rates, _ = roc_curve(is_positive, scores)
    precisions, recalls, _ = precision_recall_curve(is_positive, scores)
    return Curves(false_positive_rates, true_positive_rates, precisions, recalls)


def areas_of(scores: Array, is_positive: Array) -> Areas:
    """The areas for scores, float [N], and labels, bool or 0 and 1 [N]."""
    from sklearn.metrics import average_precision_score, roc_auc_score

    if not _has_both(is_positive):
        return Areas(None, None)
    return Areas(float(roc_auc_score(is_positive, scores)), float(average_precision_score(is_positive, scores)))


def mean_areas(areas: Sequence[Areas]) -> Areas:
    """The means over all classes that have areas (macro averages)."""
    defined = [(each.roc_auc, each.average_precision) for each in areas if each.roc_auc is not None]
    if not defined:
        return Areas(None, None)
    roc_auc, average_precision = np.mean(np.array(defined, np.float64), axis=0).tolist()
    return Areas(roc_auc, average_precision)


def area_intervals(
    columns: Sequence[tuple[Array, Array]], *, num_resamples: int = NUM_RESAMPLES, seed: int = 0
) -> tuple[list[AreaIntervals], AreaIntervals]:
    """Intervals of the areas of several classes, and of their macro means, by drawing the images anew with replacement.

    Each resample is of the same images for all classes; those that lack a class, or all others, don't count for it.

    Args:
        columns: Of each class its scores, float [N], and labels, bool or 0 and 1 [N], for the same N images.
        num_resamples: How often the images are drawn.
        seed: Of the draws.

    Returns:
        The intervals of each class, and those of the means over the classes.
    """
    if not columns:
        return [], AreaIntervals(None, None)
    ranked = [_Ranked.of(scores, is_positive) for scores, is_positive in columns]
    areas = np.concatenate(
        [
            np.stack([column.areas(weights) for column in ranked])
            for weights in _resamples(len(columns[0][0]), num_resamples, np.random.default_rng(seed))
        ],
        axis=1,
    )
    has_areas = [_has_both(is_positive) for _, is_positive in columns]
    return [_intervals(each) for each in areas], _intervals(_means(areas[has_areas]))


@dataclasses.dataclass(frozen=True)
class _Ranked:
    """One class's images by falling score, in groups of equal scores; of the groups those with images of the class.

    Attributes:
        order: int [N], of the images.
        starts: int [G], place of each group's first image in that order.
        ends: int [G], place behind its last one.
        positives: int [P], places of the images of the class.
        right_ends: int [G], how many of these stand before the end of each group, at least 1.
    """

    order: Array
    starts: Array
    ends: Array
    positives: Array
    right_ends: Array

    @classmethod
    def of(cls, scores: Array, is_positive: Array) -> "_Ranked":
        order = np.argsort(-scores, kind="stable")
        falling, is_right = scores[order], is_positive[order].astype(bool)
        starts = np.flatnonzero(np.append(True, falling[1:] != falling[:-1]))
        ends = np.append(starts[1:], len(order))
        right_ends = np.cumsum(is_right)[ends - 1]
        has_right = np.diff(right_ends, prepend=0) > 0
        return cls(order, starts[has_right], ends[has_right], np.flatnonzero(is_right), right_ends[has_right])

    def areas(self, weights: Array) -> Array:
        """Both areas, float64 [B,2], where image i counts `weights[b, i]` times; NaN where there are none."""
        counts = weights[:, self.order]
        taken, right = _sums_before(counts), _sums_before(counts[:, self.positives])
        num_all, num_positive = taken[:, -1], right[:, -1]
        num_negative = num_all - num_positive
        right_at_end = right[:, self.right_ends]
        right_at_start = right[:, np.append(0, self.right_ends[:-1])]
        taken_at_end = taken[:, self.ends]
        wrong = (taken_at_end - right_at_end + taken[:, self.starts] - right_at_start) / 2  # Of equal ones half.
        more_right = right_at_end - right_at_start
        precision = np.divide(right_at_end, taken_at_end, out=np.zeros_like(wrong), where=taken_at_end > 0)
        in_order = np.einsum("bg,bg->b", more_right, num_negative[:, np.newaxis] - wrong)
        precisions = np.einsum("bg,bg->b", more_right, precision)
        has_both = (num_positive > 0) & (num_negative > 0)
        areas = np.full([2, len(weights)], np.nan)
        np.divide(in_order, num_positive * num_negative, out=areas[0], where=has_both)
        np.divide(precisions, num_positive, out=areas[1], where=has_both)
        return areas.T


def _sums_before(counts: Array) -> Array:
    """Of counts [B,N] the sums of the first 0, 1, ... N: float64 [B,N+1]."""
    sums = np.zeros([len(counts), counts.shape[1] + 1])
    np.cumsum(counts, axis=1, out=sums[:, 1:])
    return sums


def _resamples(num_images: int, num_resamples: int, random: np.random.Generator) -> Iterator[Array]:
    """How often each image is drawn: float32 [B,N], for a few resamples after the other."""
    num_at_once = max(1, _MOST_NUMBERS // num_images)
    for start in range(0, num_resamples, num_at_once):
        num = min(num_at_once, num_resamples - start)
        draws = random.integers(num_images, size=(num, num_images)) + num_images * np.arange(num)[:, np.newaxis]
        counts = np.bincount(draws.ravel(), minlength=num * num_images)
        yield counts.reshape(num, num_images).astype(np.float32)


def _means(areas: Array) -> Array:
    """Over the classes [C,B,2] that have areas in a resample: float64 [B,2]."""
    is_defined = ~np.isnan(areas)
    counts = is_defined.sum(axis=0)
    totals = np.where(is_defined, areas, 0.0).sum(axis=0)
    return np.divide(totals, counts, out=np.full(totals.shape, np.nan), where=counts > 0)


def _intervals(areas: Array) -> AreaIntervals:
    """Of areas [B,2]."""
    defined = areas[~np.isnan(areas).any(axis=1)]
    if not len(defined):
        return AreaIntervals(None, None)
    low, high = np.quantile(defined, [0.025, 0.975], axis=0).tolist()
    return AreaIntervals((low[0], high[0]), (low[1], high[1]))


def _has_both(is_positive: Array) -> bool:
    return bool(np.any(is_positive)) and not bool(np.all(is_positive))
