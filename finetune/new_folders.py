"""Folders that are made for work which may fail."""

import contextlib
import shutil
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
