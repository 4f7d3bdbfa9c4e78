"""Stages of one training: how they are said, what each carries over, and that a run broken off anywhere ends equal."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from tiny_runs import write_records, write_run

from finetune import api
from finetune.commands import found_settings, train
from finetune.commands.stages import settings_of_stage
from finetune.errors import UserError
from finetune.model.checkpoint import Checkpoint
from finetune.model.depth import scopes_behind, scopes_of_layers
from finetune.nets import MODELS, get_spec
from finetune.runs.run_folder import RunFolder
from finetune.runs.stage_record import StagePlace, StageRecord, find_place, read_stage_records, write_stage_records
from finetune.settings.settings_file import read_toml, to_toml_table
from finetune.settings.stages import Stage
from finetune.settings.train import TrainSettings
from finetune.training.loop import TrainingLoop
from finetune.training.rate_finder import RateCurve
from finetune.trunk.upstream import variables_until

NETWORK = ["--model=lenet", "--image-size=8", "--batch-size=4", "--log-every=1", "--eval-every=0"]
IMAGES = "--cache-features=off"
MOMENTUM = ["--optimizer=momentum", "--learning-rate-decay-type=cosine", "--end-learning-rate=0"]
THREE_STAGES = "head:3:0.1,last=2:2:0.05,all:3:0.01"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Records, and beside them weights to begin from."""
    folder = tmp_path_factory.mktemp("stages") / "records"
    (folder.parent / "weights").mkdir()
    write_run(folder.parent / "weights", "lenet", image_size=8)
    write_records(folder, num_images=6)
    return write_records(folder, num_images=10, split="train")


def begin(data, run, *words):
    weights = f"--checkpoint={data.parent / 'weights'}"
    return train.main([f"--dataset-dir={data}", f"--train-dir={run}", weights, *NETWORK, IMAGES, *words])


def resume(run, *words):
    return train.main(["--resume", f"--train-dir={run}", *words])


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """An unbroken run of three stages; every checkpoint is kept."""
    run = tmp_path_factory.mktemp("stages") / "run"
    assert begin(data, run, *MOMENTUM, f"--stages={THREE_STAGES}", "--save-interval-seconds=0", "--max-to-keep=99") == 0
    return run


def values_at(run, step):
    checkpoint = Checkpoint(str(run / f"model.ckpt-{step}"))
    return {name: checkpoint.read(name) for name in checkpoint.shapes}


def metrics_of(run):
    return [{k: v for k, v in line.items() if k != "images_per_second"} for line in RunFolder(run).read_metrics()]


def assert_equal_runs(run, whole, step):
    values, expected = values_at(run, step), values_at(whole, step)
    assert values.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(values[name], value, err_msg=name)
    assert metrics_of(run) == metrics_of(whole)
    for name in ("best.json", "stages.json"):
        assert (run / name).read_bytes() == (whole / name).read_bytes()


def changed_variables(run, first, last):
    before, after = values_at(run, first), values_at(run, last)
    layers = {name for name in after if name.startswith("LeNet/") and name.endswith(("weights", "biases"))}
    return {name.split("/")[1] for name in layers if not np.array_equal(before[name], after[name])}


# What a stage is


@pytest.mark.parametrize(
    ("text", "stage"),
    [
        ("head:600:0.003", Stage("", 600, {"trainable_layers": "head", "learning_rate": 0.003})),
        ("all:5e", Stage("", None, {"trainable_layers": "all", "epochs": 5.0})),
        ("last=30%:.5e:1e-4", Stage("", None, {"trainable_layers": "last=30%", "epochs": 0.5, "learning_rate": 1e-4})),
        ("from=Mixed_7a:1", Stage("", 1, {"trainable_layers": "from=Mixed_7a"})),
    ],
)
def test_a_stage_of_one_word(text, stage):
    assert Stage.of_text(text) == stage
    assert Stage.of_table(stage.table()) == stage


