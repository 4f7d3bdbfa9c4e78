"""Files and folders that appear whole or not at all, and text in them that is no valid Unicode.

Names of files and classes are bytes to the system. Python has a byte that is no text as a lone surrogate, and refuses
to write it; here it is written as the byte that it was, in files and on standard output alike.
"""

import codecs
import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

# Name of an error handler: bytes that are no text stay what they were, letters that an encoding lacks become escapes.
KEEP_BYTES = "finetune-keep-bytes"


@contextlib.contextmanager
def whole_file(path: Path, *, newline: str | None = None) -> Iterator[TextIO]:
    """A UTF-8 file to write to that gets its name when the context ends; an exception leaves what was there before.

    Raises:
        OSError: It can't be written.
    """
    partial = path.with_name(f"{path.name}.partial")
    try:
        with partial.open("w", encoding="utf-8", errors=KEEP_BYTES, newline=newline) as file:
            yield file
        partial.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise


def write_text(path: Path, text: str) -> None:
    """Writes a UTF-8 file, whole or not at all."""
    with whole_file(path) as file:
        file.write(text)


def read_text(path: Path) -> str:
    """The text of a file that should be UTF-8, without a byte-order mark; other bytes as lone surrogates."""
    return path.read_bytes().decode("utf-8", KEEP_BYTES).removeprefix("\ufeff")


def printable(text: str) -> str:
    """The text for readers that take valid Unicode alone: a replacement character for what is none."""
    return text.encode("utf-8", KEEP_BYTES).decode("utf-8", "replace")


def _keep_bytes(error: UnicodeError) -> tuple[str | bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        return codecs.lookup_error("surrogateescape")(error)
    letter = error.object[error.start]
    byte = ord(letter) - 0xDC00
    kept: str | bytes = bytes([byte]) if 0x80 <= byte <= 0xFF else letter.encode("ascii", "backslashreplace").decode()
    return kept, error.start + 1


codecs.register_error(KEEP_BYTES, _keep_bytes)


@contextlib.contextmanager
def gone_if_empty(folder: Path) -> Iterator[None]:
    """Where an exception ends the context, removes the folder and its parents: those that are new and empty."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        yield
    except BaseException:
        for path in missing:
            with contextlib.suppress(OSError):  # It was never made, or holds something.
                path.rmdir()
        raise


@contextlib.contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Gives a folder to write in, which takes the place of this one when the context ends without an exception.

    After an exception there is what was there before.

    Raises:
        OSError: It can't be written.
    """
    partial = folder.with_name(f"{folder.name}.partial")
    with gone_if_empty(folder):
        try:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            yield partial
            _replace(folder, partial)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def _replace(folder: Path, new: Path) -> None:
    replaced = folder.with_name(f"{folder.name}.replaced")
    shutil.rmtree(replaced, ignore_errors=True)
    if folder.exists():
        folder.rename(replaced)
    new.rename(folder)
    shutil.rmtree(replaced, ignore_errors=True)
