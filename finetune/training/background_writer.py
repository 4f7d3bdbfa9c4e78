"""Files written beside the training, in the order in which they were handed over."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any


class BackgroundWriter:
    """Runs one task after another in a thread of its own; what one raises comes up at the next call.

    After a task that failed no other runs: what comes later counts on what came before.

    As a context it waits at its end for what is still to be written, also where an error leaves it.
    """

    def __init__(self) -> None:
        """Starts with nothing to do."""
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="writer")
        self._pending: list[Future[Any]] = []
        self._has_failed = False

    def submit(self, task: Callable[[], Any]) -> None:
        """Puts a task behind those that are pending."""
        self._pending.append(self._thread.submit(self._run, task))

    def wait(self) -> None:
        """Until all is written: so that no more than one snapshot is held in memory at a time.

        Raises:
            Exception: What the first task that failed raised.
        """
        pending, self._pending = self._pending, []
        for task in pending:
            task.result()

    def __enter__(self) -> "BackgroundWriter":
        return self

    def __exit__(self, *exception: object) -> None:
        self._thread.shutdown(wait=True)
        if exception[0] is None:
            self.wait()

    def _run(self, task: Callable[[], Any]) -> None:
        if self._has_failed:
            return
        try:
            task()
        except BaseException:
            self._has_failed = True
            raise
