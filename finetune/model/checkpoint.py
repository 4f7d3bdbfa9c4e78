"""Checkpoints in the format of `tf.compat.v1.train.Saver`: found, read, and written whole or not at all.

slim's V2 checkpoints (`PREFIX.index`, `PREFIX.data-...`) and V1 ones (a single file) are read, and those of
`tf.train.Checkpoint` where they hold a network of slim's; V2 is written, with a `checkpoint` file that names the
newest, so that slim's own scripts find and read ours.
"""

import json
import logging
import math
import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
import tensorflow as tf
from google.protobuf import text_format
from tensorflow.python.training.checkpoint_state_pb2 import CheckpointState

from finetune.errors import UserError, first_line
from finetune.files.json_files import read_json
from finetune.files.whole_files import read_text, whole_set, write_text
from finetune.files.write_errors import is_write_error, naming, with_room
from finetune.model.checkpoint_names import BEST_FILE, OBJECT_GRAPH, names_of_objects, take_off_prefix
from finetune.model.scopes import Shape
from finetune.model.tensorflow_paths import is_misread, plain_prefix
from finetune.model.weight_files import NOT_READ, file_kind, what_reads
from finetune.notices import few
from finetune.published.catalogue import catalogue
from finetune.types import Array

log = logging.getLogger("finetune")

STATE_FILE = "checkpoint"
RUN_PREFIX = "model.ckpt"
GLOBAL_STEP = "global_step"

# The reader raises Python's own errors for some of TensorFlow's: IndexError where a file breaks off.
_READ_ERRORS = (tf.errors.OpError, ValueError, RuntimeError, IndexError)

_MEND = "Give a checkpoint's prefix (PATH of PATH.index), a single V1 file, or a folder that holds one."


class Checkpoint:
    """A checkpoint to read from.

    Attributes:
        prefix: As TensorFlow names it.
        shapes: Shape of every tensor in it, by name, without `name_prefix`.
        name_prefix: What was taken off the front of its names, as it was told to; "" where nothing was.
        is_object_based: Whether `tf.train.Checkpoint` wrote it, whose names are those of objects.
    """

    def __init__(self, prefix: str, *, name_prefix: str = "", argument: str = "--checkpoint") -> None:
        """Opens a checkpoint by its prefix; `open_checkpoint` also takes folders and file names.

        Args:
            prefix: As TensorFlow names it.
            name_prefix: A path of whole components in front of the variables' names, to be taken off.
            argument: How the user named it, for messages.

        Raises:
            UserError: It is no checkpoint, or not a whole one; nothing in it lies under `name_prefix`.
        """
        self.prefix = prefix
        self.name_prefix = name_prefix
        self._argument = argument
        # A reader keeps to the path that it was opened by, and the one of a pattern is gone at once.
        self._reader = None
        try:
            with plain_prefix(prefix) as path:
                reader = tf.train.load_checkpoint(path)
                shapes = reader.get_variable_to_shape_map()
                object_graph = reader.get_tensor(OBJECT_GRAPH) if OBJECT_GRAPH in shapes else None
            if not is_misread(prefix):
                self._reader = reader
        except _READ_ERRORS as error:
            raise UserError(f"{argument}: {prefix} is not a whole checkpoint: {_why(error)}", _MEND) from error
        self.is_object_based = object_graph is not None
        keys = {name: name for name in shapes} if object_graph is None else names_of_objects(shapes, object_graph)
        if name_prefix:
            keys = {name: keys[found] for name, found in take_off_prefix(keys, name_prefix, prefix).items()}
        self._keys = keys
        self.shapes: dict[str, Shape] = {name: tuple(shapes[keys[name]]) for name in sorted(keys)}

    def read(self, name: str) -> Array:
        """The tensor called `name`.

        Raises:
            UserError: The file breaks off before it, or its checksum is wrong.
        """
        try:
            if self._reader is not None:
                return np.asarray(self._reader.get_tensor(self._keys[name]))
            with plain_prefix(self.prefix) as path:
                return np.asarray(tf.train.load_checkpoint(path).get_tensor(self._keys[name]))
        except _READ_ERRORS as error:
            raise UserError(
                f"{self._argument}: {self.prefix} is damaged at {name}: {first_line(error)}.",
                "Copy it again from where it came from, or give another one.",
            ) from error

    def step(self) -> int | None:
        """The global step that it was written at; None where it holds none, as published weights do not."""
        return int(self.read(GLOBAL_STEP)) if GLOBAL_STEP in self.shapes else None