def test_a_stage_in_words():
    stage = Stage("new head", 3, {"trainable_layers": "head", "learning_rate": 0.5})
    assert str(stage) == "new head: steps 3, trainable-layers head, learning-rate 0.5"
    assert str(Stage("", 3)) == "steps 3"


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("head", "but must be LAYERS:LENGTH:RATE"),
        ("head:many", "but must be LAYERS:LENGTH:RATE"),
        ("head:3:fast", "but must be LAYERS:LENGTH:RATE"),
        ("head:3:-1", "--learning-rate is -1.0, but must be above 0"),
        ("head:-3", "steps is -3"),
        ("feet:3", "--trainable-layers is 'feet', not one of head"),
    ],
)
def test_a_word_that_is_no_stage(text, what):
    with pytest.raises(UserError, match=what):
        settings(stages=(Stage.of_text(text),))


@pytest.mark.parametrize(
    ("table", "what"),
    [
        ({"steps": 1, "epochs": 2.0}, "steps \\(1\\) and epochs \\(2.0\\)"),
        ({"steps": 1.5}, "steps is 1.5"),
        ({"steps": True}, "steps is True"),
        ({"name": 3}, "name is 3"),
        ({"max_steps": 3}, "Give steps or epochs"),
        ({"leraning_rate": 3}, "Did you mean learning_rate"),
        ({"moving_average_decay": 0.9}, "no setting of a stage"),
        ({"batch_size": 0}, "--batch-size is 0"),
        ({"batch_size": [1]}, "--batch-size is \\[1\\]"),
    ],
)
def test_a_table_that_is_no_stage(table, what):
    with pytest.raises(UserError, match=what):
        Stage.of_table(table)


def settings(**values):
    return TrainSettings(dataset_dir=Path("records"), **values)


def test_stages_are_written_and_read_in_toml(tmp_path):
    (tmp_path / "stages.toml").write_text(
        "max-steps = 7\nlearning_rate = 0.5\n"
        '[[stages]]\nname = "first"\ntrainable-layers = "head"\nsteps = 3\nlearning-rate = 1\n'
        "[[stages]]\nopt-epsilon = 1\nlearning-rate-boundaries = [1, 2]\nlearning-rate-values = '1,2'\n"
        "learning-rate-decay-type = 'piecewise'\n",
        encoding="utf-8",
    )
    read = settings(**read_toml(TrainSettings, tmp_path / "stages.toml"))
    first, second = read.course.stages
    assert first == Stage("first", 3, {"trainable_layers": "head", "learning_rate": 1.0})
    assert second.own["learning_rate_boundaries"] == (1, 2)
    assert second.own["learning_rate_values"] == (1.0, 2.0)
    table = to_toml_table(read)
    assert TrainSettings(**table) == read


@pytest.mark.parametrize("text", ["stages = 3", "stages = [3]", "stages = ['head:1']", "[stages]\nsteps = 1"])
def test_stages_in_toml_are_tables(text, tmp_path):
    (tmp_path / "stages.toml").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match="stages"):
        read_toml(TrainSettings, tmp_path / "stages.toml")


def test_a_stage_has_its_own_settings_and_those_around_it():
    around = settings(
        model="lenet",
        max_steps=70,
        batch_size=4,
        learning_rate=0.5,
        stages=(Stage.of_text("head:6:0.25"), Stage("", None, {"epochs": 2.0}), Stage()),
    )
    first = settings_of_stage(around, StagePlace(0, 0), 10)
    assert first.stage.trainable_scopes == ("LeNet/fc4",)
    assert (first.stage.max_steps, first.stage.schedule.learning_rate) == (6, 0.25)
    second = settings_of_stage(around, StagePlace(1, 6), 10)
    assert second.stage.trainable_scopes == ()
    assert (second.stage.max_steps, second.stage.schedule.learning_rate) == (11, 0.5)
    assert settings_of_stage(around, StagePlace(2, 11), 10).stage.max_steps == 81
    assert first.course.stages == ()


