"""Tar and zip archives, unpacked without ever leaving the folder."""

import errno
import lzma
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO

from finetune.errors import UserError

# Python's zipfile says so of what is encrypted, packed in an unknown way, or lies before the file's beginning.
_DAMAGED = (tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error, lzma.LZMAError, ValueError, RuntimeError)
# Of a system's errors, those that come of what is in the archive: members at impossible places, or one in another.
_ARCHIVES_FAULTS = (None, errno.EINVAL, errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG)


def unpack(archive: Path, folder: Path) -> None:
    """Unpacks the files of an archive: no links, no devices, no access rights.

    Args:
        archive: Tar, compressed or not, or zip.
        folder: Made where it is missing.

    Raises:
        UserError: The archive is damaged, or a member of it points outside the folder.
    """
    try:
        for name, content in _files(archive):
            path = folder / _checked(name, archive)
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as file:
                shutil.copyfileobj(content, file)
    except (*_DAMAGED, OSError) as error:
        if isinstance(error, OSError) and error.errno not in _ARCHIVES_FAULTS:
            raise
        raise UserError(f"{archive} is damaged or no archive: {error}.", "Download it again.") from error


def _files(archive: Path) -> Iterator[tuple[str, IO[bytes]]]:
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as zipped:
            for name in zipped.namelist():
                if not name.endswith("/"):
                    with zipped.open(name) as content:
                        yield name, content
        return
    with tarfile.open(archive) as tar:
        for member in tar:
            content_or_none = tar.extractfile(member) if member.isfile() else None
            if content_or_none is not None:
                yield member.name, content_or_none


def _checked(name: str, archive: Path) -> PurePosixPath:
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts:
        raise UserError(f"{archive}: the member {name} points outside the folder.", "Don't use this archive.")
    return path
