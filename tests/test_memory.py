"""Training for long takes no more memory and no more open files than training for a while."""

import json
import os
import re
import statistics
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf
from fork_server import TRAINING, ForkServer
from tiny_runs import write_records

from finetune.commands import tensorflow_start, train
from finetune.errors import UserError
from finetune.evaluation.scoring import score
from finetune.training.step import TrainingStep

NUM_STEPS = 2000
STEPS_BETWEEN_VALIDATIONS = 100


def train_and_measure(words: list[str], measured: str) -> int:
    """Trains, and after each validation appends the step, the bytes in memory, and the number of open files."""
    from finetune.commands import train
    from finetune.training.run_log import RunLog

    validation = RunLog.validation

    def validate_and_measure(run_log, step, *figures, **options):
        validation(run_log, step, *figures, **options)
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        row = [step, pages * os.sysconf("SC_PAGE_SIZE"), sum(1 for _ in Path("/proc/self/fd").iterdir())]
        with Path(measured).open("a") as file:
            file.write(json.dumps(row) + "\n")

    RunLog.validation = validate_and_measure
    return train.main(words)


def too_large(*_, **__):
    raise tf.errors.ResourceExhaustedError(None, None, "{{function_node a}} OOM when allocating tensor with shape[9]")


WEIGHTS = "WEIGHTS"


def only_up_to(most, make_pass):
    """A pass that finds no memory for more images."""

    def checked(self, batch, *rest):
        return make_pass(self, batch, *rest) if batch[1].shape[0] <= most else too_large()

    return checked


@pytest.mark.parametrize(
    ("more", "num_images"),
    [
        (["--batch-size=4"], 4),
        (["--batch-size=2", "--accumulate-steps=2"], 2),
        (["--batch-size=4", "--find-learning-rate"], 4),
        (["--batch-size=4", "--recompute-activations"], 4),
    ],
)
def test_a_step_that_finds_no_memory_says_what_mends_it(tmp_path, monkeypatch, capsys, more, num_images):
    data = write_records(tmp_path / "data", num_images=4, split="train")
    monkeypatch.setattr("finetune.training.step.TrainingStep._step", too_large)
    words = [f"--dataset-dir={data}", f"--train-dir={tmp_path / 'run'}", "--model=lenet", "--image-size=8"]
    assert train.main([*words, *more, "--max-steps=1"]) == 2
    error = capsys.readouterr().err
    assert f"There is not enough memory for {num_images} images at once: OOM when allocating tensor" in error
    assert f"--batch-size below {num_images}" in error
    is_advised = "--recompute-activations where more than a head is trained" in error
    assert is_advised == ("--recompute-activations" not in more)


@pytest.mark.parametrize(
    "more",
    [
        ["--batch-size=8"],
        ["--batch-size=4", "--accumulate-steps=2"],
        ["--batch-size=4", "--num-clones=2"],
        ["--batch-size=8", f"--checkpoint={WEIGHTS}", "--trainable-scopes=LeNet/fc4", "--cache-features=2"],
    ],
)
def test_the_advice_is_a_batch_that_fits(tmp_path, monkeypatch, capsys, more):
    data = write_records(tmp_path / "data", num_images=8, split="train")
    words = [f"--dataset-dir={data}", "--model=lenet", "--image-size=8", "--max-steps=2"]
    if WEIGHTS in " ".join(more):
        assert train.main([*words, "--batch-size=8", f"--train-dir={tmp_path / 'weights'}"]) == 0
        more = [word.replace(WEIGHTS, str(tmp_path / "weights")) for word in more]
    monkeypatch.setattr(TrainingStep, "_pass", only_up_to(3, TrainingStep._pass))
    words.append(f"--train-dir={tmp_path / 'run'}")
    assert train.main([*words, *more]) == 2
    (size,) = re.findall(r"Give --batch-size (\d+), which fits .*, or leave more memory free", capsys.readouterr().err)
    assert size == "2"
    assert train.main([*words, *more, f"--batch-size={size}"]) == 0


def test_scoring_that_finds_no_memory_says_what_mends_it():
    batches = [(np.zeros([2, 8, 8, 1], np.float32), np.zeros(2, np.int64), np.array([b"a", b"b"]))]
    with pytest.raises(UserError, match="not enough memory for 2 images"):
        score([too_large], batches)


@pytest.mark.skipif(sys.platform != "linux", reason="of glibc")
@pytest.mark.parametrize(("given", "is_limited"), [(None, True), ("8", False)])
def test_heaps_are_as_many_as_cores_unless_the_user_says_otherwise(monkeypatch, given, is_limited):
    calls = []
    library = SimpleNamespace(mallopt=lambda *words: calls.append(words))
    monkeypatch.setattr(tensorflow_start.ctypes, "CDLL", lambda name: library)
    monkeypatch.delenv("MALLOC_ARENA_MAX", raising=False)
    if given is not None:
        monkeypatch.setenv("MALLOC_ARENA_MAX", given)
    tensorflow_start._limit_heaps()
    assert calls == ([(-8, len(os.sched_getaffinity(0)))] if is_limited else [])


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads /proc")
def test_memory_and_open_files_stay_what_they_are_after_a_while(tmp_path):
    data = write_records(tmp_path / "data", num_images=24)
    write_records(data, num_images=24, split="train")
    words = [f"--dataset-dir={data}", f"--train-dir={tmp_path / 'run'}", "--model=lenet", "--image-size=8"]
    words += ["--batch-size=4", f"--eval-every={STEPS_BETWEEN_VALIDATIONS}", f"--max-steps={NUM_STEPS}"]
    words += ["--moving-average-decay=0.9", "--save-interval-seconds=2", "--log-every=20", "--max-to-keep=2"]
    measured = tmp_path / "measured"
    with ForkServer(TRAINING) as server:
        status = server.run("test_memory:train_and_measure", words, str(measured), output=tmp_path / "log")
    assert status == 0, (tmp_path / "log").read_text()
    rows = [json.loads(line) for line in measured.read_text().splitlines()]
    assert [step for step, _, _ in rows] == list(range(STEPS_BETWEEN_VALIDATIONS, NUM_STEPS + 1, 100))
    early, late = (statistics.median(num_bytes for _, num_bytes, _ in some) for some in (rows[1:4], rows[-3:]))
    assert late <= 1.03 * early, rows
    assert len({num_files for *_, num_files in rows[1:]}) == 1, rows
