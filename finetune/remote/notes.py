"""Of each copy, as what it was last the same as the file that it stands for: there by its version, here by its state.

One small database for the whole cache. What it says of a file is forgotten at no cost but that of comparing the two
anew, by their content.
"""

import contextlib
import sqlite3
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from finetune.errors import UserError

NOTES_FILE = "notes.sqlite"
_SECONDS_OF_PATIENCE = 60.0


class LocalState(NamedTuple):
    """What changes with a local file: its size in bytes, and when it was written, in nanoseconds."""

    size: int
    mtime_ns: int

    @classmethod
    def of(cls, path: Path) -> "LocalState":
        """Of a file that is there.

        Raises:
            OSError: It isn't.
        """
        stat = path.stat()
        return cls(stat.st_size, stat.st_mtime_ns)


class Note(NamedTuple):
    """The version of the file there, and the state of its copy, when they were the same."""

    version: str
    local: LocalState


class Notes:
    """The notes of all copies; several threads and programs may write them.

    Copies are called by their paths in the cache's folder.
    """

    def __init__(self, root: Path) -> None:
        self._path = root / NOTES_FILE
        self._lock = threading.Lock()
        with self._database() as database:
            database.execute(
                "CREATE TABLE IF NOT EXISTS notes (path TEXT PRIMARY KEY, version TEXT, size INTEGER, mtime_ns INTEGER)"
            )

    def of(self, path: str) -> dict[str, Note]:
        """Those of a file, of all files in a folder, and of those whose names begin with this one and a dot."""
        # A slash comes behind a dot, and a zero behind that.
        query = "SELECT * FROM notes WHERE path = ? OR (path >= ? AND path < ?)"
        with self._database() as database:
            rows = database.execute(query, (path, f"{path}.", f"{path}0")).fetchall()
        return {name: Note(version, LocalState(size, mtime_ns)) for name, version, size, mtime_ns in rows}

    def write(self, notes: Iterable[tuple[str, Note]]) -> None:
        """Notes copies that are the same now as what they stand for."""
        rows = [(path, note.version, *note.local) for path, note in notes]
        with self._database() as database:
            database.executemany("INSERT OR REPLACE INTO notes VALUES (?, ?, ?, ?)", rows)

    def forget(self, paths: Iterable[str]) -> None:
        """Of files that are gone on both sides."""
        with self._database() as database:
            database.executemany("DELETE FROM notes WHERE path = ?", [(path,) for path in paths])

    @contextlib.contextmanager
    def _database(self) -> Iterator[sqlite3.Connection]:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with (
                self._lock,
                contextlib.closing(sqlite3.connect(self._path, timeout=_SECONDS_OF_PATIENCE)) as database,
                database,  # What is done within is committed.
            ):
                yield database
        except (sqlite3.Error, OSError) as error:
            raise UserError(
                f"{self._path}, which says what copies were the same as, can't be used: {error}.",
                "Remove it: copies are then compared anew with what they stand for.",
            ) from error
