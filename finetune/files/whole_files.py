"""Files and folders that appear whole or not at all, and text in them that is no valid Unicode.

All that this program writes is written beside its place, and renamed into it when it is whole: an error or a kill
leaves what was there before. A kill among the renames of a set leaves it for the next start to complete. What the
renames of single files and of sets of files put in place is on the disk by then, so that a power cut leaves no empty
file either; of a folder's many files the system takes care in its own time.

Names of files and classes are bytes to the system. Python has a byte that is no text as a lone surrogate, and refuses
to write it; here it is written as the byte that it was, in files and on standard output alike.
"""

import codecs
import contextlib
import errno
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from finetune.files.write_errors import naming

# Name of an error handler: bytes that are no text stay what they were, letters that an encoding lacks become escapes.
KEEP_BYTES = "finetune-keep-bytes"

# The hidden folder of a set, and in it: the renames to make, and the files that make room.
_STAGING_ENDING = ".partial"
_RENAMES = ".renames.json"
_ASIDE = ".replaced"

log = logging.getLogger("finetune")
# No file of settings, of a run or of a data set's description comes near it; what does would fill the memory.
MOST_TEXT_BYTES = 2**26


class TextTooLongError(ValueError):
    """A file is larger than any that holds what is expected of it."""


def partial_path(path: Path) -> Path:
    """Where a file or a folder is written until it is whole."""
    return path.with_name(f"{path.name}.partial")


def put_in_place(partial: Path, path: Path) -> None:
    """Gives a file that is whole its name; what was called so is replaced.

    Raises:
        OSError: It can't be written.
    """
    flush_to_disk(partial)
    partial.replace(path)
    flush_names_to_disk(path.parent)


def flush_to_disk(path: Path) -> None:
    """Waits until a file is on the disk: what is renamed before may be found empty after a power cut."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def flush_names_to_disk(folder: Path) -> None:
    """Waits until the names in a folder are on the disk, where its file system can do so."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def whole_file(path: Path, *, newline: str | None = None) -> Iterator[TextIO]:
    """A UTF-8 file to write to that gets its name when the context ends; an exception leaves what was there before.

    Raises:
        OSError: It can't be written.
    """
    with _written_beside(path) as partial, partial.open("w", encoding="utf-8", errors=KEEP_BYTES, newline=newline) as f:
        yield f


@contextlib.contextmanager
def whole_binary_file(path: Path) -> Iterator[BinaryIO]:
    """As `whole_file`, a file of bytes."""
    with _written_beside(path) as partial, partial.open("wb") as file:
        yield file


def write_text(path: Path, text: str) -> None:
    """Writes a UTF-8 file, whole or not at all."""
    with whole_file(path) as file:
        file.write(text)


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file, whole or not at all."""
    with _written_beside(path) as partial:
        partial.write_bytes(content)


def write_json(path: Path, content: Any, *, indent: int | None = 1) -> None:
    """Writes a JSON file, whole or not at all, in ASCII, which any name of a file survives."""
    write_text(path, json.dumps(content, indent=indent) + "\n")


def append_line(path: Path, line: str) -> None:
    """Adds a line to a UTF-8 file, in a single write, which a kill doesn't cut; a full disk leaves none of it.

    Raises:
        OSError: It can't be written.
    """
    content = f"{line}\n".encode("utf-8", KEEP_BYTES)
    with naming(path), path.open("ab", buffering=0) as file:
        size = file.seek(0, os.SEEK_END)
        try:
            num_written = file.write(content)
            if num_written < len(content):  # There was room for a part: the rest says why.
                file.write(content[num_written:])
        except OSError:
            file.truncate(size)
            raise


@contextlib.contextmanager
def _written_beside(path: Path) -> Iterator[Path]:
    if path.exists() and not path.is_file():  # A pipe or a device: nothing is to take its place.
        with naming(path):
            yield path
        return
    partial = partial_path(path)
    try:
        with naming(path, partial):
            yield partial
            put_in_place(partial, path)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise


def is_special(path: Path) -> bool:
    """Whether a pipe, a socket or a device is there, or a link to one: to open it may be to wait, or to have no end."""
    return path.exists() and not (path.is_file() or path.is_dir())


def read_text(path: Path) -> str:
    """The text of a file that should be UTF-8, without a byte-order mark; other bytes as lone surrogates.

    Raises:
        OSError, TextTooLongError: As `read_bytes`.
    """
    return read_bytes(path).decode("utf-8", KEEP_BYTES).removeprefix("\ufeff")


def read_bytes(path: Path) -> bytes:
    """The content of a file of text.

    Raises:
        OSError: It can't be read.
        TextTooLongError: It has more than `MOST_TEXT_BYTES`; no more of it is read.
    """
    with path.open("rb") as file:
        content = file.read(MOST_TEXT_BYTES + 1)
    if len(content) > MOST_TEXT_BYTES:
        raise TextTooLongError(f"{path} has more than {MOST_TEXT_BYTES:,} bytes")
    return content


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


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal digits: by it a file is known to be whole, and the same."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def make_writable(folder: Path) -> None:
    """Makes a folder where there is none, and tries whether files can be written in it.

    Raises:
        OSError: They can't.
    """
    folder.mkdir(parents=True, exist_ok=True)
    probe = folder / ".writable"
    probe.touch()
    probe.unlink()


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

    After an exception there is what was there before. A kill between the two renames leaves no folder of the name, and
    the new one whole beside it: the next call puts that in place first.

    Raises:
        OSError: It can't be written.
    """
    _refuse_special(folder)
    partial, replaced = partial_path(folder), folder.with_name(f".{folder.name}.replaced")
    if os.path.lexists(replaced / folder.name) and not os.path.lexists(folder):
        source = partial if partial.exists() else replaced / folder.name
        source.rename(folder)
        _tell_completed(folder)
    shutil.rmtree(replaced, ignore_errors=True)
    with gone_if_empty(folder), naming(folder, partial), _fresh_folder(partial):
        yield partial
        with _fresh_folder(replaced):
            old = [(folder, replaced / folder.name)] if folder.exists() else []
            _rename_all([*old, (partial, folder)])
            flush_names_to_disk(folder.parent)


