"""Checkpoints in the format of `tf.compat.v1.train.Saver`: found, read, and written whole or not at all.

slim's V2 checkpoints (`PREFIX.index`, `PREFIX.data-...`) and V1 ones (a single file) are read; V2 is written, with a
`checkpoint` file that names the newest, so that slim's own scripts find and read ours.
"""

import json
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from finetune.errors import UserError
from finetune.scopes import Shape

log = logging.getLogger("finetune")

BEST_FILE = "best.json"
RUN_PREFIX = "model.ckpt"
GLOBAL_STEP = "global_step"

# The reader raises Python's own errors for some of TensorFlow's: IndexError where a file breaks off.
_READ_ERRORS = (tf.errors.OpError, ValueError, RuntimeError, IndexError)

_MEND = "Give a checkpoint's prefix (PATH of PATH.index), a single V1 file, or a folder that holds one."


class Checkpoint:
    """A checkpoint to read from.

    Attributes:
        prefix: As TensorFlow names it.
        shapes: Shape of every tensor in it, by name.
    """

    def __init__(self, prefix: str) -> None:
        """Opens a checkpoint by its prefix; `open_checkpoint` also takes folders and file names.

        Raises:
            UserError: It is no checkpoint, or not a whole one.
        """
        self.prefix = prefix
        try:
            self._reader = tf.train.load_checkpoint(prefix)
            shapes = self._reader.get_variable_to_shape_map()
        except _READ_ERRORS as error:
            raise UserError(f"--checkpoint: {prefix} is not a whole checkpoint: {_first_line(error)}", _MEND) from error
        self.shapes: dict[str, Shape] = {name: tuple(shape) for name, shape in sorted(shapes.items())}

    def read(self, name: str) -> np.ndarray[Any, Any]:
        """The tensor called `name`.

        Raises:
            UserError: The file breaks off before it, or its checksum is wrong.
        """
        try:
            return np.asarray(self._reader.get_tensor(name))
        except _READ_ERRORS as error:
            raise UserError(f"--checkpoint: {self.prefix} is damaged at {name}: {_first_line(error)}") from error

    def step(self) -> int | None:
        """The global step that it was written at; None where it holds none, as published weights do not."""
        return int(self.read(GLOBAL_STEP)) if GLOBAL_STEP in self.shapes else None


def open_checkpoint(path: Path | str) -> Checkpoint:
    """Opens a prefix, a V1 file, one of a V2 checkpoint's files, or a folder: a run's best checkpoint, else the newest.

    Raises:
        UserError: There is no checkpoint.
    """
    path = Path(path)
    if path.is_dir():
        prefix = best_checkpoint(path) or newest_checkpoint(path)
        if prefix is None:
            raise UserError(f"--checkpoint: the folder {path} holds no checkpoint.", _MEND)
        return Checkpoint(prefix)
    name = re.sub(r"\.(index|meta|data-\d{5}-of-\d{5})$", "", str(path))
    if not Path(name + ".index").exists() and not Path(name).is_file():
        raise UserError(f"--checkpoint: there is no checkpoint {path}{_others_beside(path)}", _MEND)
    return Checkpoint(name)


def best_checkpoint(folder: Path) -> str | None:
    """Prefix of the checkpoint that the run found best, where it is there."""
    try:
        prefix = str(folder / json.loads((folder / BEST_FILE).read_text(encoding="utf-8"))["checkpoint"])
    except (OSError, ValueError, KeyError):
        return None
    return prefix if Path(prefix + ".index").exists() else None


def newest_checkpoint(folder: Path) -> str | None:
    """Prefix of the newest checkpoint: what the `checkpoint` file names, else the one of the highest step, else any."""
    latest = tf.train.latest_checkpoint(str(folder))
    if latest is not None:
        return str(latest)
    prefixes = checkpoints_by_step(folder)
    if prefixes:
        return prefixes[-1]
    others = sorted(folder.glob("*.index")) or sorted(folder.glob("*.ckpt"))
    return str(others[0]).removesuffix(".index") if len(others) == 1 else None


