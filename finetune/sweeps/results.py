"""What a sweep came to: its best trial, and all of them as a table on the terminal and in trials.csv."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from finetune.files.csv_cells import cells_of
from finetune.files.whole_files import write_text
from finetune.settings.search_space import short
from finetune.sweeps.study import Trial

if TYPE_CHECKING:
    from rich.table import Table

TRIALS_FILE = "trials.csv"


def folder_name(trial: Trial) -> str:
    """Of a trial's run, in the sweep's folder."""
    return f"trial-{trial.number}"


def find_best(trials: Sequence[Trial], *, minimised: bool) -> Trial | None:
    """The best of the trials that came to their end, of equals the first; None: none did."""
    ended = [(trial.value, trial) for trial in trials if trial.state == "complete" and trial.value is not None]
    if not ended:
        return None
    sign = 1 if minimised else -1
    return min(ended, key=lambda pair: (sign * pair[0], pair[1].number))[1]


def trials_table(trials: Sequence[Trial], names: Sequence[str], measure: str, best: Trial | None) -> "Table":
    """A row for each trial: its settings, the value of its best validation and the step of that, how it ended."""
    from rich.table import Table

    table = Table(title="Trials", title_justify="left")
    table.add_column("trial", justify="right")
    for name in names:
        table.add_column(name, justify="right")
    for heading in (measure, "step"):
        table.add_column(heading, justify="right")
    table.add_column("")
    for trial in trials:
        value = "" if trial.value is None else f"{trial.value:.4f}"
        step = "" if trial.step is None else str(trial.step)
        state = "best" if trial == best else "" if trial.state == "complete" else trial.state
        table.add_row(str(trial.number), *(short(trial.point[name]) for name in names), value, step, state)
    return table


def write_trials(trials: Sequence[Trial], names: Sequence[str], measure: str, folder: Path) -> None:
    """Writes trials.csv, a row for each trial, whole or not at all."""
    table = io.StringIO()
    rows = csv.writer(table, lineterminator="\n")
    rows.writerow(["trial", "state", *names, measure, "step", "folder", "reason"])
    for trial in trials:
        point = [trial.point[name] for name in names]
        result = [trial.value, trial.step, folder_name(trial), trial.reason]
        rows.writerow(cells_of([trial.number, trial.state, *point, *result]))
    write_text(folder / TRIALS_FILE, table.getvalue())
