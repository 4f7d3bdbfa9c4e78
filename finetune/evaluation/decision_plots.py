"""Plots of decisions, drawn with matplotlib: ROC and precision-recall curves, accuracy over coverage."""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from finetune.evaluation.coverage import Coverage
from finetune.evaluation.curves import Curves
from finetune.evaluation.plots import MOST_POINTS, Theme, drawable, in_style
from finetune.evaluation.thresholds import Outcome
from finetune.types import Array

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# For curves beside each other, to be told apart on light and on dark paper, and by those who see colours otherwise.
_COLOURS = ("#3b82c4", "#d9731a", "#2a9d76", "#c05299", "#8a7a1f", "#6d5bd0", "#c8453b", "#5f7a8a")
MOST_CURVES = len(_COLOURS)
_SIDE = 4.4


@dataclasses.dataclass(frozen=True)
class NamedCurves:
    """The curves of one class.

    Attributes:
        label: Number of the class.
        name: Its name.
        curves: Its curves.
    """

    label: int
    name: str
    curves: Curves


def roc_figure(classes: Sequence[NamedCurves], outcome: Outcome | None, theme: Theme) -> "Figure":
    """True positives over false positives.

    Args:
        classes: One, or several with a colour for each, at most `MOST_CURVES`.
        outcome: Of a threshold for the first of them, to be marked; None: there is none.
        theme: Colours.
    """
    with in_style(theme):
        figure, axes = _square_figure()
        axes.plot([0, 1], [0, 1], "--", color=theme.ink, linewidth=0.9, label="by chance")
        for each, colour in _coloured(classes, theme):
            curves = each.curves
            axes.plot(
                *_thinned(curves.false_positive_rates, curves.true_positive_rates),
                color=colour,
                linewidth=1.6,
                label=drawable(each.name, each.label),
            )
        if outcome is not None:
            num_negative = outcome.false_positives + outcome.true_negatives
            _mark(axes, outcome.false_positives / num_negative if num_negative else 0.0, outcome.recall, theme)
        axes.set(xlabel="false positive rate", ylabel="true positive rate (recall)")
        _explain(axes, "lower right")
    return figure


def precision_recall_figure(classes: Sequence[NamedCurves], outcome: Outcome | None, theme: Theme) -> "Figure":
    """Precision over recall, in steps; as `roc_figure`."""
    with in_style(theme):
        figure, axes = _square_figure()
        for each, colour in _coloured(classes, theme):
            curves = each.curves
            axes.step(
                *_thinned(curves.recalls, curves.precisions),
                where="post",
                color=colour,
                linewidth=1.6,
                label=drawable(each.name, each.label),
            )
        if outcome is not None:
            _mark(axes, outcome.recall, outcome.precision, theme)
        axes.set(xlabel="recall", ylabel="precision")
        _explain(axes, "best")
    return figure


def coverage_figure(coverage: Coverage, theme: Theme) -> "Figure":
    """Accuracy over coverage, and the probability below which the others are rejected."""
    with in_style(theme):
        figure, axes = _square_figure()
        accuracies = _thinned(coverage.coverages, coverage.accuracies)
        axes.plot(*accuracies, color=theme.right, linewidth=1.6, label="their accuracy")
        probabilities = _thinned(coverage.coverages, coverage.probabilities)
        axes.plot(*probabilities, ":", color=theme.wrong, linewidth=1.6, label="their lowest probability")
        axes.set(xlabel="coverage: share of the images that get a class")
        _explain(axes, "best")
    return figure


def _square_figure() -> tuple["Figure", "Axes"]:
    """Axes from 0 to 1 both ways."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_SIDE, _SIDE), layout="constrained")
    axes = figure.subplots()
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal")
    axes.grid()
    return figure, axes


def _coloured(classes: Sequence[NamedCurves], theme: Theme) -> list[tuple[NamedCurves, str]]:
    colours = (theme.right,) if len(classes) == 1 else _COLOURS
    return list(zip(classes, colours, strict=False))


def _mark(axes: "Axes", x: float, y: float, theme: Theme) -> None:
    axes.plot([x], [y], "o", color=theme.wrong, markersize=7, label="the threshold", zorder=3, clip_on=False)


def _thinned(x: Array, y: Array) -> tuple[Array, Array]:
    """At most so many points, the first and the last among them."""
    places = np.unique(np.linspace(0, len(x) - 1, min(len(x), MOST_POINTS)).astype(np.int64))
    return x[places], y[places]


def _explain(axes: "Axes", place: Literal["best", "lower right"]) -> None:
    legend = axes.legend(loc=place, frameon=True, framealpha=0.85, edgecolor="none")
    for text in legend.get_texts():  # Names are no formulas, though they may hold dollar signs.
        text.set_parse_math(False)
