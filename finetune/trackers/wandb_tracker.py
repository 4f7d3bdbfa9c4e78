"""Weights & Biases: runs in files that `wandb sync` sends, or wherever the environment says."""

import os
import secrets
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from finetune.trackers.tracker import GROUP_NAME, Ending

MODE_VARIABLE = "WANDB_MODE"
PROJECT_VARIABLE = "WANDB_PROJECT"
# Unless the user says otherwise: no word to its makers of what goes wrong.
DEFAULT_ENVIRONMENT = {"WANDB_ERROR_REPORTING": "false"}
STEP = "step"


class WandbTracker:
    """A run of W&B's, in `wandb` in the run's folder; what it writes is written by a process of its own."""

    def __init__(self, run_folder: Path, run_id: str | None) -> None:
        """Begins a run, or a part of one.

        Args:
            run_folder: Whose name the run gets.
            run_id: Of the run to go on with; None: a new one begins.
        """
        for name, value in DEFAULT_ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        import wandb

        self._wandb: Any = wandb
        self.run_id = run_id or secrets.token_hex(4)
        self._run: Any = wandb.init(
            project=os.environ.get(PROJECT_VARIABLE) or GROUP_NAME,
            dir=str(run_folder.absolute()),
            id=self.run_id,
            name=run_folder.absolute().name,
            mode=None if os.environ.get(MODE_VARIABLE) else "offline",
            resume="allow",
            # Of the machine and the source nothing: provenance.json says what a run rests on.
            settings=wandb.Settings(
                silent=True, console="off", disable_git=True, disable_code=True, save_code=False, x_disable_stats=True
            ),
        )
        # Its own count of steps can't go back, as a run does that goes on from a checkpoint.
        self._run.define_metric("*", step_metric=STEP)

    def parameters(self, values: Mapping[str, str]) -> None:
        """The run's config."""
        self._run.config.update(dict(values), allow_val_change=True)

    def metrics(self, step: int, figures: Mapping[str, float]) -> None:
        """A row of the run's history."""
        self._run.log({**figures, STEP: step})

    def files(self, paths: Sequence[Path], folder: str) -> None:
        """Files of the run, as they are now: of others it would keep links."""
        of_run = Path(self._run.dir)
        (of_run / folder).mkdir(exist_ok=True)
        for path in paths:
            copy = shutil.copyfile(path, of_run / folder / path.name)
            self._run.save(str(copy), base_path=str(of_run), policy="now")

    def end(self, ending: Ending) -> None:
        """Waits until all is written, and ends the process that wrote it."""
        self._run.finish(exit_code=0 if ending == "finished" else 1)
        self._wandb.teardown()
