"""`finetune-train PHOTOS`: photographs become records beside the run, once, and again where something has changed.

Records of PHOTOS lie in `records/NAME-HASH` beside the runs' folders; the hash is of their place and of the settings of
the conversion. In that folder `photographs.json` holds what they were made of, and as what:

    made_with      the program's version, that of the data set's description, settings, and where the photographs are
    photographs    of each image its split, class, size in bytes and time of modification in nanoseconds, and its weight
                   and group where a table gives such
    records        of each file of the records its size and time of modification

Where one of them isn't what it was, the photographs are converted anew: that takes seconds, and no guess.
"""

import contextlib
import dataclasses
import hashlib
import itertools
import json
import logging
import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from finetune import __version__
from finetune.commands.conversion import summary_text
from finetune.commands.conversion_plan import find_images, name_of_folder
from finetune.commands.convert import convert
from finetune.datasets.catalogue import ARCHIVE_SUFFIXES
from finetune.datasets.description import VERSION
from finetune.datasets.folders import ImageFolder
from finetune.errors import UserError
from finetune.files.folder_lock import sole_writer
from finetune.files.json_files import read_json
from finetune.files.whole_files import gone_if_empty, uncompleted_sets, write_json
from finetune.notices import few
from finetune.remote.urls import named
from finetune.settings.choices import SINGLE_LABEL
from finetune.settings.convert import ConvertSettings
from finetune.settings.flags import flags_of
from finetune.settings.photographs import PhotographSettings
from finetune.settings.settings_file import to_toml_table
from finetune.settings.train import TrainSettings

RUNS_FOLDER = Path("runs")
RECORDS_FOLDER = "records"
MADE_OF_FILE = "photographs.json"
MADE_OF_SHAPE = {"made_with": {...: str}, "photographs": {...: str}, "records": {...: str}}
MOST_NAME_LETTERS = 40  # Of a name that others are made of.
HASH_DIGITS = 8

# Flags of a conversion that lie beside the images, or change no record.
BESIDE_THE_RECORDS = (
    *("dataset_dir", "images_dir", "labels_csv", "label_columns", "label_separator", "workers", "overwrite"),
    # Always their defaults here: records that were made before there were any are still right.
    *("on_duplicate", "find_near_duplicates", "duplicate_similarity"),
)

log = logging.getLogger("finetune")


@contextlib.contextmanager
def run_folder_chosen(settings: TrainSettings) -> Iterator[TrainSettings]:
    """The settings with the folder of the run: as given, else runs/PHOTOS-N with the first N that is free.

    A new folder goes with an exception that leaves it empty.

    Raises:
        UserError: It can't be made.
    """
    photographs = settings.source.photographs_path
    if settings.run.train_dir is not None or photographs is None:
        yield _with_run(settings, settings.run.folder)
        return
    with gone_if_empty(RUNS_FOLDER):
        path = _make_next(RUNS_FOLDER, _name(photographs))
        log.info("The run's folder: %s", path)
        try:
            yield _with_run(settings, path)
        except BaseException:
            with contextlib.suppress(OSError):  # It holds something.
                path.rmdir()
            raise


def on_records(settings: TrainSettings) -> TrainSettings:
    """The settings with records in place of photographs: those that were made of them, if nothing has changed.

    A run that goes on keeps its own records, whatever has become of the photographs.

    Raises:
        UserError: As `convert`; the run's folder lies among the photographs; the run that goes on has other ones.
    """
    photographs = settings.source.photographs_path
    if photographs is None:
        return settings
    beside = settings.run.train_dir.parent if settings.run.train_dir is not None else RUNS_FOLDER
    conversion = _conversion(settings, photographs, beside / RECORDS_FOLDER)
    if settings.run.resume:
        records = settings.data.dataset_dir or conversion.dataset_dir
        _check_own(records, conversion, photographs)
    else:
        records = conversion.dataset_dir
        _refuse_within(beside, photographs)
        with sole_writer(records, flag="--train-dir", program="finetune-train", wait=True):
            _convert_if_changed(conversion, photographs)
    report = True if settings.run.report is None else settings.run.report
    return dataclasses.replace(
        settings,
        source=PhotographSettings(),
        data=dataclasses.replace(settings.data, dataset_dir=records),
        run=dataclasses.replace(settings.run, report=report),
    )


