"""Ends a reading from input workers one of which is gone: TensorFlow would wait for it for ever, without a word."""

import logging
import queue
import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from finetune.datasets.data_service import FLAG, why_not_reached
from finetune.errors import UserError

SECONDS_BETWEEN_LOOKS = 2.0
# With a worker gone there may be some batches on the way still.
SECONDS_WITHOUT_BATCH = 10.0
THREAD_NAME = "finetune-input"

log = logging.getLogger("finetune")


def watched(batches: Iterable[Any], workers: Sequence[str]) -> Iterator[Any]:
    """The same batches, drawn by a thread, for who waits within TensorFlow hears nothing else.

    A worker that is started anew within seconds can be reached again and knows nothing of this reading: so it is tried
    all the time, and not only when batches are late.

    Args:
        batches: Drawn from the input workers.
        workers: `host:port` of each.

    Raises:
        UserError: A worker could not be reached, and no batch comes any more.
    """
    drawn: queue.Queue[tuple[Any, BaseException | None]] = queue.Queue(maxsize=1)
    ended = threading.Event()
    lost: list[str] = []
    threading.Thread(target=_draw, args=(batches, drawn, ended), name=THREAD_NAME, daemon=True).start()
    threading.Thread(target=_look, args=(workers, lost, ended), daemon=True).start()
    try:
        while True:
            yield _next(drawn, lost)
    finally:
        ended.set()


def _next(drawn: "queue.Queue[tuple[Any, BaseException | None]]", lost: Sequence[str]) -> Any:
    while True:
        try:
            batch, error = drawn.get(timeout=SECONDS_WITHOUT_BATCH)
        except queue.Empty:
            if lost:
                raise UserError(
                    f"{FLAG}: input worker {lost[0]} is gone, and the training waits for what it was to make.",
                    f"Start it again by finetune data-service --address {lost[0]}, and the training by --resume.",
                ) from None
            # TensorFlow asks a worker that finds no file again and again, and says nothing here.
            log.warning(
                "%s: no batch came for %g s. Where that goes on, see whether the records lie at the same paths there.",
                FLAG,
                SECONDS_WITHOUT_BATCH,
            )
            continue
        if error is not None:
            raise error
        return batch


def _draw(batches: Iterable[Any], drawn: "queue.Queue[Any]", ended: threading.Event) -> None:
    try:
        for batch in batches:
            if not _put(drawn, (batch, None), ended):
                return
    except BaseException as error:
        _put(drawn, (None, error), ended)


def _put(drawn: "queue.Queue[Any]", item: Any, ended: threading.Event) -> bool:
    """Whether somebody still takes it."""
    while not ended.is_set():
        try:
            drawn.put(item, timeout=SECONDS_BETWEEN_LOOKS)
        except queue.Full:
            continue
        return True
    return False


def _look(workers: Sequence[str], lost: list[str], ended: threading.Event) -> None:
    while not lost and not ended.wait(SECONDS_BETWEEN_LOOKS):
        lost += [address for address in workers if why_not_reached(address) is not None]
