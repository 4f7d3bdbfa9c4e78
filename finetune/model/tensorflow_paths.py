"""Paths that TensorFlow and other interpreters can't misread.

TensorFlow takes `*`, `?`, `[` and the backslash in a checkpoint's path for a pattern. What it writes, records, event
files and Keras's files are taken as they are; what goes through its reader of checkpoints, that of a SavedModel
included, is not. And a path need not be text: bytes that are no UTF-8, which Python has as lone surrogates, are refused
nearly everywhere. A link with a plain name stands for such a path while it is read.
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


def is_misread(path: Path | str) -> bool:
    """Whether a path is taken for a pattern, or is no text."""
    return is_pattern(path) or any("\ud800" <= character <= "\udfff" for character in str(path))


@contextlib.contextmanager
def plain_prefix(prefix: str) -> Iterator[str]:
    """A prefix of the same checkpoint that is read right, good within the context.

    Raises:
        UserError: The folder for temporary files has such a name itself.
    """
    if not is_misread(prefix):
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
    """Another path of the same folder that is read right, good within the context.

    Raises:
        UserError: The folder for temporary files has such a name itself.
    """
    if not is_misread(folder):
        yield folder
        return
    with _plain_folder() as parent:
        link = parent / _LINK
        link.symlink_to(folder.absolute(), target_is_directory=True)
        yield link


@contextlib.contextmanager
def _plain_folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="finetune-") as folder:
        if is_misread(folder):
            raise UserError(
                f"The path of the folder for temporary files, {Path(folder).parent}, is no text, or holds one of "
                "*, ?, [, ] and \\.",
                "Name another one by the environment variable TMPDIR.",
            )
        yield Path(folder)
