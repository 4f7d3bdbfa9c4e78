"""Tar and zip archives, unpacked without ever leaving the folder, and to no more than a stated size."""

import bz2
import errno
import gzip
import lzma
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Any

from finetune.errors import UserError

# Several times what any published archive holds.
MOST_UNPACKED_BYTES = 8 * 2**30
MOST_FILES = 200_000
# Of a tar archive's own entries, such as long names, and of what is copied at a time.
MOST_BYTES_AT_ONCE = 2**24

_DAMAGED = (
    tarfile.TarError,
    zipfile.BadZipFile,
    gzip.BadGzipFile,
    EOFError,
    RuntimeError,  # As zipfile says that a password is needed, or that a method isn't known.
    ValueError,
    struct.error,
    zlib.error,
    lzma.LZMAError,
)
_OPENERS: dict[bytes, Any] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\x00": lzma.open}
# Of a system's errors, those that come of what is in the archive: members at impossible places, or one in another.
_ARCHIVES_FAULTS = (None, errno.EINVAL, errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG)


def unpack(archive: Path, folder: Path) -> None:
    """Unpacks the files of an archive: no links, no devices, no access rights. All of it is read, its checksums too.

    Args:
        archive: Tar, compressed or not, or zip.
        folder: Made where it is missing.

    Raises:
        UserError: The archive is damaged or too large, or a member of it points outside the folder.
    """
    num_files = num_bytes = 0
    try:
        for name, size, content in _files(archive):
            num_files, num_bytes = num_files + 1, num_bytes + size
            if num_files > MOST_FILES or num_bytes > MOST_UNPACKED_BYTES:
                raise _too_large(archive)
            path = folder / _checked(name, archive)
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as file:
                while chunk := content.read(MOST_BYTES_AT_ONCE):
                    file.write(chunk)
    except (*_DAMAGED, OSError) as error:
        if isinstance(error, OSError) and not isinstance(error, _DAMAGED) and error.errno not in _ARCHIVES_FAULTS:
            raise
        raise UserError(f"{archive} is damaged or no archive: {error}.", "Download it again.") from error


def _files(archive: Path) -> Iterator[tuple[str, int, IO[bytes]]]:
    """Name, size in bytes and content of each file, the size before anything is unpacked."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as zipped:
            for member in zipped.infolist():
                if not member.is_dir():
                    with zipped.open(member) as content:
                        yield member.filename, member.file_size, content
        return
    with archive.open("rb") as file:
        first = file.read(max(map(len, _OPENERS)))
    opener = next((opener for magic, opener in _OPENERS.items() if first.startswith(magic)), open)
    with opener(archive, "rb") as stream:
        bounded = _Bounded(stream, archive)
        with tarfile.open(fileobj=bounded, mode="r:") as tar:  # type: ignore[call-overload]
            for entry in tar:
                content_or_none = tar.extractfile(entry) if entry.isfile() else None
                if content_or_none is not None:
                    yield entry.name, entry.size, content_or_none
        # The checksum of what was compressed stands behind the end of the archive.
        while bounded.read(MOST_BYTES_AT_ONCE):
            pass


class _Bounded:
    """A stream that is read to no more than a stated size, and in pieces of no more than another.

    tarfile reads entries of its own, of long names, in one piece of whatever size they claim.
    """

    def __init__(self, stream: IO[bytes], archive: Path) -> None:
        self._stream = stream
        self._archive = archive

    def read(self, size: int = -1) -> bytes:
        content = self._stream.read(MOST_BYTES_AT_ONCE + 1 if size < 0 else min(size, MOST_BYTES_AT_ONCE + 1))
        if len(content) > MOST_BYTES_AT_ONCE or self._stream.tell() > MOST_UNPACKED_BYTES + MOST_FILES * 1024:
            raise _too_large(self._archive)
        return content

    def seek(self, position: int, whence: int = 0) -> int:
        if whence == 0 and position > MOST_UNPACKED_BYTES + MOST_FILES * 1024:
            raise _too_large(self._archive)
        return self._stream.seek(position, whence)

    def tell(self) -> int:
        return self._stream.tell()


def _too_large(archive: Path) -> UserError:
    return UserError(
        f"{archive} unpacks to more than {MOST_UNPACKED_BYTES / 2**30:.0f} GiB or {MOST_FILES:,} files, which nothing "
        "that was published does.",
        "Don't use this archive.",
    )


def _checked(name: str, archive: Path) -> PurePosixPath:
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts:
        raise UserError(f"{archive}: the member {name} points outside the folder.", "Don't use this archive.")
    if not name.isprintable():
        raise UserError(f"{archive}: the member {name!r} has a name that is no file's.", "Don't use this archive.")
    return path