def test_the_way_a_stage_says_what_is_trained_takes_the_place_of_the_one_around():
    around = settings(model="lenet", trainable_scopes=("LeNet/conv1",), stages=(Stage.of_text("head:6"), Stage("", 1)))
    assert settings_of_stage(around, StagePlace(0, 0), 10).stage.trainable_scopes == ("LeNet/fc4",)
    assert settings_of_stage(around, StagePlace(1, 6), 10).stage.trainable_scopes == ("LeNet/conv1",)


def test_what_every_stage_has_of_its_own_is_refused_around_them():
    with pytest.raises(UserError, match="--learning-rate would have no effect: each of the 2 stages has its own"):
        settings(learning_rate=0.5, stages=(Stage.of_text("head:6:0.25"), Stage.of_text("all:6:0.25")))
    with pytest.raises(UserError, match="--max-steps would have no effect"):
        settings(max_steps=5, stages=(Stage.of_text("head:6"), Stage("", None, {"epochs": 2.0})))
    settings(learning_rate=0.5, stages=(Stage.of_text("head:6:0.25"), Stage.of_text("all:6")))


@pytest.mark.parametrize(
    "values",
    [
        {"trainable_scopes": ("a",), "trainable_layers": "head"},
        {"trainable_layers": "head", "freeze_until": "conv1"},
        {"max_steps": 3, "epochs": 1.0},
    ],
)
def test_what_is_said_twice_is_refused(values):
    with pytest.raises(UserError, match="said twice"):
        settings(**values)


# Layers by depth


@pytest.mark.parametrize("name", MODELS)
def test_layers_of_every_network(name):
    spec = get_spec(name)
    num_groups = len(spec.layer_groups)
    assert scopes_of_layers(spec, "head") == spec.head_scopes
    assert scopes_of_layers(spec, "all") == ()
    assert scopes_of_layers(spec, f"last={num_groups}") == ()
    assert scopes_of_layers(spec, "last=9999") == ()
    assert set(scopes_of_layers(spec, "last=1")) == set(spec.layer_groups[-1]) == set(spec.head_scopes)
    second = spec.layer_groups[1][0]
    assert second in scopes_of_layers(spec, f"from={second}")
    assert spec.layer_groups[0][0] not in scopes_of_layers(spec, f"from={second.split('/', 1)[-1]}")
    assert scopes_of_layers(spec, "last=50%") == scopes_of_layers(spec, f"last={-(-num_groups // 2)}")
    behind = scopes_behind(spec, second, lambda end_point: pytest.fail("a group needs no graph"))
    assert behind == tuple(scope for group in spec.layer_groups[2:] for scope in group)


def test_layers_that_are_not_there():
    spec = get_spec("inception_v3")
    with pytest.raises(UserError, match=r"no group of layers 'Mixed_7x'\.\n  Did you mean Mixed_7"):
        scopes_of_layers(spec, "from=Mixed_7x")
    with pytest.raises(UserError, match=r"no group of layers 'Mixed_7x'\.\n  Did you mean Mixed_7"):
        scopes_behind(spec, "Mixed_7x", lambda end_point: None)
    with pytest.raises(UserError, match="nothing to be trained"):
        scopes_behind(spec, "Logits", lambda end_point: None)
    with pytest.raises(UserError, match="no layer with variables"):
        scopes_behind(spec, "images", lambda end_point: set())


@pytest.mark.parametrize(
    ("model", "end_point", "first_trained"),
    [
        ("lenet", "pool2", "LeNet/fc3"),
        ("mobilenet_v2", "layer_15", "MobilenetV2/expanded_conv_14"),
        ("resnet_v1_50", "resnet_v1_50/block2", "resnet_v1_50/block3/unit_1"),
    ],
)
def test_freezing_until_an_end_point(model, end_point, first_trained):
    spec = get_spec(model)
    scopes = scopes_behind(spec, end_point, lambda name: variables_until(spec, name, None, None))
    assert scopes[0] == first_trained
    assert scopes[-1] == spec.layer_groups[-1][-1]


