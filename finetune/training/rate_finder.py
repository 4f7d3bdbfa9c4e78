"""The learning-rate finder: what the loss does while the rate rises from step to step (Smith, arXiv:1506.01186)."""

import csv
import dataclasses
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from finetune.evaluation import plots
from finetune.files.whole_files import write_bytes, write_text
from finetune.model.out_of_memory import out_of_memory_told
from finetune.progress import progress
from finetune.training.image_inputs import TrainingInputs
from finetune.training.state import TrainingState
from finetune.training.step import TrainingStep
from finetune.types import Array

CURVE_FILE, PLOT_FILE = "learning_rate_finder.csv", "learning_rate_finder.png"

LOWEST_RATE, HIGHEST_RATE, NUM_STEPS = 1e-6, 10.0, 100
# What a loss counts for in the moving average is less by this factor with each step.
SMOOTHING = 0.8
# The average has exploded where it is so many times its lowest value, and above its value at the low rates.
EXPLODED = 4.0
# Steps at rates that are too low to change the loss by more than one batch differs from the next.
NUM_LOW_STEPS = 20
# The loss has fallen where the average is lower than at the low rates by this share.
LEAST_FALL = 0.1


@dataclasses.dataclass(frozen=True)
class RateCurve:
    """What was found.

    Attributes:
        rates: Of each step, rising: float [N].
        losses: Cross-entropy of its batch, before its update: float [N]; the last may not be finite.
        smoothed: Their moving average: float [N].
        suggestion: The rate to train at, to two digits; None where the loss fell at none.
    """

    rates: Array
    losses: Array
    smoothed: Array
    suggestion: float | None

    def __str__(self) -> str:
        """In a sentence."""
        steps = f"in {len(self.rates)} steps at rates from {self.rates[0]:.2g} to {self.rates[-1]:.2g} the loss"
        if self.suggestion is None:
            return f"The learning-rate finder: {steps} falls at none, so that no rate is suggested."
        return f"The learning-rate finder: {steps} has made half of its fall at --learning-rate {self.suggestion:g}."


def find_rate(state: TrainingState, training_step: TrainingStep, inputs: TrainingInputs) -> RateCurve:
    """Makes steps at rising rates until the loss explodes, and takes them back.

    Args:
        state: Of the run.
        training_step: Makes an update.
        inputs: Whose batches the steps are given, from the run's first on.

    Raises:
        UserError: A batch needs more memory than there is.
    """
    rates = np.geomspace(LOWEST_RATE, HIGHEST_RATE, NUM_STEPS)
    losses: list[float] = []
    with state.unchanged(), progress("Learning-rate finder", NUM_STEPS) as advance:
        for step, (rate, (*given, _)) in enumerate(zip(rates, inputs.batches(0), strict=False)):
            may_recompute = not training_step.recomputes_activations
            with out_of_memory_told(inputs.batch_size, may_recompute=may_recompute):
                losses.append(float(training_step(tuple(given), step, rate)[0]))
            advance(1)
            if has_exploded(smoothed(losses)):
                break
    return curve_of(rates[: len(losses)], np.array(losses))


def curve_of(rates: Array, losses: Array) -> RateCurve:
    """With the moving average, and the suggestion: the rate at which half of its fall is made.

    There the average is steep, so that chance moves the rate little; the rate of the lowest loss, of which a tenth is
    often taken, lies anywhere on a flat bottom.
    """
    average = smoothed(losses)
    comparable = np.where(np.isfinite(average), average, np.inf)
    at_low_rates, lowest = comparable[:NUM_LOW_STEPS].mean(), comparable.min()
    if not (comparable.argmin() >= NUM_LOW_STEPS and lowest < (1 - LEAST_FALL) * at_low_rates):
        return RateCurve(rates, losses, average, None)
    half_way = int(np.argmax(comparable < (at_low_rates + lowest) / 2))
    return RateCurve(rates, losses, average, float(f"{rates[half_way]:.1e}"))


def smoothed(losses: Sequence[float] | Array) -> Array:
    """The moving average of losses; float [N]. Like Adam's it is divided by the weights that it has so far."""
    averages, total, weight = [], 0.0, 0.0
    for loss in losses:
        total, weight = SMOOTHING * total + loss, SMOOTHING * weight + 1
        averages.append(total / weight)
    return np.array(averages)


def has_exploded(average: Array) -> bool:
    """Whether higher rates have nothing to tell."""
    last = average[-1]
    return not np.isfinite(last) or bool(last > EXPLODED * average.min() and last > average[:NUM_LOW_STEPS].max())


def write_curve(curve: RateCurve, folder: Path) -> None:
    """Writes the curve, as a table and drawn."""
    table = io.StringIO()
    rows = csv.writer(table, lineterminator="\n")
    rows.writerow(["learning_rate", "loss", "smoothed_loss"])
    rows.writerows(zip(curve.rates.tolist(), curve.losses.tolist(), curve.smoothed.tolist(), strict=True))
    write_text(folder / CURVE_FILE, table.getvalue())
    figure = plots.rates_figure(curve.rates, curve.losses, curve.smoothed, curve.suggestion, plots.LIGHT)
    write_bytes(folder / PLOT_FILE, plots.render(figure, "png"))
