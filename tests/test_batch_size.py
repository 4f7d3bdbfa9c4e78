"""`--batch-size auto`: which size is found, on devices that raise errors and on those that end the program; memory."""

import tomllib

import numpy as np
import pytest
from test_memory import only_up_to, too_large
from test_resumption import begin, chain_of, resume, values_at, verify, write_training_shards
from tiny_runs import write_records

from finetune import api, notices
from finetune.commands import batch_size as command
from finetune.commands import train
from finetune.errors import UserError
from finetune.settings.train import TrainSettings
from finetune.training import machine_memory
from finetune.training.batch_size import FittingSize, double_while_it_fits, halve_until_it_fits
from finetune.training.machine_memory import PeakMemory, free_bytes, taken_bytes
from finetune.training.step import TrainingStep

AUTO = "--batch-size=auto"
SIZES = [32, 16, 8, 4, 2, 1]
GIB = 2**30


def make_up_to(most):
    tried = []

    def make(size):
        tried.append(size)
        return GIB if size <= most else too_large()

    return make, tried


@pytest.mark.parametrize(
    ("most", "expected", "expected_tried"),
    [
        (40, FittingSize(32), [32]),
        (9, FittingSize(8, "16 need more memory than there is"), [32, 16, 8]),
        (0, FittingSize(None, "1 need more memory than there is"), SIZES),
    ],
)
def test_it_is_halved_until_no_error_comes(most, expected, expected_tried):
    make, tried = make_up_to(most)
    assert halve_until_it_fits(SIZES, make) == expected
    assert tried == expected_tried


@pytest.mark.parametrize(
    ("limit", "size", "expected_tried"),
    [(50, 32, [1, 2, 4, 8, 16, 32]), (12, 8, [1, 2, 4, 8]), (2.5, 1, [1, 2]), (1, None, [1])],
)
def test_a_size_that_would_take_too_much_is_known_before_it_is_tried(limit, size, expected_tried):
    tried = []

    def peak_of(num_images):
        tried.append(num_images)
        return (1 + num_images) * GIB

    found = double_while_it_fits(SIZES, peak_of, round(limit * GIB))
    assert found.size == size
    assert tried == expected_tried
    if limit == 12:
        assert found.why == "16 would take 17.0 GiB, of 12.0 GiB that steps may take"


def test_an_error_ends_the_doubling():
    make, tried = make_up_to(5)
    assert double_while_it_fits(SIZES, make, 2 * GIB) == FittingSize(4, "8 need more memory than there is")
    assert tried == [1, 2, 4, 8]


# Memory of the machine


def test_the_peak_is_of_what_was_taken_within():
    before = taken_bytes()
    with PeakMemory() as peak:
        np.ones(2**24).sum()  # Of 128 MiB.
    assert peak.num_bytes > before + 100 * 2**20


