"""Plots, drawn with matplotlib: confusion matrix, reliability diagram, learning curves, the learning-rate finder's.

Figures are made without pyplot: no window system, no state that outlives a figure.
"""

import contextlib
import dataclasses
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from finetune.evaluation.calibration import NUM_BINS, Calibration
from finetune.types import Array

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FONT = "DejaVu Sans"
DOTS_PER_INCH = 110
GLYPH_WIDTH = 0.58  # of the font size, for most names
LONGEST_NAME = 28

# Of confusion matrices, in inches: a cell with a count in it, a line of text, the largest matrix with such cells, the
# largest with a line for each class, and the side of all larger ones.
COUNT_CELL, TEXT_LINE = 0.3, 0.15
LARGEST_WITH_COUNTS, LARGEST_WITH_NAMES, OVERVIEW = 18.0, 32.0, 16.0
SMALLEST_SHADE = 0.15
NUM_CLASSES_BETWEEN_LINES = 10

MOST_POINTS = 1000


@dataclasses.dataclass(frozen=True)
class Theme:
    """Colours: of the paper, of text, of what recedes, of what is right, of what is wrong."""

    paper: str
    ink: str
    faint: str
    right: str
    wrong: str


LIGHT = Theme(paper="#ffffff", ink="#1f2933", faint="#d5dce4", right="#1f5f9e", wrong="#c2410c")
DARK = Theme(paper="#171c22", ink="#dbe3ec", faint="#35404c", right="#6fb2f2", wrong="#fb923c")


def confusion_figure(
    confusion: Array, names: Sequence[str], theme: Theme, *, most_inches: float = LARGEST_WITH_NAMES
) -> "Figure":
    """The confusion matrix as shares of each true class.

    Up to 60 classes each cell bears its count; up to 213 each class has its name beside it (both if `most_inches` lets
    them); beyond that every so many-th has. Where cells would be less than a point wide, one square shows the highest
    shares of several neighbouring classes.

    Args:
        confusion: int [C,C], images by true class (row) and predicted class (column).
        names: Of the C classes.
        theme: Colours.
        most_inches: Height and width of the matrix, at most.
    """
    num_classes = len(names)
    side = min(most_inches, _side(num_classes))
    cell = side / num_classes
    with in_style(theme):
        every = math.ceil(0.9 * TEXT_LINE / cell)
        shown = [drawable(names[index], index) for index in range(0, num_classes, every)]
        size = min(9.0, max(58 * cell * every, 6.0))
        longest = max(map(len, shown)) * size * GLYPH_WIDTH / 72
        is_upright = longest < cell
        figure, axes = _square_figure(side, left=longest + 0.45, below=0.6 if is_upright else longest + 0.45)
        shades = _highest_in_blocks(_shades(confusion), most_cells=int(side * 72))
        extent = (-0.5, num_classes - 0.5, num_classes - 0.5, -0.5)
        axes.imshow(_colours(shades, theme), extent=extent, interpolation="nearest")
        if cell >= 0.8 * COUNT_CELL:
            _write_counts(axes, confusion, theme, cell)
        else:
            _draw_lines(axes, num_classes, theme)
        # Names are no formulas, though they may hold dollar signs.
        ticks = range(0, num_classes, every)
        axes.set_xticks(ticks, shown, fontsize=size, parse_math=False, rotation=0 if is_upright else 90)
        axes.set_yticks(ticks, shown, fontsize=size, parse_math=False)
        axes.set(xlabel="predicted", ylabel="true")
    return figure


def reliability_figure(calibration: Calibration, theme: Theme) -> "Figure":
    """Accuracy over confidence in bins, and below it how many predictions each bin has."""
    width = 1 / NUM_BINS
    left = calibration.edges[:-1]
    filled = calibration.counts > 0
    with in_style(theme):
        figure, (above, below) = _stacked_figure(height_ratios=(4, 1))
        accuracies, confidences = calibration.accuracies[filled], calibration.confidences[filled]
        bars = {"align": "edge", "edgecolor": theme.paper}
        above.bar(left[filled], accuracies, width, color=theme.right, label="share that is right", **bars)
        gaps = (left[filled] + 0.3 * width, confidences - accuracies, 0.4 * width, accuracies)
        above.bar(*gaps, color=theme.wrong, label="gap to the mean probability", **bars)
        above.plot([0, 1], [0, 1], "--", color=theme.ink, linewidth=0.9)
        above.set(ylim=(0, 1), ylabel="share that is right")
        above.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2)
        below.bar(left, calibration.counts, width, color=theme.ink, alpha=0.7, **bars)
        below.set(xlim=(0, 1), xlabel="probability of the prediction", ylabel="images")
    return figure