def test_freeze_until_trains_what_is_behind(data, tmp_path):
    assert begin(data, tmp_path / "run", "--freeze-until=pool2", "--epochs=0.5", "--save-interval-seconds=0") == 0
    assert changed_variables(tmp_path / "run", 1, 1) == set()
    plan = json.loads((tmp_path / "run" / "plan.json").read_text())["variables"]
    assert {row["name"].split("/")[1] for row in plan if row["is_trained"]} == {"fc3", "fc4"}
    recorded = read_toml(TrainSettings, tmp_path / "run" / "config.toml")
    assert recorded["trainable_scopes"] == ("LeNet/fc3", "LeNet/fc4")
    assert recorded["max_steps"] == 1
    assert "freeze_until" not in recorded
    assert "epochs" not in recorded


# What a run of stages does


def test_each_stage_trains_its_own_layers_at_its_own_rate(trained):
    assert changed_variables(trained, 1, 3) == {"fc4"}
    assert changed_variables(trained, 3, 5) == {"fc3", "fc4"}
    assert changed_variables(trained, 5, 8) == {"conv1", "conv2", "fc3", "fc4"}
    rates = [line["learning_rate"] for line in metrics_of(trained) if "learning_rate" in line]
    thirds = [1, 0.75, 0.25]  # Of half a wave.
    expected = [0.1 * t for t in thirds] + [0.05, 0.025] + [0.01 * t for t in thirds]
    np.testing.assert_allclose(rates, expected, rtol=1e-6)
    assert read_stage_records(trained) == [
        StageRecord("head", 0, 3),
        StageRecord("last=2", 3, 5),
        StageRecord("all", 5, 8),
    ]
    validated = [line["step"] for line in metrics_of(trained) if "split" in line]
    assert validated == [3, 5, 8]


def test_slots_of_variables_that_stay_trained_are_carried_over(trained):
    """By momentum's own formula: the first update of a stage has the momentum of the stage before."""
    slot = "LeNet/fc4/weights/Momentum"
    before, after = values_at(trained, 3), values_at(trained, 4)
    change = before["LeNet/fc4/weights"] - after["LeNet/fc4/weights"]
    np.testing.assert_allclose(change, 0.05 * after[slot], rtol=1e-3, atol=1e-7)
    assert "LeNet/fc3/weights/Momentum" not in before
    carried = np.abs(0.9 * before[slot]).sum()
    assert np.abs(after[slot] - 0.9 * before[slot]).sum() < np.abs(after[slot]).sum() + carried  # A sum of the two.
    assert not np.array_equal(before[slot], after[slot])


def test_adam_begins_anew_where_a_variable_joins(data, tmp_path):
    """Its counter is of all variables: with that of the stage before, first updates would be three times too large."""
    words = ["--optimizer=adam", "--learning-rate=0.01", "--learning-rate-decay-type=fixed", "--max-to-keep=99"]
    assert begin(data, tmp_path / "run", *words, "--stages=head:20,all:1") == 0
    first, second = values_at(tmp_path / "run", 20), values_at(tmp_path / "run", 21)
    np.testing.assert_allclose(second["beta1_power"], 0.9**2, rtol=1e-6)
    change = np.abs(first["LeNet/conv1/weights"] - second["LeNet/conv1/weights"])
    assert change.max() <= 0.01 * 1.001


