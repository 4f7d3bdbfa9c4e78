"""Traces of some steps: which they hold, that they change nothing, and that they end whatever ends a training."""

import re
import tomllib

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.tsl.profiler.protobuf import xplane_pb2
from test_resumption import begin, chain_of, resume, values_at, write_training_shards
from tiny_runs import write_records

from finetune.commands import train
from finetune.errors import UserError
from finetune.settings.train import TrainSettings
from finetune.training.profile import Profile
from finetune.training.step import TrainingStep

CACHED = ["--trainable-scopes=LeNet/fc4", "--cache-features=2", "--log-every=10"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = write_records(tmp_path_factory.mktemp("profile") / "records", num_images=6)
    return write_training_shards(folder)


@pytest.fixture(scope="module")
def weights(data, tmp_path_factory):
    run = tmp_path_factory.mktemp("profile") / "weights"
    assert begin(data, run, max_steps=1) == 0
    return run


def traced_calls(run):
    """Numbers of the first step of each call that a trace in the run's folder holds."""
    (path,) = run.glob("plugins/profile/*/*.xplane.pb")
    space = xplane_pb2.XSpace.FromString(path.read_bytes())
    calls = []
    for plane in space.planes:
        names = {number: metadata.name for number, metadata in plane.stat_metadata.items()}
        for event in (event for line in plane.lines for event in line.events):
            if plane.event_metadata[event.metadata_id].name == "train":
                calls += [stat.int64_value for stat in event.stats if names[stat.metadata_id] == "step_num"]
    return sorted(calls)


def test_a_trace_holds_its_steps_and_changes_no_bit(data, tmp_path, capsys):
    assert begin(data, tmp_path / "plain", max_steps=5) == 0
    capsys.readouterr()
    assert begin(data, tmp_path / "run", "--profile=2:4", max_steps=5) == 0
    said = capsys.readouterr().err
    assert f"Trace: steps 2 to 4, in {tmp_path / 'run/plugins/profile'}" in said
    assert f"tensorboard --logdir {tmp_path / 'run'}" in said
    assert traced_calls(tmp_path / "run") == [2, 3, 4]
    assert chain_of(tmp_path / "run") == chain_of(tmp_path / "plain")
    traced, plain = values_at(tmp_path / "run", 5), values_at(tmp_path / "plain", 5)
    for name in plain:
        np.testing.assert_array_equal(traced[name], plain[name], err_msg=name)
    assert "profile" not in tomllib.loads((tmp_path / "run/config.toml").read_text())


def test_steps_that_are_made_in_one_call_are_cut_where_the_trace_begins_and_ends(data, weights, tmp_path):
    words = [f"--checkpoint={weights}", *CACHED]
    assert begin(data, tmp_path / "plain", *words, max_steps=20) == 0
    assert begin(data, tmp_path / "run", *words, "--profile=3:12", max_steps=20) == 0
    assert traced_calls(tmp_path / "run") == [3, 11]  # 3 to 10, where figures are due, and 11 to 12.
    traced, plain = values_at(tmp_path / "run", 20), values_at(tmp_path / "plain", 20)
    for name in plain:
        np.testing.assert_array_equal(traced[name], plain[name], err_msg=name)


def test_a_trace_goes_over_stages(data, tmp_path):
    words = [f"--dataset-dir={data}", f"--train-dir={tmp_path / 'run'}", "--model=lenet", "--image-size=8"]
    assert train.main([*words, "--batch-size=4", "--stages=all:2:0.01,all:2:0.001", "--profile=2:3"]) == 0
    assert traced_calls(tmp_path / "run") == [2, 3]


def test_steps_that_the_run_does_not_make_are_refused(data, weights, tmp_path, capsys):
    assert begin(data, tmp_path / "run", "--profile=3:6", max_steps=5) == 2
    assert "--profile: there is no step 6, the run ends with step 5." in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    assert resume(weights, "--max-steps=30", "--profile=1:2") == 2
    said = capsys.readouterr().err
    assert "--profile: the run has made step 1, 1 in all." in said
    (advice,) = re.findall(r"such as (\S+),", said)
    Profile(TrainSettings(dataset_dir="d", profile=advice).run.profiled_steps, tmp_path).check(1, 30)


@pytest.mark.parametrize("text", ["", "5", "0:5", "5:4", "5:", ":5", "a:b", "-1:5", "5:6:7", "1.5:2", "٣:٤"])
def test_what_is_no_range_of_steps(text):
    with pytest.raises(UserError, match=re.escape(f"--profile is {text!r}, but must be two steps FIRST:LAST")):
        TrainSettings(dataset_dir="d", profile=text)


@pytest.mark.parametrize(
    "more",
    [
        {"folds": 3},
        {"sweep": ("learning_rate=0.1|0.2",), "trials": 2},
        {"resume": True, "train_dir": "r", "verify": True},
    ],
)
def test_a_trace_is_of_one_training(more):
    with pytest.raises(UserError, match="--profile is of"):
        TrainSettings(dataset_dir="d", profile="1:2", **more)


def is_a_trace_running():
    try:
        tf.profiler.experimental.stop(save=False)
    except tf.errors.UnavailableError:
        return False
    return True


def test_a_trace_ends_with_a_training_that_fails(data, tmp_path, capsys, monkeypatch):
    make = TrainingStep.__call__

    def fail_at_third(self, batch, step, rate):
        if step == 2:
            raise tf.errors.ResourceExhaustedError(None, None, "OOM")
        return make(self, batch, step, rate)

    monkeypatch.setattr(TrainingStep, "__call__", fail_at_third)
    assert begin(data, tmp_path / "run", "--profile=2:4") == 2
    assert "--profile: the training ended before step 4, and so does the trace." in capsys.readouterr().err
    assert not is_a_trace_running()


def test_a_training_that_ends_before_a_trace_says_so(data, tmp_path, capsys):
    words = ["--profile=4:5", "--early-stopping-patience=1", "--eval-every=1", "--early-stopping-min-delta=1"]
    assert begin(data, tmp_path / "run", *words) == 0
    assert "--profile: the training ended before step 4: there is no trace." in capsys.readouterr().err
    assert not (tmp_path / "run/plugins").exists()


def test_what_can_not_be_traced_or_written_is_told(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    with Profile(range(1, 2), tmp_path / "file") as profile:
        with profile.steps_after(0):
            pass
        other = Profile(range(1, 2), tmp_path)
        with pytest.raises(UserError, match="another trace is running"), other.steps_after(0):
            pass
        assert profile.ends_after(1)
    assert "--profile: the trace can't be written" in caplog.text
    assert not is_a_trace_running()
