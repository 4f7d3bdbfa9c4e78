"""Memory of the machine: how much is left for a program, and how much it takes. Of Linux; elsewhere it isn't known."""

import os
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

MEMORY_FILE, TAKEN_FILE = Path("/proc/meminfo"), Path("/proc/self/statm")
GROUPS_FILE, GROUPS_FOLDER = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")
# Of version 2 and of version 1 of control groups: below which folder, and the files of limit, use and its parts.
_NAMES = {
    "": ("", "memory.max", "memory.current", "memory.stat"),
    "memory": ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "memory.stat"),
}

SECONDS_BETWEEN_SAMPLES = 0.005


def free_bytes() -> int | None:
    """What can be taken before the kernel ends programs: of the machine, and of a container or job; None: unknown."""
    if not (MEMORY_FILE.is_file() and TAKEN_FILE.is_file()):
        return None
    lines = dict(line.split(":") for line in MEMORY_FILE.read_text().splitlines())
    return min([1024 * int(lines["MemAvailable"].removesuffix("kB")), *_free_bytes_of_groups()])


def taken_bytes() -> int:
    """What this process takes."""
    return int(TAKEN_FILE.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class PeakMemory:
    """Watches what this process takes at most within the context.

    Attributes:
        num_bytes: At most, so far.
    """

    def __init__(self) -> None:
        self.num_bytes = 0
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._is_over.set()
        self._thread.join()

    def _watch(self) -> None:
        while True:
            self.num_bytes = max(self.num_bytes, taken_bytes())
            if self._is_over.wait(SECONDS_BETWEEN_SAMPLES):
                return


def _free_bytes_of_groups() -> list[int]:
    """Of each control group with a limit that this process is in: a container, a job of a cluster."""
    found = []
    for line in GROUPS_FILE.read_text().splitlines() if GROUPS_FILE.is_file() else ():
        _, controllers, place = line.split(":", 2)
        if controllers not in _NAMES:
            continue
        subfolder, *names = _NAMES[controllers]
        top = GROUPS_FOLDER / subfolder
        group = top / place.lstrip("/")  # In a container the top is its own group, and the place may not be there.
        for folder in (path for path in (group, *group.parents) if path.is_relative_to(top)):
            files = [folder / name for name in names]
            if all(file.is_file() for file in files):
                found += _free_bytes_of_group(*(file.read_text() for file in files))
    return found


def _free_bytes_of_group(most: str, taken: str, counts: str) -> list[int]:
    if most.strip() == "max":
        return []
    # Files that were read count as taken, and go when memory is needed.
    of_files = [
        int(line.split()[1])
        for line in counts.splitlines()
        if line.startswith(("inactive_file ", "total_inactive_file "))
    ]
    return [int(most) - int(taken) + max(of_files, default=0)]
