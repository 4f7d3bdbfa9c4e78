"""A trace of some steps, for TensorBoard's profiler: what each operation took, and what waited for what."""

import contextlib
import logging
import shlex
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import tensorflow as tf

from finetune.errors import UserError, first_line

log = logging.getLogger("finetune")

TRACES_FOLDER = "plugins/profile"  # Where TensorBoard looks for them.


class Profile:
    """Traces steps of a run, over as many stages as they are of, and ends the trace whatever ends the training."""

    def __init__(self, steps: range, folder: Path) -> None:
        """Begins nothing yet.

        Args:
            steps: Which, counted from 1; empty: none.
            folder: Of the run.
        """
        self._steps = steps
        self._folder = folder
        self._is_checked = self._is_begun = self._is_running = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._is_running:
            log.warning("--profile: the training ended before step %d, and so does the trace.", self._last)
            self._end()
        elif self._steps and not self._is_begun and error is None:
            log.warning("--profile: the training ended before step %d: there is no trace.", self._steps.start)

    @property
    def _last(self) -> int:
        return self._steps.stop - 1

    def check(self, num_made: int, last_step: int | None) -> None:
        """Refuses steps that the run won't make; at its first stage, for how long the others are may change.

        Args:
            num_made: Number of updates made.
            last_step: Number of updates at the end of the run; None: without end.

        Raises:
            UserError: It has made the first of the steps, or won't make the last.
        """
        if not self._steps or self._is_checked:
            return
        self._is_checked = True
        if self._steps.start <= num_made:
            raise UserError(
                f"--profile: the run has made step {self._steps.start}, {num_made} in all.",
                f"Give later steps, such as {num_made + 11}:{num_made + 20}, or leave it out.",
            )
        if last_step is not None and self._last > last_step:
            raise UserError(
                f"--profile: there is no step {self._last}, the run ends with step {last_step}.",
                f"Give steps up to {last_step}, or leave it out.",
            )

    def limits_after(self, num_made: int) -> list[int]:
        """How many steps it is to the next ones that the trace begins or ends between; none: it does no more."""
        ends = (self._steps.start - 1, self._last) if self._steps else ()
        return [end - num_made for end in ends if end > num_made]

    @contextlib.contextmanager
    def steps_after(self, num_made: int) -> Iterator[None]:
        """Around the next steps that are made in one call; the trace begins where they are the first of its own.

        Raises:
            UserError: Another trace is running in this process.
        """
        if num_made + 1 in self._steps and not self._is_begun:
            self._begin()
        if self._is_running:
            with tf.profiler.experimental.Trace("train", step_num=num_made + 1, _r=1):
                yield
        else:
            yield

    def ends_after(self, num_made: int) -> bool:
        """Ends the trace if its last step is made, and writes it; returns whether it did."""
        if not self._is_running or num_made < self._last:
            return False
        self._end()
        return True

    def _begin(self) -> None:
        try:
            tf.profiler.experimental.start(str(self._folder))
        except tf.errors.AlreadyExistsError:
            raise UserError(
                "--profile: another trace is running in this process.", "End it, or leave --profile out."
            ) from None
        self._is_begun = self._is_running = True

    def _end(self) -> None:
        """A trace that can't be written is no reason to end a training."""
        self._is_running = False
        tf.test.experimental.sync_devices()  # What a GPU is still at is of these steps.
        try:
            tf.profiler.experimental.stop()
        except tf.errors.OpError as error:
            log.warning("--profile: the trace can't be written: %s", first_line(error))
            return
        log.info(
            "Trace: steps %d to %d, in %s. To look at it: pip install xprof, tensorboard --logdir %s, page PROFILE.",
            self._steps.start,
            self._last,
            self._folder / TRACES_FOLDER,
            shlex.quote(str(self._folder)),
        )
