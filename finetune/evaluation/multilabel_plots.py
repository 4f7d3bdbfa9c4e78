"""Plots of several labels an image: the average precision of each class, and curves of precision over recall."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from finetune.evaluation.curves import curves_of
from finetune.evaluation.multilabel_metrics import MultilabelScores
from finetune.evaluation.plots import Theme, drawable, in_style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_BARS = 100
MOST_CURVES = 100
NUM_NAMED = 3
BAR_INCHES = 0.24


def averages_figure(scores: MultilabelScores, names: Sequence[str], theme: Theme) -> "Figure":
    """The average precision of each class as a bar, and the share of images that have it as a mark on it.

    Args:
        scores: Of a split.
        names: Of the classes; of more than `MOST_BARS` the worst are drawn.
        theme: Colours.
    """
    from matplotlib.figure import Figure

    known = [(average, label) for label, average in enumerate(scores.average_precisions) if average is not None]
    shown = sorted(known, key=lambda pair: (pair[0], -pair[1]))[:MOST_BARS]
    averages = [average for average, _ in shown]
    labels = [label for _, label in shown]
    with in_style(theme):
        figure = Figure(figsize=(6.0, 0.9 + BAR_INCHES * max(len(shown), 1)), layout="constrained")
        axes = figure.subplots()
        places = range(len(shown))
        axes.barh(places, averages, height=0.7, color=theme.right)
        shares = scores.labels.mean(axis=0)[labels] if labels else []
        axes.plot(shares, places, "|", color=theme.wrong, markersize=9, markeredgewidth=2)
        axes.set_yticks(places, [drawable(names[label], label) for label in labels], parse_math=False)
        axes.set(xlim=(0, 1), ylim=(-0.6, max(len(shown), 1) - 0.4), xlabel="average precision")
        axes.grid(axis="x")
        axes.set_axisbelow(True)
    return figure


def recall_figure(scores: MultilabelScores, names: Sequence[str], theme: Theme) -> "Figure":
    """Precision over recall, a curve for each class; those with the least average precision are named.

    Args:
        scores: Of a split.
        names: Of the classes; of more than `MOST_CURVES` every so many-th is drawn, and the worst.
        theme: Colours.
    """
    from matplotlib.figure import Figure

    known = [(average, label) for label, average in enumerate(scores.average_precisions) if average is not None]
    order = [label for _, label in sorted(known)]
    worst, others = order[:NUM_NAMED], order[NUM_NAMED:]
    every = math.ceil(len(others) / MOST_CURVES) or 1
    with in_style(theme):
        figure = Figure(figsize=(4.8, 4.8), layout="constrained")
        axes = figure.subplots()
        for label in [*others[::every], *worst]:
            curves = curves_of(scores.probabilities[:, label], scores.labels[:, label])
            assert curves is not None
            rank = worst.index(label) if label in worst else None
            style: dict[str, Any] = {"color": theme.faint, "linewidth": 1.0} if rank is None else {"linewidth": 1.6}
            if rank is not None:
                style |= {"color": theme.wrong, "linestyle": ("-", "--", ":")[rank]}
                style["label"] = f"{drawable(names[label], label)} {scores.average_precisions[label]:.2f}"
            axes.step(curves.recalls, curves.precisions, where="post", **style)
        axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="recall", ylabel="precision", xticks=np.linspace(0, 1, 6))
        if worst:
            for text in axes.legend(loc="lower left").get_texts():
                text.set_parse_math(False)
    return figure
