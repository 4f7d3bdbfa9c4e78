"""What a tracker is told of a run."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, Protocol

# Of what runs are grouped under, an experiment of MLflow's or a project of W&B's, where the environment names none.
GROUP_NAME = "finetune"

# How a run ended: it came to its end, failed, or was stopped.
Ending = Literal["finished", "failed", "killed"]


class Tracker(Protocol):
    """A tracker's record of one run. Any of the methods may fail by any exception."""

    @property
    def run_id(self) -> str:
        """By which the tracker knows the run."""

    def parameters(self, values: Mapping[str, str]) -> None:
        """Keeps settings; those of the same names may have been kept before, also with other values."""

    def metrics(self, step: int, figures: Mapping[str, float]) -> None:
        """Keeps figures of a step, as points of curves."""

    def files(self, paths: Sequence[Path], folder: str) -> None:
        """Keeps copies of files, in a folder among the run's."""

    def end(self, ending: Ending) -> None:
        """Writes out what is left, and says how the run ended."""
