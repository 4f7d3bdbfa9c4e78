"""What a run tells while it trains: lines on standard error, metrics.jsonl, TensorBoard.

Lines come every few seconds, whatever the steps take; the two others have a row every `--log-every` steps. The keys of
metrics.jsonl, and TensorBoard's scalars, which lack `step` (a tracker, `--track`, has the same):

    step                 number of updates made
    loss                 of training: cross-entropy, with the auxiliary head's part, and weight decay
    weight_decay_loss    the part of it that is weight decay; a validation's loss has none
    learning_rate        of the step
    images_per_second    since the row before
    data_chain           a hash over what all steps so far were given; two runs with the same one saw the same
    num_skipped          records of the split that can't be read and are left out; with `--on-corrupt skip` alone

A row of a recalibration of batch norm's statistics has `batch_norm_batches`, over how many batches, alone.
A row of a validation has `split`, `accuracy`, `top_5_accuracy`, `balanced_accuracy`, `macro_f1`, `num_examples`, and
`loss`: cross-entropy alone. Where averages of weights are kept these are theirs, and `plain_accuracy`,
`plain_balanced_accuracy`, `plain_macro_f1` and `plain_loss` those of the weights themselves. `is_extra` is true where
it was made since the time was up. Where an image has any number of labels the row has `mean_average_precision`,
`micro_f1`, `macro_f1`, `exact_match`, `num_examples` and `loss`, which is sigmoid cross-entropy.
"""

import contextlib
import logging
import math
import os
import sys
import time
from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from finetune.evaluation.multilabel_metrics import AnyScores
from finetune.files.write_errors import naming
from finetune.progress import SECONDS_BETWEEN_LINES, format_seconds
from finetune.runs.run_folder import RunFolder
from finetune.trackers.tracked_run import TrackedRun
from finetune.types import Tensor

NUM_SAMPLE_IMAGES = 8
# How far TensorBoard may be behind; writing the file at every log line would hold up short steps.
MILLISECONDS_BETWEEN_FLUSHES = 5000
SECONDS_BETWEEN_LINES_ON_A_TERMINAL = 5.0

log = logging.getLogger("finetune")


class _Rate:
    """Images a second since a step."""

    def __init__(self, images_per_step: int) -> None:
        self._images_per_step = images_per_step
        self.restart(0)

    def restart(self, step: int) -> None:
        self._step = step
        self._start = time.monotonic()

    def take(self, step: int) -> float | None:
        """The rate up to this step, from which the next one counts; None without a step between the two."""
        steps, seconds = step - self._step, time.monotonic() - self._start
        self.restart(step)
        return steps * self._images_per_step / seconds if steps > 0 and seconds > 0 else None


