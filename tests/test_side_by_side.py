"""Several devices of one process that evaluate and predict: what one gives, to the bit, each of them at work."""

import json
import logging
import threading
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf
from tiny_runs import write_records, write_run

from finetune import notices
from finetune.commands import evaluate, predict, train
from finetune.evaluation.side_by_side import in_turn
from finetune.model.gpus import devices_side_by_side

NUM_IMAGES = 11


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    return write_records(tmp_path_factory.mktemp("records"), num_images=NUM_IMAGES)


@pytest.fixture
def devices_at_work(monkeypatch):
    """Where the logits of each batch were computed."""
    found = []
    as_array = np.asarray

    def noted(value, *arguments, **options):
        if isinstance(value, tf.Tensor) and value.shape.rank == 2:
            found.append(value.device.rpartition(":")[2])
        return as_array(value, *arguments, **options)

    monkeypatch.setattr(np, "asarray", noted)
    return found


# The order


@pytest.mark.parametrize("num_functions", [1, 2, 3])
@pytest.mark.parametrize("num_items", [0, 1, 7])
def test_outcomes_come_in_the_order_of_the_items_by_each_function_in_its_turn(num_functions, num_items):
    functions = [lambda item, name=name: (name, item) for name in range(num_functions)]
    outcomes = list(in_turn(functions, range(num_items)))
    assert outcomes == [(item, (item % num_functions, item)) for item in range(num_items)]


def test_functions_work_at_the_same_time():
    """Each waits for the other: one after the other they would wait for ever."""
    meeting = threading.Barrier(2, timeout=30)
    assert len(list(in_turn([lambda _: meeting.wait(), lambda _: meeting.wait()], range(6)))) == 6


def test_items_are_read_no_further_ahead_than_there_are_functions():
    read = []
    outcomes = in_turn([str, str], (read.append(item) or item for item in range(100)))
    for number, _ in zip(range(5), outcomes, strict=False):
        assert len(read) <= number + 3


def test_what_one_of_them_raises_is_raised_in_its_place_and_ends_the_others():
    def fails(item):
        raise ValueError(item)

    outcomes = in_turn([str, fails], range(10))
    assert next(outcomes) == (0, "0")
    with pytest.raises(ValueError, match="1"):
        next(outcomes)
    assert not list(outcomes)


# The commands


@pytest.mark.parametrize("more", [[], ["--tta=flip"]], ids=["plain", "mirrored"])
def test_an_evaluation_on_two_devices_is_that_on_one(run, records, tmp_path, devices_at_work, more):
    for count in (1, 2):
        words = [f"--checkpoint={run}", f"--dataset-dir={records}", "--batch-size=2", "--write-logits", "--no-report"]
        assert evaluate.main([*words, *more, f"--num-clones={count}", f"--output-dir={tmp_path / str(count)}"]) == 0
    names = ["predictions.csv", "confusion_matrix.csv"]
    assert all((tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes() for name in names)
    metrics = [json.loads((tmp_path / count / "metrics.json").read_text()) for count in ("1", "2")]
    assert metrics[0]["num_examples"] == metrics[1]["num_examples"] == NUM_IMAGES
    assert metrics[0]["accuracy"] == metrics[1]["accuracy"]
    if not more:  # Probabilities of an image and its mirror image are put together by the first device.
        assert Counter(devices_at_work) == {"0": 9, "1": 3}


def test_predictions_on_two_devices_are_those_on_one(run, records, tmp_path, devices_at_work):
    (tmp_path / "broken.jpg").write_bytes(b"none")
    for count in (1, 2):
        words = [f"--checkpoint={run}", "--batch-size=2", "--top-k=3", f"--output={tmp_path / str(count)}.csv"]
        assert predict.main([*words, f"--num-clones={count}", str(records / "images"), str(tmp_path)]) == 4
    assert (tmp_path / "1.csv").read_bytes() == (tmp_path / "2.csv").read_bytes()
    assert Counter(devices_at_work) == {"0": 9, "1": 3}


@pytest.mark.parametrize("command", ["eval", "predict"])
def test_more_devices_than_there_are_is_told_with_how_many_there_are(command, run, records, capsys):
    words = {"eval": [f"--dataset-dir={records}"], "predict": [str(records / "images")]}[command]
    main = {"eval": evaluate.main, "predict": predict.main}[command]
    assert main([f"--checkpoint={run}", *words, "--num-clones=3"]) == 2
    error = capsys.readouterr().err
    assert "--num-clones is 3, but there are 2 CPUs here." in error
    assert "Give --num-clones 2" in error


def test_gpus_that_have_nothing_to_do_are_told(monkeypatch, caplog):
    gpus = [SimpleNamespace(name=f"/device:GPU:{number}") for number in range(3)]
    monkeypatch.setattr(notices, "_told", set())
    monkeypatch.setattr(tf.config, "get_visible_devices", lambda kind: gpus)
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind: gpus)
    with caplog.at_level(logging.INFO):
        assert devices_side_by_side(3) == ["/device:GPU:0", "/device:GPU:1", "/device:GPU:2"]
        assert not caplog.messages
        assert devices_side_by_side(1) == [None]
    assert caplog.messages == ["2 of 3 GPUs have nothing to do: --num-clones 3 takes all."]


def test_devices_that_train_validate_together(records, tmp_path, devices_at_work):
    """By the weights that each of them has."""
    write_records(records, num_images=8, split="train")
    words = [f"--dataset-dir={records}", "--model=lenet", "--image-size=12", "--max-steps=2", "--eval-every=2"]
    losses = []
    for count in (1, 2):
        folder = tmp_path / str(count)
        assert train.main([*words, f"--train-dir={folder}", f"--batch-size={4 // count}", f"--num-clones={count}"]) == 0
        assert set(devices_at_work) == {str(device) for device in range(count)}
        devices_at_work.clear()
        losses.append(json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])["loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
