"""One program at a time in a folder: by a lock of the operating system, which ends with its process however that ends.

Between machines it works where the file system passes locks on: NFS from version 4 on, and most others that are shared.
"""

import contextlib
import errno
import logging
from collections.abc import Iterator
from pathlib import Path

from finetune.errors import UserError

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
    from filelock import FileLock, Timeout  # Not needed by --help.

    lock = FileLock(folder / LOCK_FILE, blocking=False, fallback_to_soft=False)
    try:
        lock.acquire()
    except Timeout as error:
        raise UserError(
            f"{flag}: another {program} is at work in {folder}.", f"Wait for its end, stop it, or give another {flag}."
        ) from error
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise UserError(
                f"{flag}: {folder} can't be written: {error.strerror}.", f"Give another {flag}, or make room."
            ) from error
        log.warning("%s lies on a file system without locks: nothing keeps a second %s out.", folder, program)
        yield
        return
    try:
        yield
    finally:
        # Before it is released: whoever opened this file in the meantime finds it gone, and looks again.
        with contextlib.suppress(OSError):
            (folder / LOCK_FILE).unlink()
        lock.release()