def test_adam_goes_on_where_none_joins(data, tmp_path):
    words = ["--optimizer=adam", "--learning-rate=0.01", "--learning-rate-decay-type=fixed"]
    assert begin(data, tmp_path / "stages", *words, "--stages=all:2,all:2") == 0
    assert begin(data, tmp_path / "whole", *words, "--max-steps=4") == 0
    stages, whole = values_at(tmp_path / "stages", 4), values_at(tmp_path / "whole", 4)
    for name, value in whole.items():
        np.testing.assert_array_equal(stages[name], value, err_msg=name)


def test_averages_are_of_the_whole_run(data, tmp_path):
    words = [*MOMENTUM, "--learning-rate=0.05", "--moving-average-decay=0.5"]
    assert begin(data, tmp_path / "run", *words, "--stages=head:2,all:1", "--save-interval-seconds=0") == 0
    before, after = values_at(tmp_path / "run", 2), values_at(tmp_path / "run", 3)
    name = "LeNet/fc4/weights"
    average, kept = f"{name}/ExponentialMovingAverage", min(0.5, 3 / 12)
    expected = kept * before[average] + (1 - kept) * after[name]
    np.testing.assert_allclose(after[average], expected, rtol=1e-5, atol=1e-7)
    assert np.abs(before[average] - before[name]).max() > 0


def test_a_stage_may_have_another_batch_size_augmentation_optimizer_and_cache(data, tmp_path):
    config = tmp_path / "stages.toml"
    config.write_text(
        "[[stages]]\ntrainable_layers = 'head'\nsteps = 2\ncache_features = '1'\naugmentation = 'none'\n"
        "[[stages]]\nname = 'rest'\nsteps = 2\nbatch_size = 2\noptimizer = 'adam'\nlearning_rate = 0.001\n",
        encoding="utf-8",
    )
    assert begin(data, tmp_path / "run", *MOMENTUM, f"--config={config}", "--cache-features=auto") == 0
    parts = json.loads((tmp_path / "run" / "provenance.json").read_text())
    assert parts["cached_views"] == 0
    assert parts["before"][0]["cached_views"] == 1
    assert parts["settings"]["optimizer"] == "adam"
    assert {"beta1_power", "LeNet/conv1/weights/Adam"} <= values_at(tmp_path / "run", 4).keys()
    assert resume(tmp_path / "run", "--verify") == 0


def test_the_rate_of_a_stage_can_be_found(data, tmp_path, monkeypatch):
    figures = np.array([0.1, 0.2])
    curves = iter([RateCurve(figures, figures, figures, suggestion) for suggestion in (0.125, 0.0625)])
    monkeypatch.setattr(found_settings, "find_rate", lambda *args: next(curves))
    run = tmp_path / "run"
    words = ["--optimizer=momentum", "--learning-rate-decay-type=fixed", "--learning-rate=auto"]
    assert begin(data, run, *words, "--stages=head:1,all:1") == 0
    rates = [line["learning_rate"] for line in metrics_of(run) if "learning_rate" in line]
    assert rates == [0.125, 0.0625]
    assert [stage.own["learning_rate"] for stage in read_toml(TrainSettings, run / "config.toml")["stages"]] == rates
    assert resume(run) == 0


# Broken off and resumed


class _StoppedError(Exception):
    pass


@pytest.mark.parametrize("step", range(1, 9))
def test_a_run_stopped_after_any_step_ends_as_the_unbroken_one(trained, step, tmp_path):
    """The folder of a run that was killed after a checkpoint: later ones are missing, metrics go on a little."""
    run = shutil.copytree(trained, tmp_path / "run")
    for later in range(step + 1, 9):
        for path in run.glob(f"model.ckpt-{later}.*"):
            path.unlink()
    records = [record for record in read_stage_records(run) if record.first_step < step]
    last = records[-1]
    write_stage_records(run, [*records[:-1], dataclasses.replace(last, last_step=None)])
    assert resume(run) == 0
    assert_equal_runs(run, trained, 8)


