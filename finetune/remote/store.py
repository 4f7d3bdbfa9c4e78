"""The files at a URL, by fsspec: listed, fetched, sent, deleted; what fails for a moment is tried again, which is said.

Importing this module imports fsspec, which only those need who give URLs.
"""

import contextlib
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import fsspec
from fsspec.callbacks import Callback

from finetune.errors import UserError, first_line
from finetune.files.write_errors import is_write_error
from finetune.remote.urls import how_to_install, problem_of_key

NUM_TRIES = 5
FIRST_PAUSE_SECONDS = 0.5
_CHECKPOINT_ENDING = re.compile(r"\.(index|meta|data-\d{5}-of-\d{5})")
# What services call the version of a file, the surest first.
_VERSIONS = ("ETag", "etag", "generation", "md5Hash", "checksum", "mtime", "LastModified", "last_modified", "created")
# What another try doesn't mend.
_LASTING = (FileNotFoundError, PermissionError, FileExistsError, NotADirectoryError, IsADirectoryError, ValueError)
_OBJECT_STORES = ("s3", "s3a", "gs", "gcs", "abfs", "abfss", "az")
Result = TypeVar("Result")

log = logging.getLogger("finetune")


class RemoteFile(NamedTuple):
    """A file there.

    Attributes:
        key: As the service calls it.
        size: In bytes.
        version: Another one where the content is another one.
    """

    key: str
    size: int
    version: str


class GoneError(Exception):
    """A file that was listed is there no more."""