def write(folder, **files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """One of 10 GiB free, in no group."""
    write(
        tmp_path, meminfo=f"MemTotal: 999 kB\nMemAvailable: {10 * 2**20} kB\nHugePages_Total: 0\n", groups="0::/a/b\n"
    )
    monkeypatch.setattr(machine_memory, "MEMORY_FILE", tmp_path / "meminfo")
    monkeypatch.setattr(machine_memory, "GROUPS_FILE", tmp_path / "groups")
    monkeypatch.setattr(machine_memory, "GROUPS_FOLDER", tmp_path / "top")
    return tmp_path


def test_free_is_what_machine_and_groups_have_left(machine):
    assert free_bytes() == 10 * GIB
    write(machine / "top/a/b", memory__max="max\n", memory__current="5\n", memory__stat="anon 5\n")
    assert free_bytes() == 10 * GIB
    stat = f"anon 7\ninactive_file {GIB}\n"
    write(machine / "top/a", memory__max=f"{6 * GIB}\n", memory__current=f"{3 * GIB}\n", memory__stat=stat)
    assert free_bytes() == 4 * GIB
    write(machine / "top", memory__max=f"{2 * GIB}\n", memory__current="0\n", memory__stat="")
    assert free_bytes() == 2 * GIB


def test_groups_of_version_1(machine):
    write(machine, groups="4:cpu,cpuacct:/other\n7:memory:/job\n")
    files = {"memory__limit_in_bytes": f"{3 * GIB}", "memory__usage_in_bytes": f"{GIB}", "memory__stat": ""}
    write(machine / "top/memory/job", **files)
    assert free_bytes() == 2 * GIB


def test_elsewhere_it_is_not_known(machine):
    (machine / "meminfo").unlink()
    assert free_bytes() is None


# At commands


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = write_records(tmp_path_factory.mktemp("batch_size") / "records", num_images=6)
    return write_training_shards(folder)


def config_of(run):
    return tomllib.loads((run / "config.toml").read_text())


def test_a_run_by_auto_is_that_by_its_number_to_the_bit(data, tmp_path, capsys):
    words = ["--moving-average-decay=0.9", "--recalibrate-batch-norm=1", "--seed=3"]
    assert begin(data, tmp_path / "auto", *words, AUTO, max_steps=2) == 0
    said = capsys.readouterr().err
    assert "Batch: --batch-size auto tries what steps find memory for, up to 10 images." in said
    assert "Batch: --batch-size 10. --learning-rate stays what it is." in said
    assert said.count("Plan of the variables") == 1
    assert "retracing" not in said
    assert begin(data, tmp_path / "plain", *words, "--batch-size=10", max_steps=2) == 0
    assert config_of(tmp_path / "auto")["batch_size"] == 10
    assert chain_of(tmp_path / "auto") == chain_of(tmp_path / "plain")
    auto, plain = values_at(tmp_path / "auto", 2), values_at(tmp_path / "plain", 2)
    for name in plain:
        np.testing.assert_array_equal(auto[name], plain[name], err_msg=name)
    capsys.readouterr()
    assert verify(tmp_path / "auto", AUTO) == 2
    assert resume(tmp_path / "auto", "--max-steps=3") == 0
    assert "Batch:" not in capsys.readouterr().err
    assert resume(tmp_path / "auto", "--max-steps=4", AUTO) == 2
    assert "--batch-size auto is of a run that begins" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("on_gpus", "more", "scale"),
    [
        (True, [], 1),
        (False, ["--num-clones=2"], 2),
        (True, ["--accumulate-steps=2", "--learning-rate-batch-size=8"], 0.5),
    ],
)
def test_what_finds_no_memory_is_halved(data, tmp_path, monkeypatch, capsys, on_gpus, more, scale):
    monkeypatch.setattr(command, "_trains_on_gpus", lambda devices: on_gpus)
    monkeypatch.setattr(TrainingStep, "_pass", only_up_to(3, TrainingStep._pass))
    rates = ["--scale-learning-rate=linear", "--learning-rate-decay-type=fixed", "--learning-rate=0.01"]
    assert begin(data, tmp_path / "run", AUTO, *rates, *more, max_steps=1) == 0
    said = capsys.readouterr().err
    assert "Batch: --batch-size 2, since 5 need more" in said
    assert config_of(tmp_path / "run")["batch_size"] == 2
    assert f"Learning rate: {0.01 * scale:g}, which is --learning-rate 0.01 times {scale:g} by" in said


def test_one_size_is_for_all_stages(data, tmp_path, monkeypatch):
    monkeypatch.setattr(TrainingStep, "_pass", only_up_to(3, TrainingStep._pass))
    (tmp_path / "stages.toml").write_text(
        "[[stages]]\ntrainable-layers = 'all'\nbatch-size = 1\nsteps = 1\n"
        "[[stages]]\ntrainable-layers = 'head'\nbatch-size = 'auto'\nsteps = 1\n"
        "[[stages]]\ntrainable-layers = 'last=2'\nlearning-rate = 0.1\nsteps = 1\n"
    )
    words = [f"--dataset-dir={data}", f"--train-dir={tmp_path / 'run'}", "--model=lenet", "--image-size=8"]
    assert train.main([*words, f"--config={tmp_path / 'stages.toml'}", AUTO]) == 0
    config = config_of(tmp_path / "run")
    assert config["batch_size"] == 2
    assert [stage.get("batch_size") for stage in config["stages"]] == [1, 2, None]
    assert resume(tmp_path / "run", AUTO) == 2


@pytest.mark.parametrize(
    ("free", "message"),
    [
        (-GIB, "no steps find enough memory: 1 would take "),
        (None, "how much is free isn't known here.\n  Give a number, such as --batch-size 8"),
    ],
)
def test_where_nothing_can_be_found_it_is_refused(data, tmp_path, monkeypatch, capsys, free, message):
    monkeypatch.setattr(command, "free_bytes", lambda: free)
    assert begin(data, tmp_path / "run", AUTO) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_images_that_are_mixed_are_at_least_two(data, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(TrainingStep, "_pass", only_up_to(1, TrainingStep._pass))
    assert begin(data, tmp_path / "run", AUTO, "--mixup=0.2") == 2
    assert "no steps find enough memory: 2 need more memory than there is" in capsys.readouterr().err


def test_a_split_without_images_for_a_step_is_refused(data, tmp_path, capsys):
    assert begin(data, tmp_path / "run", AUTO, "--accumulate-steps=11") == 2
    assert "a step takes 11 images, but the split train has 10" in capsys.readouterr().err


def test_a_global_batch_is_not_looked_for():
    with pytest.raises(UserError, match="--global-batch-size 8 says how many"):
        TrainSettings(dataset_dir="d", batch_size="auto", global_batch_size=8)


def test_a_plan_needs_no_size(data):
    settings = TrainSettings(dataset_dir=data, model="lenet", image_size=8, batch_size="auto", epochs=1)
    assert api.plan(settings).trained


def test_what_was_silent_is_still_to_be_said(caplog):
    with notices.silence():
        notices.tell_once("a line of test_batch_size")
    notices.tell_once("a line of test_batch_size")
    assert caplog.text.count("a line of test_batch_size") == 1
