"""The commands as a user gives them, on tiny data: convert, train, resume, evaluate, and the mistakes on the way."""

import csv
import gc
import io
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from tiny_runs import write_run

from finetune.commands import convert, evaluate, export, predict, train
from finetune.commands.tensorflow_start import _is_silence_wanted, start_tensorflow
from finetune.model.checkpoint import Checkpoint, open_checkpoint, write_checkpoint
from finetune.runs.run_folder import RunFolder
from finetune.settings.train import TrainSettings
from finetune.training import run_log
from finetune.training.loop import TrainingLoop

COLOURS = {"blue": (40, 60, 200), "green": (40, 180, 60), "red": (210, 50, 40)}
IMAGES_PER_CLASS = 24


def write_colour_folders(root):
    """Noisy pictures of one colour each, 36×36: easy to tell apart, not trivially."""
    random = np.random.default_rng(0)
    for name, colour in COLOURS.items():
        (root / name).mkdir(parents=True)
        for index in range(IMAGES_PER_CLASS):
            pixels = np.clip(random.normal(colour, 60, [36, 36, 3]), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / name / f"{index}.png")
    return root


@pytest.fixture(scope="module")
def dataset_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    images = write_colour_folders(folder / "images")
    words = ["--images-dir", str(images), "--dataset-dir", str(folder / "records"), "--dataset-name", "colours"]
    assert convert.main([*words, "--validation-fraction", "0.25", "--num-shards", "2", "--workers", "1"]) == 0
    return folder / "records"


TRAIN = ["--model=cifarnet", "--batch-size=8", "--log-every=1", "--optimizer=adam", "--learning-rate=0.001"]


def run_train(dataset_dir, train_dir, *words):
    return train.main([f"--dataset_dir={dataset_dir}", f"--train_dir={train_dir}", *TRAIN, *words])


def run_eval(dataset_dir, checkpoint, *words):
    return evaluate.main([f"--dataset-dir={dataset_dir}", f"--checkpoint={checkpoint}", *words])


@pytest.fixture(scope="module")
def trained(dataset_dir, tmp_path_factory):
    """A run of 30 steps, with moving averages and two validations."""
    train_dir = tmp_path_factory.mktemp("runs") / "whole"
    assert run_train(dataset_dir, train_dir, "--max-steps=30", "--eval-every=15", "--moving-average-decay=0.8") == 0
    return train_dir


def read_metrics(train_dir):
    lines = [json.loads(line) for line in (train_dir / "metrics.jsonl").read_text().splitlines()]
    return (
        {line["step"]: line["loss"] for line in lines if "learning_rate" in line},
        {line["step"]: line["accuracy"] for line in lines if "accuracy" in line},
    )


def test_training_learns(trained):
    losses, accuracies = read_metrics(trained)
    assert sorted(losses) == list(range(1, 31))
    assert np.mean([losses[step] for step in range(26, 31)]) < 0.6 * np.mean([losses[step] for step in range(1, 6)])
    assert sorted(accuracies) == [15, 30]
    assert accuracies[30] >= 0.8


def test_the_files_of_a_run(trained):
    names = {path.name for path in trained.iterdir()}
    assert names >= {
        "config.toml",
        "plan.json",
        "labels.txt",
        "best.json",
        "metrics.jsonl",
        "checkpoint",
        "provenance.json",
    }
    assert (trained / "labels.txt").read_text() == "0:blue\n1:green\n2:red\n"
    best = json.loads((trained / "best.json").read_text())
    assert best["accuracy"] == max(read_metrics(trained)[1].values())
    shapes = Checkpoint(str(trained / "model.ckpt-30")).shapes
    name = "CifarNet/conv1/weights"
    assert {name, f"{name}/Adam", f"{name}/Adam_1", f"{name}/ExponentialMovingAverage"} <= set(shapes)
    assert {"global_step", "beta1_power", "beta2_power"} <= set(shapes)


@pytest.mark.parametrize(("split", "words"), [("train", "these images trained it"), ("validation", "the best of 2")])
def test_an_accuracy_on_images_that_the_run_had_seen_is_called_so(dataset_dir, trained, tmp_path, capsys, split, words):
    assert run_eval(dataset_dir, trained, f"--split={split}", f"--output-dir={tmp_path}") == 0
    assert words in json.loads((tmp_path / "metrics.json").read_text())["caution"]
    assert f"caution: {words}" in capsys.readouterr().out
    assert words in (tmp_path / "report.html").read_text()


