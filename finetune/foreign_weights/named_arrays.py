"""Arrays by the variables' own names: .npz files and slim checkpoints. They hold no network that could be run."""

import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from finetune.errors import UserError, first_line
from finetune.foreign_weights.foreign_file import ForeignFile, FoundWeights
from finetune.foreign_weights.names import check_shapes, count_foreign_classes, match_names
from finetune.model.checkpoint import GLOBAL_STEP, open_checkpoint
from finetune.model.scopes import MOVING_AVERAGE_SUFFIX, Shape
from finetune.nets.spec import NetSpec
from finetune.types import Array

# What NumPy and zipfile raise for what is cut off, changed, encrypted, packed in an unknown way, or a single array.
_DAMAGED = (
    *(OSError, ValueError, TypeError, KeyError, EOFError, RuntimeError, MemoryError, OverflowError),
    *(zipfile.BadZipFile, zlib.error),
)


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
        used = {GLOBAL_STEP, *plain.values(), *averages.values()}
        return FoundWeights(
            values={name: self._read(foreign) for name, foreign in matches.items()},
            leftovers=tuple(sorted(set(self._shapes) - used)),
            remarks=tuple(remarks),
        )


def open_npz(path: Path) -> NamedArrays:
    """Opens a file of `numpy.savez` whose arrays bear the variables' names.

    Raises:
        UserError: It is no such file.
    """
    try:
        # Opened here, for np.load leaves a file open that it refuses.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            values = {name: np.asarray(arrays[name]) for name in arrays.files}
    except _DAMAGED as error:
        raise UserError(
            f"{path} is not a whole .npz file: {first_line(error)}", "Write it with numpy.savez."
        ) from error
    return NamedArrays(path, {name: value.shape for name, value in values.items()}, values.__getitem__)


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
