"""Ctrl-C and termination: they end a command in good order, and a training after its step; a second one ends at once.

A signal that is ignored when the program starts, as by `nohup` or in the background of a script, stays so.
"""

import contextlib
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

from finetune.errors import Interrupted

EXIT_BY_SIGNAL = 128  # and the signal's number, as shells have it

_SIGNALS = (signal.SIGINT, signal.SIGTERM)

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
    """Turns signals into a request for as long as the context lasts."""
    request = StopRequest()
    with _handled_by(request.make):
        yield request


@contextlib.contextmanager
def ended_by_signals() -> Iterator[None]:
    """Within, a first signal raises `Interrupted`, so that what isn't whole is taken away; a second one ends at once.

    What is left then is what a kill leaves: programs of ours take it away when they are next started.
    """
    is_ending = False

    def end(signal_number: int, frame: FrameType | None) -> None:
        nonlocal is_ending
        if is_ending:
            os._exit(EXIT_BY_SIGNAL + signal_number)
        is_ending = True
        raise Interrupted("stopped; nothing is half written", signal_number)

    with _handled_by(end):
        yield


@contextlib.contextmanager
def _handled_by(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Has a function take the signals while the context lasts, but for those that are ignored."""
    handlers = {number: signal.getsignal(number) for number in _SIGNALS}
    # None: not set from Python. Only its main thread may set them.
    is_main = threading.current_thread() is threading.main_thread()
    before = {number: old for number, old in handlers.items() if is_main and old not in (signal.SIG_IGN, None)}
    for number in before:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)
