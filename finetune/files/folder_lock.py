"""One program at a time in a folder, or at a file that is being written.

By locks of the operating system, which end with their process however that ends.

Between machines it works where the file system passes locks on: NFS from version 4 on, and most others that are shared.
"""

import contextlib
import errno
import logging
from collections.abc import Iterator
from pathlib import Path

from finetune.errors import UserError
from finetune.files.whole_files import gone_if_empty, is_special

LOCK_FILE = ".lock"
# What file systems without locks answer.
_NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL)

log = logging.getLogger("finetune")


@contextlib.contextmanager
def sole_use(folder: Path, *, flag: str, program: str) -> Iterator[None]:
    """Keeps other programs of ours out of a folder while the context lasts; says so where the file system can't.

    Args:
        folder: Exists, and can be written.
        flag: That names the folder, for messages.
        program: That works in it, for messages.

    Raises:
        UserError: Another program, or another thread of this one, has it; the lock's file can't be made.
    """
    with _locked(folder / LOCK_FILE, f"at work in {folder}", flag, program, wait=False):
        yield


@contextlib.contextmanager
def sole_writer(path: Path, *, flag: str, program: str, wait: bool = False) -> Iterator[None]:
    """Keeps other programs of ours from writing the same file or folder; says so where the file system can't.

    Args:
        path: What is written, and may take the place of what is there. The folder around it is made. What is neither
            file nor folder, such as a pipe, needs no lock.
        flag: That names it, for messages.
        program: That writes it, for messages.
        wait: Begin when the other program is through, in place of refusing, and say so.

    Raises:
        UserError: As `sole_use`, unless it is to wait.
    """
    if is_special(path):
        yield
        return
    path = path.absolute()
    with gone_if_empty(path.parent):
        with contextlib.suppress(OSError):  # Told by the lock.
            path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(path.with_name(f".{path.name}{LOCK_FILE}"), f"writing {path}", flag, program, wait=wait):
            yield


@contextlib.contextmanager
def _locked(file: Path, doing: str, flag: str, program: str, *, wait: bool) -> Iterator[None]:
    from filelock import FileLock, Timeout  # Not needed by --help.

    lock = FileLock(file, blocking=False, fallback_to_soft=False)
    try:
        try:
            lock.acquire()
        except Timeout as error:
            if not wait:
                raise UserError(
                    f"{flag}: another {program} is {doing}.", f"Wait for its end, stop it, or give another {flag}."
                ) from error
            log.info("Another %s is %s: waiting for its end.", program, doing)
            lock.acquire(blocking=True)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise UserError(
                f"{flag}: {file.parent} can't be written: {error.strerror}.", f"Give another {flag}, or make room."
            ) from error
        log.warning("%s lies on a file system without locks: nothing keeps a second %s out.", file.parent, program)
        yield
        return
    try:
        yield
    finally:
        # Before it is released: whoever opened this file in the meantime finds it gone, and looks again.
        with contextlib.suppress(OSError):
            file.unlink()
        lock.release()
