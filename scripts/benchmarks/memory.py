"""The memory of a program with all the processes that it starts. Linux only: read from /proc."""

import contextlib
import dataclasses
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from measuring import default_environment

MIB = 1 << 20
SECONDS_BETWEEN_LOOKS = 0.1


@dataclasses.dataclass(frozen=True)
class Watched:
    """A program that has ended well: seconds from start to end, and the most memory that its processes had together."""

    seconds: float
    peak_bytes: int

    def __str__(self) -> str:
        return f"{self.seconds:.1f} seconds, {self.peak_bytes / MIB:.0f} MiB"


def run_watched(words: Sequence[str]) -> Watched:
    """Runs a program to its end, and looks at its memory now and then; if it fails, so does the benchmark."""
    peak_bytes = 0
    with tempfile.TemporaryFile("w+") as log:
        start = time.monotonic()
        process = subprocess.Popen(words, env=default_environment(), stdout=subprocess.DEVNULL, stderr=log)
        while process.poll() is None:
            peak_bytes = max(peak_bytes, bytes_of_tree(process.pid))
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(SECONDS_BETWEEN_LOOKS)
        seconds = time.monotonic() - start
        if process.returncode != 0:
            log.seek(0)
            sys.exit(f"{' '.join(words)}\nended with status {process.returncode}:\n{log.read()}")
    return Watched(seconds, peak_bytes)


def bytes_of_tree(process_id: int) -> int:
    """Memory of a process and its descendants; a page that several share is divided among them."""
    folder = Path("/proc") / str(process_id)
    try:
        lines = (folder / "smaps_rollup").read_text(encoding="utf-8").splitlines()
        children = " ".join(path.read_text(encoding="utf-8") for path in folder.glob("task/*/children")).split()
    except OSError:  # It has just ended.
        return 0
    own = sum(int(line.split()[1]) << 10 for line in lines if line.startswith("Pss:"))
    return own + sum(bytes_of_tree(int(child)) for child in children)
