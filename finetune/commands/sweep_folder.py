"""The folder of a sweep: begun, or gone on with by the settings that it was begun with."""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import tomli_w

from finetune.errors import UserError
from finetune.files.folder_lock import sole_use
from finetune.files.whole_files import gone_if_empty, make_writable, write_text
from finetune.files.write_errors import write_errors_told
from finetune.notices import few
from finetune.settings.flags import dashed, flags_of, flat_values
from finetune.settings.gpus import GpuSettings
from finetune.settings.settings_file import SWEEP_FILE, plain_value, read_toml
from finetune.settings.train import TrainSettings

# What a command does once, and where: no setting of a sweep.
_OF_MACHINE = tuple(flag.name for flag in flags_of(GpuSettings))
_ONCE = ("resume", "verify", "allow_changed", "time_limit", "trust_code", "train_dir", *_OF_MACHINE)
# More trials may be asked for, and records are known by then.
_MAY_CHANGE = ("trials", "dataset_dir", "track")


@contextlib.contextmanager
def begun_sweep(settings: TrainSettings, folder: Path, records: Path) -> Iterator[None]:
    """Makes the folder, for one program at a time, and notes there what the sweep was given.

    Args:
        settings: Of the sweep.
        folder: Of the sweep.
        records: That its trials are trained on.

    Raises:
        UserError: It can't be written; it holds something else; the sweep that goes on was given something else.
    """
    _check(settings, folder)
    with gone_if_empty(folder), write_errors_told():
        try:
            make_writable(folder)
        except OSError as error:
            raise UserError(
                f"--train-dir: {folder} can't be written: {error.strerror}.", "Give another --train-dir."
            ) from error
        with sole_use(folder, flag="--train-dir", program="finetune-train"):
            _check(settings, folder)  # Anew: another program may just have ended.
            write_text(folder / SWEEP_FILE, tomli_w.dumps({**_table(settings.given), "dataset_dir": str(records)}))
            yield


def _check(settings: TrainSettings, folder: Path) -> None:
    there = (folder / SWEEP_FILE).is_file()
    if settings.run.resume and there:
        _refuse_changes(_table(read_toml(TrainSettings, folder / SWEEP_FILE)), _table(settings.given), folder)
        return
    if settings.run.resume:
        raise UserError(f"--resume: {folder} holds no sweep.", "Start it anew, without --resume.")
    found = sorted(path.name for path in folder.iterdir() if not path.name.startswith(".")) if folder.is_dir() else []
    if there:
        raise UserError(
            f"--train-dir: {folder} holds a sweep already.", "Go on with it by --resume, or give another --train-dir."
        )
    if found:
        raise UserError(f"--train-dir: {folder} is not empty: it holds {few(found)}.", "Give another --train-dir.")


def _refuse_changes(before: Mapping[str, Any], now: Mapping[str, Any], folder: Path) -> None:
    changed = sorted(
        name for name in before.keys() | now.keys() if name not in _MAY_CHANGE and before.get(name) != now.get(name)
    )
    if changed:
        name = changed[0]
        was, is_now = (f"{table[name]!r}" if name in table else "not given" for table in (before, now))
        raise UserError(
            f"--resume: the sweep in {folder} was begun otherwise: {dashed(name)} was {was}, and is {is_now}.",
            "A sweep goes on with its own settings: give --resume and --train-dir alone, and --trials for more.",
        )


def _table(given: Mapping[str, Any]) -> dict[str, Any]:
    """What was given, flat, as TOML; photographs by their whole path, for a sweep may go on from another folder."""
    flat: dict[str, Any] = {}
    for name, value in given.items():
        flat |= {name: value} if not hasattr(value, "__dataclass_fields__") else flat_values(value)
    table = {name: plain_value(value) for name, value in flat.items() if name not in _ONCE and value not in (None, ())}
    for name in ("photographs", "images_dir"):
        if name in table:
            table[name] = _whole(table[name])
    return table


def _whole(paths: Any) -> Any:
    return list(map(_whole, paths)) if isinstance(paths, list) else str(Path(paths).absolute())
