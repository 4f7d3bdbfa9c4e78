"""Arrays by the variables' own names: .npz files and slim checkpoints. They hold no network that could be run."""

import contextlib
import functools
import lzma
import math
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from finetune.errors import UserError, first_line
from finetune.foreign_weights.foreign_file import ForeignFile, FoundWeights
from finetune.foreign_weights.names import check_shapes, count_foreign_classes, match_names
from finetune.model.checkpoint import GLOBAL_STEP, open_checkpoint
from finetune.model.checkpoint_names import NOTES_ON_DATA
from finetune.model.scopes import MOVING_AVERAGE_SUFFIX, Shape
from finetune.nets.spec import NetSpec
from finetune.types import Array

_WRITE_AGAIN = "Write it with numpy.savez, without a password."

_HEADER_READERS: dict[tuple[int, int], Any] = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


class NamedArrays(ForeignFile):
    """Arrays by name, with or without a common prefix; moving averages of variables are preferred to the variables."""

    def __init__(self, path: Path, shapes: Mapping[str, Shape], read: Callable[[str], Array]) -> None:
        """Wraps a file.

        Args:
            path: Of the file, for messages.
            shapes: Of all arrays, by name.
            read: Gives an array by its name.
        """
        self._path = path
        self._shapes = shapes
        self._read = read

    def num_classes(self, spec: NetSpec) -> int | None:
        """From the biases of the head."""
        return count_foreign_classes(spec, self._shapes)

    def find_weights(self, spec: NetSpec, shapes: Mapping[str, Shape]) -> FoundWeights:
        """The arrays under the variables' names."""
        plain = match_names(self._shapes, shapes)
        averages = match_names(self._shapes, [name + MOVING_AVERAGE_SUFFIX for name in shapes])
        averages = {name.removesuffix(MOVING_AVERAGE_SUFFIX): foreign for name, foreign in averages.items()}
        matches = {**plain, **averages}
        check_shapes(str(self._path), {name: self._shapes[matches[name]] for name in matches}, shapes)
        remarks = [f"{len(averages)} variables are taken from their moving averages."] if averages else []
        used = {GLOBAL_STEP, *NOTES_ON_DATA, *plain.values(), *averages.values()}
        return FoundWeights(
            values={name: self._read_floats(foreign) for name, foreign in matches.items()},
            leftovers=tuple(sorted(set(self._shapes) - used)),
            remarks=tuple(remarks),
        )

    def _read_floats(self, name: str) -> Array:
        """An array in 32 bits; what is too large for these becomes infinity.

        Raises:
            UserError: It isn't of real numbers with a fraction.
        """
        value = self._read(name)
        if value.dtype.kind in "biucOSUMm":
            raise UserError(
                f"{self._path}: {name} is of {value.dtype}, and weights are of float32.",
                "Give a file of the weights in floats.",
            )
        with np.errstate(over="ignore"):
            return value.astype(np.float32)


def open_npz(path: Path) -> NamedArrays:
    """Opens a file of `numpy.savez` whose arrays bear the variables' names. Nothing is unpickled.

    Of each array the header alone is read; the values of those that are wanted are when their shapes have been compared
    with the network's, so that no array that a small file unpacks to takes memory.

    Raises:
        UserError: It is no such file.
    """
    with _damage_told(path), zipfile.ZipFile(path) as zipped:
        shapes = {
            member.filename.removesuffix(".npy"): _shape_in(zipped, member)
            for member in zipped.infolist()
            if member.filename.endswith(".npy")
        }
    if not shapes:
        raise UserError(f"{path} holds no arrays.", _WRITE_AGAIN)
    return NamedArrays(path, shapes, functools.partial(_read_array, path))


def _shape_in(zipped: zipfile.ZipFile, member: zipfile.ZipInfo) -> Shape:
    """The shape of an array, by its header; an array of objects has none that is its own.

    Raises:
        ValueError: The header is damaged, or the file isn't as long as it says.
    """
    with zipped.open(member) as file:
        version = np.lib.format.read_magic(file)
        read_header = _HEADER_READERS.get(version)
        if read_header is None:
            raise ValueError(f"{member.filename} is of an unknown version, {version}")
        shape, _, dtype = read_header(file)
        header_bytes = file.tell()
    expected = header_bytes + math.prod(shape) * dtype.itemsize
    if min(shape, default=0) < 0 or (not dtype.hasobject and member.file_size != expected):
        raise ValueError(f"{member.filename} has {member.file_size:,} bytes, not the {expected:,} of its shape {shape}")
    return shape


def _read_array(path: Path, name: str) -> Array:
    with _damage_told(path), zipfile.ZipFile(path) as zipped, zipped.open(f"{name}.npy") as file:
        return np.asarray(np.lib.format.read_array(file, allow_pickle=False))


@contextlib.contextmanager
def _damage_told(path: Path) -> Iterator[None]:
    try:
        yield
    except NotImplementedError as error:
        raise UserError(f"{path} is compressed by a method that isn't known here: {error}.", _WRITE_AGAIN) from error
    except RuntimeError as error:  # As zipfile says that a password is needed.
        raise UserError(f"{path} can't be read: {first_line(error)}.", _WRITE_AGAIN) from error
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error, lzma.LZMAError) as error:
        raise UserError(f"{path} is not a whole .npz file: {first_line(error)}", _WRITE_AGAIN) from error


def open_slim_checkpoint(path: Path, model: str | None = None) -> NamedArrays:
    """Opens a checkpoint whose variables have slim's names behind a prefix, or optimizer slots beside them.

    Args:
        path: As `open_checkpoint` takes it.
        model: The network whose weights are wanted, for messages.

    Raises:
        UserError: It is no checkpoint.
    """
    checkpoint = open_checkpoint(path, argument="FILE", model=model)
    return NamedArrays(path, checkpoint.shapes, checkpoint.read)
