"""Does the device wait for its input? Told once, with the rates of both."""

import contextlib
import logging
import time
from collections.abc import Iterator

log = logging.getLogger("finetune")

# Where less of the time is waited for input, mending it would gain little.
STARVED_SHARE = 0.25
# Fewer steps say nothing: the first batches wait for files to be opened and threads to start.
LEAST_STEPS = 20


class InputWatch:
    """Adds up the time that steps wait for input, and the time that they take."""

    def __init__(self, images_per_step: int) -> None:
        """Begins with no step.

        Args:
            images_per_step: Of all devices.
        """
        self._images_per_step = images_per_step
        self._is_told = False
        self.restart()

    def restart(self) -> None:
        """Forgets what was measured: after the first step, most of whose time is tracing."""
        self._num_steps = 0
        self._waiting_seconds = 0.0
        self._working_seconds = 0.0

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Around the wait for a step's input."""
        start = time.perf_counter()
        yield
        self._waiting_seconds += time.perf_counter() - start

    @contextlib.contextmanager
    def working(self, num_steps: int = 0) -> Iterator[None]:
        """Around steps, and around what waits for their results."""
        start = time.perf_counter()
        yield
        self._working_seconds += time.perf_counter() - start
        self._num_steps += num_steps

    def report(self) -> None:
        """Warns, once in a run, where too much of the time since `restart` was spent on waiting."""
        seconds = self._waiting_seconds + self._working_seconds
        if self._is_told or self._num_steps < LEAST_STEPS or self._waiting_seconds < STARVED_SHARE * seconds:
            return
        self._is_told = True
        num_images = self._num_steps * self._images_per_step
        log.warning(
            "Training waits for its input %.0f %% of the time: %.0f images/s come, steps alone would take %.0f. "
            "--cache-features N computes frozen layers once; --augmentation crop or flip costs less.",
            100 * self._waiting_seconds / seconds,
            num_images / seconds,
            num_images / self._working_seconds,
        )
