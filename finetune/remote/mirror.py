"""A copy and what it stands for, made the same: what is new there is fetched, what is new here is sent.

Which side is new is known by a note of when both were the same. Where both are, and not alike, nothing is done.

What is sent is whole and in an order in which a reader never sees an index without its data: data, then indices, then
files that name others; what is removed goes in the other order. Hidden files, and those that are being written, are no
part of it.
"""

import concurrent.futures
import contextlib
import filecmp
import hashlib
import logging
import os
import shlex
import shutil
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple, TypeVar

from finetune.errors import UserError
from finetune.files.shares import SHARES_FOLDER
from finetune.files.whole_files import put_in_place
from finetune.files.write_errors import naming
from finetune.notices import few
from finetune.progress import progress
from finetune.remote.notes import LocalState, Note, Notes
from finetune.remote.store import GoneError, RemoteFile, Store, is_part, no_bucket
from finetune.remote.urls import CACHE_VARIABLE, cache_root, own_path, url_of

NUM_TRANSFERS = 8  # At a time.
SECONDS_BETWEEN_NOTES = 2.0
# A file that names others is sent once it has been there for so long: what it names was there before it.
SECONDS_OF_AGE = 1.0
# So often is what lies there listed anew where a file was gone when it was to be fetched.
NUM_LISTINGS = 5
# What is fetched is written to all the time.
SECONDS_OF_PARTIALS = 86_400.0
MEGABYTE = 1_000_000
# Less is fetched without a bar.
LEAST_BYTES_SHOWN = 10 * MEGABYTE

_PARTIAL_FOLDER = ".partial"

Item = TypeVar("Item")

log = logging.getLogger("finetune")


class LocalFile(NamedTuple):
    """A file of the copy.

    Attributes:
        state: Size and time of writing.
        named_at: When it got its name, in seconds since 1970.
    """

    state: LocalState
    named_at: float


class _Steps(NamedTuple):
    """What makes both sides the same, each by the paths of copies."""

    fetched: list[Path]
    sent: list[Path]
    removed_here: list[Path]
    forgotten: list[Path]
    compared: list[Path]
    torn: list[Path]


