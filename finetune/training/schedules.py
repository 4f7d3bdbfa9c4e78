"""Learning rate as a function of the step: slim's schedules, and some more. TensorFlow is not needed."""

import bisect
import dataclasses
import logging
import math
from collections.abc import Sequence

from finetune.errors import UserError
from finetune.settings.stage import ScheduleSettings

log = logging.getLogger("finetune")

# One cycle's start as a share of its highest rate, and the share of it in which the rate rises; as fastai has it.
CYCLE_START = 1 / 25
CYCLE_RISE = 0.3


@dataclasses.dataclass(frozen=True)
class Schedule:
    """A learning rate for each step.

    Fixed, exponential and polynomial are of `train_image_classifier.py`; piecewise is constant between boundaries;
    cosine falls along half a wave, and one-cycle (Smith and Topin, arXiv:1708.07120) rises along one before.

    Attributes:
        decay_type: One of `finetune.settings.choices.DECAY_TYPES`.
        learning_rate: The rate before any decay; of one-cycle the highest.
        end_learning_rate: Where polynomial and cosine decay and one-cycle end.
        decay_factor: What exponential decay multiplies by, in stairs.
        decay_steps: Length of a stair, or of the whole polynomial or cosine decay or cycle; at least 1.
        warmup_steps: Steps in which the rate rises linearly from 0, or of the cycle's own rise.
        boundaries: Of piecewise: numbers of updates after which the rate is another.
        values: Of piecewise: the rate after each of them.
        first_step: Number of updates made before its own first one.
        scale: What each of its rates is multiplied by, as more images in a step allow.
    """

    decay_type: str
    learning_rate: float
    end_learning_rate: float
    decay_factor: float
    decay_steps: int
    warmup_steps: float
    boundaries: Sequence[int] = ()
    values: Sequence[float] = ()
    first_step: int = 0
    scale: float = 1.0

    def __call__(self, step: int) -> float:
        """The rate of the update that makes step `step` + 1 of the run."""
        return self.scale * self._unscaled(step - self.first_step)

    def _unscaled(self, step: int) -> float:
        if self.decay_type == "one-cycle":
            return self._of_cycle(step)
        rate = self._decayed(step)
        if step < self.warmup_steps:
            return min(self.learning_rate * step / self.warmup_steps, rate)
        return rate

    def _decayed(self, step: int) -> float:
        if self.decay_type == "fixed":
            return self.learning_rate
        if self.decay_type == "piecewise":
            return (self.learning_rate, *self.values)[bisect.bisect_right(self.boundaries, step)]
        if self.decay_type == "exponential":
            return float(self.learning_rate * self.decay_factor ** (step // self.decay_steps))
        progress = min(step / self.decay_steps, 1.0)
        remaining = 1 - progress if self.decay_type == "polynomial" else _half_wave(progress)
        return self.end_learning_rate + (self.learning_rate - self.end_learning_rate) * remaining

    def _of_cycle(self, step: int) -> float:
        highest = self.learning_rate
        if step < self.warmup_steps:
            return highest - (highest - CYCLE_START * highest) * _half_wave(step / self.warmup_steps)
        progress = min((step - self.warmup_steps) / (self.decay_steps - self.warmup_steps), 1.0)
        return self.end_learning_rate + (highest - self.end_learning_rate) * _half_wave(progress)


@dataclasses.dataclass(frozen=True)
class RateCut:
    """A lower rate from a step on, for the run diverged with the higher one.

    Attributes:
        step: Number of updates made before the first at the lower rate: of the checkpoint that was gone back to.
        factor: What the rate is multiplied by.
        seen_at: Number of updates after which the run was found to have diverged.
        why: What was found.
    """

    step: int
    factor: float
    seen_at: int
    why: str


@dataclasses.dataclass(frozen=True)
class CutSchedule:
    """A schedule, from each cut's step on times the cut's factor.

    Attributes:
        schedule: The rate without cuts, by step.
        cuts: All of the run's, in any order; those of other stages don't count.
    """

    schedule: Schedule
    cuts: tuple[RateCut, ...] = ()

    def __call__(self, step: int) -> float:
        """The rate of the update that makes step `step` + 1."""
        begin = self.schedule.first_step
        return self.schedule(step) * math.prod(cut.factor for cut in self.cuts if begin <= cut.step <= step)

    def before_scaling(self, step: int) -> float:
        """The same as --learning-rate counts it."""
        return self(step) / self.schedule.scale


def _half_wave(progress: float) -> float:
    """From 1 to 0, flat at both ends."""
    return (1 + math.cos(math.pi * progress)) / 2


def make_schedule(
    settings: ScheduleSettings,
    *,
    steps_per_epoch: float,
    max_steps: int | None,
    first_step: int = 0,
    scale: float = 1.0,
) -> Schedule:
    """A schedule in steps from settings in epochs.

    slim's decay steps become 0, and its rate NaN, where an epoch is shorter than a step; ours are at least 1. slim ends
    polynomial decay after `num_epochs_per_decay` = 2 epochs unless told otherwise; ours ends with the run, unless told.

    Args:
        settings: The rate before any decay, and how it decays.
        steps_per_epoch: Examples divided by the images of a step; may be below 1.
        max_steps: Number of updates at its end; None: without end.
        first_step: Number of updates made before: those of other stages, which it doesn't count.
        scale: What each rate is multiplied by: the whole schedule, also where it ends, for each of its steps is of so
            many more images.

    Raises:
        UserError: A decay over a run without end; a cycle that is shorter than its rise.
    """
    decay_type, num_epochs = settings.learning_rate_decay_type, settings.num_epochs_per_decay
    if num_epochs is None and decay_type in ("polynomial", "cosine", "one-cycle"):
        if max_steps is None:
            raise UserError(
                f"--learning-rate-decay-type {decay_type} needs an end.", "Give --max-steps or --num-epochs-per-decay."
            )
        decay_steps = max_steps - first_step
    else:
        decay_steps = int(steps_per_epoch * (2.0 if num_epochs is None else num_epochs))
    if decay_type in ("polynomial", "cosine") and settings.end_learning_rate > settings.rate:
        log.warning(
            "--learning-rate-decay-type %s: the rate rises, from %g to --end-learning-rate %g; 0 lets it fall.",
            decay_type,
            settings.rate,
            settings.end_learning_rate,
        )
    decay_steps = max(1, decay_steps)
    warmup_steps = settings.warmup_epochs * steps_per_epoch
    if decay_type == "one-cycle":
        warmup_steps = warmup_steps or CYCLE_RISE * decay_steps
        if warmup_steps >= decay_steps:
            raise UserError(
                f"--warmup-epochs {settings.warmup_epochs:g} is {warmup_steps:g} steps, and leaves one-cycle nothing "
                f"of its {decay_steps} to fall in.",
                "Give a lower --warmup-epochs.",
            )
    return Schedule(
        decay_type,
        learning_rate=settings.rate,
        end_learning_rate=settings.end_learning_rate,
        decay_factor=settings.learning_rate_decay_factor,
        decay_steps=decay_steps,
        warmup_steps=warmup_steps,
        boundaries=settings.learning_rate_boundaries,
        values=settings.learning_rate_values,
        first_step=first_step,
        scale=scale,
    )
