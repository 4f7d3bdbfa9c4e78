"""Images to record shards, in several processes; one shard is one task, and no image ever passes between processes."""

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import types
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from finetune.datasets.folders import canonical_name, readable_name
from finetune.datasets.image_rules import ImageRules
from finetune.datasets.images import BrokenImageError, prepare_image, read_image_file
from finetune.datasets.records import Record, encode_record
from finetune.datasets.tfrecord import RecordWriter
from finetune.errors import UserError

IMAGES_PER_PROCESS = 500  # A new process costs as much time as some hundred images.
PROGRESS_SECONDS = 0.2


@dataclass(frozen=True)
class ShardTask:
    """What to write into one shard.

    Attributes:
        split: The shard's split.
        name: The shard's file name.
        files: Image files relative to the image folder, in the order of the records.
        labels: Their classes; where an image has any number of labels all of each file's.
        weights: How much they count in training; empty: images have no weights.
        classes: Where an image has any number of labels the names of all classes, which records hold, too.
    """

    split: str
    name: str
    files: tuple[str, ...]
    labels: tuple[int | tuple[int, ...], ...]
    weights: tuple[float, ...] = ()
    classes: tuple[str, ...] = ()


@dataclass
class ShardReport:
    """What became of a shard.

    Attributes:
        task: What was to be written.
        num_bytes: The size of the shard.
        sha256: The hash of the shard.
        written: Which of the task's files it holds, by index.
        fingerprints: Of the files written (see images.PreparedImage).
        formats: How many records of each format.
        reencoded: How many images were encoded anew, by what they were before.
        changed: How many images were changed, by what was done (see images.PreparedImage).
        corrupt: File and reason of each that can't be read.
    """

    task: ShardTask
    num_bytes: int = 0
    sha256: str = ""
    written: list[int] = field(default_factory=list)
    fingerprints: list[bytes] = field(default_factory=list)
    formats: Counter[str] = field(default_factory=Counter)
    reencoded: Counter[str] = field(default_factory=Counter)
    changed: Counter[str] = field(default_factory=Counter)
    corrupt: list[tuple[str, str]] = field(default_factory=list)


def labels_of(label: int | tuple[int, ...]) -> tuple[int, ...]:
    """All labels of a file of a task."""
    return label if isinstance(label, tuple) else (label,)


def write_shard(
    task: ShardTask, images_dir: Path, output_dir: Path, rules: ImageRules, on_image: Callable[[], None]
) -> ShardReport:
    """Writes one shard, an image at a time; `on_image` is called after each."""
    report = ShardReport(task)
    with RecordWriter(output_dir / task.name) as writer:
        for index, (file, label) in enumerate(zip(task.files, task.labels, strict=True)):
            try:
                image = prepare_image(read_image_file(images_dir / file, rules), rules)
            except BrokenImageError as error:
                report.corrupt.append((readable_name(file), str(error)))
            else:
                name, weight = canonical_name(file), task.weights[index] if task.weights else None
                texts = tuple(task.classes[each] for each in label) if isinstance(label, tuple) else ()
                record = Record(image.encoded, image.format, label, image.height, image.width, name, weight, texts)
                writer.write(encode_record(record))
                report.written.append(index)
                report.fingerprints.append(image.fingerprint)
                report.formats[image.format] += 1
                if image.reencoded_from:
                    report.reencoded[image.reencoded_from] += 1
                report.changed.update(image.changes)
            on_image()
    report.num_bytes = writer.num_bytes
    report.sha256 = writer.sha256()
    return report


def write_shards(
    tasks: Sequence[ShardTask],
    images_dir: Path,
    output_dir: Path,
    rules: ImageRules,
    *,
    num_workers: int | None,
    on_progress: Callable[[int], None],
) -> list[ShardReport]:
    """Writes all shards; reports come in the order of the tasks, however many processes there are.

    Args:
        tasks: One for each shard.
        images_dir: What the tasks' files are relative to.
        output_dir: Where the shards are written.
        rules: How the images become pixels of 8 bits.
        num_workers: How many processes; None: one for each core where there is enough to do.
        on_progress: Called now and then with the number of images done since the last call.

    Raises:
        UserError: A worker process was killed.
    """
    num_images = sum(len(task.files) for task in tasks)
    if num_workers is None:
        num_workers = min(num_cores(), 1 + num_images // IMAGES_PER_PROCESS)
    num_workers = min(num_workers, len(tasks))
    if num_workers > 1:
        return _write_in_processes(tasks, images_dir, output_dir, rules, num_workers, on_progress)
    return [write_shard(task, images_dir, output_dir, rules, lambda: on_progress(1)) for task in tasks]


def _write_in_processes(
    tasks: Sequence[ShardTask],
    images_dir: Path,
    output_dir: Path,
    rules: ImageRules,
    num_workers: int,
    on_progress: Callable[[int], None],
) -> list[ShardReport]:
    # Spawned, not forked: the caller may have threads, TensorFlow's among them, which a fork would leave in mid-step.
    context = multiprocessing.get_context("spawn")
    num_done, is_cancelled = context.Value("q", 0), context.Event()
    executor = ProcessPoolExecutor(num_workers, context, _start_worker, (num_done, is_cancelled))
    # The longest shards first, so that the last to end are short ones.
    order = sorted(range(len(tasks)), key=lambda index: -len(tasks[index].files))
    try:
        with _interrupts_held_back(), _main_module_hidden():
            futures = {
                index: executor.submit(_write_in_worker, tasks[index], images_dir, output_dir, rules) for index in order
            }
        pending: set[Future[ShardReport]] = set(futures.values())
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


def _write_in_worker(task: ShardTask, images_dir: Path, output_dir: Path, rules: ImageRules) -> ShardReport:
    def count() -> None:
        with _num_done.get_lock():
            _num_done.value += 1
        if _is_cancelled.is_set():
            raise _CancelledError

    return write_shard(task, images_dir, output_dir, rules, count)


def num_cores() -> int:
    """The cores this process may use, which can be fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