def _with_run(settings: TrainSettings, train_dir: Path) -> TrainSettings:
    return dataclasses.replace(settings, run=dataclasses.replace(settings.run, train_dir=train_dir))


def _make_next(folder: Path, name: str) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for number in itertools.count(1):
            path = folder / f"{name}-{number}"
            with contextlib.suppress(FileExistsError):
                path.mkdir()
                return path
    except OSError as error:
        raise UserError(f"{folder} can't be written: {error.strerror}.", "Give a folder by --train-dir.") from error
    raise AssertionError("numbers don't end")


def _name(photographs: Path) -> str:
    resolved = photographs.resolve()
    return name_of_folder(resolved.with_suffix("") if resolved.is_file() else resolved)[:MOST_NAME_LETTERS]


def _conversion(settings: TrainSettings, photographs: Path, folder: Path) -> ConvertSettings:
    """What finetune-convert would be told, by its own defaults but for what finetune-train was told."""
    is_table = photographs.is_file() and not photographs.name.lower().endswith(ARCHIVE_SUFFIXES)
    conversion = ConvertSettings(
        dataset_dir=folder,
        images_dir=photographs.parent if is_table else photographs,
        labels_csv=photographs if is_table else None,
        task=settings.data.task,
        validation_fraction=settings.source.validation_fraction,
        group_by=settings.source.group_by,
        on_corrupt=settings.data.on_corrupt,
        overwrite=True,
    )
    digest = hashlib.sha256(json.dumps(_made_with(conversion)).encode()).hexdigest()[:HASH_DIGITS]
    return dataclasses.replace(conversion, dataset_dir=folder / f"{_name(photographs)}-{digest}")


def _made_with(conversion: ConvertSettings) -> dict[str, str]:
    table = {name: value for name, value in to_toml_table(conversion).items() if name not in BESIDE_THE_RECORDS}
    if conversion.task == SINGLE_LABEL:
        del table["task"]  # Records of older versions, which knew no other task, keep their name.
    source = conversion.labels_csv or conversion.images_dir
    return {**{name: str(value) for name, value in table.items()}, "source": named(source.resolve()) if source else ""}


def _check_own(records: Path, conversion: ConvertSettings, photographs: Path) -> None:
    """By name: a run may have been moved with its records, or be resumed from another folder."""
    if records.name != conversion.dataset_dir.name:
        raise UserError(
            f"--resume: the run was not begun from {photographs}, with these settings: its records are {records}, and "
            f"theirs would be {conversion.dataset_dir.name}.",
            "Leave out PHOTOS: a run goes on with its own records.",
        )
    log.info("The run goes on with its own records, %s: %s is not looked at.", records, photographs)


def _refuse_within(runs: Path, photographs: Path) -> None:
    """A run's plots, and pictures of its report, would be taken for a class. A table says itself which images count."""
    if photographs.is_dir() and runs.resolve().is_relative_to(photographs.resolve()):
        raise UserError(
            f"The run and its records would lie in {runs.resolve()}, among the photographs of {photographs}.",
            "Give a folder outside of them by --train-dir, or begin from another folder.",
        )


def _convert_if_changed(conversion: ConvertSettings, photographs: Path) -> None:
    records = conversion.dataset_dir
    try:
        now = _made_of(conversion)
        change = change_of(records, now)
        if change is None:
            log.info("%s: nothing has changed since it was converted, its records are %s", photographs, records)
            return
        log.info("%s: %s; its records will be %s", photographs, change, records)
        converted = convert(conversion)
    except UserError as error:
        raise _advised(error, conversion) from error
    write_json(records / MADE_OF_FILE, {**now, "records": state_of_records(records)})
    log.info("%s", summary_text(converted))