def open_checkpoint(
    path: Path | str, *, name_prefix: str = "", argument: str = "--checkpoint", model: str | None = None
) -> Checkpoint:
    """Opens a prefix, a V1 file, one of a V2 checkpoint's files, or a folder: a run's best checkpoint, else the newest.

    Where that one is damaged the newest whole one of the folder is taken, and said.

    Args:
        path: What the user gave.
        name_prefix: As `Checkpoint` takes it.
        argument: How the user gave it, for messages.
        model: The network whose weights are wanted, for messages; None: it isn't told.

    Raises:
        UserError: There is no checkpoint, or a file of another kind; what that is and what reads it is said. None in a
            folder is whole. It can't be looked for.
    """
    path = Path(path)
    try:
        prefix = _prefix_in(path, argument, model) if path.is_dir() else _prefix_of(path, argument, model)
    except OSError as error:  # Such as a name that is too long with .index behind it.
        raise UserError(f"{argument}: {path} can't be looked for: {error.strerror}.", _MEND) from error
    if path.is_dir():
        checkpoint = _whole_one_of(path, prefix, name_prefix, argument)
    else:
        checkpoint = Checkpoint(prefix, name_prefix=name_prefix, argument=argument)
    if checkpoint.is_object_based:
        log.info(
            "%s was written by tf.train.Checkpoint; %d of its values are read, such as %s.",
            checkpoint.prefix,
            len(checkpoint.shapes),
            next(iter(checkpoint.shapes), "none"),
        )
    return checkpoint


def best_checkpoint(folder: Path) -> str | None:
    """Prefix of the checkpoint that the run found best, where it is there, in the folder itself."""
    name = _named_best(folder)
    is_there = name is not None and Path(name).name == name and (folder / f"{name}.index").exists()
    return str(folder / str(name)) if is_there else None


def newest_checkpoint(folder: Path) -> str | None:
    """Prefix of the newest checkpoint: what the `checkpoint` file names, else the one of the highest step, else any.

    What is named is looked for in the folder itself: a Saver writes whole paths, which lead away from a copied run.
    """
    by_step = checkpoints_by_step(folder)
    highest = by_step[-1] if by_step else _checkpoint_without_step(folder)
    named = _named_newest(folder)
    for name in (PurePosixPath(named).name, PureWindowsPath(named).name):
        if name and _is_checkpoint(folder / name):
            _tell_other_folder(folder, named, name)
            return str(folder / name)
    if highest is not None and (folder / STATE_FILE).is_file():
        log.warning(
            "%s names %s: %s is taken, the newest there is.",
            folder / STATE_FILE,
            f"{named}, which is not in this folder" if named else "no checkpoint",
            Path(highest).name,
        )
    return highest


def checkpoints_by_step(folder: Path) -> list[str]:
    """Prefixes of all checkpoints PREFIX-STEP in a folder, lowest step first."""
    found = []
    for index in folder.glob("*.index"):
        match = re.fullmatch(r"(.+)-(\d+)\.index", index.name)
        if match:
            found.append((int(match[2]), str(index).removesuffix(".index")))
    return [prefix for _, prefix in sorted(found)]


def newest_whole(folder: Path) -> Checkpoint | None:
    """The newest checkpoint of a run that can be read to its end and is finite; None where there is none."""
    return next(whole_checkpoints(folder), None)


def whole_checkpoints(folder: Path) -> Iterator[Checkpoint]:
    """Those of a run that can be read to their end and are finite, the newest first; says which are passed over."""
    for prefix in reversed(checkpoints_by_step(folder)):
        try:
            checkpoint = Checkpoint(prefix, argument="--resume")
            refuse_not_finite(checkpoint, count_not_finite((name, checkpoint.read(name)) for name in checkpoint.shapes))
        except UserError as error:
            _tell_passed_over(error)
            continue
        yield checkpoint


