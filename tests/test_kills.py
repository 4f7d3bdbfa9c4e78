"""Programs killed with SIGKILL at random moments, started again each time, and what comes of it beside an unbroken run.

The moments follow from a seed: FINETUNE_KILL_SEED sets it, and a test that fails shows it.
"""

import json
import os
import random
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from fork_server import CONVERSION, TRAINING, ForkServer
from image_files import write_class_folders
from tiny_runs import write_records, write_run

from finetune.model.checkpoint import Checkpoint
from finetune.runs.run_folder import RunFolder

pytestmark = pytest.mark.slow

SEED = int(os.environ.get("FINETUNE_KILL_SEED", random.randrange(10**6)))
NUM_KILLS = 8
NUM_SHARDS = 20
# A start has some 25 calls that change names or wait for the disk, a step with its checkpoint some 17.
MOST_CALLS = 110
MOST_SECONDS = 0.3
TRAIN = "finetune.commands.train:main"
CONVERT = "finetune.commands.convert:main"
# By time, and so another in every run.
CLOCKED = "images_per_second"

NETWORK = ["--model=lenet", "--image-size=8", "--batch-size=4", "--log-every=1", "--optimizer=adam"]
SAVING = ["--save-interval-seconds=0", "--max-to-keep=2", "--eval-every=2"]
STEPS = "--max-steps=80"
AVERAGES = [STEPS, "--moving-average-decay=0.9", "--on-divergence=halve"]
HEAD = ["--exclude-scopes=LeNet/fc4", "--trainable-scopes=LeNet/fc4"]
STAGES = [HEAD[0], "--stages=head:25:0.01,last=2:25:0.003,all:30:0.001", "--on-divergence=halve"]
FEATURES = [STEPS, *HEAD, "--cache-features=3", "--cache-memory=0"]


@pytest.fixture(scope="module")
def training():
    with ForkServer(TRAINING) as server:
        yield server


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = write_records(tmp_path_factory.mktemp("kills") / "data", num_images=12)
    return write_records(folder, num_images=24, split="train")


class Killed:
    """A training that is killed again and again."""

    def __init__(self, server: ForkServer, run: Path, words: list[str], moments: random.Random) -> None:
        self.run = run
        self.log = run.with_name("log")
        self._server = server
        self._words = words
        self._random = moments

    def start_until_killed(self) -> bool:
        """Begins the run or goes on with it; False: it came to its end."""
        how = self._random.choice(["call", "time", "partial"])
        kill_at = self._random.randrange(MOST_CALLS) if how == "call" else None
        process = self._start(kill_at)
        if how != "call":
            self._wait_for_a_step()
            time.sleep(self._random.uniform(0, MOST_SECONDS))
            if how == "partial":
                self._wait_for(lambda: any(self.run.glob("*.partial")) or any(self.run.glob(".*.partial")))
            os.kill(process, signal.SIGKILL)
        status = self._server.wait()
        assert status in (0, -signal.SIGKILL), self.log.read_text()
        return status != 0

    def finish(self) -> None:
        self._start(None)
        assert self._server.wait() == 0, self.log.read_text()

    def _start(self, kill_at: int | None) -> int:
        words = [f"--train-dir={self.run}", *self._words]
        if any(self.run.glob("*.index")) or any(self.run.glob(".*/.renames.json")):
            words = ["--resume", f"--train-dir={self.run}"]
        elif self.run.exists():  # Killed before its first checkpoint: what the message says is done.
            for path in self.run.iterdir():
                if path.is_file():
                    path.unlink()
        return self._server.start(TRAIN, words, output=self.log, kill_at=kill_at)

    def _wait_for_a_step(self) -> None:
        metrics = self.run / "metrics.jsonl"
        before = metrics.stat().st_mtime_ns if metrics.exists() else 0
        self._wait_for(lambda: metrics.exists() and metrics.stat().st_size and metrics.stat().st_mtime_ns > before)

    def _wait_for(self, happens) -> None:
        deadline = time.monotonic() + 20  # It may be through by then: then there is nothing to wait for.
        while not happens() and time.monotonic() < deadline:
            time.sleep(0.001)


def values_of(run: Path, name: str) -> dict[str, np.ndarray]:
    checkpoint = Checkpoint(str(run / name))
    return {tensor: checkpoint.read(tensor) for tensor in checkpoint.shapes}


