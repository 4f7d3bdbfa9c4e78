"""The copies of one command: at hand before it works; what it writes is sent while it does, and once at the end.

One program of this machine at a time sends what a copy holds. Another one takes the copy as it is, since the files in
it are just being written; what that one writes in it is sent with the rest.

fsspec is imported where there is a copy to fetch.
"""

import contextlib
import contextvars
import dataclasses
import hashlib
import logging
import os
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from finetune.errors import UserError
from finetune.notices import few
from finetune.remote.urls import CACHE_VARIABLE, cache_root, how_to_install, own_path, url_of

if TYPE_CHECKING:
    from filelock import FileLock

    from finetune.remote.mirror import Mirror

SECONDS_BETWEEN_LOOKS = 5.0
# A program that only looks whether another writes has the lock for a moment.
SECONDS_OF_PATIENCE = 1.0
# Between two looks where nothing could be sent.
MOST_SECONDS_BETWEEN_LOOKS = 60.0

_LOCKS_FOLDER = ".locks"

log = logging.getLogger("finetune")


@dataclasses.dataclass(frozen=True)
class Copy:
    """A copy that a command needs.

    Attributes:
        place: Its path, as `local_path` gives it.
        is_written: Whether the command writes it.
        beside: As `Store.files`.
        is_read: Whether what lies there is needed; else the copy is written alone.
        left_out: Names of folders in it that aren't sent.
        is_certain: Whether it is certain what is written: then it is tried beforehand whether it can be, and the folder
            around it is made here, since there none may be needed.
    """

    place: Path
    is_written: bool = False
    beside: tuple[str, ...] | None = None
    is_read: bool = True
    left_out: tuple[str, ...] = ()
    is_certain: bool = True


@contextlib.contextmanager
def at_hand(copies: Sequence[Copy]) -> Iterator[None]:
    """Within, the copies hold what lies at their URLs, and what is written to them is sent.

    Raises:
        UserError: Something can't be fetched or, at the end, sent; a file has changed on both sides.
    """
    if not copies:
        yield
        return
    with contextlib.ExitStack() as stack:
        session = _Session(stack)
        for copy in sorted(copies, key=lambda copy: copy.is_written):  # What is written is locked: that comes last.
            session.add(copy)
        token = _current.set(session)
        try:
            with session.sending():
                yield
        finally:
            _current.reset(token)


def bring(path: Path) -> None:
    """Fetches what lies at a copy's URL now; nothing for another path, or a copy that this program writes.

    Raises:
        UserError: As `at_hand`.
    """
    if url_of(path) is None:
        return
    session = _current.get()
    if session is None:
        _make_same(Copy(path))
    elif not session.writes(path):
        _make_same(session.read.get(path, Copy(path)))


_current: contextvars.ContextVar["_Session | None"] = contextvars.ContextVar("session", default=None)


