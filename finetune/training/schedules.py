"""Learning rate as a function of the step: slim's schedules. TensorFlow is not needed."""

import dataclasses
import math

from finetune.errors import UserError
from finetune.settings.train import ScheduleSettings


@dataclasses.dataclass(frozen=True)
class Schedule:
    """A learning rate for each step, from `train_image_classifier.py` (fixed, exponential, polynomial) and cosine.

    Attributes:
        decay_type: One of `finetune.settings.choices.DECAY_TYPES`.
        learning_rate: The rate before any decay.
        end_learning_rate: Where polynomial and cosine decay end.
        decay_factor: What exponential decay multiplies by, in stairs.
        decay_steps: Length of a stair, or of the whole polynomial or cosine decay; at least 1.
        warmup_steps: Steps in which the rate rises linearly from 0.
    """

    decay_type: str
    learning_rate: float
    end_learning_rate: float
    decay_factor: float
    decay_steps: int
    warmup_steps: float

    def __call__(self, step: int) -> float:
        """The rate of the update that makes step `step` + 1."""
        rate = self._decayed(step)
        if step < self.warmup_steps:
            return min(self.learning_rate * step / self.warmup_steps, rate)
        return rate

    def _decayed(self, step: int) -> float:
        if self.decay_type == "fixed":
            return self.learning_rate
        if self.decay_type == "exponential":
            return float(self.learning_rate * self.decay_factor ** (step // self.decay_steps))
        progress = min(step / self.decay_steps, 1.0)
        remaining = 1 - progress if self.decay_type == "polynomial" else (1 + math.cos(math.pi * progress)) / 2
        return self.end_learning_rate + (self.learning_rate - self.end_learning_rate) * remaining


def make_schedule(settings: ScheduleSettings, *, steps_per_epoch: float, max_steps: int | None) -> Schedule:
    """A schedule in steps from settings in epochs.

    slim's decay steps become 0, and its rate NaN, where an epoch is shorter than a step; ours are at least 1. slim ends
    polynomial decay after `num_epochs_per_decay` = 2 epochs unless told otherwise; ours ends with the run, unless told.

    Args:
        settings: The rate before any decay, and how it decays.
        steps_per_epoch: Examples divided by the images of a step; may be below 1.
        max_steps: Length of the run; None: without end.

    Raises:
        UserError: A decay over a run without end.
    """
    decay_type, num_epochs = settings.learning_rate_decay_type, settings.num_epochs_per_decay
    if num_epochs is None and decay_type in ("polynomial", "cosine"):
        if max_steps is None:
            raise UserError(
                f"--learning-rate-decay-type {decay_type} needs an end.", "Give --max-steps or --num-epochs-per-decay."
            )
        decay_steps = max_steps
    else:
        decay_steps = int(steps_per_epoch * (2.0 if num_epochs is None else num_epochs))
    return Schedule(
        decay_type,
        learning_rate=settings.learning_rate,
        end_learning_rate=settings.end_learning_rate,
        decay_factor=settings.learning_rate_decay_factor,
        decay_steps=max(1, decay_steps),
        warmup_steps=settings.warmup_epochs * steps_per_epoch,
    )