def test_tensorboard_reads_the_scalars_and_images(trained):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(trained), size_guidance={"tensors": 0})
    accumulator.Reload()
    tags = set(accumulator.Tags()["tensors"])
    assert tags >= {
        "training/loss",
        "training/learning_rate",
        "training/images_per_second",
        "validation/accuracy",
        "training/images",
    }
    losses = read_metrics(trained)[0]
    logged = {event.step: float(tf.make_ndarray(event.tensor_proto)) for event in accumulator.Tensors("training/loss")}
    assert logged == pytest.approx(losses)


def test_a_stopped_and_resumed_run_repeats_an_unbroken_one_to_the_bit(dataset_dir, trained, tmp_path):
    broken = tmp_path / "broken"
    options = ["--eval-every=15", "--moving-average-decay=0.8"]
    assert run_train(dataset_dir, broken, "--max-steps=17", *options) == 0
    assert train.main([f"--train-dir={broken}", "--resume", "--max-steps=30"]) == 0
    assert read_metrics(broken)[0] == read_metrics(trained)[0]
    whole, resumed = (Checkpoint(str(folder / "model.ckpt-30")) for folder in (trained, broken))
    assert whole.shapes == resumed.shapes
    for name in whole.shapes:
        np.testing.assert_array_equal(resumed.read(name), whole.read(name), err_msg=name)


def test_a_damaged_newest_checkpoint_is_passed_over(dataset_dir, trained, tmp_path):
    run = shutil.copytree(trained, tmp_path / "run")
    with (run / "model.ckpt-30.data-00000-of-00001").open("r+b") as file:
        file.truncate(100)
    assert train.main([f"--train-dir={run}", "--resume", "--max-steps=16"]) == 0
    assert open_checkpoint(run / "model.ckpt-16").step() == 16


def test_a_best_checkpoint_that_is_gone_is_looked_for_anew(dataset_dir, trained, tmp_path, capsys):
    run = shutil.copytree(trained, tmp_path / "run")
    best = json.loads((run / "best.json").read_text())
    lost = {**best, "checkpoint": "model.ckpt-4", "step": 4, "accuracy": 1.0, "loss": 0.0}
    (run / "best.json").write_text(json.dumps(lost))
    assert train.main([f"--train-dir={run}", "--resume", "--max-steps=45"]) == 0
    assert "best.json names model.ckpt-4: model.ckpt-30 is the best there is" in capsys.readouterr().err
    assert json.loads((run / "best.json").read_text())["accuracy"] <= 1


@pytest.mark.parametrize("left", [None, {"checkpoint": "model.ckpt-15", "step": 15, "accuracy": 0.0, "loss": 9.0}])
def test_a_kill_between_the_best_checkpoint_and_best_json_does_not_lose_the_best(dataset_dir, trained, tmp_path, left):
    run = shutil.copytree(trained, tmp_path / "run")
    best = (run / "best.json").read_bytes()
    assert json.loads(best)["step"] == 30
    (run / "best.json").unlink()
    if left is not None:
        (run / "best.json").write_text(json.dumps(left))
    options = ["--max-steps=32", "--eval-every=100", "--learning-rate=10", "--save-interval-seconds=0"]
    assert train.main([f"--train-dir={run}", "--resume", *options, "--max-to-keep=1"]) == 0
    assert (run / "best.json").read_bytes() == best
    assert {path.stem for path in run.glob("*.index")} == {"model.ckpt-30", "model.ckpt-32"}