def is_whole(prefix: str) -> bool:
    """Whether all of a checkpoint is there and can be read; says what is wrong with it where not."""
    try:
        _read_all(Checkpoint(prefix))
    except UserError as error:
        _tell_passed_over(error)
        return False
    return True


def count_not_finite(values: Iterable[tuple[str, Array]]) -> dict[str, int]:
    """How many of an array's values are NaN or infinite, by name, for the arrays that hold any."""
    counts = {
        name: value.size - int(np.isfinite(value).sum()) for name, value in values if value.dtype.kind not in "OSU"
    }
    return {name: count for name, count in counts.items() if count}


def refuse_not_finite(checkpoint: Checkpoint, counts: Mapping[str, int], mend: str | None = None) -> None:
    """Tells of variables with NaN or infinity.

    Args:
        checkpoint: Where they are.
        counts: As `count_not_finite` gives them.
        mend: What to do.

    Raises:
        UserError: There are any.
    """
    if counts:
        (name, count), *others = counts.items()
        more = f", and some of {few([other for other, _ in others])}" if others else ""
        total = math.prod(checkpoint.shapes[name])
        raise UserError(
            f"{checkpoint.prefix}: {count} of the {total} values of {name} are NaN or infinite{more}.", mend
        )


def write_checkpoint(prefix: Path | str, values: Mapping[str, Any]) -> None:
    """Writes a V2 checkpoint, in the place of one of this name; its index, which makes it one, appears last.

    Args:
        prefix: Path without `.index`.
        values: Arrays or tensors by name.

    Raises:
        OSError: There is no room for it, or its folder is read-only; an earlier checkpoint is still there.
        UserError: Something else is in the way, likewise.
    """
    prefix = Path(prefix)
    names = sorted(values)
    replaced = _files_of(str(prefix))
    try:
        with (
            whole_set(prefix.parent, prefix.name, last=f"{prefix.name}.index", replaced=replaced) as folder,
            naming(prefix, folder),
        ):
            tf.raw_ops.SaveV2(
                prefix=os.fsencode(folder / prefix.name),
                tensor_names=names,
                shape_and_slices=[""] * len(names),
                tensors=[tf.convert_to_tensor(values[name]) for name in names],
            )
    except (OSError, tf.errors.OpError) as error:
        if is_write_error(error):
            raise
        raise UserError(f"The checkpoint {prefix} can't be written: {first_line(error)}") from error


def save_run_checkpoint(
    train_dir: Path,
    step: int,
    values: Mapping[str, Any],
    *,
    max_to_keep: int,
    make_room: Callable[[], bool],
    sparing: Collection[str] = (),
) -> str:
    """Writes `model.ckpt-STEP`, names it the newest, and deletes the oldest beyond `max_to_keep`, never the best.

    Args:
        train_dir: Folder of the run.
        step: Number of updates made.
        values: Arrays or tensors by name.
        max_to_keep: How many are kept, beside the best.
        make_room: Removes what can be done without, where there is no room; returns whether there was such.
        sparing: Prefixes of others that are kept.

    Returns:
        The prefix written.

    Raises:
        OSError, UserError: As `write_checkpoint`.
    """
    prefix = str(train_dir / f"{RUN_PREFIX}-{step}")
    with_room(lambda: write_checkpoint(prefix, {**values, GLOBAL_STEP: np.int64(step)}), make_room)
    keep_newest(train_dir, prefix, max_to_keep, sparing=sparing)
    return prefix


def keep_newest(train_dir: Path, prefix: str, max_to_keep: int, *, sparing: Collection[str] = ()) -> None:
    """Deletes the oldest checkpoints beyond `max_to_keep`, as `delete_oldest`, and names the newest, `prefix`."""
    delete_oldest(train_dir, max_to_keep, sparing=[prefix, *sparing])
    _write_state(train_dir, prefix)