def assert_alike(killed: Path, unbroken: Path) -> None:
    """All that a run leaves is the same to the bit, but for what clocks and TensorBoard say."""
    names = [
        {str(path.relative_to(run)) for path in run.rglob("*") if "tfevents" not in path.name}
        for run in (killed, unbroken)
    ]
    assert names[0] == names[1]
    features = [name for name in names[0] if name.startswith("features/")]
    for name in ("best.json", "checkpoint", "images.json", "labels.txt", "rate_cuts.json", "stages.json", *features):
        if (unbroken / name).is_file():
            assert (killed / name).read_bytes() == (unbroken / name).read_bytes(), name
    metrics = [
        [{key: value for key, value in line.items() if key != CLOCKED} for line in RunFolder(run).read_metrics()]
        for run in (killed, unbroken)
    ]
    assert metrics[0] == metrics[1]
    checkpoints = {Path(name).stem for name in names[0] if name.endswith(".index")}
    assert json.loads((killed / "best.json").read_text())["checkpoint"] in checkpoints
    for name in checkpoints:
        values, expected = values_of(killed, name), values_of(unbroken, name)
        assert values.keys() == expected.keys()
        for tensor, value in expected.items():
            np.testing.assert_array_equal(values[tensor], value, err_msg=f"{name} {tensor}")


@pytest.mark.parametrize(
    ("options", "num_kills"), [(AVERAGES, NUM_KILLS), (FEATURES, 6), (STAGES, 5)], ids=["images", "features", "stages"]
)
def test_a_run_killed_again_and_again_is_the_unbroken_one_to_the_bit(training, data, tmp_path, options, num_kills):
    print(f"FINETUNE_KILL_SEED={SEED}")
    words = [f"--dataset-dir={data}", *NETWORK, *SAVING, *options]
    if HEAD[0] in options:
        words.append(f"--checkpoint={write_run(tmp_path / 'pretrained', 'lenet', image_size=8)}")
    unbroken = tmp_path / "unbroken" / "run"
    unbroken.parent.mkdir()
    Killed(training, unbroken, words, random.Random()).finish()
    (tmp_path / "killed").mkdir()
    killed = Killed(training, tmp_path / "killed" / "run", words, random.Random(SEED))
    kills = 0
    while kills < num_kills:
        assert killed.start_until_killed(), f"at its end after {kills} kills: too short a run, or too fast a machine"
        kills += 1
    killed.finish()
    assert_alike(killed.run, unbroken)


# Every call


def save_and_name_best(folder: str) -> int:
    """What the loop's writer does after a validation that is the best so far."""
    from finetune.model.checkpoint import save_run_checkpoint
    from finetune.training.best import Best

    run = RunFolder(Path(folder))
    save_run_checkpoint(run.path, 3, {"weights": np.full([4], 3, np.float32)}, max_to_keep=1, make_room=lambda: False)
    run.write_json("best.json", Best("model.ckpt-3", 3, 0.7, 1.0).to_json())
    return 0


def resume_and_tell(folder: str) -> int:
    """What is there for a resumption: its step and weights, and the best, as JSON."""
    from finetune.model.checkpoint import newest_whole
    from finetune.training.best import find_best, read_validations

    run = RunFolder(Path(folder))
    with run.begun(resume=True):
        newest = newest_whole(run.path)
        step = newest.step()
        run.forget_metrics_after(step)
        best = find_best(run, step, read_validations(run, "validation", 0, step))
        (run.path / "told.json").write_text(json.dumps([step, newest.read("weights").tolist(), best.step]))
    return 0


@pytest.fixture(scope="module")
def begun_run(training, tmp_path_factory):
    """Checkpoints of two steps, the first of them the best, and metrics of a third one, which is to be the best."""
    from finetune.model.checkpoint import save_run_checkpoint

    run = tmp_path_factory.mktemp("kills") / "run"
    for step, accuracy in ((1, 0.5), (2, 0.4), (3, 0.7)):
        if step < 3:
            save_run_checkpoint(
                run, step, {"weights": np.full([4], step, np.float32)}, max_to_keep=2, make_room=lambda: False
            )
        RunFolder(run).write_metrics(step, {"split": "validation", "accuracy": accuracy, "loss": 1.0})
    RunFolder(run).write_json("best.json", {"checkpoint": "model.ckpt-1", "step": 1, "accuracy": 0.5, "loss": 1.0})
    return run


