"""Paths that TensorFlow can't misread: it takes `*`, `?`, `[` and the backslash in a checkpoint's path for a pattern.

What it writes, records, event files and Keras's files are taken as they are; what goes through its reader of
checkpoints, that of a SavedModel included, is not. A link with a plain name stands for such a path while it is read.
"""

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from finetune.errors import UserError

PATTERN_CHARACTERS = frozenset("*?[]\\")

_LINK = "checkpoint"


def is_pattern(path: Path | str) -> bool:
    """Whether TensorFlow's reader of checkpoints takes a path for a pattern."""
    return not PATTERN_CHARACTERS.isdisjoint(str(path))


@contextlib.contextmanager
def plain_prefix(prefix: str) -> Iterator[str]:
    """A prefix of the same checkpoint that is no pattern, good within the context.

    Raises:
        UserError: The folder for temporary files has such a name itself.
    """
    if not is_pattern(prefix):
        yield prefix
        return
    original = Path(prefix).absolute()
    with _plain_folder() as folder:
        for file in original.parent.iterdir():
            ending = file.name.removeprefix(original.name)
            if file.name.startswith(original.name) and (not ending or ending.startswith((".index", ".data-"))):
                (folder / f"{_LINK}{ending}").symlink_to(file)
        yield str(folder / _LINK)


@contextlib.contextmanager
def plain_folder(folder: Path) -> Iterator[Path]:
    """Another path of the same folder that is no pattern, good within the context.

    Raises:
        UserError: The folder for temporary files has such a name itself.
    """
    if not is_pattern(folder):
        yield folder
        return
    with _plain_folder() as parent:
        link = parent / _LINK
        link.symlink_to(folder.absolute(), target_is_directory=True)
        yield link


@contextlib.contextmanager
def _plain_folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="finetune-") as folder:
        if is_pattern(folder):
            raise UserError(
                f"The folder for temporary files, {Path(folder).parent}, has one of *, ?, [, ] or \\ in its path.",
                "Name another one by the environment variable TMPDIR.",
            )
        yield Path(folder)
