"""Folders that are made for work which may fail."""

import contextlib
from collections.abc import Iterator
from pathlib import Path


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