def test_a_kill_before_any_call_of_a_checkpoint_and_its_best_loses_neither(training, begun_run, tmp_path):
    """In between two calls that change names or wait for the disk there is nothing on it that a kill could catch."""
    seen, log = [], tmp_path / "log"
    for number in range(200):
        run = shutil.copytree(begun_run, tmp_path / str(number))
        status = training.run("test_kills:save_and_name_best", str(run), output=log, kill_at=number)
        assert training.run("test_kills:resume_and_tell", str(run), output=log) == 0, log.read_text()
        step, weights, best = json.loads((run / "told.json").read_text())
        assert weights == [step] * 4
        assert not list(run.glob("*.partial")) and not list(run.glob(".*"))
        seen.append((step, best))
        if status == 0:
            break
    assert status == 0
    # The old state, then the new one; its best follows from the metrics before best.json says so.
    assert sorted(set(seen)) == [(2, 1), (3, 3)]
    assert seen == sorted(seen)
    assert seen.count((2, 1)) >= 4 and seen.count((3, 3)) >= 12


# Conversions


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def conversion():
    with ForkServer(CONVERSION) as server:
        yield server


def test_a_conversion_killed_before_any_call_leaves_the_old_set_or_the_new_one(conversion, tmp_path):
    print(f"FINETUNE_KILL_SEED={SEED}")
    images, log = write_class_folders(tmp_path / "images", a=3, b=3), tmp_path / "log"
    words = [f"--images-dir={images}", "--dataset-name=tiny", "--workers=1", "--overwrite"]

    def convert(folder, seed, num_shards, kill_at=None):
        more = [f"--dataset-dir={folder}", f"--seed={seed}", f"--num-shards={num_shards}"]
        return conversion.run(CONVERT, [*words, *more], output=log, kill_at=kill_at)

    assert convert(tmp_path / "old", 1, 1) == 0
    assert convert(tmp_path / "new", 2, 2) == 0
    old, new = contents(tmp_path / "old"), contents(tmp_path / "new")
    assert old.keys() != new.keys()
    for number in range(200):
        folder = shutil.copytree(tmp_path / "old", tmp_path / f"killed_{number}")
        status = convert(folder, 2, 2, kill_at=number)
        visible = {name: content for name, content in contents(folder).items() if not name.startswith(".")}
        # dataset.json vouches for the others: where it is the set is whole.
        assert "dataset.json" not in visible or visible in (old, new)
        assert all(content in (old.get(name), new.get(name)) for name, content in visible.items())
        if status == 0:
            break
        assert status == -signal.SIGKILL, log.read_text()
        assert convert(folder, 2, 2) == 0, log.read_text()
        assert contents(folder) == new
    assert number > 15
    assert contents(folder) == new


def test_conversions_killed_at_random_moments_end_in_the_same_bytes(conversion, tmp_path):
    print(f"FINETUNE_KILL_SEED={SEED}")
    moments = random.Random(SEED)
    images, log = write_class_folders(tmp_path / "images", a=300, b=300), tmp_path / "log"
    words = [f"--images-dir={images}", "--dataset-name=tiny", "--workers=2", f"--num-shards={NUM_SHARDS}"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert conversion.run(CONVERT, [*words, f"--dataset-dir={whole}"], output=log) == 0, log.read_text()
    for _ in range(5):
        num_shards = moments.randrange(NUM_SHARDS - 4)
        process = conversion.start(CONVERT, [*words, f"--dataset-dir={killed}"], output=log)
        deadline = time.monotonic() + 60
        while sum(1 for _ in killed.glob(".tiny.partial/*.tfrecord")) < num_shards and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(moments.uniform(0, 0.02))
        os.kill(process, signal.SIGKILL)
        assert conversion.wait() == -signal.SIGKILL
        assert not list(killed.glob("*.tfrecord"))
    status = conversion.run(CONVERT, [*words, f"--dataset-dir={killed}", "--overwrite"], output=log)
    assert status == 0, log.read_text()
    assert contents(killed) == contents(whole)
