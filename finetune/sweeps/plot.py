"""sweep.png: what the trials came to, one after the other, and over each setting."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from finetune.evaluation.plots import LIGHT, render
from finetune.files.whole_files import write_bytes
from finetune.settings.search_space import Choice, Range, Space
from finetune.sweeps.study import Trial

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PLOT_FILE = "sweep.png"
PANEL_INCHES = (3.4, 2.9)
MOST_IN_A_ROW = 4
MARKERS = {"complete": "o", "pruned": "x"}


def write_plot(trials: Sequence[Trial], space: Space, measure: str, best: Trial | None, folder: Path) -> None:
    """Draws the trials that have a value."""
    write_bytes(folder / PLOT_FILE, render(sweep_figure(trials, space, measure, best), "png"))


def sweep_figure(trials: Sequence[Trial], space: Space, measure: str, best: Trial | None) -> "Figure":
    """A panel over the trials' numbers, then one for each setting; crosses were given up, the ring is the best."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    num_panels = 1 + len(space)
    num_columns = min(num_panels, MOST_IN_A_ROW)
    num_rows = -(-num_panels // num_columns)
    width, height = PANEL_INCHES
    figure = Figure(figsize=(width * num_columns, height * num_rows), layout="constrained", facecolor=LIGHT.paper)
    panels = figure.subplots(num_rows, num_columns, squeeze=False, sharey=True).ravel()
    for axes in panels[num_panels:]:
        axes.set_visible(False)
    first, *others = panels[:num_panels]
    _draw(first, trials, [trial.number for trial in trials], best)
    first.xaxis.set_major_locator(MaxNLocator(integer=True))
    first.set_xlabel("trial")
    for row in range(num_rows):
        panels[row * num_columns].set_ylabel(measure)
    for axes, dimension in zip(others, space, strict=True):
        _draw(axes, trials, _places(trials, dimension), best)
        _set_scale(axes, dimension)
    _add_legend(figure, trials, best)
    return figure


def _places(trials: Sequence[Trial], dimension: Range | Choice) -> list[float]:
    """Where the trials lie along a setting: at its numbers, choices side by side."""
    values = [trial.point[dimension.name] for trial in trials]
    if isinstance(dimension, Choice):
        return [dimension.texts.index(str(value)) for value in values]
    return [float(value) for value in values]


def _set_scale(axes: "Axes", dimension: Range | Choice) -> None:
    axes.set_xlabel(dimension.name)
    if isinstance(dimension, Choice):
        axes.set_xticks(range(len(dimension.texts)), dimension.texts)
        axes.set_xlim(-0.5, len(dimension.texts) - 0.5)
    elif dimension.is_log:
        axes.set_xscale("log")


def _draw(axes: "Axes", trials: Sequence[Trial], places: Sequence[float], best: Trial | None) -> None:
    axes.set_facecolor(LIGHT.paper)
    axes.grid(color=LIGHT.faint, linewidth=0.6)
    axes.set_axisbelow(True)
    for state, marker in MARKERS.items():
        found = [
            (place, trial.value)
            for place, trial in zip(places, trials, strict=True)
            if trial.state == state and trial.value is not None
        ]
        if found:
            x, y = zip(*found, strict=True)
            colour = LIGHT.right if state == "complete" else LIGHT.wrong
            axes.scatter(x, y, marker=marker, color=colour, s=28, label=state)
    if best is not None and best.value is not None:
        place = places[list(trials).index(best)]
        axes.scatter(
            [place], [best.value], s=130, label="best", facecolors="none", edgecolors=LIGHT.ink, linewidths=1.4
        )


def _add_legend(figure: "Figure", trials: Sequence[Trial], best: Trial | None) -> None:
    handles, labels = figure.axes[0].get_legend_handles_labels()
    if len(labels) > 1:
        figure.legend(handles, labels, loc="outside upper left", ncols=len(labels), frameon=False)
    num_failed = sum(trial.state == "failed" for trial in trials)
    title = f"{len(trials)} trials" + (f", of which {num_failed} failed and stand nowhere" if num_failed else "")
    figure.suptitle(title, fontsize=11, x=0.98, ha="right", color=LIGHT.ink)