@contextlib.contextmanager
def whole_set(folder: Path, name: str, *, last: str, replaced: Sequence[Path] = ()) -> Iterator[Path]:
    """Gives a folder for files that get their names in `folder` together, when the context ends without an exception.

    After an exception there is what was there before. After a kill among the renames `complete_sets` makes the rest of
    them; until then there is no file `last`.

    Args:
        folder: Where the files belong, beside others. It is made where there is none.
        name: Of the set, for the name of the hidden folder within it that is handed out. What a killed program left
            there is completed, where the set is whole, or removed.
        last: Name of the file that vouches for the others: of the old set it is the first to go, of the new one the
            last to come.
        replaced: Files of the folder that make room, beside those of the new ones' names.

    Raises:
        OSError: They can't be written, or one's name is a folder's.
    """
    staging = folder / f".{name}{_STAGING_ENDING}"
    _complete(staging)
    with gone_if_empty(folder), naming(folder, staging), _fresh_folder(staging):
        yield staging
        new = {path.name for path in staging.iterdir()}
        old = {file for file in new.union(path.name for path in replaced) if os.path.lexists(folder / file)}
        for file in old:
            if (folder / file).is_dir():  # What lies in it would be lost.
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(folder / file))
            _refuse_special(folder / file)
        for file in new:
            flush_to_disk(staging / file)
        with _fresh_folder(staging / _ASIDE):
            # From here on a kill leaves a set that can be completed.
            write_json(staging / _RENAMES, {"last": last, "going": sorted(old)})
            going = [(folder / file, staging / _ASIDE / file) for file in sorted(old, key=lambda f: (f != last, f))]
            coming = [(staging / file, folder / file) for file in sorted(new, key=lambda f: (f == last, f))]
            try:
                _rename_all([*going, *coming])
                flush_names_to_disk(folder)
            finally:  # All of them are made, or none: there is nothing to complete.
                (staging / _RENAMES).unlink()


def uncompleted_sets(folder: Path) -> list[Path]:
    """Of the sets in a folder whose files were getting their names when a program was killed, or are just now."""
    return [renames.parent for renames in sorted(folder.glob(f".*{_STAGING_ENDING}/{_RENAMES}"))]


def complete_sets(folder: Path) -> None:
    """Makes the renames that a killed program didn't come to; says so.

    Whoever calls it knows that no other program is just making them.

    Raises:
        OSError: They can't be made.
    """
    for staging in uncompleted_sets(folder):
        _complete(staging)


def _complete(staging: Path) -> None:
    try:
        renames = json.loads(read_text(staging / _RENAMES))
        last, going = str(renames["last"]), [Path(file).name for file in renames["going"]]
    except (OSError, ValueError, KeyError, TypeError):
        return
    folder = staging.parent
    coming = [path.name for path in staging.iterdir() if path.name not in (_RENAMES, _ASIDE)]
    arrived = {file for file in going if os.path.lexists(staging / _ASIDE / file)}
    for file in sorted(set(going) - arrived, key=lambda file: (file != last, file)):
        if os.path.lexists(folder / file):
            (folder / file).rename(staging / _ASIDE / file)
    for file in sorted(coming, key=lambda file: (file == last, file)):
        (staging / file).rename(folder / file)
    flush_names_to_disk(folder)
    (staging / _RENAMES).unlink()
    shutil.rmtree(staging, ignore_errors=True)
    _tell_completed(folder / last)


def _tell_completed(path: Path) -> None:
    """Says what was put in place that a program had written whole before it was killed."""
    log.warning("%s: a program was killed before all of it was in its place; that is done now.", path)


def _refuse_special(path: Path) -> None:
    """A pipe or a device: nothing is to take its place."""
    if path.exists() and not path.is_file() and not path.is_dir():
        raise FileExistsError(errno.EEXIST, "it is a pipe or a device", str(path))


@contextlib.contextmanager
def _fresh_folder(folder: Path) -> Iterator[Path]:
    """A new, empty folder; gone afterwards."""
    shutil.rmtree(folder, ignore_errors=True)
    try:
        folder.mkdir(parents=True)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _rename_all(renames: Sequence[tuple[Path, Path]]) -> None:
    """Renames one after another; where that breaks off, those that were done are undone."""
    try:
        for source, target in renames:
            source.rename(target)
    except BaseException:
        for source, target in reversed(renames):
            if not os.path.lexists(source):
                target.rename(source)
        raise