def test_a_damaged_best_is_passed_over_by_all_and_no_longer_named_after_a_resumption(
    dataset_dir, trained, tmp_path, capsys
):
    run = shutil.copytree(trained, tmp_path / "run")
    assert train.main([f"--train-dir={run}", "--resume", "--max-steps=31", "--eval-every=31"]) == 0
    best = json.loads((run / "best.json").read_text())
    damaged = run / f"{best['checkpoint']}.data-00000-of-00001"
    with damaged.open("r+b") as file:
        file.seek(100)
        file.write(b"damage")
    capsys.readouterr()
    for command in (predict.main, lambda words: run_eval(dataset_dir, run, f"--output-dir={tmp_path / 'e'}")):
        assert command([f"--checkpoint={run}", str(next(dataset_dir.parent.rglob("*.png")))]) == 0
        error = capsys.readouterr().err
        assert f"Passed over: --checkpoint: {run}/{best['checkpoint']} is damaged at" in error
        assert "is taken in its place" in error
    assert train.main([f"--train-dir={run}", "--resume", "--max-steps=31"]) == 0
    assert f"best.json names {best['checkpoint']}" in capsys.readouterr().err
    named = json.loads((run / "best.json").read_text())["checkpoint"]
    assert predict.main([f"--checkpoint={run}", str(next(dataset_dir.parent.rglob("*.png")))]) == 0
    assert "Passed over" not in capsys.readouterr().err
    assert (run / f"{named}.index").exists()