def learning_figure(
    lines: Sequence[Mapping[str, Any]], step: int | None, theme: Theme, measure: str = "accuracy"
) -> "Figure":
    """Loss and accuracy over the steps of a run.

    Args:
        lines: Of metrics.jsonl; those with a "split" are validations.
        step: Of the checkpoint that is evaluated, to be marked; None: unknown.
        theme: Colours.
        measure: Of validations, in place of accuracy.
    """
    training = [line for line in lines if "split" not in line and "loss" in line]
    validations = [line for line in lines if {"split", "loss", measure} <= line.keys()]
    with in_style(theme):
        figure, (above, below) = _stacked_figure(height_ratios=(1, 1))
        losses = np.array([line["loss"] - line.get("weight_decay_loss", 0.0) for line in training])
        steps = np.array([line["step"] for line in training])
        above.plot(*_thinned(steps, losses), color=theme.ink, linewidth=1, label="training, without weight decay")
        for split in dict.fromkeys(line["split"] for line in validations):
            of_split = [line for line in validations if line["split"] == split]
            steps = np.array([line["step"] for line in of_split])
            style = {"color": theme.right, "marker": "o", "markersize": 3.5, "label": split}
            above.plot(steps, [line["loss"] for line in of_split], **style)
            below.plot(steps, [line[measure] for line in of_split], **style)
        for axes in (above, below):
            axes.grid(axis="y")
            if step is not None:
                axes.axvline(step, linestyle=":", color=theme.wrong, label="this checkpoint")
            if axes.get_legend_handles_labels()[0]:
                axes.legend(loc="best")
        above.set(ylabel="loss", ylim=(0, None))
        below.set(ylabel=measure.replace("_", " "), xlabel="step")
        below.xaxis.get_major_locator().set_params(integer=True)
    return figure


