"""`--unlabeled-dir`: photographs become records beside the run, once, and again where something has changed.

They lie in `records/NAME-unlabeled-HASH` beside the runs' folders, with what they were made of in photographs.json, as
records of PHOTOS do (see photographs.py). They have the label -1, which is no class.
"""

import dataclasses
import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from finetune import __version__
from finetune.commands.conversion_plan import name_of_folder
from finetune.commands.photographs import (
    HASH_DIGITS,
    MADE_OF_FILE,
    MOST_NAME_LETTERS,
    RECORDS_FOLDER,
    change_of,
    state_of_file,
    state_of_records,
)
from finetune.datasets.catalogue import catalogue_shards
from finetune.datasets.description import VERSION
from finetune.datasets.image_rules import ImageRules
from finetune.datasets.image_walk import found_folder, walk_images
from finetune.datasets.shards import ShardReport, ShardTask, write_shards
from finetune.datasets.splits import shuffled
from finetune.datasets.unlabelled import UNLABELLED_SPLIT, find_unlabelled, told, without_training_images
from finetune.errors import UserError
from finetune.files.folder_lock import sole_writer
from finetune.files.whole_files import whole_folder, write_json
from finetune.notices import few
from finetune.progress import progress
from finetune.remote.urls import named
from finetune.settings.choices import MAX_IMAGES_PER_SHARD, MIN_SHARDS
from finetune.settings.train import TrainSettings
from finetune.training.training_data import TrainingData

NO_CLASS = -1

log = logging.getLogger("finetune")


def with_unlabelled(settings: TrainSettings, data: TrainingData) -> tuple[TrainSettings, TrainingData]:
    """The settings with records in place of unlabelled photographs, and the data with the images of these records.

    Images that are trained on with their labels are left out, which is said.

    Raises:
        UserError: There are none; one can't be read, unless it is to be left out.
    """
    folder, split = settings.pseudo.unlabeled_dir, settings.pseudo.unlabeled_split
    if folder is None:
        return settings, data
    if _holds_photographs(folder):
        if split is not None:
            raise UserError(
                f"--unlabeled-split is of records, and {folder} holds photographs.", "Leave it out: all of them count."
            )
        folder = _records_of(folder, settings, data.training.image_rules)
    is_of_training = settings.data.dataset_dir is not None and folder.resolve() == settings.data.dataset_dir.resolve()
    name = settings.data.dataset_name if is_of_training else None
    images = find_unlabelled(folder, name, split, settings.data.image_key, settings.data.on_corrupt)
    if settings.data.on_corrupt == "skip":
        from finetune.datasets.unlabelled_batches import without_undecodable_images

        images = without_undecodable_images(images)
    images, dropped = without_training_images(images, data.training, data.validation)
    if not images.records:
        raise UserError(
            f"--unlabeled-dir: all {len(dropped)} images of {images.source} are trained on with their labels.",
            "Give a folder of other images, or leave it out.",
        )
    for line in told(images, dropped):
        log.info("%s", line)
    pseudo = dataclasses.replace(settings.pseudo, unlabeled_dir=folder)
    return dataclasses.replace(settings, pseudo=pseudo), dataclasses.replace(data, unlabelled=images)


def _holds_photographs(folder: Path) -> bool:
    """Whether a folder holds images, and no records."""
    if not folder.is_dir():
        raise UserError(f"--unlabeled-dir: there is no folder {folder}.")
    return not catalogue_shards(folder) and any(found.reason is None for found in walk_images(found_folder(folder)))


def _records_of(photographs: Path, settings: TrainSettings, rules: ImageRules) -> Path:
    made_with = {
        "source": named(photographs.resolve()),
        "on_corrupt": settings.data.on_corrupt,
        "rules": json.dumps(rules.to_json()),
    }
    digest = hashlib.sha256(json.dumps(made_with).encode()).hexdigest()[:HASH_DIGITS]
    name = name_of_folder(photographs)[:MOST_NAME_LETTERS]
    records = settings.run.folder.parent / RECORDS_FOLDER / f"{name}-{UNLABELLED_SPLIT}-{digest}"
    with sole_writer(records, flag="--train-dir", program="finetune-train", wait=True):
        now = _made_of(photographs, made_with)
        change = change_of(records, now)
        if change is None:
            log.info("%s: nothing has changed since it was converted, its records are %s", photographs, records)
            return records
        log.info("%s: %s; its records will be %s", photographs, change, records)
        _convert(photographs, list(now["photographs"]), records, name, rules, settings.data.on_corrupt)
        write_json(records / MADE_OF_FILE, {**now, "records": state_of_records(records)})
    return records


def _made_of(photographs: Path, made_with: Mapping[str, str]) -> dict[str, dict[str, str]]:
    paths = [found.path for found in walk_images(found_folder(photographs)) if found.reason is None]
    return {
        "made_with": {"finetune": __version__, "description": str(VERSION), **made_with},
        "photographs": {path.relative_to(photographs).as_posix(): state_of_file(path) for path in paths},
    }


def _convert(
    photographs: Path, files: Sequence[str], records: Path, name: str, rules: ImageRules, on_corrupt: str
) -> None:
    """All of it is written, or nothing."""
    tasks = _plan(files, name)
    try:
        with whole_folder(records) as staging, progress("Converting", len(files)) as advance:
            reports = write_shards(tasks, photographs, staging, rules, num_workers=None, on_progress=advance)
            _tell_corrupt(reports, len(files), on_corrupt)
    except OSError as error:
        raise UserError(f"--unlabeled-dir: converting into {records} failed: {error}.") from error
    num_written = sum(len(report.written) for report in reports)
    log.info("Converted %d unlabelled images into %s.", num_written, records)


def _plan(files: Sequence[str], name: str) -> list[ShardTask]:
    """Shuffled into shards of equal size, as those of images with labels."""
    in_order = shuffled(files, seed=0)
    num_shards = min(max(MIN_SHARDS, -(-len(files) // MAX_IMAGES_PER_SHARD)), len(files))
    tasks = []
    for index in range(num_shards):
        part = in_order[len(files) * index // num_shards : len(files) * (index + 1) // num_shards]
        shard = f"{name}_{UNLABELLED_SPLIT}_{index:05d}-of-{num_shards:05d}.tfrecord"
        tasks.append(ShardTask(UNLABELLED_SPLIT, shard, tuple(part), (NO_CLASS,) * len(part)))
    return tasks


def _tell_corrupt(reports: Sequence[ShardReport], num_images: int, on_corrupt: str) -> None:
    corrupt = sorted(found for report in reports for found in report.corrupt)
    if not corrupt:
        return
    names = few([f"{file}: {reason}" for file, reason in corrupt], separator="\n  ")
    what = f"{len(corrupt)} of {num_images} unlabelled files can't be read as images"
    if on_corrupt == "fail" or len(corrupt) == num_images:
        raise UserError(
            f"--unlabeled-dir: {what}; nothing was written:\n  {names}",
            "Mend or remove them, or leave them out with --on-corrupt skip.",
        )
    log.warning("--on-corrupt skip: %s and are left out:\n  %s", what, names)