def _made_of(conversion: ConvertSettings) -> dict[str, dict[str, str]]:
    assert conversion.images_dir is not None
    found = find_images(conversion.images_dir, conversion)
    return {
        "made_with": {"finetune": __version__, "description": str(VERSION), **_made_with(conversion)},
        "photographs": {
            file: f"{split} {label} {state_of_file(found.root / file)}"
            + (f" weight {found.weights[file]}" if found.weights else "")
            + (f" group {found.groups[file]}" if found.groups else "")
            for split, label, file in _labelled(found)
        },
    }


def _labelled(found: ImageFolder) -> Iterator[tuple[str, str, str]]:
    """Split, label and name of each file; several labels as one text."""
    if found.labels:
        return ((split, json.dumps(found.labels[file]), file) for split in found.files for file in found.files[split])
    return (
        (split, class_name, file)
        for split, classes in found.splits.items()
        for class_name, files in classes.items()
        for file in files
    )


def state_of_file(path: Path) -> str:
    """Size in bytes and time of modification in nanoseconds: what changes with a file."""
    try:
        stat = path.stat()
    except OSError:  # A link that leads nowhere: the conversion tells.
        return "gone"
    return f"{stat.st_size} {stat.st_mtime_ns}"


def state_of_records(records: Path) -> dict[str, str]:
    """Of each file of records its `state_of_file`, by its name."""
    files = sorted(path for path in records.iterdir() if not path.name.startswith(".") and path.name != MADE_OF_FILE)
    return {path.name: state_of_file(path) for path in files}


def change_of(records: Path, now: Mapping[str, Mapping[str, str]]) -> str | None:
    """Why records are to be made: what isn't what it was, in words; None: all is."""
    if not (records / MADE_OF_FILE).exists():
        return "to be converted"
    try:
        before: Any = read_json(records / MADE_OF_FILE, MADE_OF_SHAPE)
    except UserError as error:
        return f"to be converted anew, since {str(error).rstrip('.')}"
    if uncompleted_sets(records) or before["records"] != state_of_records(records):
        return "to be converted anew, since its records aren't what they were when they were made"
    if before["made_with"] != now["made_with"]:
        return "to be converted anew, as this program does it"
    old, new = before["photographs"], now["photographs"]
    changes = {
        "new": sorted(new.keys() - old.keys()),
        "changed": sorted(file for file in new.keys() & old.keys() if new[file] != old[file]),
        "gone": sorted(old.keys() - new.keys()),
    }
    parts = [f"{len(files):,} {what} ({few(files)})" for what, files in changes.items() if files]
    return f"to be converted anew, since of its images are {', '.join(parts)}" if parts else None


def _advised(error: UserError, conversion: ConvertSettings) -> UserError:
    """The mistake with a way on where its advice is for finetune-convert, some of whose flags finetune-train lacks."""
    named = set(re.findall(r"--[a-z][a-z-]*", str(error)))
    theirs = {flag.option for flag in flags_of(ConvertSettings)} - {flag.option for flag in flags_of(TrainSettings)}
    foreign = sorted(named & theirs - {"--validation-size"})  # Which is named beside --validation-fraction.
    if foreign:
        words = ["finetune-convert", "--images-dir", str(conversion.images_dir), "--dataset-dir", "RECORDS"]
        words += ["--labels-csv", str(conversion.labels_csv)] if conversion.labels_csv is not None else []
        return UserError(
            str(error),
            f"{' and '.join(foreign)}: of finetune-convert. Run {shlex.join(words)} with what is needed, and give "
            "finetune-train --dataset-dir RECORDS in place of the photographs.",
        )
    if "--dataset-dir" in named:
        return UserError(
            str(error), f"{conversion.dataset_dir} is made of the photographs alone: it can be moved away, or removed."
        )
    return error