def delete_newer(train_dir: Path, prefix: str) -> None:
    """Deletes the checkpoints of a run that are newer than one of them, which is named the newest then."""
    by_step = checkpoints_by_step(train_dir)
    _write_state(train_dir, prefix)
    for newer in reversed(by_step[by_step.index(prefix) + 1 :]):
        delete_checkpoint(newer)
    _write_state(train_dir, prefix)


def delete_oldest(train_dir: Path, max_to_keep: int, *, sparing: Collection[str]) -> list[str]:
    """Deletes the oldest checkpoints of a run beyond `max_to_keep`, never the best, nor those of `sparing`.

    Returns:
        The prefixes deleted.
    """
    by_step = checkpoints_by_step(train_dir)
    spared = {*sparing, best_checkpoint(train_dir)}
    deleted = [prefix for prefix in by_step[: max(0, len(by_step) - max_to_keep)] if prefix not in spared]
    for prefix in deleted:
        delete_checkpoint(prefix)
    return deleted


def delete_checkpoint(prefix: str) -> None:
    """Removes a V2 checkpoint's files, the index first, so that no half of it looks whole."""
    Path(prefix + ".index").unlink(missing_ok=True)
    for data in _files_of(prefix):
        data.unlink()


def _write_state(train_dir: Path, newest: str) -> None:
    """Writes the `checkpoint` file, with names relative to it, so that a run can be moved."""
    lines = [f"model_checkpoint_path: {json.dumps(Path(newest).name)}"]
    lines += [f"all_model_checkpoint_paths: {json.dumps(Path(p).name)}" for p in checkpoints_by_step(train_dir)]
    write_text(train_dir / STATE_FILE, "\n".join(lines) + "\n")


def _files_of(prefix: str) -> list[Path]:
    """The files of a V2 checkpoint; its name is no pattern, whatever characters are in it."""
    path = Path(prefix)
    endings = re.compile(r"\.(index|data-\d{5}-of-\d{5})")
    if not path.parent.is_dir():
        return []
    return [
        file
        for file in path.parent.iterdir()
        if file.name.startswith(path.name) and endings.fullmatch(file.name.removeprefix(path.name))
    ]


def _whole_one_of(folder: Path, chosen: str, name_prefix: str, argument: str) -> Checkpoint:
    """The checkpoint that was chosen, or the newest of the folder's others where it is damaged.

    Raises:
        UserError: None is whole; it is of the one that was chosen.
    """
    others = [prefix for prefix in reversed(checkpoints_by_step(folder)) if prefix != chosen]
    if not others:
        return Checkpoint(chosen, name_prefix=name_prefix, argument=argument)
    first: UserError | None = None
    for prefix in (chosen, *others):
        try:
            checkpoint = Checkpoint(prefix, argument=argument)
            _read_all(checkpoint)
        except UserError as error:
            first = first or error
            _tell_passed_over(error)
            continue
        if first is not None:
            log.warning("%s is taken in its place.", prefix)
        return Checkpoint(prefix, name_prefix=name_prefix, argument=argument) if name_prefix else checkpoint
    assert first is not None
    raise first


def _read_all(checkpoint: Checkpoint) -> None:
    for name in checkpoint.shapes:
        checkpoint.read(name)


def _tell_passed_over(error: UserError) -> None:
    log.warning("Passed over: %s", str(error).splitlines()[0])


def _prefix_in(folder: Path, argument: str, model: str | None) -> str:
    """Of the checkpoint that a folder stands for."""
    best = best_checkpoint(folder)
    if best is not None:
        return best
    newest = newest_checkpoint(folder)
    if newest is not None:
        _tell_lost_best(folder, newest)
        return newest
    kind = file_kind(folder)
    if kind is not None:
        raise UserError(f"{argument}: {folder} is {kind.description}.", what_reads(kind, folder, model))
    raise UserError(f"{argument}: the folder {folder} holds no checkpoint.", _what_else(folder, model))


def _prefix_of(path: Path, argument: str, model: str | None) -> str:
    """Of the checkpoint that a path of a prefix or a file stands for."""
    name = re.sub(r"\.(index|meta|data-\d{5}-of-\d{5})$", "", str(path))
    if Path(f"{name}.index").exists():
        return name
    if not Path(name).is_file():
        raise UserError(
            f"{argument}: there is no checkpoint {path}{_others_beside(path, name)}", f"{_MEND}{_download(model)}"
        )
    kind = file_kind(Path(name))
    if kind is not None:
        raise UserError(
            f"{argument}: {path} is {kind.description}, not a checkpoint.",
            f"{what_reads(kind, path, model)}{_download(model) if kind in NOT_READ else ''}",
        )
    return name


