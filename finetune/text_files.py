"""Text files that appear whole or not at all, and names in them that are no valid Unicode.

Names of files and classes are bytes to the system. Python has a byte that is no text as a lone surrogate, and refuses
to write it; here it is written as the byte that it was, in files and on standard output alike.
"""

import codecs
import contextlib
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