class Store:
    """What lies at a URL.

    Attributes:
        url: A file's, a folder's, or what the names of a checkpoint's files begin with.
    """

    def __init__(self, url: str, place: Path, *, pause: Callable[[float], object] = time.sleep) -> None:
        """Finds who knows the scheme; nothing is asked of a service yet.

        Args:
            url: Of what lies there.
            place: Where its copy is.
            pause: Waits so many seconds between tries.

        Raises:
            UserError: Nobody knows the scheme; a package is missing; the service's own settings don't do.
        """
        self.url = url
        self._place = place
        self._pause = pause
        try:
            self._fs, key = fsspec.core.url_to_fs(url, use_listings_cache=False)
        except ImportError as error:
            raise UserError(f"{url}: {first_line(error)}.", how_to_install(url)) from error
        except Exception as error:
            raise UserError(f"{url} can't be used: {first_line(error)}.", _mend(error)) from error
        self._key = str(key).rstrip("/")
        if not self._key:
            raise UserError(f"{url} is all that there is.", "Name a folder in it.")

    def files(self, *, beside: Collection[str] | None = None) -> dict[Path, RemoteFile]:
        """All files of the folder, or the file; none where there is nothing: by their copies' paths.

        Args:
            beside: It may be a checkpoint's prefix: where it is no folder also those of the checkpoint's files, and of
                the files beside it, those of these names. None: it is no checkpoint.

        Raises:
            UserError: They can't be listed; one can't be a file here.
        """
        try:
            found = self._tried("listed", lambda: self._fs.find(self._key, detail=True))
        except GoneError as error:
            raise UserError(f"{self.url} can't be listed: {error}.", "Check the bucket's name.") from error
        is_folder = any(key != self._key for key in found)
        if beside is not None and not is_folder and "/" in self._key.strip("/"):
            found = {**found, **self._beside(beside)}
        return dict(self._local(found))

    def fetch(self, file: RemoteFile, path: Path, advance: Callable[[int], None]) -> None:
        """Writes a file's content to a path.

        Args:
            file: That is there.
            path: Of a local file, whose folder is there.
            advance: Told how many bytes more have come; fewer than none where a try begins anew.

        Raises:
            GoneError: It is there no more.
            OSError: The path can't be written.
            UserError: It can't be fetched.
        """

        def fetch() -> None:
            counted = _Counted(advance)
            try:
                self._fs.get_file(file.key, str(path), callback=counted)
                size = path.stat().st_size
                if size != file.size and self._fs.info(file.key)["size"] != size:
                    raise ConnectionError(f"{size:,} of {file.size:,} bytes came")
            except BaseException:
                advance(-counted.value)
                raise

        self._tried(f"fetched ({file.key})", fetch)

    def send(self, path: Path, copy: Path) -> str:
        """Puts a file there; readers find what was there before, or all of it, as far as the service sees to that.

        Args:
            path: Of its content.
            copy: Which of the copies it is.

        Returns:
            Its version there.

        Raises:
            OSError: It can't be read.
            UserError: It can't be sent.
        """
        key = self._key_of(copy)

        def send() -> str:
            self._fs.put_file(str(path), key)
            return _version(self._fs.info(key))

        return self._tried(f"sent ({key})", send)

    def delete(self, copy: Path) -> None:
        """Removes a file there, if it is there.

        Raises:
            UserError: It can't be removed.
        """
        key = self._key_of(copy)
        with contextlib.suppress(GoneError):
            self._tried(f"removed ({key})", lambda: self._fs.rm_file(key))

    def check_writable(self) -> None:
        """Writes an empty object there and removes it: what can't be sent is told before the work, not after it.

        Where folders are no more than names; elsewhere nothing is tried.

        Raises:
            UserError: Nothing can be written there.
        """
        if self.url.partition("://")[0] not in _OBJECT_STORES:
            return
        probe = f"{self._key}/.writable"

        def write() -> None:
            self._fs.put_file(os.devnull, probe)
            self._fs.rm_file(probe)

        try:
            self._tried("written", write)
        except GoneError as error:
            raise no_bucket(self.url, error) from error

    def _beside(self, names: Collection[str]) -> dict[str, Any]:
        parent, name = self._key.rpartition("/")[::2]
        listed = self._tried("listed", lambda: self._listed(parent))

        def is_wanted(key: str) -> bool:
            own = key.rpartition("/")[2]
            return is_part(own, name) or own in names

        return {info["name"]: info for info in listed if info["type"] == "file" and is_wanted(info["name"])}

    def _listed(self, folder: str) -> list[Any]:
        try:
            return list(self._fs.ls(folder, detail=True))
        except FileNotFoundError:
            return []

    def _local(self, found: dict[str, Any]) -> Iterator[tuple[Path, RemoteFile]]:
        for key, info in found.items():
            if (
                key.endswith("/")
                or info["type"] != "file"
                or (key == self._key and len(found) > 1 and not info["size"])
            ):
                continue  # What consoles make so that a folder shows.
            problem = problem_of_key(key.lstrip("/"))
            if problem:
                raise UserError(f"{self.url}: the file {key!r} {problem}.", "Rename it there, or give another folder.")
            yield self._copy_of(key), RemoteFile(key, int(info["size"]), _version(info))

    def _copy_of(self, key: str) -> Path:
        if key == self._key:
            return self._place
        if key.startswith(f"{self._key}/"):
            return self._place / key.removeprefix(f"{self._key}/")
        return self._place.parent / key.rpartition("/")[2]

    def _key_of(self, copy: Path) -> str:
        if copy == self._place:
            return self._key
        if copy.is_relative_to(self._place):
            return f"{self._key}/{copy.relative_to(self._place).as_posix()}"
        return f"{self._key.rpartition('/')[0]}/{copy.name}"

    def _tried(self, what: str, ask: Callable[[], Result]) -> Result:
        """What is asked of the service, several times where it fails for a moment.

        Raises:
            GoneError: There is no such file, or bucket.
            OSError: A local file can't be written.
            UserError: It can't be had.
        """
        for number in range(NUM_TRIES):
            try:
                return ask()
            except FileNotFoundError as error:
                raise GoneError(first_line(error)) from error
            except Exception as error:  # Each service has errors of its own.
                if is_write_error(error):
                    raise
                if isinstance(error, _LASTING) or _is_of_credentials(error) or number == NUM_TRIES - 1:
                    raise UserError(f"{self.url} can't be {what}: {first_line(error)}.", _mend(error)) from error
                seconds = FIRST_PAUSE_SECONDS * 2**number
                log.info("%s: %s; trying again in %g s.", self.url, first_line(error), seconds)
                self._pause(seconds)
        raise AssertionError("the last try returns or raises")


class _Counted(Callback):
    """Tells of bytes as they come, in whichever thread."""

    def __init__(self, advance: Callable[[int], None]) -> None:
        super().__init__()
        self._advance = advance
        self._lock = threading.Lock()

    def relative_update(self, inc: int = 1) -> None:
        with self._lock:
            self.value += inc
        self._advance(inc)


def is_part(name: str, whole: str) -> bool:
    """Whether a file is the one that is named, or one of a checkpoint's whose names begin so."""
    return name == whole or (name.startswith(whole) and _CHECKPOINT_ENDING.fullmatch(name, len(whole)) is not None)


def no_bucket(url: str, error: Exception) -> UserError:
    """The mistake of naming a place where nothing can be put."""
    return UserError(f"{url} can't be written: {first_line(error)}.", "Make the bucket first, or check its name.")


def _version(info: dict[str, Any]) -> str:
    """What tells versions of a file apart; the service's own word for it, and the size."""
    word = next((str(info[name]) for name in _VERSIONS if info.get(name) is not None), "")
    return f"{word} {info['size']}"


def _is_of_credentials(error: Exception) -> bool:
    return "Credential" in type(error).__name__ or "Token" in type(error).__name__


def _mend(error: Exception) -> str:
    if _is_of_credentials(error) or isinstance(error, PermissionError):
        return "Give credentials that may do so as the service's own tools take them: by environment or settings file."
    return "Check the URL and the connection, and give the command again, which goes on where it stopped."