class RunLog:
    """Writes each figure to the three places where people look for it.

    Attributes:
        run: The run's folder.
        images_per_step: Of all devices.
    """

    def __init__(
        self,
        run: RunFolder,
        *,
        max_steps: int | None,
        images_per_step: int,
        seconds_between_summaries: float,
        training_split: str = "",
        num_skipped: Mapping[str, int] | None = None,
        tracked: TrackedRun | None = None,
    ) -> None:
        """Opens a TensorBoard event file in the run's folder.

        Args:
            run: The run's folder.
            max_steps: Step that it stops at; None: never.
            images_per_step: Of all devices.
            seconds_between_summaries: TensorBoard scalars of training are at least so far apart.
            training_split: Name of the split that is trained on.
            num_skipped: By split how many of its records are left out; None or none: it isn't told.
            tracked: Where TensorBoard's scalars go, too; None: nowhere.
        """
        self.run = run
        self._max_steps = max_steps
        self.images_per_step = images_per_step
        self._training_split = training_split
        self._num_skipped = dict(num_skipped or {})
        self._tracked = tracked or TrackedRun()
        self._seconds_between_summaries = seconds_between_summaries
        with self._naming():
            folder = os.fsencode(run.path)
            self._writer = tf.summary.create_file_writer(folder, flush_millis=MILLISECONDS_BETWEEN_FLUSHES)
        self._rate_of_rows = _Rate(images_per_step)
        self._rate_of_lines = _Rate(images_per_step)
        self._seconds_between_lines = (
            SECONDS_BETWEEN_LINES_ON_A_TERMINAL if sys.stderr.isatty() else SECONDS_BETWEEN_LINES
        )
        self._last_line = -math.inf
        self._last_summary = -math.inf

    def restart_clock(self, step: int) -> None:
        """The rate shown is of the steps after this one: tracing, validation and saving are no part of it."""
        self._rate_of_rows.restart(step)
        self._rate_of_lines.restart(step)

    def is_line_due(self) -> bool:
        """Whether the last line on training is some seconds old; before the first one always."""
        return time.monotonic() - self._last_line >= self._seconds_between_lines

    def training(
        self,
        step: int,
        loss: float,
        weight_decay_loss: float,
        learning_rate: float,
        *,
        to_files: bool,
        data_chain: str = "",
    ) -> None:
        """What a step of training came to: a line where one is due, and at the end of the run.

        Args:
            step: The step that was just made.
            loss: Its whole loss, before the update.
            weight_decay_loss: The part of it that is weight decay.
            learning_rate: Of its update.
            to_files: Whether it is also a row of metrics.jsonl and of TensorBoard's.
            data_chain: For metrics.jsonl; empty: it isn't kept.
        """
        if self.is_line_due() or step == self._max_steps:
            self._last_line = time.monotonic()
            self._write_line(step, loss, weight_decay_loss, learning_rate)
        if to_files:
            self._write_row(step, loss, weight_decay_loss, learning_rate, data_chain)

    def _write_line(self, step: int, loss: float, weight_decay_loss: float, learning_rate: float) -> None:
        rate = self._rate_of_lines.take(step)
        of_all = f"/{self._max_steps}" if self._max_steps is not None else ""
        decay = f" (weight decay {weight_decay_loss:.4f} of it)" if weight_decay_loss else ""
        speed = f"  {rate:.1f} images/s{self._time_left(step, rate)}" if rate else ""
        log.info("step %d%s  loss %.4f%s  rate %.3g%s", step, of_all, loss, decay, learning_rate, speed)

    def _write_row(
        self, step: int, loss: float, weight_decay_loss: float, learning_rate: float, data_chain: str
    ) -> None:
        figures = {
            "loss": loss,
            "weight_decay_loss": weight_decay_loss,
            "learning_rate": learning_rate,
            "images_per_second": self._rate_of_rows.take(step),
        }
        chain = {"data_chain": data_chain} if data_chain else {}
        self.run.write_metrics(step, {**figures, **chain, **self._skipped(self._training_split)})
        if time.monotonic() - self._last_summary >= self._seconds_between_summaries:
            self._last_summary = time.monotonic()
            self._write_scalars("training", step, figures)

    def validation(
        self, step: int, split: str, scores: AnyScores, plain: AnyScores | None = None, *, is_extra: bool = False
    ) -> None:
        """A line on a validation, and a second one on that of the plain weights.

        Args:
            step: Number of updates made.
            split: That was scored.
            scores: Of the averages of the weights where they are kept, else of the weights.
            plain: Of the weights where averages are kept.
            is_extra: Whether it is outside of the schedule.
        """
        log.info(
            "step %d  %s: %s  loss %.4f without weight decay  (%d images)",
            step,
            split,
            scores.in_words(),
            scores.loss,
            scores.num_examples,
        )
        figures = {**scores.summary(), **scores.measures()}
        if plain is not None:
            log.info(
                "step %d  %s, by the plain weights: %s  loss %.4f; %s, and the averages count",
                step,
                split,
                plain.in_words(),
                plain.loss,
                "they are better" if plain.order() > scores.order() else "they are no better",
            )
            figures |= {f"plain_{name}": value for name, value in plain.measures().items()}
        extra = {"is_extra": True} if is_extra else {}
        self.run.write_metrics(step, {"split": split, **figures, **extra, **self._skipped(split)})
        self._write_scalars(split, step, figures)

    def recalibration(self, step: int, num_batches: int) -> None:
        """Notes that batch norm's statistics were taken anew: steps that are made again to compare do it there, too."""
        self.run.write_metrics(step, {"batch_norm_batches": num_batches})

    def sample_images(self, step: int, images: Tensor) -> None:
        """Shows TensorBoard some images as the network gets them, [B,H,W,C], stretched to the range of a picture."""
        images = images[:NUM_SAMPLE_IMAGES]
        low, high = tf.reduce_min(images), tf.reduce_max(images)
        with self._naming(), self._writer.as_default():
            tf.summary.image("training/images", (images - low) / (high - low), step, max_outputs=NUM_SAMPLE_IMAGES)

    def close(self) -> None:
        """Writes out what is buffered.

        Raises:
            OSError: There is no room for it.
        """
        with self._naming():
            self._writer.close()

    def _naming(self) -> contextlib.AbstractContextManager[None]:
        """TensorFlow alone knows the file's whole name, and tells it of some errors only."""
        return naming(self.run.path / "events.out.tfevents")

    def _skipped(self, split: str) -> dict[str, int]:
        return {"num_skipped": self._num_skipped[split]} if split in self._num_skipped else {}

    def _time_left(self, step: int, images_per_second: float) -> str:
        if self._max_steps is None:
            return ""
        seconds = (self._max_steps - step) * self.images_per_step / images_per_second
        return f"  {format_seconds(seconds)} left"

    def _write_scalars(self, group: str, step: int, figures: dict[str, Any]) -> None:
        scalars = {f"{group}/{name}": value for name, value in figures.items() if value is not None}
        with self._naming(), self._writer.as_default():
            for name, value in scalars.items():
                tf.summary.scalar(name, value, step)
        self._tracked.metrics(step, scalars)
