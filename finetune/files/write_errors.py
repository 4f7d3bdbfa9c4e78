"""Why a file could not be written: the errors of Python, TensorFlow and HDF5 in one place, and what is told of them.

Where it is written a file gets its name into the error (`naming`); where a command ends, the error becomes a line for
its user (`write_errors_told`). Between the two it is an OSError, as Python's own are.
"""

import contextlib
import errno
import logging
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from finetune.errors import UserError, first_line

# What more room mends. A file that is too large is not helped by it.
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
_MENDS = {
    errno.ENOSPC: "Make room there, and give the command again.",
    errno.EDQUOT: "Make room in your quota there, and give the command again.",
    errno.EFBIG: "Files as large can't be there: raise the limit (ulimit -f), or write to another file system.",
    errno.EROFS: "Write to a place where files can be written.",
}

log = logging.getLogger("finetune")


@contextlib.contextmanager
def naming(path: Path, partial: Path | None = None) -> Iterator[None]:
    """Says of an error that no more can be written which file it is of.

    Python's errors don't where a write fails, and TensorFlow's and HDF5's are words alone. Other errors pass.

    Args:
        path: The file, or the folder, as its user knows it.
        partial: Where it is written until it is whole; of a folder's file the name in the folder is told.

    Raises:
        OSError: With its number, the system's words for it, and a file name.
    """
    try:
        yield
    except Exception as error:
        number = _number_of(error)
        if number is None:
            raise
        told = _file_name(error, os.strerror(number))
        if told is None:
            told = path
        elif partial is not None and told.is_relative_to(partial):
            # What TensorFlow writes on its way to a file has names of its own.
            told = path / told.relative_to(partial) if isinstance(error, OSError) else path
        raise OSError(number, os.strerror(number), str(told)) from error


@contextlib.contextmanager
def write_errors_told(mend: Callable[[], str] | None = None) -> Iterator[None]:
    """Makes of an error that no more can be written a line that names the file and the reason, and one that mends it.

    Args:
        mend: Says what to do where there is no room; None: to make some.

    Raises:
        UserError: In place of such an error.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _MENDS:
            raise
        told = mend() if mend is not None and error.errno in _NO_ROOM else _MENDS[error.errno]
        raise UserError(f"{error.filename or 'A file'} can't be written: {error.strerror}.", told) from error


def is_write_error(error: BaseException) -> bool:
    """Whether it says that no more can be written where the file is."""
    return isinstance(error, OSError) and error.errno in _MENDS


def with_room(write: Callable[[], object], make_room: Callable[[], bool]) -> None:
    """Writes; where there is no room for it makes some, and writes once more.

    Args:
        write: What fails may be called again.
        make_room: Removes what can be done without; returns whether there was such.

    Raises:
        OSError: There is still no room, or none could be made; the file can't be written for another reason.
    """
    try:
        write()
    except OSError as error:
        if error.errno not in _NO_ROOM or not make_room():
            raise
        write()


def _number_of(error: Exception) -> int | None:
    """Of the reasons above the one that an error is of, by its number, or by the system's words for it."""
    if isinstance(error, UserError):  # Who raised it knew more.
        return None
    if isinstance(error, OSError) and error.errno in _MENDS:
        return error.errno
    text = str(error)
    return next((number for number in _MENDS if os.strerror(number) in text), None)


def _file_name(error: Exception, reason: str) -> Path | None:
    """What an error calls the file: an attribute of Python's, in TensorFlow's what stands before the reason."""
    if isinstance(error, OSError):
        return Path(os.fsdecode(error.filename)) if error.filename else None
    match = re.fullmatch(rf"(/[^;]+); {re.escape(reason)}.*", first_line(error))
    return Path(match[1]) if match else None