def checkpoints_by_step(folder: Path) -> list[str]:
    """Prefixes of all checkpoints PREFIX-STEP in a folder, lowest step first."""
    found = []
    for index in folder.glob("*.index"):
        match = re.fullmatch(r"(.+)-(\d+)\.index", index.name)
        if match:
            found.append((int(match[2]), str(index).removesuffix(".index")))
    return [prefix for _, prefix in sorted(found)]


def newest_whole(folder: Path) -> Checkpoint | None:
    """The newest checkpoint of a run that can be read to its end; None where there is none."""
    for prefix in reversed(checkpoints_by_step(folder)):
        try:
            checkpoint = Checkpoint(prefix)
            for name in checkpoint.shapes:
                checkpoint.read(name)
        except UserError as error:
            log.warning("Passed over: %s", error)
            continue
        return checkpoint
    return None


def write_checkpoint(prefix: Path | str, values: Mapping[str, Any]) -> None:
    """Writes a V2 checkpoint; its index, which makes it one, appears last.

    Args:
        prefix: Path without `.index`.
        values: Arrays or tensors by name.

    Raises:
        UserError: The folder can't be written.
    """
    prefix = Path(prefix)
    partial = prefix.with_name(f"{prefix.name}.partial")
    names = sorted(values)
    try:
        prefix.parent.mkdir(parents=True, exist_ok=True)
        tf.raw_ops.SaveV2(
            prefix=str(partial),
            tensor_names=names,
            shape_and_slices=[""] * len(names),
            tensors=[tf.convert_to_tensor(values[name]) for name in names],
        )
        for ending in (".data-00000-of-00001", ".index"):
            Path(f"{partial}{ending}").replace(f"{prefix}{ending}")
    except (OSError, tf.errors.OpError) as error:
        for leftover in prefix.parent.glob(f"{partial.name}*"):
            leftover.unlink()
        raise UserError(f"The checkpoint {prefix} can't be written: {_first_line(error)}") from error


def save_run_checkpoint(train_dir: Path, step: int, values: Mapping[str, Any], *, max_to_keep: int) -> str:
    """Writes `model.ckpt-STEP`, names it the newest, and deletes the oldest beyond `max_to_keep`, never the best.

    Returns:
        The prefix written.
    """
    prefix = str(train_dir / f"{RUN_PREFIX}-{step}")
    write_checkpoint(prefix, {**values, GLOBAL_STEP: np.int64(step)})
    kept = checkpoints_by_step(train_dir)
    best = best_checkpoint(train_dir)
    for old in kept[: max(0, len(kept) - max_to_keep)]:
        if old not in (best, prefix):
            delete_checkpoint(old)
    _write_state(train_dir, prefix)
    return prefix


def delete_checkpoint(prefix: str) -> None:
    """Removes a V2 checkpoint's files, the index first, so that no half of it looks whole."""
    Path(prefix + ".index").unlink(missing_ok=True)
    for data in Path(prefix).parent.glob(Path(prefix).name + ".data-*"):
        data.unlink()


def _write_state(train_dir: Path, newest: str) -> None:
    """Writes the `checkpoint` file, with names relative to it, so that a run can be moved."""
    lines = [f"model_checkpoint_path: {json.dumps(Path(newest).name)}"]
    lines += [f"all_model_checkpoint_paths: {json.dumps(Path(p).name)}" for p in checkpoints_by_step(train_dir)]
    partial = train_dir / "checkpoint.partial"
    partial.write_text("\n".join(lines) + "\n", encoding="utf-8")
    partial.replace(train_dir / "checkpoint")


def _others_beside(path: Path) -> str:
    if not path.parent.is_dir():
        return f"; there is no folder {path.parent} either."
    others = [str(other).removesuffix(".index") for other in sorted(path.parent.glob("*.index"))]
    return f"; the folder holds {', '.join(others[:3])}." if others else "; the folder holds none."


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
