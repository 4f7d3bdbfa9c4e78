"""The figures of benchmarks over time, in history.csv beside this file, so that a fall is seen. No TensorFlow."""

import argparse
import csv
import dataclasses
import subprocess
from collections.abc import Sequence
from pathlib import Path

from measuring import HERE, HISTORY, this_machine

from finetune.files.whole_files import whole_file

COLUMNS = ("date", "commit", "processor", "versions", "command", "what", "figure", "unit")
# Rows that agree in these tell of the same thing.
SAME = ("processor", "command", "what", "unit")


@dataclasses.dataclass(frozen=True)
class Figure:
    """What a benchmark found.

    Attributes:
        what: What it is of, within the command.
        value: The figure itself.
        unit: As in "images/s", or "accuracy".
    """

    what: str
    value: float
    unit: str


def record(arguments: argparse.Namespace, figures: Sequence[Figure]) -> None:
    """Appends figures to the history, and prints each beside the last one of the same command on the same processor.

    Args:
        arguments: As `measuring.parse` gives them.
        figures: In the order in which they are written.
    """
    path: Path = arguments.history
    machine = this_machine()
    common = {
        "date": machine.date,
        "commit": current_commit(),
        "processor": ", ".join([machine.processor, *machine.units]),
        "versions": ", ".join(machine.versions),
        "command": arguments.command,
    }
    rows = [common | {"what": one.what, "figure": f"{one.value:.5g}", "unit": one.unit} for one in figures]
    earlier = read(path)
    with whole_file(path, newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows([*earlier, *rows])
    print(f"\nAdded to {path.name}:")
    for row in rows:
        print(f"  {compare(row, earlier)}")


def read(path: Path) -> list[dict[str, str]]:
    """The rows of a history, oldest first; none where there is no file."""
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def compare(row: dict[str, str], earlier: Sequence[dict[str, str]]) -> str:
    """A figure, and what it was before."""
    told = f"{row['what']}: {row['figure']} {row['unit']}"
    before = [one for one in earlier if all(one[column] == row[column] for column in SAME)]
    if not before:
        return told
    last = before[-1]
    return f"{told}; before, {last['date']} at {last['commit'] or 'no commit'}: {last['figure']}"


def current_commit() -> str:
    """Of the checkout that this file is in, with a + where a file differs from it; empty where there is none.

    The history itself, which benchmarks change, doesn't count.
    """
    commit = _git("rev-parse", "--short", "HEAD")
    is_changed = commit and _git("status", "--porcelain", "--untracked-files=no", ":/", f":(exclude){HISTORY.name}")
    return f"{commit}+" if is_changed else commit


def _git(*words: str) -> str:
    try:
        process = subprocess.run(["git", *words], cwd=HERE, capture_output=True, text=True, check=False)
    except FileNotFoundError:  # There is no git.
        return ""
    return process.stdout.strip() if process.returncode == 0 else ""