@pytest.mark.parametrize("step", [3, 5])
def test_a_run_killed_between_two_stages_ends_as_the_unbroken_one(trained, step, tmp_path):
    for noted in (False, True):  # Whether stages.json has the next stage already.
        run = shutil.copytree(trained, tmp_path / f"run_{noted}")
        for later in range(step + 1, 9):
            for path in run.glob(f"model.ckpt-{later}.*"):
                path.unlink()
        records = [record for record in read_stage_records(run) if record.first_step < step]
        begun = StageRecord({3: "last=2", 5: "all"}[step], step)
        write_stage_records(run, [*records, begun] if noted else records)
        assert resume(run) == 0
        assert_equal_runs(run, trained, 8)


def test_a_run_that_fell_back_to_an_earlier_stage_makes_all_again(trained, tmp_path):
    run = shutil.copytree(trained, tmp_path / "run")
    for path in run.glob("model.ckpt-*"):
        if "ckpt-2." not in path.name:
            path.unlink()
    assert resume(run) == 0
    assert_equal_runs(run, trained, 8)


def test_a_signal_in_a_stage_stops_the_run_there(data, trained, tmp_path, monkeypatch):
    make_steps, made = TrainingLoop._make_steps, []

    def stopping(self, batches):
        make_steps(self, batches)
        made.append(self.step)
        if self.step == 4:
            import os
            import signal

            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(TrainingLoop, "_make_steps", stopping)
    run = tmp_path / "run"
    words = [*MOMENTUM, f"--stages={THREE_STAGES}", "--save-interval-seconds=0", "--max-to-keep=99"]
    assert begin(data, run, *words) == 143
    assert made == [1, 2, 3, 4]
    assert read_stage_records(run)[-1] == StageRecord("last=2", 3, None)
    monkeypatch.undo()
    assert resume(run) == 0
    assert_equal_runs(run, trained, 8)


def test_steps_of_a_stage_can_be_verified(trained, tmp_path, capsys):
    assert resume(trained, "--verify") == 0
    assert "steps 8 to 8" in capsys.readouterr().out
    run = shutil.copytree(trained, tmp_path / "run")
    for step in (6, 7):
        for path in run.glob(f"model.ckpt-{step}.*"):
            path.unlink()
    assert resume(run, "--verify") == 0  # From the end of the stage before.
    assert "steps 6 to 8" in capsys.readouterr().out


def test_what_is_verified_lies_within_one_stage(data, tmp_path, capsys):
    assert begin(data, tmp_path / "run", *MOMENTUM, "--stages=head:2:0.1,all:1:0.1") == 0
    for path in (tmp_path / "run").glob("model.ckpt-2.*"):
        path.unlink()
    assert resume(tmp_path / "run", "--verify") == 2
    assert "between the steps 0 and 3 the run went on otherwise than before" in capsys.readouterr().err
    assert begin(data, tmp_path / "first", *MOMENTUM, "--stages=head:2:0.1") == 0
    assert resume(tmp_path / "first", "--verify") == 0  # From the weights that it was begun with.


def test_a_run_at_its_end_can_be_lengthened_by_its_last_stage(trained, tmp_path):
    run = shutil.copytree(trained, tmp_path / "run")
    assert resume(run, "--stages=head:3:0.1,last=2:2:0.05,all:4:0.01") == 0
    assert read_stage_records(run)[-1] == StageRecord("all", 5, 9)
    assert (run / "model.ckpt-9.index").exists()