class Mirror:
    """A copy and what it stands for.

    Attributes:
        place: The copy: a file, a folder, or what the names of a checkpoint's files begin with.
        url: What it stands for.
    """

    def __init__(
        self,
        place: Path,
        *,
        is_sent: bool = False,
        beside: Collection[str] | None = None,
        left_out: Collection[str] = (),
        pause: Callable[[float], object] = time.sleep,
    ) -> None:
        """Says what is to be made the same.

        Args:
            place: As `local_path` gives it.
            is_sent: Whether what is new here is sent; else it stays.
            beside: As `Store.files`.
            left_out: Names of folders that aren't sent.
            pause: Waits so many seconds between tries.

        Raises:
            UserError: As `Store`.
        """
        url = url_of(place)
        assert url is not None, place
        self.place = place
        self.url = url
        self._is_sent = is_sent
        self._beside = beside
        self._left_out = frozenset(left_out)
        self._root = cache_root()
        self._store = Store(url, place, pause=pause)
        self._notes = Notes(self._root)
        self._lock = threading.RLock()
        self._present: set[Path] = set()
        self._missing: set[Path] = set()

    def make_same(self) -> list[Path]:
        """Fetches what is new there, and sends what is new here.

        Returns:
            What is new here and stays so, since this copy isn't to be sent.

        Raises:
            UserError: A file has changed on both sides; something can't be fetched or sent; there is no room for it.
        """
        with self._lock:
            for _ in range(NUM_LISTINGS):
                with contextlib.suppress(GoneError):
                    kept = self._make_same()
                    self._present = set(self._local_files())
                    return kept
            raise UserError(f"{self.url} changes while it is read.", "Give the command again.")

    def check_writable(self) -> None:
        """As `Store.check_writable`."""
        self._store.check_writable()

    def send_changes(self, *, is_end: bool = False) -> None:
        """Sends what has come or changed since, and removes there what is gone here.

        Args:
            is_end: Whether nothing writes here any more: else a file that names others waits for those, and what isn't
                there is removed when it isn't the next time either, for it may just be replaced.

        Raises:
            UserError: It can't be sent; nothing is lost, for the copy is whole.
        """
        with self._lock:
            began = time.time()
            local = self._local_files()
            notes = self._noted()
            new = [path for path, file in local.items() if path not in notes or notes[path].local != file.state]
            if not is_end:
                new = [path for path in new if not _rank(path) or local[path].named_at < began - SECONDS_OF_AGE]
            self._send(new)
            missing = {path for path in notes if path in self._present and path not in local}
            if not self.place.is_dir() and not self.place.name.startswith(SHARES_FOLDER):
                missing = set()  # Shares go as a whole; of anything else it wasn't the command that removed it.
            self._present.update(local)
            gone = missing if is_end else missing & self._missing
            for path in sorted(gone, key=_rank, reverse=True):
                self._store.delete(path)
                self._notes.forget([self._name(path)])
            self._present -= gone
            self._missing = missing - gone

    def _make_same(self) -> list[Path]:
        remote = self._store.files(beside=self._beside)
        remote = {path: file for path, file in remote.items() if not self._is_passed_over(path)}
        local, notes = self._local_files(), self._noted()
        beside = [path for path in remote if not self._is_own(path)]
        local |= _found(beside)
        notes |= self._noted_of(beside)
        steps = _steps({*remote, *local, *notes}, local, remote, notes)
        torn = [path for path in steps.compared if not self._is_alike(path, remote[path])]
        if torn or steps.torn:
            raise self._torn([*torn, *steps.torn], remote)
        self._fetch([(path, remote[path]) for path in steps.fetched])
        for path in steps.removed_here:
            self._remove(path)
        self._notes.forget(map(self._name, [*steps.removed_here, *steps.forgotten]))
        if steps.sent and self._is_sent:
            log.info("%s: sending %s that a program left here: %s", self.url, *_told(steps.sent))
            self._send(steps.sent)
            return []
        return steps.sent

    def _fetch(self, files: list[tuple[Path, RemoteFile]]) -> None:
        if not files:
            return
        total = sum(file.size for _, file in files)
        self._refuse_no_room(total)
        log.info("Fetching %s, %.1f MB, from %s", _files(files), total / MEGABYTE, self.url)
        with _shown(self.url, total) as advance, self._noting() as note:

            def fetch(item: tuple[Path, RemoteFile]) -> tuple[Path, Note]:
                path, file = item
                with self._fetched(path, file, advance) as partial:
                    state = LocalState.of(partial)
                    put_in_place(partial, path)
                return path, Note(file.version, state)

            for ranked in _by_rank(files, lambda item: item[0]):
                _at_once(fetch, ranked, note)

    @contextlib.contextmanager
    def _fetched(self, path: Path, file: RemoteFile, advance: Callable[[int], None]) -> Iterator[Path]:
        """What lies there, in a file of another name; the folder of the copy is there then."""
        digest = hashlib.sha256(os.fsencode(path)).hexdigest()
        partial = self._root / _PARTIAL_FOLDER / f"{digest}-{os.getpid()}"
        try:
            with naming(path, partial):
                for folder in (partial.parent, path.parent):
                    folder.mkdir(parents=True, exist_ok=True)
                self._store.fetch(file, partial, advance)
                yield partial
        except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
            raise UserError(
                f"{self.url}: {error.filename} is a file and a folder there.", "No folder here can be so: rename one."
            ) from error
        finally:
            partial.unlink(missing_ok=True)

    def _is_alike(self, path: Path, file: RemoteFile) -> bool:
        """Whether both sides hold the same, though there is no note of it, which there is then."""
        state = LocalState.of(path)
        if state.size != file.size:
            return False
        with self._fetched(path, file, lambda num_bytes: None) as partial:
            is_alike = filecmp.cmp(partial, path, shallow=False)
        if is_alike:
            self._notes.write([(self._name(path), Note(file.version, state))])
        return is_alike

    def _send(self, paths: Iterable[Path]) -> None:
        with self._noting() as note:

            def send(path: Path) -> tuple[Path, Note] | None:
                try:
                    state = LocalState.of(path)
                    return path, Note(self._store.send(path, path), state)
                except (GoneError, FileNotFoundError) as error:
                    if path.exists():
                        raise no_bucket(self.url, error) from error
                    return None  # Removed in the meantime.

            for ranked in _by_rank(paths, lambda path: path):
                _at_once(send, ranked, note)

    @contextlib.contextmanager
    def _noting(self) -> Iterator[Callable[[tuple[Path, Note] | None], None]]:
        """Notes files as they are done, several at a time; those that are, whatever comes then."""
        done: list[tuple[str, Note]] = []
        last = time.monotonic()

        def note(item: tuple[Path, Note] | None) -> None:
            nonlocal last
            if item is not None:
                done.append((self._name(item[0]), item[1]))
            if time.monotonic() - last > SECONDS_BETWEEN_NOTES:
                self._notes.write(done)
                done.clear()
                last = time.monotonic()

        try:
            yield note
        finally:
            if done:
                self._notes.write(done)

    def _local_files(self) -> dict[Path, LocalFile]:
        """The copy's files; those that are being written, and hidden ones, are none."""
        candidates: list[Path] = []
        if self.place.is_dir():
            candidates += (Path(folder) / name for folder, _, names in self._walk() for name in names)
        elif self.place.parent.is_dir():
            candidates += (path for path in self.place.parent.iterdir() if is_part(path.name, self.place.name))
        return _found(path for path in candidates if not self._is_passed_over(path))

    def _walk(self) -> Iterator[tuple[str, list[str], list[str]]]:
        for folder, folders, names in os.walk(self.place):
            folders[:] = [name for name in folders if not _is_unfinished(name) and name not in self._left_out]
            yield folder, folders, names

    def _is_passed_over(self, path: Path) -> bool:
        inner = path.relative_to(self.place).parts if path.is_relative_to(self.place) else (path.name,)
        return any(map(_is_unfinished, inner)) or not self._left_out.isdisjoint(inner[:-1])

    def _noted(self) -> dict[Path, Note]:
        notes = {self._root / name: note for name, note in self._notes.of(self._name(self.place)).items()}
        return {path: note for path, note in notes.items() if self._is_own(path) and not self._is_passed_over(path)}

    def _noted_of(self, paths: Iterable[Path]) -> dict[Path, Note]:
        found = ((path, self._notes.of(self._name(path)).get(self._name(path))) for path in paths)
        return {path: note for path, note in found if note is not None}

    def _remove(self, path: Path) -> None:
        """Removes a file, and the folders that it leaves empty: there, folders are no more than names."""
        path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # It holds others.
            for folder in path.parents:
                if not folder.is_relative_to(self.place):
                    break
                folder.rmdir()

    def _is_own(self, path: Path) -> bool:
        """Whether it is the file, in the folder, or of the checkpoint; what describes that isn't its own."""
        return path.is_relative_to(self.place) or is_part(path.name, self.place.name)

    def _name(self, path: Path) -> str:
        return path.relative_to(self._root).as_posix()

    def _refuse_no_room(self, num_bytes: int) -> None:
        self._root.mkdir(parents=True, exist_ok=True)
        for partial in (self._root / _PARTIAL_FOLDER).glob("*"):
            with contextlib.suppress(FileNotFoundError):
                if time.time() - partial.stat().st_mtime > SECONDS_OF_PARTIALS:
                    partial.unlink()  # Of a program that was killed.
        free = shutil.disk_usage(self._root).free
        if num_bytes > free:
            raise UserError(
                f"{self.url}: {num_bytes / MEGABYTE:,.0f} MB are to be fetched, and there is room for "
                f"{free / MEGABYTE:,.0f} MB in {self._root}.",
                f"Make room there, or name another folder by the environment variable {CACHE_VARIABLE}.",
            )

    def _torn(self, paths: list[Path], remote: Collection[Path]) -> UserError:
        number, names = _told(paths)
        gone = [path for path in paths if path not in remote]
        what = "have changed here and are gone there" if len(gone) == len(paths) else "have changed there and here"
        copy = own_path(self.place if self.place.exists() else self.place.parent)
        return UserError(
            f"{self.url}: {number} {what} since both were the same: {names}.",
            f"To take what is there, remove the copy: rm -r {shlex.quote(copy)}\n"
            "  To take the copy, move it elsewhere, and give that folder in place of the URL.",
        )


