"""`--time-limit`: whether there is time for what is still to be done."""

import contextlib
import time
from collections.abc import Iterator


class TimeLimit:
    """A time after which a training is to be through, validated and all.

    What is done again and again is measured, and the time of another round of it is kept free: a call of several steps,
    and the validation after them. How long the first of each will take isn't known; a limit may be passed by that.
    """

    def __init__(self, seconds: float | None, started: float) -> None:
        """Sets a limit.

        Args:
            seconds: None: there is none.
            started: Since when, by `time.monotonic`.
        """
        self._end = started + seconds if seconds is not None else None
        self._seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def taking(self, what: str) -> Iterator[None]:
        """Around what takes time, of which the last time counts."""
        start = time.monotonic()
        yield
        self._seconds[what] = time.monotonic() - start

    def is_up(self) -> bool:
        """Whether another round would end after the limit."""
        return self._end is not None and time.monotonic() + sum(self._seconds.values()) > self._end