def _what_else(folder: Path, model: str | None) -> str:
    """What a folder without a checkpoint holds that was meant."""
    below = sorted(folder.glob("*/*.index"))
    if below:
        return f"Its folder {below[0].parent.name} does: give {str(below[0]).removesuffix('.index')}"
    for path in sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith(".")):
        kind = file_kind(path)
        if kind is not None:
            return f"{path} is {kind.description}. {what_reads(kind, path, model)}"
    return f"{_MEND}{_download(model)}"


def _download(model: str | None) -> str:
    """A sentence on how to get published weights; none where the network has none."""
    if model is None:
        return " Published weights: finetune-download NAME, with a name of finetune-inspect --models."
    return f" Published weights: finetune-download {model}" if model in catalogue() else ""


def _named_best(folder: Path) -> str | None:
    """What best.json calls the best checkpoint."""
    try:
        return str(read_json(folder / BEST_FILE, {"checkpoint": str})["checkpoint"])
    except UserError:
        return None


def _named_newest(folder: Path) -> str:
    """What the `checkpoint` file calls the newest checkpoint; "": nothing."""
    try:
        text = read_text(folder / STATE_FILE)
        return str(text_format.Parse(text, CheckpointState()).model_checkpoint_path)
    except (OSError, ValueError, RecursionError, text_format.ParseError):
        return ""


def _tell_other_folder(folder: Path, named: str, name: str) -> None:
    """Says so where a checkpoint is taken from another folder than the `checkpoint` file says."""
    if Path(named).name != name or (folder / named).parent.resolve() != folder.resolve():
        log.info("%s names %s; its namesake in this folder is taken, %s.", folder / STATE_FILE, named, name)


def _tell_lost_best(folder: Path, newest: str) -> None:
    if not (folder / BEST_FILE).exists():
        return
    name = _named_best(folder)
    if name is None:
        what = "names no checkpoint"
    elif Path(name).name != name:
        what = f"names {name}, which lies outside of its folder and is not followed"
    else:
        what = f"names {name}, which is not there"
    log.warning("%s %s: %s is taken, the newest.", folder / BEST_FILE, what, Path(newest).name)


def _is_checkpoint(prefix: Path) -> bool:
    return Path(f"{prefix}.index").exists() or (prefix.is_file() and file_kind(prefix) is None)


def _checkpoint_without_step(folder: Path) -> str | None:
    """Where no V2 checkpoint has a step in its name: the only one, else V1's of the highest step, or its only one."""
    indices = sorted(folder.glob("*.index"))
    if indices:
        return str(indices[0]).removesuffix(".index") if len(indices) == 1 else None
    matches = [(path, re.fullmatch(r".+\.ckpt(-(\d+))?", path.name)) for path in folder.iterdir() if path.is_file()]
    by_step = sorted((int(match[2] or -1), str(path)) for path, match in matches if match)
    return by_step[-1][1] if by_step and (len(by_step) == 1 or by_step[-1][0] >= 0) else None


def _why(error: BaseException) -> str:
    """Why a file is no checkpoint. TensorFlow speaks of its tables and of operations to read it otherwise."""
    reason = first_line(error)
    return "it is something else, or breaks off." if "sstable" in reason else reason


def _others_beside(path: Path, prefix: str) -> str:
    if not path.parent.is_dir():
        return f"; there is no folder {path.parent} either."
    name = Path(prefix).name
    parts = [other for other in path.parent.iterdir() if other.name.startswith((f"{name}.meta", f"{name}.data-"))]
    if parts:
        return f": there is {min(parts).name}, but no {name}.index, which belongs to it."
    others = [str(other).removesuffix(".index") for other in sorted(path.parent.glob("*.index"))]
    return f"; the folder holds {few(others) or 'none'}."