def _found(paths: Iterable[Path]) -> dict[Path, LocalFile]:
    """Those of the paths that are files."""
    found = {}
    for path in paths:
        with contextlib.suppress(FileNotFoundError):  # Replaced or removed just now.
            if path.is_file() and not path.is_symlink():
                stat = path.stat()
                found[path] = LocalFile(LocalState(stat.st_size, stat.st_mtime_ns), stat.st_ctime)
    return found


def _steps(
    paths: Iterable[Path], local: dict[Path, LocalFile], remote: dict[Path, RemoteFile], notes: dict[Path, Note]
) -> _Steps:
    """For each file what makes both sides the same."""
    steps = _Steps([], [], [], [], [], [])
    for path in sorted(paths):
        here, there, note = local.get(path), remote.get(path), notes.get(path)
        is_new_here = here is not None and (note is None or note.local != here.state)
        is_new_there = there is not None and (note is None or note.version != there.version)
        if here is None and there is None:
            steps.forgotten.append(path)
        elif here is None:
            steps.fetched.append(path)
        elif there is None:
            (steps.sent if note is None else steps.torn if is_new_here else steps.removed_here).append(path)
        elif is_new_here and is_new_there:
            steps.compared.append(path)
        elif is_new_there:
            steps.fetched.append(path)
        elif is_new_here:
            steps.sent.append(path)
    return steps


