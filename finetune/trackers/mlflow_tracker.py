"""MLflow: runs in its store of files, or wherever the environment says.

By its client alone, which knows no current run: what else the process does with MLflow is left alone.
"""

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from finetune.trackers.tracker import GROUP_NAME, Ending

STORE_FOLDER = "mlruns"
STORE_VARIABLE = "MLFLOW_TRACKING_URI"
EXPERIMENT_VARIABLE = "MLFLOW_EXPERIMENT_NAME"
# Unless the user says otherwise: no word to its makers; files are a store that MLflow has to be allowed; and a server
# that is gone is given up after seconds, for the training waits.
DEFAULT_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ALLOW_FILE_STORE": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
}
MOST_PARAMETERS = 100  # At a time.
MOST_METRICS = 500
SECONDS_BETWEEN_WRITES = 2.0

_STATUS = {"finished": "FINISHED", "failed": "FAILED", "killed": "KILLED"}


class MlflowTracker:
    """A run of MLflow's. Figures are written every few seconds: a store of files opens one for each."""

    def __init__(self, run_folder: Path, run_id: str | None) -> None:
        """Goes on with a run, where the store has it, or begins one.

        Args:
            run_folder: Whose name the run gets; the store is `mlruns` in it, unless the environment names another.
            run_id: Of the run to go on with; None: a new one begins.
        """
        for name, value in DEFAULT_ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        from mlflow.tracking import MlflowClient

        store = os.environ.get(STORE_VARIABLE) or (run_folder.absolute() / STORE_FOLDER).as_uri()
        self._client: Any = MlflowClient(tracking_uri=store)
        self.run_id: str = run_id if run_id is not None and self._goes_on(run_id) else self._begin(run_folder)
        self._kept = dict(self._client.get_run(self.run_id).data.params)
        self._metrics: list[Any] = []
        self._last_write = time.monotonic()

    def _goes_on(self, run_id: str) -> bool:
        from mlflow.exceptions import MlflowException

        try:
            self._client.update_run(run_id, status="RUNNING")
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return False
        return True

    def _begin(self, run_folder: Path) -> str:
        name = os.environ.get(EXPERIMENT_VARIABLE) or GROUP_NAME
        experiment = self._client.get_experiment_by_name(name)
        experiment_id = experiment.experiment_id if experiment is not None else self._client.create_experiment(name)
        run_id: str = self._client.create_run(experiment_id, run_name=run_folder.absolute().name).info.run_id
        return run_id

    def parameters(self, values: Mapping[str, str]) -> None:
        """A parameter of MLflow's keeps its first value; another one is a tag `changed.NAME`."""
        from mlflow.entities import Param, RunTag

        new = [Param(name, value) for name, value in values.items() if name not in self._kept]
        changed = [
            RunTag(f"changed.{name}", value)
            for name, value in values.items()
            if name in self._kept and self._kept[name] != value
        ]
        for start in range(0, len(new), MOST_PARAMETERS):
            self._client.log_batch(self.run_id, params=new[start : start + MOST_PARAMETERS])
        if changed:
            self._client.log_batch(self.run_id, tags=changed)
        self._kept = {**values, **self._kept}

    def metrics(self, step: int, figures: Mapping[str, float]) -> None:
        """Kept in memory until some seconds are over, or there are many."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self._metrics += [Metric(name, value, now, step) for name, value in figures.items()]
        if len(self._metrics) >= MOST_METRICS or time.monotonic() - self._last_write > SECONDS_BETWEEN_WRITES:
            self._write_metrics()

    def _write_metrics(self) -> None:
        while self._metrics:
            some, self._metrics = self._metrics[:MOST_METRICS], self._metrics[MOST_METRICS:]
            self._client.log_batch(self.run_id, metrics=some)
        self._last_write = time.monotonic()

    def files(self, paths: Sequence[Path], folder: str) -> None:
        """Artifacts of the run."""
        for path in paths:
            self._client.log_artifact(self.run_id, str(path), folder)

    def end(self, ending: Ending) -> None:
        """Writes the last figures."""
        self._write_metrics()
        self._client.set_terminated(self.run_id, _STATUS[ending])
