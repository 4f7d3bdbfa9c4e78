"""What folds say together: figures of each, their mean, and how far it may be off. No TensorFlow."""

import csv
import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from finetune.evaluation.metrics import Scores
from finetune.files.whole_files import whole_file

FOLDS_TABLE = "folds.csv"
# A loss is bounded on one side alone.
BOUNDS = {"accuracy": (0.0, 1.0), "balanced_accuracy": (0.0, 1.0), "macro_f1": (0.0, 1.0), "loss": (0.0, math.inf)}


@dataclasses.dataclass(frozen=True)
class FoldFigures:
    """How the network that was trained without a fold fares on it.

    Attributes:
        fold: Its number, from 1.
        step: Of the checkpoint that was scored; None: it holds none.
        num_examples: Images of the fold.
        measures: By the names in `BOUNDS`.
    """

    fold: int
    step: int | None
    num_examples: int
    measures: dict[str, float]


@dataclasses.dataclass(frozen=True)
class Spread:
    """A measure over folds.

    Attributes:
        mean: Of the folds.
        standard_deviation: Of one fold, not of the mean.
        interval_95: Of the mean.
    """

    mean: float
    standard_deviation: float
    interval_95: tuple[float, float]


def figures_of(fold: int, step: int | None, scores: Scores) -> FoldFigures:
    """The figures of one fold by the scores of its images."""
    return FoldFigures(fold, step, scores.num_examples, scores.measures())


def spread_of(folds: Sequence[FoldFigures], measure: str) -> Spread:
    """The mean of a measure, and an interval about it: t by the corrected variance of Nadeau and Bengio (2003).

    Folds share most of their training images, so that their figures vary less than those of independent trainings: an
    interval by the standard deviation over the root of their number is too narrow, and no estimate of the variance is
    unbiased (Bengio and Grandvalet 2004, JMLR 5). The correction adds the ratio of test to training images, here 1 to
    K - 1, to 1 / K; it was made for divisions drawn at random, and is a rule of thumb for folds.
    """
    from scipy.stats import t  # It takes a second to load.

    values = np.array([figures.measures[measure] for figures in folds])
    num_folds = len(values)
    deviation = float(values.std(ddof=1))
    half = float(t.ppf(0.975, num_folds - 1)) * deviation * math.sqrt(1 / num_folds + 1 / (num_folds - 1))
    low, high = BOUNDS[measure]
    mean = float(values.mean())
    return Spread(mean, deviation, (max(low, mean - half), min(high, mean + half)))


def spreads_of(folds: Sequence[FoldFigures]) -> dict[str, Spread]:
    """All measures over the folds, by their names."""
    return {measure: spread_of(folds, measure) for measure in BOUNDS}


def folds_summary(folds: Sequence[FoldFigures]) -> dict[str, Any]:
    """What metrics.json has of the folds."""
    return {
        "num_folds": len(folds),
        "over_folds": {measure: dataclasses.asdict(spread) for measure, spread in spreads_of(folds).items()},
    }


def write_folds(folder: Path, folds: Sequence[FoldFigures]) -> None:
    """Writes folds.csv: a line for each fold."""
    with whole_file(folder / FOLDS_TABLE, newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["fold", "num_examples", "step", *BOUNDS])
        for each in folds:
            step = "" if each.step is None else each.step
            writer.writerow([each.fold, each.num_examples, step, *(each.measures[measure] for measure in BOUNDS)])
