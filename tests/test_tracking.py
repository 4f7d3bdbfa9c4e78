"""--track: what MLflow's store holds of a run; what a tracker that fails, or isn't there, does to a training."""

import json
import socket
import sys
import tomllib
import types
from importlib.machinery import ModuleSpec

import pytest
from tiny_runs import write_records

from finetune.commands import train
from finetune.commands.final_evaluation import tell_results
from finetune.errors import UserError
from finetune.runs.run_folder import RunFolder
from finetune.trackers import tracked_run
from finetune.trackers.tracked_run import TRACKING_FILE, TrackedRun

WORDS = ["--model=lenet", "--batch-size=4", "--log-every=1", "--learning-rate=0.01"]


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch):
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "WANDB_MODE", "WANDB_PROJECT"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    folder = write_records(tmp_path_factory.mktemp("data") / "records", num_images=4)
    return write_records(folder, num_images=8, split="train")


def train_with(capsys, *words):
    status = train.main([str(word) for word in words])
    told = capsys.readouterr().err
    assert "Traceback" not in told
    return status, told


def test_mlflow_holds_parameters_curves_and_report(records, tmp_path, monkeypatch, capsys):
    pytest.importorskip("mlflow")
    connected = []
    monkeypatch.setattr(socket.socket, "connect", lambda *given: connected.append(given))
    run = tmp_path / "a run"
    words = [f"--dataset-dir={records}", f"--train-dir={run}", "--track=mlflow", *WORDS]
    assert train_with(capsys, *words, "--max-steps=3", "--eval-every=2", "--report")[0] == 0
    first = check_store(run)
    assert train_with(capsys, "--resume", f"--train-dir={run}", "--max-steps=5", "--no-report")[0] == 0
    second = check_store(run, changed={"max_steps": ("3", "5"), "report": ("True", "False")})
    assert second.info.run_id == first.info.run_id == json.loads((run / TRACKING_FILE).read_text())["mlflow"]
    assert second.info.start_time == first.info.start_time
    assert not connected