@pytest.mark.parametrize(
    ("stages", "what"),
    [
        ("all:3:0.1,last=2:2:0.05,all:4:0.01", "stage 1 of the run was 'head', and is 'all' now"),
        ("head:3:0.1", "stage 2 of the run was 'last=2', and is not there now"),
    ],
)
def test_stages_that_were_begun_stay_as_they_are(trained, stages, what, capsys):
    assert resume(trained, f"--stages={stages}") == 2
    assert what in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (None, "is missing, which says what stage the run is at"),
        ("{", "can't be read"),
        ('{"stages": 3}', "must be a list"),
        ('{"stages": [{"name": "head", "first_step": -1, "last_step": 3}]}', "at least 0"),
        ('{"stages": [{"name": "head", "first_step": 1, "last_step": 3}]}', "where the one before ends at 0"),
        ('{"stages": [{"name": "head", "first_step": 0, "last_step": -3}]}', "goes from step 0 to -3"),
        (
            '{"stages": [{"name": "head", "first_step": 0, "last_step": null},'
            '{"name": "last=2", "first_step": 3, "last_step": 5}]}',
            "ends at None",
        ),
    ],
)
def test_a_damaged_record_of_stages_is_told(trained, content, what, tmp_path, capsys):
    run = shutil.copytree(trained, tmp_path / "run")
    (run / "stages.json").unlink()
    if content is not None:
        (run / "stages.json").write_text(content, encoding="utf-8")
    before = sorted(run.iterdir())
    assert resume(run) == 2
    assert what in capsys.readouterr().err
    assert sorted(run.iterdir()) == before


@pytest.mark.parametrize(
    ("step", "place"),
    [
        (0, StagePlace(0, 0, False)),
        (2, StagePlace(0, 0, False)),
        (3, StagePlace(2, 3, True)),
        (4, StagePlace(2, 3, False)),
    ],
)
def test_the_place_of_a_run_with_a_stage_without_steps(step, place):
    records = [StageRecord("head", 0, 3), StageRecord("probe", 3, 3), StageRecord("all", 3)]
    assert find_place(records, step) == place


def test_the_place_of_a_run_whose_stage_has_just_ended():
    assert find_place([StageRecord("head", 0, 3)], 3) == StagePlace(1, 3, True)
    assert find_place([StageRecord("head", 0, 3), StageRecord("all", 3, 5)], 5) == StagePlace(2, 5, True)
    assert find_place([StageRecord("head", 0)], 3) == StagePlace(0, 0, False)


def test_other_data_at_the_beginning_of_a_stage_is_refused(trained, data, tmp_path, capsys):
    run = shutil.copytree(trained, tmp_path / "run")
    for later in range(4, 9):
        for path in run.glob(f"model.ckpt-{later}.*"):
            path.unlink()
    write_stage_records(run, read_stage_records(run)[:1])
    assert resume(run, "--seed=1") == 2
    assert "seed is 1, was 0" in capsys.readouterr().err
    assert resume(run, "--seed=1", "--allow-changed=seed") == 0


# Heads and recipes


def test_scopes_that_are_excluded_by_themselves(trained, data, tmp_path, caplog):
    words = ["--exclude-scopes=auto", "--max-steps=1", f"--checkpoint={trained}"]
    caplog.set_level("INFO")
    assert begin(data, tmp_path / "same", *words) == 0
    other = write_records(tmp_path / "other", classes=("a", "b"), num_images=8, split="train")
    assert begin(other, tmp_path / "unlike", *words) == 0
    restored = {}
    for run in ("same", "unlike"):
        plan = json.loads((tmp_path / run / "plan.json").read_text())["variables"]
        restored[run] = {row["name"].split("/")[1] for row in plan if row["source"] is not None}
    assert restored == {"same": {"conv1", "conv2", "fc3", "fc4"}, "unlike": {"conv1", "conv2", "fc3"}}
    assert begin(data, tmp_path / "scratch", "--exclude-scopes=auto", "--max-steps=1") == 0


def test_python_has_stages_too(data, tmp_path):
    run = api.train(
        TrainSettings(
            dataset_dir=data,
            train_dir=tmp_path / "run",
            model="lenet",
            checkpoint=data.parent / "weights",
            image_size=8,
            batch_size=4,
            stages=(Stage("a", 1, {"trainable_layers": "head"}), Stage("b", 1)),
        )
    )
    assert run.step == 2