def rates_figure(rates: Array, losses: Array, smoothed: Array, suggestion: float | None, theme: Theme) -> "Figure":
    """The learning-rate finder's curve.

    Args:
        rates: float [N], rising.
        losses: At each rate: float [N], the last ones perhaps not finite.
        smoothed: Their moving average: float [N].
        suggestion: A rate to be marked, if there is one.
        theme: Colours.
    """
    from matplotlib.figure import Figure

    with in_style(theme):
        figure = Figure(figsize=(4.8, 3.2), layout="constrained")
        axes = figure.subplots()
        axes.plot(rates, losses, color=theme.faint, linewidth=1, label="of each batch")
        axes.plot(rates, smoothed, color=theme.ink, label="moving average")
        if suggestion is not None:
            axes.axvline(suggestion, linestyle=":", color=theme.wrong, label=f"suggestion: {suggestion:g}")
        axes.grid(axis="y")
        axes.legend(loc="best")
        axes.set(xscale="log", xlabel="learning rate", ylabel="cross-entropy", ylim=(0, None))
        before = smoothed[: max(len(smoothed) // 2, 1)]
        if np.isfinite(before).all():  # An explosion would leave nothing to be seen of them.
            axes.set_ylim(0, 1.3 * before.max())
    return figure


def render(figure: "Figure", file_format: str) -> bytes:
    """The figure as the bytes of a "png" or "svg" file; the same figure gives the same bytes."""
    import matplotlib

    buffer = io.BytesIO()
    metadata = {"Date": None} if file_format == "svg" else {}
    with matplotlib.rc_context({"svg.hashsalt": "finetune"}):
        figure.savefig(buffer, format=file_format, dpi=DOTS_PER_INCH, metadata=metadata)
    return buffer.getvalue()


@contextlib.contextmanager
def in_style(theme: Theme) -> Iterator[None]:
    """Figures that are made within have our fonts, and the theme's colours."""
    import matplotlib

    settings: Any = {
        "font.family": FONT,
        "font.size": 9,
        "axes.facecolor": theme.paper,
        "figure.facecolor": theme.paper,
        "savefig.facecolor": theme.paper,
        "axes.edgecolor": theme.faint,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "grid.color": theme.faint,
        "grid.linewidth": 0.6,
        "legend.frameon": False,
        "legend.fontsize": 8,
        "text.color": theme.ink,
        "axes.labelcolor": theme.ink,
        "xtick.color": theme.ink,
        "ytick.color": theme.ink,
    }
    with matplotlib.rc_context(settings):
        yield


def _stacked_figure(height_ratios: tuple[int, int]) -> tuple["Figure", Any]:
    """Two axes, one above the other, over the same x."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.8, 4.8), layout="constrained")
    return figure, figure.subplots(2, 1, sharex=True, height_ratios=height_ratios)


def _square_figure(side: float, *, left: float, below: float) -> tuple["Figure", "Axes"]:
    """Square axes and the margins for the names, all in inches."""
    from matplotlib.figure import Figure

    width, height = left + side + 0.1, below + side + 0.1
    figure = Figure(figsize=(width, height))
    axes = figure.add_axes((left / width, below / height, side / width, side / height))
    axes.tick_params(length=0)
    axes.spines[:].set_visible(True)
    return figure, axes


def _side(num_classes: int) -> float:
    """Of a matrix with as much in it as can be read, in inches."""
    if num_classes * COUNT_CELL <= LARGEST_WITH_COUNTS:
        return max(num_classes * COUNT_CELL, min(4.5, 1.2 * num_classes))
    return num_classes * TEXT_LINE if num_classes * TEXT_LINE <= LARGEST_WITH_NAMES else OVERVIEW


def _shades(confusion: Array) -> Array:
    """Share of the true class, its root for few mistakes to be seen, and never too faint: float [C,C], 0 to 1."""
    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    return np.where(confusion > 0, SMALLEST_SHADE + (1 - SMALLEST_SHADE) * np.sqrt(shares), 0.0)


def _highest_in_blocks(shades: Array, most_cells: int) -> tuple[Array, Array]:
    """The shades of right and of wrong predictions, by the highest of each square of so many classes."""
    block = math.ceil(len(shades) / most_cells)
    starts = np.arange(0, len(shades), block)
    right = np.diag(np.maximum.reduceat(np.diag(shades), starts))
    wrong = shades - np.diag(np.diag(shades))
    return right, np.maximum.reduceat(np.maximum.reduceat(wrong, starts, axis=0), starts, axis=1)


def _colours(shades: tuple[Array, Array], theme: Theme) -> Array:
    """Right ones in one colour, wrong ones in the other, on paper: uint8 [C,C,3]."""
    from matplotlib.colors import to_rgb

    paper = np.array(to_rgb(theme.paper))
    right, wrong = (shade[..., np.newaxis] for shade in shades)
    right_colour, wrong_colour = (
        paper + shade * (np.array(to_rgb(colour)) - paper)
        for shade, colour in ((right, theme.right), (wrong, theme.wrong))
    )
    return np.round(255 * np.where(right > 0, right_colour, wrong_colour)).astype(np.uint8)


def _write_counts(axes: "Axes", confusion: Array, theme: Theme, cell: float) -> None:
    shades = _shades(confusion)
    num_digits = len(str(confusion.max()))
    size = min(13.0, 90 * cell / max(num_digits, 2))
    for row, column in np.argwhere(confusion > 0):
        colour = theme.paper if shades[row, column] > 0.55 else theme.ink
        text = str(confusion[row, column])
        axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=size)


def _draw_lines(axes: "Axes", num_classes: int, theme: Theme) -> None:
    """Fine lines to follow from a class's name into the matrix."""
    if num_classes <= LARGEST_WITH_NAMES / TEXT_LINE:
        for place in np.arange(NUM_CLASSES_BETWEEN_LINES, num_classes, NUM_CLASSES_BETWEEN_LINES) - 0.5:
            axes.axhline(place, color=theme.faint, linewidth=0.6)
            axes.axvline(place, color=theme.faint, linewidth=0.6)


def drawable(name: str, label: int) -> str:
    """The name, shortened; the number of the class where the font lacks a letter of its name."""
    from matplotlib.font_manager import findfont, get_font

    font = get_font(findfont(FONT))
    if not name.isprintable() or not all(font.get_char_index(ord(letter)) for letter in name):
        return str(label)
    return name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 1] + "…"


def _thinned(steps: Array, values: Array) -> tuple[Array, Array]:
    """At most so many points, each the mean of as many neighbours."""
    every = math.ceil(len(steps) / MOST_POINTS) or 1
    starts = np.arange(0, len(steps), every)
    if every == 1:
        return steps, values
    sizes = np.diff([*starts, len(steps)])
    return steps[starts], np.add.reduceat(values, starts) / sizes