def check_store(run, changed=None):
    """The run in MLflow's store, against what the run's own files say."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=(run / "mlruns").as_uri())
    (found,) = client.search_runs([client.get_experiment_by_name("finetune").experiment_id])
    assert (found.info.status, found.info.run_name) == ("FINISHED", run.name)
    settings = {name: str(value) for name, value in tomllib.loads((run / "config.toml").read_text()).items()}
    for name, (before, now) in (changed or {}).items():
        assert found.data.tags[f"changed.{name}"] == settings[name] == now
        settings[name] = before
    assert found.data.params == settings
    rows = RunFolder(run).read_metrics()
    for name, split in (("loss", None), ("learning_rate", None), ("accuracy", "validation"), ("loss", "validation")):
        history = client.get_metric_history(found.info.run_id, f"{split or 'training'}/{name}")
        expected = [(row["step"], row[name]) for row in rows if row.get("split") == split and row.get(name) is not None]
        assert [(point.step, point.value) for point in history] == expected
        assert expected
    kept = {item.path for item in client.list_artifacts(found.info.run_id, "eval_validation")}
    assert {"eval_validation/report.html", "eval_validation/metrics.json"} <= kept
    metrics = json.loads((run / "eval_validation/metrics.json").read_text())
    assert found.data.metrics["evaluation/accuracy"] == metrics["accuracy"]
    copy = run / "copy"
    copy.mkdir(exist_ok=True)
    report = client.download_artifacts(found.info.run_id, "eval_validation/report.html", str(copy))
    with open(report, encoding="utf-8") as file:  # noqa: PTH123
        assert file.read() == (run / "eval_validation/report.html").read_text()
    return found


@pytest.mark.parametrize("kind", ["mlflow", "wandb"])
def test_without_the_extra_nothing_is_begun(kind, records, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, kind, None)
    words = [f"--dataset-dir={records}", f"--train-dir={tmp_path / 'run'}", f"--track={kind}", *WORDS]
    status, told = train_with(capsys, *words)
    assert status == 2
    assert f"pip install 'slim-finetune[{kind}]'" in told
    assert not (tmp_path / "run").exists()


class FullDisk:
    """A tracker that takes some figures and then no more."""

    run_id = "1"
    ended = ()

    def __init__(self, run_folder, run_id):
        self.num_left = 2

    def parameters(self, values):
        pass

    def metrics(self, step, figures):
        if not self.num_left:
            raise OSError(28, "No space left on device")
        self.num_left -= 1

    def files(self, paths, folder):
        pass

    def end(self, ending):
        type(self).ended += (ending,)


def test_a_tracker_that_fails_ends_no_training(records, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(tracked_run.TRACKERS, "mlflow", FullDisk)
    monkeypatch.setattr(tracked_run, "refuse_missing_tracker", lambda kind: None)
    monkeypatch.setattr(train, "refuse_missing_tracker", lambda kind: None)
    words = [f"--dataset-dir={records}", f"--train-dir={tmp_path / 'run'}", "--track=mlflow", *WORDS]
    status, told = train_with(capsys, *words, "--max-steps=4")
    assert status == 0
    assert told.count("--track mlflow: [Errno 28] No space left on device. The run goes on") == 1
    assert FullDisk.ended == ("failed",)
    rows = RunFolder(tmp_path / "run").read_metrics()
    assert [row["step"] for row in rows if "learning_rate" in row] == [1, 2, 3, 4]
    assert tomllib.loads((tmp_path / "run/config.toml").read_text())["track"] == "mlflow"


class StandIn(types.ModuleType):
    """What is called of the module wandb, and of its run."""

    def __init__(self, folder):
        super().__init__("wandb")
        self.__spec__ = ModuleSpec("wandb", None)
        self.dir = str(folder)
        self.config = self
        self.calls = []

    def __getattr__(self, name):
        def call(*given, **by_name):
            self.calls.append((name, given, by_name))
            return self

        return call

    def of(self, name):
        return [call[1:] for call in self.calls if call[0] == name]


def test_wandb_is_told_the_same_offline(tmp_path, monkeypatch):
    wandb = StandIn(tmp_path / "files")
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    (tmp_path / "files").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "run/report.html").write_text("a report")
    for _ in range(2):
        tracked = TrackedRun("wandb")
        with tracked.ending():
            tracked.begin(tmp_path / "run")
            tracked.parameters({"max_steps": 3, "stages": []})
            tracked.metrics(2, {"training/loss": 0.5})
            tracked.files(tmp_path / "run", ["report.html", "none.txt"])
    ((_, first), (_, second)) = wandb.of("init")
    assert first["id"] == second["id"] == json.loads((tmp_path / "run" / TRACKING_FILE).read_text())["wandb"]
    assert (first["mode"], first["project"], first["name"]) == ("offline", "finetune", "run")
    assert wandb.of("update")[0][0] == ({"max_steps": "3", "stages": "[]"},)
    assert wandb.of("log")[0][0] == ({"training/loss": 0.5, "step": 2},)
    assert [given for given, _ in wandb.of("save")] == [(str(tmp_path / "files/run/report.html"),)] * 2
    assert (tmp_path / "files/run/report.html").read_text() == "a report"
    assert [by_name["exit_code"] for _, by_name in wandb.of("finish")] == [0, 0]
    assert len(wandb.of("teardown")) == 2
    monkeypatch.setenv("WANDB_MODE", "online")
    TrackedRun("wandb").begin(tmp_path / "run")
    assert wandb.of("init")[-1][1]["mode"] is None


@pytest.mark.parametrize(("error", "ending"), [(UserError, "failed"), (KeyboardInterrupt, "killed")])
def test_a_run_that_breaks_off_is_said_to(error, ending, tmp_path, monkeypatch):
    monkeypatch.setitem(tracked_run.TRACKERS, "mlflow", FullDisk)
    monkeypatch.setattr(FullDisk, "ended", ())
    tracked = TrackedRun("mlflow")
    with pytest.raises(error), tracked.ending(), tracked.ending_if_it_fails():
        tracked.begin(tmp_path)
        raise error("enough")
    assert FullDisk.ended == (ending,)


def test_a_tracker_that_cannot_begin_is_told(tmp_path, monkeypatch):
    def refuse(run_folder, run_id):
        raise ConnectionError("no server at http://localhost:1")

    monkeypatch.setitem(tracked_run.TRACKERS, "mlflow", refuse)
    with pytest.raises(UserError, match=r"--track mlflow: no server at .*\n.*--track none"):
        TrackedRun("mlflow").begin(tmp_path)


def test_figures_that_are_not_known_are_left_out(tmp_path):
    """Of a split where no class has a mean average precision; None would end the tracking."""
    told = []
    tracked = types.SimpleNamespace(
        metrics=lambda step, figures: told.append(figures), files=lambda folder, names: None
    )
    scores = types.SimpleNamespace(summary=lambda: {"mean_average_precision": None, "micro_f1": 0.5})
    tell_results(tracked, tmp_path, types.SimpleNamespace(scores=scores, output_dir=tmp_path, step=3))
    assert told == [{"evaluation/micro_f1": 0.5}]
