"""Work on many images in several processes; no image ever passes between them."""

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import types
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from finetune.errors import UserError

IMAGES_PER_PROCESS = 500  # A new process costs as much time as some hundred images.
PROGRESS_SECONDS = 0.2

Task = TypeVar("Task")
Result = TypeVar("Result")
# What is done with a task; it calls the function that it is given after each image.
Work = Callable[[Task, Callable[[], None]], Result]


def work_on_images(
    work: Work[Task, Result],
    tasks: Sequence[Task],
    sizes: Sequence[int],
    *,
    num_workers: int | None,
    on_progress: Callable[[int], None],
) -> list[Result]:
    """Does all tasks; results come in the order of the tasks, however many processes there are.

    Args:
        work: Done with each task, in another process perhaps: what it holds can be pickled.
        tasks: Each is one process's affair.
        sizes: Of each task the number of images.
        num_workers: How many processes; None: one for each core where there is enough to do.
        on_progress: Called now and then with the number of images done since the last call.

    Raises:
        UserError: A worker process was killed.
    """
    if num_workers is None:
        num_workers = min(num_cores(), 1 + sum(sizes) // IMAGES_PER_PROCESS)
    num_workers = min(num_workers, len(tasks))
    if num_workers > 1:
        return _in_processes(work, tasks, sizes, num_workers, on_progress)
    return [work(task, lambda: on_progress(1)) for task in tasks]


def _in_processes(
    work: Work[Task, Result],
    tasks: Sequence[Task],
    sizes: Sequence[int],
    num_workers: int,
    on_progress: Callable[[int], None],
) -> list[Result]:
    # Spawned, not forked: the caller may have threads, TensorFlow's among them, which a fork would leave in mid-step.
    context = multiprocessing.get_context("spawn")
    num_done, is_cancelled = context.Value("q", 0), context.Event()
    executor = ProcessPoolExecutor(num_workers, context, _start_worker, (num_done, is_cancelled))
    # The longest tasks first, so that the last to end are short ones.
    order = sorted(range(len(tasks)), key=lambda index: -sizes[index])
    try:
        with _interrupts_held_back(), _main_module_hidden():
            futures = {index: executor.submit(_work_in_worker, work, tasks[index]) for index in order}
        pending: set[Future[Result]] = set(futures.values())
        num_shown = 0
        while pending:
            done, pending = wait(pending, timeout=PROGRESS_SECONDS, return_when=FIRST_COMPLETED)
            while done:
                done.pop().result()  # Its error, if any, at once.
            now_done = num_done.value
            on_progress(now_done - num_shown)
            num_shown = now_done
        return [futures[index].result() for index in range(len(tasks))]
    except BrokenProcessPool as error:
        raise UserError(
            "A worker process ended before its work was done: it was killed, for want of memory perhaps.",
            "Work in one process: --workers 1.",
        ) from error
    finally:
        is_cancelled.set()
        executor.shutdown(cancel_futures=True)
        # An error holds these variables, and they it: what the processes share would outlive the program's end.
        futures, pending, done = {}, set(), set()


@contextlib.contextmanager
def _interrupts_held_back() -> Iterator[None]:
    """Processes started in this context never see Ctrl-C, which a terminal sends to them too: the parent ends them."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)


@contextlib.contextmanager
def _main_module_hidden() -> Iterator[None]:
    """Processes spawned in this context don't run the program's main module anew: they need nothing of it.

    A script of three lines, without `if __name__ == "__main__":`, would begin once more in each of them.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


class _CancelledError(Exception):
    """Ends a worker's task early: the parent no longer wants its result."""


_num_done: Any = None
_is_cancelled: Any = None


def _start_worker(num_done: Any, is_cancelled: Any) -> None:
    global _num_done, _is_cancelled  # Locks can be handed to a process only when it starts.
    _num_done, _is_cancelled = num_done, is_cancelled
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A parent that is killed can't end its workers; they watch it."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _work_in_worker(work: Work[Task, Result], task: Task) -> Result:
    def count() -> None:
        with _num_done.get_lock():
            _num_done.value += 1
        if _is_cancelled.is_set():
            raise _CancelledError

    return work(task, count)


def num_cores() -> int:
    """The cores this process may use, which can be fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