class _Session:
    """What a command reads and writes at URLs.

    Attributes:
        read: What it only reads, by place.
    """

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self._stack = stack
        self.read: dict[Path, Copy] = {}
        self._written: list[Mirror] = []
        self._lent: list[Copy] = []
        self._is_ending = threading.Event()

    def writes(self, path: Path) -> bool:
        """Whether a path is the command's own to write."""
        return any(path.is_relative_to(mirror.place) for mirror in self._written)

    def add(self, copy: Copy) -> None:
        """Makes a copy the same as what it stands for, and, where the command writes it, its own."""
        if not copy.is_written:
            self.read[copy.place] = copy
            unsent = _make_same(copy)
            if unsent:
                log.warning(
                    "%s: %d files of its copy were never sent, and are taken as they are here: %s.",
                    url_of(copy.place),
                    len(unsent),
                    few([path.name for path in unsent]),
                )
        elif not self._begin_writing(copy):
            log.info(
                "%s: another program here is at work with it. Its copy is taken as it is, and what is written to it is "
                "sent by that one.",
                url_of(copy.place),
            )
            self._lent.append(copy)

    def _begin_writing(self, copy: Copy) -> bool:
        if _is_written_by_another(copy.place):
            return False
        lock = _lock(copy.place)
        if not _is_free(lock, SECONDS_OF_PATIENCE):
            return False
        self._stack.callback(lock.release)
        mirror = _mirror(copy)
        if copy.is_certain:
            mirror.check_writable()
            copy.place.parent.mkdir(parents=True, exist_ok=True)
        if copy.is_read:
            with _lock(copy.place, of_reading=True):
                mirror.make_same()
        self._written.append(mirror)
        return True

    @contextlib.contextmanager
    def sending(self) -> Iterator[None]:
        """Within, what is written is sent every few seconds, by another thread; the rest of it at the end."""
        if not self._written and not self._lent:
            yield
            return
        thread = threading.Thread(target=self._send_now_and_then, name="finetune-sending", daemon=True)
        thread.start()
        try:
            yield
        except BaseException:
            self._end(thread)
            try:
                self._send_rest()
            except UserError as error:  # The first error is the one to tell.
                log.error("%s", error)
            raise
        self._end(thread)
        self._send_rest()

    def _end(self, thread: threading.Thread) -> None:
        self._is_ending.set()
        thread.join()

    def _send_now_and_then(self) -> None:
        seconds = SECONDS_BETWEEN_LOOKS
        while not self._is_ending.wait(seconds):
            try:
                for mirror in self._written:
                    mirror.send_changes()
                seconds = SECONDS_BETWEEN_LOOKS
            except (UserError, OSError) as error:
                seconds = min(2 * seconds, MOST_SECONDS_BETWEEN_LOOKS)
                log.warning("%s It is tried again in %g s.", str(error).splitlines()[0], seconds)

    def _send_rest(self) -> None:
        for copy in self._lent:  # The other program may be through.
            self._begin_writing(copy)
        for mirror in self._written:
            try:
                mirror.send_changes(is_end=True)
            except UserError as error:
                raise UserError(
                    f"{error}",
                    f"Nothing is lost: the copy is {own_path(mirror.place)}, and the next command that writes to "
                    f"{mirror.url} from here sends it first.",
                ) from error


def _mirror(copy: Copy) -> "Mirror":
    try:
        from finetune.remote.mirror import Mirror
    except ImportError as error:
        url = url_of(copy.place) or ""
        raise UserError(f"{url} needs the package {error.name}, which isn't there.", how_to_install(url)) from error

    return Mirror(copy.place, is_sent=copy.is_written, beside=copy.beside, left_out=copy.left_out)


def _make_same(copy: Copy) -> list[Path]:
    """Fetches what is only read, unless another program here is just writing it; returns what is new here."""
    mirror = _mirror(copy)
    with _lock(copy.place, of_reading=True):  # Of several that need the same, one fetches.
        if not _is_written_by_another(copy.place):
            return mirror.make_same()
    log.info("%s: another program here is at work with it: its copy is taken as it is.", url_of(copy.place))
    return []


def _is_written_by_another(place: Path) -> bool:
    """Whether another program of this machine writes a folder that a copy lies in, or the copy."""
    inner = place.relative_to(cache_root()).parts
    folders = [cache_root().joinpath(*inner[:number]) for number in range(2, len(inner) + 1)]
    return any(Path(lock.lock_file).exists() and not _is_free_now(lock) for lock in map(_lock, folders))


def _lock(place: Path, *, of_reading: bool = False) -> "FileLock":
    from filelock import FileLock

    digest = hashlib.sha256(os.fsencode(place)).hexdigest()
    folder = cache_root() / _LOCKS_FOLDER
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"{cache_root()}, where copies of what lies at URLs are kept, can't be written: {error.strerror}.",
            f"Name another folder by the environment variable {CACHE_VARIABLE}.",
        ) from error
    return FileLock(folder / (digest + (".reading" if of_reading else "")), fallback_to_soft=False)


def _is_free_now(lock: "FileLock") -> bool:
    is_free = _is_free(lock)
    lock.release()
    return is_free


def _is_free(lock: "FileLock", seconds: float = 0.0) -> bool:
    """Takes a lock, unless another has it for so long."""
    from filelock import Timeout

    try:
        lock.acquire(timeout=seconds)
    except Timeout:
        return False
    except OSError as error:
        log.warning("%s: nothing keeps a second program out: %s.", cache_root(), error.strerror)
    return True
