"""Runs whose rates scale with the images of a step: the same on any number of devices, and when they go on."""

import tomllib

import numpy as np
import pytest
from test_resumption import begin, resume, values_at, verify, write_training_shards
from tiny_runs import write_records

from finetune.commands import train
from finetune.runs.run_folder import RunFolder
from finetune.training import rate_finder

SCALED = ["--scale-learning-rate=linear", "--learning-rate-decay-type=fixed", "--log-every=1"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = write_records(tmp_path_factory.mktemp("scaled") / "records", num_images=6)
    return write_training_shards(folder)


def rates_of(run):
    return [line["learning_rate"] for line in RunFolder(run).read_metrics() if "learning_rate" in line]


def config_of(run):
    return tomllib.loads((run / "config.toml").read_text())


def test_a_run_goes_on_with_other_devices_at_the_rate_that_it_had(data, tmp_path, capsys):
    words = [*SCALED, "--batch-size=2", "--accumulate-steps=2"]
    assert begin(data, tmp_path / "whole", *words, max_steps=4) == 0
    said = capsys.readouterr().err
    assert (
        "Learning rate: 0.002, which is --learning-rate 0.001 times 2 by --scale-learning-rate linear: a step" in said
    )
    assert begin(data, tmp_path / "run", *words, max_steps=2) == 0
    assert resume(tmp_path / "run", "--num-clones=2", "--batch-size=2", "--accumulate-steps=1", "--max-steps=3") == 0
    assert resume(tmp_path / "run", "--num-clones=1", "--global-batch-size=4", "--max-steps=4") == 0
    assert rates_of(tmp_path / "run") == rates_of(tmp_path / "whole") == [0.002] * 4
    assert verify(tmp_path / "run") == 0
    config = config_of(tmp_path / "run")
    assert (config["learning_rate"], config["learning_rate_batch_size"]) == (0.001, 2)
    went_on, whole = values_at(tmp_path / "run", 4), values_at(tmp_path / "whole", 4)
    for name in (name for name in whole if name.startswith("LeNet")):
        np.testing.assert_allclose(went_on[name], whole[name], rtol=1e-3, atol=1e-6, err_msg=name)


def test_each_stage_scales_its_own_rate(data, tmp_path):
    words = [f"--dataset-dir={data}", f"--train-dir={tmp_path / 'run'}", "--model=lenet", "--image-size=8", *SCALED]
    assert train.main([*words, "--stages=all:1:0.01,all:1:0.001", "--num-clones=2", "--batch-size=2"]) == 0
    assert rates_of(tmp_path / "run") == [0.02, 0.002]
    assert [stage["learning_rate_batch_size"] for stage in config_of(tmp_path / "run")["stages"]] == [2, 2]


def test_what_does_not_scale_says_so(data, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(rate_finder, "NUM_STEPS", 5)
    words = ["--find-learning-rate", "--batch-size=2", "--accumulate-steps=2"]
    assert begin(data, tmp_path / "found", *SCALED, *words, max_steps=1) == 0
    assert "It is of a whole step's images: train at it with --scale-learning-rate none." in capsys.readouterr().err
    assert begin(data, tmp_path / "plain", "--learning-rate-batch-size=2", max_steps=1) == 0
    assert "--learning-rate-batch-size has no effect without --scale-learning-rate" in capsys.readouterr().err


def test_a_rate_that_was_too_high_is_named_as_it_was_given(data, tmp_path, capsys):
    words = ["--optimizer=sgd", "--learning-rate=1e20", "--batch-size=2", "--num-clones=2"]
    assert begin(data, tmp_path / "run", *SCALED, *words) == 2
    assert "Lower --learning-rate (now 1e+20)" in capsys.readouterr().err