def _rank(path: Path) -> int:
    """0: data; 1: an index of data; 2: what names other files, as a run's state and a data set's description do."""
    if path.suffix == ".index":
        return 1
    return 2 if path.suffix == ".json" or path.name == "checkpoint" else 0


def _by_rank(items: Iterable[Item], path_of: Callable[[Item], Path]) -> list[list[Item]]:
    ranked: dict[int, list[Item]] = {}
    for item in items:
        ranked.setdefault(_rank(path_of(item)), []).append(item)
    return [ranked[rank] for rank in sorted(ranked)]


def _at_once(work: Callable[[Item], object], items: Iterable[Item], on_result: Callable[..., object]) -> None:
    """Does a piece of work on several items at a time; the first error ends it, when those under way are done."""
    with concurrent.futures.ThreadPoolExecutor(NUM_TRANSFERS) as pool:
        futures = [pool.submit(work, item) for item in items]
        try:
            for future in concurrent.futures.as_completed(futures):
                on_result(future.result())
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


@contextlib.contextmanager
def _shown(url: str, num_bytes: int) -> Iterator[Callable[[int], None]]:
    """A bar, or lines, in megabytes; the function it gives is told of bytes, by several threads."""
    if num_bytes < LEAST_BYTES_SHOWN:
        yield lambda done: None
        return
    lock = threading.Lock()
    with progress(f"Fetching {url}", num_bytes // MEGABYTE, unit="MB") as advance:
        rest = 0

        def advance_bytes(done: int) -> None:
            nonlocal rest
            with lock:
                rest += done
                whole = int(rest / MEGABYTE)
                rest -= whole * MEGABYTE
                advance(whole)

        yield advance_bytes


def _is_unfinished(name: str) -> bool:
    return name.endswith(".partial") or (name.startswith(".") and name != SHARES_FOLDER)


def _files(items: Collection[object]) -> str:
    return "1 file" if len(items) == 1 else f"{len(items):,} files"


def _told(paths: Collection[Path]) -> tuple[str, str]:
    """How many files these are, and what a few of them are called."""
    return _files(paths), few([path.name for path in paths])
