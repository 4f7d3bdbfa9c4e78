"""What a Keras file may hold: arrays of numbers of its own, in all no more than a stated size.

Keras reads the weights by the names of its own layers and builds none of the file's, so that nothing of a Lambda layer
is run. But HDF5 can name other files to read from, and unpack to terabytes.
"""

import contextlib
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from finetune.errors import UserError

MOST_BYTES = 2**32
WEIGHTS_IN_ARCHIVE = "model.weights.h5"


def refuse_unsafe(path: Path) -> None:
    """Looks through a Keras file, of whose arrays none is read.

    Raises:
        UserError: An array lies in another file, is of objects, or all of them are too large.
        OSError, KeyError, zipfile.BadZipFile: It is no such file.
    """
    with _opened(path) as file:
        _refuse_in(file, path)


def weight_names(path: Path) -> list[str]:
    """Names of the arrays in a Keras file that are weights of layers, no optimizer's and no random generator's."""
    import h5py

    names: list[str] = []

    def note(name: str, item: Any) -> None:
        words = name.split("/")
        if isinstance(item, h5py.Dataset) and not words[0].startswith("optimizer") and "seed_generator" not in words:
            names.append(name)

    with _opened(path) as file:
        file.visititems(note)
    return names


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    import h5py

    if not zipfile.is_zipfile(path):
        with h5py.File(path, "r") as file:
            yield file
        return
    with zipfile.ZipFile(path) as zipped:
        member = zipped.getinfo(WEIGHTS_IN_ARCHIVE)
        if member.compress_type != zipfile.ZIP_STORED:
            raise UserError(
                f"{path}: {WEIGHTS_IN_ARCHIVE} in it is compressed, which Keras doesn't do.",
                f"Unpack it, unzip {path} {WEIGHTS_IN_ARCHIVE}, and give that file.",
            )
        with zipped.open(member) as content, h5py.File(content, "r") as file:
            yield file


def _refuse_in(file: Any, path: Path) -> None:
    import h5py

    num_bytes = 0
    groups = [file]
    seen = set()
    while groups:
        group = groups.pop()
        if group.id in seen:  # Hard links may go round.
            continue
        seen.add(group.id)
        for name in group:
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                raise UserError(f"{path}: {name} is a link, and weights lie in the file itself.", "Write it again.")
            item = group[name]
            if isinstance(item, h5py.Group):
                groups.append(item)
                continue
            if item.external or item.is_virtual:
                raise UserError(f"{path}: {name} lies in another file.", "Write it again, as one file.")
            num_bytes += item.nbytes
            if num_bytes > MOST_BYTES:
                raise UserError(
                    f"{path} unpacks to more than {MOST_BYTES:,} bytes, which no network here has.", "Write it again."
                )
