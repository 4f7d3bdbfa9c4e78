"""A sweep that is killed again and again, and goes on each time, is the unbroken one: its trials, and each to the bit.

The moments follow from a seed: FINETUNE_KILL_SEED sets it, and a test that fails shows it.
"""

import os
import random
import signal
import time
from pathlib import Path

import pytest
from fork_server import TRAINING, ForkServer
from test_kills import SEED, TRAIN, assert_alike
from tiny_runs import write_records, write_run

pytestmark = pytest.mark.slow

NUM_TRIALS = 8
NUM_KILLS = 14
# A trial has some 150 calls that change names or wait for the disk.
MOST_CALLS = 200
MOST_SECONDS = 2.0
WORDS = [
    "--model=lenet",
    "--image-size=8",
    "--batch-size=4",
    "--optimizer=adam",
    "--precision=float32",
    "--exclude-scopes=LeNet/fc4",
    "--trainable-scopes=LeNet/fc4",
    "--cache-features=2",
    "--max-steps=15",
    "--eval-every=3",
    "--log-every=1",
    "--best-by=loss",
    "--save-interval-seconds=0",
    "--max-to-keep=2",
    "--sweep=learning_rate=1e-5..1e-1:log,weight_decay=0|4e-5,batch_size=3..5",
    f"--trials={NUM_TRIALS}",
]


@pytest.fixture(scope="module")
def training():
    modules = ("finetune.commands.sweep", "finetune.sweeps.plot", "optuna", "optuna.storages", "matplotlib.figure")
    with ForkServer((*TRAINING, *modules)) as server:
        yield server


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep_kills")
    data = write_records(folder / "data", num_images=12)
    write_records(data, num_images=24, split="train")
    return [f"--dataset-dir={data}", f"--checkpoint={write_run(folder / 'pretrained', 'lenet', image_size=8)}", *WORDS]


def start(server, folder, words, kill_at=None):
    """Begins the sweep, or goes on with it, as its messages say."""
    own = ["--resume"] if (folder / "sweep.toml").exists() else words
    return server.start(TRAIN, [f"--train-dir={folder}", *own], output=folder.with_name("log"), kill_at=kill_at)


def memory_of(folder):
    """All that the study holds but for times."""
    import optuna

    storage = optuna.storages.RDBStorage(f"sqlite:///{folder / 'sweep.db'}")
    trials = optuna.load_study(study_name="sweep", storage=storage).trials
    return [
        (trial.number, trial.state, trial.params, trial.values, trial.intermediate_values, trial.user_attrs)
        for trial in trials
    ]


def assert_same_sweep(killed: Path, unbroken: Path):
    names = [sorted(path.name for path in folder.iterdir()) for folder in (killed, unbroken)]
    assert names[0] == names[1]
    assert memory_of(killed) == memory_of(unbroken)
    for name in ("trials.csv", "sweep.toml", "sweep.png"):
        assert (killed / name).read_bytes() == (unbroken / name).read_bytes(), name
    features = [
        {path.relative_to(folder): path.read_bytes() for path in (folder / "features").rglob("*.npy")}
        for folder in (killed, unbroken)
    ]
    assert features[0] == features[1]
    for number in range(1, NUM_TRIALS + 1):
        assert_alike(killed / f"trial-{number}", unbroken / f"trial-{number}")


def test_eight_trials_killed_and_resumed_are_those_of_the_unbroken_sweep(training, words, tmp_path):
    print(f"FINETUNE_KILL_SEED={SEED}")
    moments = random.Random(SEED)
    unbroken, killed = tmp_path / "unbroken/sweep", tmp_path / "killed/sweep"
    unbroken.parent.mkdir()
    killed.parent.mkdir()
    start(training, unbroken, words)
    assert training.wait() == 0, unbroken.with_name("log").read_text()
    states = [state.name for _, state, *_ in memory_of(unbroken)]
    assert len(states) == NUM_TRIALS and {"COMPLETE", "PRUNED"} == set(states)
    num_kills = 0
    for _ in range(NUM_KILLS):
        if moments.random() < 0.5:
            start(training, killed, words, kill_at=moments.randrange(MOST_CALLS))
        else:
            process = start(training, killed, words)
            time.sleep(moments.uniform(0, MOST_SECONDS))
            os.kill(process, signal.SIGKILL)
        status = training.wait()
        assert status in (0, -signal.SIGKILL), killed.with_name("log").read_text()
        num_kills += status != 0
        if status == 0:
            break
    start(training, killed, words)
    assert training.wait() == 0, killed.with_name("log").read_text()
    assert num_kills >= 5
    assert_same_sweep(killed, unbroken)
