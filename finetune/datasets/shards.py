"""Images to record shards, in several processes; one shard is one task, and no image ever passes between processes."""

import functools
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from finetune.datasets.folders import canonical_name, readable_name
from finetune.datasets.image_rules import ImageRules
from finetune.datasets.images import BrokenImageError, prepare_image, read_image_file
from finetune.datasets.processes import work_on_images
from finetune.datasets.records import Record, encode_record
from finetune.datasets.tfrecord import RecordWriter


@dataclass(frozen=True)
class ShardTask:
    """What to write into one shard.

    Attributes:
        split: The shard's split.
        name: The shard's file name.
        files: Image files relative to the image folder, in the order of the records.
        labels: Their classes; where an image has any number of labels all of each file's.
        weights: How much they count in training; empty: images have no weights.
        groups: Which images they stay together with, '' where an image is by itself; empty: all are.
        classes: Where an image has any number of labels the names of all classes, which records hold, too.
    """

    split: str
    name: str
    files: tuple[str, ...]
    labels: tuple[int | tuple[int, ...], ...]
    weights: tuple[float, ...] = ()
    groups: tuple[str, ...] = ()
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
    task: ShardTask, on_image: Callable[[], None], *, images_dir: Path, output_dir: Path, rules: ImageRules
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
                group = task.groups[index] if task.groups else ""
                texts = tuple(task.classes[each] for each in label) if isinstance(label, tuple) else ()
                record = Record(
                    *(image.encoded, image.format, label, image.height, image.width, name, weight, group, texts)
                )
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
    write = functools.partial(write_shard, images_dir=images_dir, output_dir=output_dir, rules=rules)
    sizes = [len(task.files) for task in tasks]
    return work_on_images(write, tasks, sizes, num_workers=num_workers, on_progress=on_progress)
