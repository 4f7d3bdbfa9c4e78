"""Progress on standard error: a bar where it is a terminal, log lines where it is not; a bar in a notebook's cell.

A bar stands for log lines of level INFO. There is none where the logger "finetune" was told to be quieter, as by
`--verbosity=-1`, and lines in its place where the log goes into a file, as by `--log-dir`.
"""

import contextlib
import logging
import sys
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

log = logging.getLogger("finetune")

SECONDS_BETWEEN_LINES = 10.0
# A notebook's page is sent each update of a bar.
SECONDS_BETWEEN_UPDATES = 1.0


@contextlib.contextmanager
def progress(what: str, total: int, unit: str = "images") -> Iterator[Callable[[int], None]]:
    """Shows how far a long piece of work has come; the function it gives is told how many units were just done."""
    console = Console(stderr=True)
    if not ((console.is_terminal or console.is_jupyter) and _is_bar_wanted()):
        yield _lines(what, total, unit)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        _Rate(unit),
        TimeRemainingColumn(),
    )
    bar = Progress(*columns, console=console, transient=True)
    task = bar.add_task(what, total=total)
    if console.is_jupyter:
        with _updated_in_cell(bar, task) as advance:
            yield advance
        return
    with bar:
        yield lambda done: bar.advance(task, done)


@contextlib.contextmanager
def _updated_in_cell(bar: Progress, task: TaskID) -> Iterator[Callable[[int], None]]:
    """Shows a bar in a notebook; rich's own way would need ipywidgets, and send each bar ten times a second."""
    from IPython.display import display  # Which notebooks have.

    shown = display(bar, display_id=True)
    last = time.monotonic()

    def advance(done: int) -> None:
        nonlocal last
        bar.advance(task, done)
        now = time.monotonic()
        if now - last >= SECONDS_BETWEEN_UPDATES:
            last = now
            shown.update(bar)

    yield advance
    shown.update(bar)


def _is_bar_wanted() -> bool:
    goes_to_file = any(getattr(handler, "stream", sys.stderr) is not sys.stderr for handler in log.handlers)
    return log.level <= logging.INFO and not goes_to_file


def format_seconds(seconds: float) -> str:
    """As h:mm:ss."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"


class _Rate(ProgressColumn):
    def __init__(self, unit: str) -> None:
        super().__init__()
        self._unit = unit

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.0f} {self._unit}/s" if task.speed else "")


def _lines(what: str, total: int, unit: str) -> Callable[[int], None]:
    start = last = time.monotonic()
    count = 0

    def advance(done: int) -> None:
        nonlocal count, last
        count += done
        now = time.monotonic()
        if now - last >= SECONDS_BETWEEN_LINES:
            last = now
            rate = count / (now - start)
            left = format_seconds((total - count) / rate) if rate else "?"
            log.info("%s: %d/%d %s, %.0f/s, %s left", what, count, total, unit, rate, left)

    return advance
