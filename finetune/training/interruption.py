"""Ctrl-C and termination as a request: the step under way is finished and the state is saved."""

import contextlib
import logging
import signal
import threading
from collections.abc import Iterator
from types import FrameType

from finetune.errors import Interrupted

log = logging.getLogger("finetune")


class StopRequest:
    """Whether the user asked to stop.

    Attributes:
        signal_number: Of the signal that asked; None: nobody did.
    """

    def __init__(self) -> None:
        self.signal_number: int | None = None

    @property
    def is_made(self) -> bool:
        """Whether there was a signal."""
        return self.signal_number is not None

    def make(self, signal_number: int, frame: FrameType | None) -> None:
        """Takes a signal; a second one stops at once."""
        if self.is_made:
            raise Interrupted("stopped at once, without a checkpoint of the last steps", signal_number)
        self.signal_number = signal_number
        log.info("Stopping after this step; once more to stop at once.")


@contextlib.contextmanager
def stop_request() -> Iterator[StopRequest]:
    """Turns SIGINT and SIGTERM into a request for as long as the context lasts."""
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request  # Python delivers signals to the main thread alone.
        return
    previous = {number: signal.signal(number, request.make) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield request
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
