"""A training on two processes: what one makes of the same images, whatever befalls the two on the way."""

import json
import os
import signal
import sys
import time

import numpy as np
import pytest
from several_workers import finish, start
from tiny_runs import write_records

from finetune.commands import train
from finetune.model.checkpoint import Checkpoint
from finetune.runs.run_folder import RunFolder

NUM_STEPS = 40
NETWORK = ["--model=lenet", "--image-size=8", "--optimizer=adam", "--learning-rate=0.001", "--precision=float32"]
STEPS = ["--global-batch-size=4", "--log-every=1", "--eval-every=20", f"--max-steps={NUM_STEPS}", "--weight-decay=0.01"]
AVERAGED = ["--moving-average-decay=0.9", "--clip-gradients=1"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = write_records(tmp_path_factory.mktemp("workers") / "records", num_images=6)
    return write_records(folder, num_images=10, split="train")


def words_of(data, run):
    return [f"--dataset-dir={data}", f"--train-dir={run}", *NETWORK, *STEPS, *AVERAGED]


@pytest.fixture(scope="module")
def alone(data, tmp_path_factory):
    """A run of one process."""
    run = tmp_path_factory.mktemp("workers") / "alone"
    assert train.main(words_of(data, run)) == 0
    return run


def lines_of(run):
    """The rows of training and of validation, by step."""
    lines = RunFolder(run).read_metrics()
    rows = {line["step"]: line for line in lines if "data_chain" in line}
    return rows, {line["step"]: line for line in lines if "split" in line}


def values_of(run, step=NUM_STEPS):
    checkpoint = Checkpoint(str(run / f"model.ckpt-{step}"))
    return {name: checkpoint.read(name) for name in checkpoint.shapes}


def wait_for_checkpoint(run, processes, after=0):
    """Until there is one of a later step."""
    end = time.monotonic() + 120
    while time.monotonic() < end and all(process.poll() is None for process in processes):
        steps = [int(path.stem.partition("-")[2]) for path in run.glob("model.ckpt-*.index")]
        if max(steps, default=0) > after:
            return max(steps)
        time.sleep(0.02)
    raise AssertionError([process.communicate(timeout=60) for process in processes if process.poll() is not None])


@pytest.mark.slow
def test_two_stopped_and_killed_end_as_two_unbroken_and_as_one(data, alone, tmp_path):
    """A signal to one of them stops both; one that is killed is named by the other."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    (status, out, error), (other_status, other_out, other_error) = finish(start(words_of(data, whole), 2))
    assert (status, other_status) == (0, 0), error + other_error
    assert "All 2 are there" in error
    assert "best validation accuracy" in out
    assert other_out == ""
    assert "Worker 0 tells of the training" in other_error
    assert "validation: accuracy" not in other_error

    every_step = ["--save-interval-secs=0"]
    processes = start([*words_of(data, broken), *every_step], 2)
    wait_for_checkpoint(broken, processes)
    processes[1].send_signal(signal.SIGTERM)
    stopped = finish(processes)
    assert [status for status, *_ in stopped] == [143, 143], stopped
    kept = max(int(path.stem.partition("-")[2]) for path in broken.glob("model.ckpt-*.index"))
    assert all(f"stopped after step {kept}, kept in {broken}/model.ckpt-{kept}" in error for *_, error in stopped)
    processes = start(["--resume", f"--train-dir={broken}"], 2)
    wait_for_checkpoint(broken, processes, after=kept)
    processes[1].kill()
    (status, _, error), _ = finish(processes)
    assert status == 2, error
    assert "Training ends here: worker 1 of 2" in error
    assert "is gone without a word" in error
    assert [status for status, *_ in finish(start(["--resume", f"--train-dir={broken}"], 2))] == [0, 0]

    assert (whole / "best.json").read_text() == (broken / "best.json").read_text()
    two, again = values_of(whole), values_of(broken)
    for name in two:
        np.testing.assert_array_equal(again[name], two[name], err_msg=name)
    (rows, validations), (rows_alone, validations_alone) = lines_of(whole), lines_of(alone)
    assert len(rows) == NUM_STEPS
    for step, row in rows_alone.items():
        assert rows[step]["data_chain"] == row["data_chain"]
        assert rows[step]["loss"] == pytest.approx(row["loss"], rel=1e-4)
    assert validations.keys() == validations_alone.keys() == {20, NUM_STEPS}
    for step, row in validations_alone.items():
        assert validations[step]["num_examples"] == 6
        assert validations[step]["loss"] == pytest.approx(row["loss"], rel=1e-4)
    one = values_of(alone)
    assert one.keys() == two.keys()
    for name in one:
        np.testing.assert_allclose(two[name], one[name], rtol=1e-3, atol=1e-5, err_msg=name)
    settings = json.loads((whole / "provenance.json").read_text())["settings"]
    assert (settings["worker_replicas"], settings["num_clones"], settings["batch_size"]) == (2, 1, 2)


@pytest.mark.slow
def test_one_two_one_by_resume(data, alone, tmp_path):
    """A run goes from machine to machine."""
    run = tmp_path / "run"
    assert train.main([*words_of(data, run), "--max-steps=3"]) == 0
    go_on = ["--resume", f"--train-dir={run}", "--global-batch-size=4"]
    results = finish(start([*go_on, "--max-steps=6"], 2))
    assert [status for status, *_ in results] == [0, 0], results
    assert "Each step has the 4 images that it would have had." in results[0][2]
    assert train.main([*go_on, f"--max-steps={NUM_STEPS}"]) == 0
    assert train.main([*go_on, "--verify"]) == 0
    (rows, _), (rows_alone, _) = lines_of(run), lines_of(alone)
    for step in range(1, 10):
        assert rows[step]["data_chain"] == rows_alone[step]["data_chain"]
        assert rows[step]["loss"] == pytest.approx(rows_alone[step]["loss"], rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "more"), [("normed_network:SPEC", []), ("residual_network:SPEC", ["--recompute-activations"])]
)
def test_synced_batch_norm_on_two_workers(tmp_path, model, more):
    """By the statistics of the images of both, as of one process with all of them; also with activations that are
    computed again, without waiting for each other in another order.
    """
    data = write_records(tmp_path / "records", num_images=6)
    write_records(data, num_images=12, split="train")
    network = [f"--model={model}", "--learning-rate=0.001", "--optimizer=momentum", "--precision=float32"]
    steps = ["--global-batch-size=8", "--max-steps=3", "--log-every=1", "--eval-every=0", "--sync-batch-norm"]
    words = [f"--dataset-dir={data}", *network, *steps]
    environ = {"PYTHONPATH": os.pathsep.join(sys.path)}
    results = finish(start([*words, *more, f"--train-dir={tmp_path / 'two'}"], 2, environ=environ))
    assert [status for status, *_ in results] == [0, 0], results
    assert train.main([*words, f"--train-dir={tmp_path / 'one'}"]) == 0
    two, one = values_of(tmp_path / "two", 3), values_of(tmp_path / "one", 3)
    assert any(name.endswith("moving_variance") for name in one)
    for name in one:
        np.testing.assert_allclose(two[name], one[name], rtol=1e-3, atol=1e-5, err_msg=name)