@pytest.mark.parametrize("batch_size", [1, 7, 32, 1000])
def test_the_batch_size_does_not_change_an_evaluation(dataset_dir, trained, tmp_path, batch_size):
    output = tmp_path / "eval"
    assert run_eval(dataset_dir, trained, f"--batch-size={batch_size}", f"--output-dir={output}", "--write-logits") == 0
    metrics = json.loads((output / "metrics.json").read_text())
    best = json.loads((trained / "best.json").read_text())
    assert metrics["num_examples"] == len(COLOURS) * IMAGES_PER_CLASS // 4
    assert metrics["accuracy"] == best["accuracy"]
    assert metrics["loss"] == pytest.approx(best["loss"], rel=1e-5, abs=1e-5)
    assert metrics["step"] == best["step"]
    with (output / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len({row["filename"] for row in rows}) == metrics["num_examples"]
    assert np.mean([row["label"] == row["prediction"] for row in rows]) == metrics["accuracy"]
    # The network is so sure that its loss says little: its logits are compared as well.
    assert run_eval(dataset_dir, trained, "--batch-size=5", f"--output-dir={tmp_path / 'fives'}", "--write-logits") == 0
    with (tmp_path / "fives/predictions.csv").open() as file:
        in_fives = {row["filename"]: logits_of(row) for row in csv.DictReader(file)}
    largest = max(map(np.max, in_fives.values()))
    for row in rows:
        np.testing.assert_allclose(logits_of(row), in_fives[row["filename"]], atol=1e-5 * largest)


def logits_of(row):
    return [float(row[f"logit_{label}"]) for label in range(len(COLOURS))]


def test_a_new_head_on_restored_weights(dataset_dir, trained, tmp_path):
    run = tmp_path / "head"
    head = ["--exclude-scopes=CifarNet/logits", "--trainable-scopes=CifarNet/logits"]
    words = [f"--checkpoint={trained}", *head, "--max-steps=5", "--optimizer=momentum"]
    assert run_train(dataset_dir, run, *words) == 0
    before, after = Checkpoint(str(trained / "model.ckpt-30")), Checkpoint(str(run / "model.ckpt-5"))
    plan = {row["name"]: row for row in json.loads((run / "plan.json").read_text())["variables"]}
    for name, row in plan.items():
        if not row["is_trained"]:
            assert row["source"] == f"{name}/ExponentialMovingAverage"
            np.testing.assert_array_equal(after.read(name), before.read(row["source"]))
    assert {name for name, row in plan.items() if row["source"] is None} == {
        "CifarNet/logits/weights",
        "CifarNet/logits/biases",
    }


def test_a_folder_in_slims_layout_without_our_description_is_read(dataset_dir, trained, tmp_path):
    folder = tmp_path / "records"
    folder.mkdir()
    for path in dataset_dir.glob("*.tfrecord"):
        shutil.copy(path, folder / path.name.replace("_train_", "_train-"))
    assert run_eval(folder, trained, f"--output-dir={tmp_path / 'e'}") == 0
    theirs = json.loads((tmp_path / "e/metrics.json").read_text())
    assert theirs["accuracy"] == json.loads((trained / "best.json").read_text())["accuracy"]


def run_cases(dataset_dir, trained, tmp_path):
    """(words for finetune-train beside the usual ones, what must be said)"""
    slim_head = ["--exclude-scopes=CifarNet/logits", "--trainable-scopes=CifarNet/logits"]
    write_checkpoint(tmp_path / "other.ckpt", {"Other/weights": np.zeros(3, np.float32)})
    head = Checkpoint(str(trained / "model.ckpt-30"))
    values = {name: head.read(name) for name in head.shapes if "Exponential" not in name}
    values["CifarNet/logits/weights"] = np.zeros([192, 5], np.float32)
    write_checkpoint(tmp_path / "five.ckpt", values)
    file = tmp_path / "file"
    file.touch()
    return [
        (["--model=cifarent"], ["--model", "'cifarent'", "cifarnet"]),
        (["--learning-rat=1"], ["Unknown flag --learning-rat", "--learning-rate"]),
        ([f"--checkpoint={tmp_path}/none"], ["--checkpoint", "there is no checkpoint", "none"]),
        ([f"--checkpoint={tmp_path}/other.ckpt"], ["another network", "Other"]),
        ([f"--checkpoint={trained}", "--exclude-scopes=CifarNet/logit"], ["'CifarNet/logit'", "CifarNet/logits"]),
        ([f"--checkpoint={trained}", "--trainable-scopes=Nothing"], ["--trainable-scopes", "'Nothing'"]),
        ([f"--checkpoint={tmp_path}/five.ckpt"], ["[192, 5]", "[192, 3]", "--exclude-scopes CifarNet/logits"]),
        (["--batch-size=1000"], ["--batch-size", "1000", "54"]),
        (["--split=trian"], ["train"]),
        (["--dataset-name=colors"], ["colours"]),
        (["--dataset-dir=/nowhere/at/all"], ["/nowhere/at/all"]),
        ([f"--train-dir={file}/run"], ["--train-dir", "can't be written"]),
        ([f"--train-dir={trained}"], ["is not empty", "--resume"]),
        ([f"--train-dir={tmp_path}/new", "--resume"], ["--resume", "no whole checkpoint"]),
        (["--learning-rate=1e38", "--optimizer=sgd"], ["is nan|is inf|is not finite", "--learning-rate"]),
        (["--labels-offset=1"], ["label"]),
        (["--num-clones=64"], ["--num-clones is 64"]),
        ([*slim_head[:1], f"--checkpoint={trained}", "--trainable-scopes=CifarNet/fc4"], ["CifarNet/logits", "random"]),
        (["--model=alexnet_v2", "--image-size=32"], ["--image-size: 32 pixels are too few for alexnet_v2"]),
        (["--learning-rate-multipliers=CifarNet/cnv1=0.1"], ["--learning-rate-multipliers", "CifarNet/conv1"]),
    ]


@pytest.mark.parametrize("number", range(20))
def test_mistakes_end_with_status_2_and_say_what_mends_them(dataset_dir, trained, tmp_path, capsys, number):
    words, parts = run_cases(dataset_dir, trained, tmp_path)[number]
    assert run_train(dataset_dir, tmp_path / "made/for/run", "--max-steps=3", *words) == 2
    assert not (tmp_path / "made").exists()
    assert not (tmp_path / "new").exists()
    error = capsys.readouterr().err
    assert "Traceback" not in error
    for part in parts:
        assert re.search(part if "|" in part else re.escape(part), error), error


def test_a_loss_that_is_not_finite_keeps_the_last_good_checkpoint(dataset_dir, tmp_path, capsys):
    run = tmp_path / "run"
    options = ["--optimizer=sgd", "--learning-rate=0.001"]
    assert run_train(dataset_dir, run, "--max-steps=4", *options) == 0
    assert train.main([f"--train-dir={run}", "--resume", "--max-steps=9", "--learning-rate=1e38"]) == 2
    assert "at step" in capsys.readouterr().err
    checkpoint = open_checkpoint(run)
    assert checkpoint.step() == 4
    assert all(np.isfinite(checkpoint.read(name)).all() for name in checkpoint.shapes)


def test_evaluating_with_the_wrong_network_or_classes(dataset_dir, trained, tmp_path, capsys):
    assert run_eval(dataset_dir, trained, "--model=lenet", f"--output-dir={tmp_path}") == 2
    assert "another network" in capsys.readouterr().err
    assert run_eval(dataset_dir, trained, "--split=test") == 2
    assert "validation" in capsys.readouterr().err


def environment_with(**variables):
    """The tests' own environment, without what they have set for TensorFlow."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TF_")}
    return {**kept, **variables}


@pytest.mark.parametrize(
    ("given", "onednn", "is_silent"),
    [
        ({}, "1", True),
        ({"TF_ENABLE_ONEDNN_OPTS": "0", "TF_CPP_MIN_LOG_LEVEL": "3"}, "0", True),
        ({"TF_CPP_MIN_LOG_LEVEL": "0"}, "1", False),
    ],
)
def test_tensorflow_starts_with_onednn_and_in_silence_unless_the_user_says_otherwise(given, onednn, is_silent):
    script = (
        "from finetune.commands.tensorflow_start import *; import os; start_tensorflow(); "
        "print(os.environ[ONEDNN_VARIABLE]); "
        "import tensorflow as tf; tf.constant(1)"
    )
    environment = environment_with(**given)
    done = subprocess.run([sys.executable, "-c", script], env=environment, check=True, capture_output=True, text=True)
    assert done.stdout.strip() == onednn
    assert (done.stderr == "") == is_silent, done.stderr


def test_tensorflow_starts_without_keras_and_scikit_learn_which_are_there_for_who_uses_them():
    """TensorFlow and tf-slim import them where they are installed, which took as long as all the rest."""
    script = (
        "import sys; from finetune.commands.tensorflow_start import start_tensorflow; start_tensorflow(); "
        "before = sorted({'keras', 'sklearn', 'pandas', 'matplotlib'} & set(sys.modules)); "
        "import tensorflow as tf; from tensorflow.keras import layers; import keras, sklearn.metrics, tf_slim; "
        "print(before, tf.keras.layers.Dense is layers.Dense is keras.layers.Dense)"
    )
    done = subprocess.run([sys.executable, "-c", script], env=environment_with(), check=True, capture_output=True)
    assert done.stdout.decode().strip() == "[] True"


def test_a_command_leaves_what_others_made_to_the_search_for_garbage():
    """In a process that makes several, networks of the first ones would stay for ever."""
    num_left_out = gc.get_freeze_count()
    start_tensorflow()
    assert gc.get_freeze_count() == num_left_out


@pytest.mark.parametrize(
    ("level", "is_silent"), [("0", False), ("2", False), ("3", True), ("4", True), ("", False), ("all", False)]
)
def test_a_log_level_means_what_it_means_to_tensorflow(level, is_silent):
    assert _is_silence_wanted(level) == is_silent


HEAD = ["--exclude-scopes=CifarNet/logits", "--trainable-scopes=CifarNet/logits"]


@pytest.mark.usefixtures("signals_of_a_terminal")
def test_a_command_stopped_by_ctrl_c_in_a_shell(dataset_dir, trained, tmp_path):
    """Features of several views and of a validation are computed: TensorFlow complained of a trunk traced for each."""
    run = tmp_path / "run [1] of mine"
    words = [f"--dataset-dir={dataset_dir}", f"--train-dir={run}", f"--checkpoint={trained}", *TRAIN, *HEAD]
    process = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "from finetune.commands.train import main; main()",
            *words,
            "--batch-size=7",
            "--cache-features=5",
        ],
        env=environment_with(TF_CPP_MIN_LOG_LEVEL="3"),
        stderr=subprocess.PIPE,
        text=True,
    )
    lines = []
    for line in process.stderr:
        lines.append(line)
        if re.search(r"^step \d+ .*loss", line):
            process.send_signal(signal.SIGINT)
            break
    lines.append(process.stderr.read())
    process.stderr.close()
    said = "".join(lines)
    assert process.wait() == 130, said
    for word in ("retracing", "cuda", "I0000", "E0000", "WARNING"):
        assert word not in said
    assert said.splitlines()[-1].strip() == f"Go on by finetune-train --resume --train-dir '{run}'"


class Signals:
    """Sends signals to this process after some steps, as if from outside."""

    def __init__(self, monkeypatch, *signals, after):
        self.made = 0
        make_steps = TrainingLoop._make_steps

        def make_and_signal(loop, batches):
            make_steps(loop, batches)
            self.made += 1
            if self.made == after:
                for number in signals:
                    os.kill(os.getpid(), number)

        monkeypatch.setattr(TrainingLoop, "_make_steps", make_and_signal)


@pytest.mark.usefixtures("signals_of_a_terminal")
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_training_with_its_status_and_the_command_that_is_said_goes_on(
    dataset_dir, trained, tmp_path, monkeypatch, capsys, number, status
):
    run = tmp_path / "a run"
    Signals(monkeypatch, number, after=17)
    options = ["--max-steps=30", "--eval-every=15", "--moving-average-decay=0.8"]
    assert run_train(dataset_dir, run, *options) == status
    said = capsys.readouterr().err
    assert f"finetune-train: stopped after step 17, kept in {run}/model.ckpt-17" in said
    program, *words = shlex.split(said.splitlines()[-1].partition("Go on by ")[2])
    assert program == "finetune-train"
    assert train.main(words) == 0
    assert read_metrics(run)[0] == read_metrics(trained)[0]


@pytest.mark.usefixtures("signals_of_a_terminal")
def test_a_second_signal_stops_at_once_and_nothing_refuses_the_next_try(dataset_dir, tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        Signals(patch, signal.SIGINT, signal.SIGINT, after=2)
        assert run_train(dataset_dir, tmp_path / "run", "--max-steps=4") == 130
    assert "stopped at once" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    assert run_train(dataset_dir, tmp_path / "run", "--max-steps=4") == 0


@pytest.mark.usefixtures("signals_of_a_terminal")
def test_from_python_a_stopped_training_stops_what_comes_after_it(dataset_dir, tmp_path, monkeypatch):
    Signals(monkeypatch, signal.SIGINT, after=2)
    settings = TrainSettings(dataset_dir=dataset_dir, train_dir=tmp_path / "run", model="cifarnet", batch_size=8)
    with pytest.raises(KeyboardInterrupt) as stop:
        train.train(settings)
    assert isinstance(stop.value, train.TrainingInterrupted)
    assert (stop.value.result.step, stop.value.signal_number) == (2, signal.SIGINT)
    assert open_checkpoint(tmp_path / "run").step() == 2


@pytest.mark.parametrize("words", [[], [*HEAD, "--cache-features=1"]], ids=["images", "features"])
def test_divergence_that_a_validation_meets_is_called_so(dataset_dir, tmp_path, capsys, words):
    run, weights = tmp_path / "run", write_run(tmp_path / "weights")
    words = [f"--checkpoint={weights}", *words, "--optimizer=sgd", "--log-every=100", "--eval-every=1", "--max-steps=2"]
    # The first step's loss is computed before its update overflows.
    assert run_train(dataset_dir, run, *words, "--learning-rate=3e38") == 2
    error = capsys.readouterr().err
    assert "In the validation after step 1 the network's logits are not finite. Training diverged" in error
    assert "no checkpoint was written yet" in error
    assert "Lower --learning-rate (now 3e+38)" in error
    assert not run.exists()
    assert run_train(dataset_dir, run, *words, "--learning-rate=0.001") == 0
    assert train.main([f"--train-dir={run}", "--resume", "--max-steps=4", "--learning-rate=3e38"]) == 2
    assert "step 2 is kept" in capsys.readouterr().err
    assert open_checkpoint(run).step() == 2


def test_a_fault_before_the_first_step_leaves_nothing_but_what_was_there(dataset_dir, tmp_path, monkeypatch):
    run = tmp_path / "run"
    run.mkdir()
    (run / ".hidden").touch()
    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "forget_metrics_after", lambda *arguments: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run_train(dataset_dir, run, "--max-steps=2")
    assert [path.name for path in run.iterdir()] == [".hidden"]
    assert run_train(dataset_dir, run, "--max-steps=2") == 0


@pytest.mark.parametrize(
    ("names", "mend"),
    [
        (["config.toml", "metrics.jsonl"], "remove the folder"),
        (["photo.jpg"], "Give another --train-dir"),
        (["config.toml", "model.ckpt-3.index"], "--resume"),
    ],
)
def test_a_folder_that_is_not_empty_is_refused_with_what_mends_it(dataset_dir, tmp_path, capsys, names, mend):
    for name in names:
        (tmp_path / name).touch()
    assert run_train(dataset_dir, tmp_path) == 2
    assert mend in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == names


def test_features_that_a_failed_run_left_do_not_refuse_the_next(dataset_dir, trained, tmp_path, capsys):
    run = tmp_path / "run"
    words = [f"--checkpoint={trained}", *HEAD, "--max-steps=4", "--cache-features=1", "--cache-memory=0"]
    assert run_train(dataset_dir, run, *words, "--learning-rate=1e38", "--optimizer=sgd") == 2
    assert [path.name for path in run.iterdir()] == ["features"]
    assert run_train(dataset_dir, run, *words) == 0
    assert "holds them already" in capsys.readouterr().err


def test_refused_evaluations_and_exports_leave_no_folder(dataset_dir, trained, tmp_path):
    records = shutil.copytree(dataset_dir, tmp_path / "records")
    for path in records.glob("*_validation_*"):
        path.write_bytes(path.read_bytes()[:-20] + bytes(20))
    output = f"--output-dir={tmp_path}/made/for/it"
    assert run_eval(records, trained, output) == 2
    assert export.main([f"--dataset-dir={records}", f"--checkpoint={trained}", output]) == 2
    assert not (tmp_path / "made").exists()


class Clock:
    """Stands in for the module `time`: every look takes a tenth of a second."""

    def __init__(self):
        self.seconds = 0.0

    def monotonic(self):
        self.seconds += 0.1
        return self.seconds


@pytest.mark.parametrize(("is_terminal", "most"), [(True, 5.0), (False, 10.0)])
def test_lines_come_every_few_seconds_and_rows_every_so_many_steps(tmp_path, monkeypatch, is_terminal, most):
    clock = Clock()
    monkeypatch.setattr(run_log, "time", clock)
    monkeypatch.setattr("sys.stderr", type("Screen", (io.StringIO,), {"isatty": lambda self: is_terminal})())
    lines = []
    monkeypatch.setattr(run_log.log, "info", lambda message, *values: lines.append(message % values))
    log = run_log.RunLog(RunFolder(tmp_path), max_steps=3000, images_per_step=8, seconds_between_summaries=0)
    for step in range(1, 3001):
        if step % 10 == 0 or log.is_line_due():
            log.training(step, 1.25, 0.25 if step < 3000 else 0.0, 0.01, to_files=step % 10 == 0)
    log.close()
    assert lines[0].startswith("step 1/3000  loss 1.2500 (weight decay 0.2500 of it)  rate 0.01")
    assert lines[-1].startswith("step 3000/3000  loss 1.2500  rate")
    assert len(lines) == pytest.approx(clock.seconds / most, rel=0.1)
    rows = RunFolder(tmp_path).read_metrics()
    assert [row["step"] for row in rows] == list(range(10, 3001, 10))
    assert set(rows[0]) == {"step", "loss", "weight_decay_loss", "learning_rate", "images_per_second"}


def test_a_network_in_the_current_folder_is_found_as_the_message_says(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/nets.py").write_text("from finetune.nets.table import SPECS\nSPEC = SPECS[0]\n")
    script = (
        "from finetune.nets import get_spec; from finetune.errors import UserError\n"
        "for name in ('mine.nets:SPEC', 'nowhere.nets:SPEC'):\n"
        "    try: print(get_spec(name).name)\n"
        "    except UserError as error: print(str(error).splitlines()[-1])"
    )

    def printed(path):
        variables = environment_with(PYTHONPATH=path, PYTHONSAFEPATH="1")
        done = subprocess.run(
            [sys.executable, "-c", script], cwd=tmp_path, env=variables, check=True, capture_output=True
        )
        return done.stdout.decode().splitlines()

    here = str(Path(train.__file__).parents[2])
    first, second = printed(here)
    assert "mine lies in the current folder, which is searched with PYTHONPATH=. before the command" in first
    assert "PYTHONPATH" in second
    assert printed(f".:{here}")[0] == "lenet"


def with_closed_output(code):
    """Runs code whose standard output nobody reads any more, as behind `head`."""
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([sys.executable, "-c", code], stdout=writer, stderr=subprocess.PIPE, check=False, text=True)
    os.close(writer)
    return done.returncode, done.stderr


def test_a_reader_that_has_seen_enough_is_no_error():
    command = "from finetune.commands.inspect import main; main()"
    assert with_closed_output(f"import sys; sys.argv[1:] = ['--models']; {command}") == (0, "")
    assert with_closed_output(f"import sys; sys.argv[1:] = ['--help']; {command}") == (0, "")
    writing = (
        "from finetune.commands.command import standard_output; import sys\n"
        "with standard_output() as file: print('far too much' * 10000, file=file)\n"
        "print('done', file=sys.stderr)"
    )
    assert with_closed_output(writing) == (0, "done\n")
