"""The same pass on several devices of a process, which take batches in turn; what they make of them keeps its order."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Outcome = TypeVar("Outcome")


def in_turn(functions: Sequence[Callable[[Item], Outcome]], items: Iterable[Item]) -> Iterator[tuple[Item, Outcome]]:
    """Each item with what a function makes of it, in the order of the items.

    The first item goes to the first function, the next to the next: which device computes what doesn't hang on how fast
    they are. A function works on one item at a time, each in a thread of its own, where there are several.

    Args:
        functions: One for each device.
        items: Read some ahead of the outcomes: one for each device.
    """
    if len(functions) == 1:
        for item in items:
            yield item, functions[0](item)
        return
    threads = [ThreadPoolExecutor(1) for _ in functions]
    pending: deque[tuple[Item, Future[Outcome]]] = deque()
    try:
        for number, item in enumerate(items):
            place = number % len(functions)
            pending.append((item, threads[place].submit(functions[place], item)))
            if len(pending) > len(functions):
                yield _next_done(pending)
        while pending:
            yield _next_done(pending)
    finally:
        for thread in threads:
            thread.shutdown(cancel_futures=True)


def _next_done(pending: deque[tuple[Item, Future[Outcome]]]) -> tuple[Item, Outcome]:
    item, future = pending.popleft()
    return item, future.result()
