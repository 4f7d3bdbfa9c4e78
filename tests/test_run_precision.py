"""`--precision auto`: the default of recipes, found once for a run, and kept so that it is measured once."""

import concurrent.futures
import dataclasses
import json
import logging
import tomllib
from types import SimpleNamespace

import pytest
from tiny_runs import write_records, write_run

from finetune import api
from finetune.commands import batch_size, run_precision, train
from finetune.commands.run_precision import with_precision
from finetune.commands.training_inputs import find_data
from finetune.commands.workers import choose_devices, find_fitting_workers
from finetune.errors import UserError
from finetune.files.json_files import read_json_lines
from finetune.settings.recipes import RECIPES
from finetune.settings.train import TrainSettings
from finetune.training import precision
from finetune.training.kept_precisions import KeptPrecision, find_kept, keep
from finetune.training.precision import StepMeasure

BOTH = ["float32", "bfloat16"]
KEPT = KeptPrecision("bfloat16", {"float32": 0.4, "bfloat16": 0.1}, "2026-11-30")
OF = {"model": "lenet", "devices": ["CPU"]}


LAST_TWO = {"recipe": "none", "trainable_layers": "last=2", "precision": "auto"}

# The default


def precision_of(**values):
    return TrainSettings(**{"dataset_dir": "records", **values}).devices.precision


@pytest.mark.parametrize("recipe", RECIPES)
def test_recipes_have_it_by_default(recipe):
    assert precision_of(recipe=recipe, model="lenet") == "auto"
    assert precision_of(recipe=recipe, model="lenet", precision="float32") == "float32"


def test_without_a_recipe_it_is_float32():
    assert precision_of() == precision_of(recipe="none") == "float32"
    photographs = {"dataset_dir": None, "images_dir": "photos"}
    assert precision_of(**photographs) == "auto"
    assert precision_of(**photographs, trainable_scopes=("Logits",)) == "float32"
    assert precision_of(recipe="head", resume=True, train_dir="run") == "float32"  # And of a run its own.


def test_a_recipe_lies_below_no_whole_group_of_devices():
    devices = TrainSettings(dataset_dir="records").devices
    with pytest.raises(TypeError, match="devices"):
        TrainSettings(dataset_dir="records", recipe="head", devices=devices)
    assert dataclasses.replace(TrainSettings(dataset_dir="records", recipe="head"), devices=devices)


# What is kept


@pytest.fixture
def path(tmp_path):
    return tmp_path / "cache" / "precisions.jsonl"


def test_the_last_of_the_same_is_found(path):
    assert find_kept(path, OF, BOTH) is None
    later = dataclasses.replace(KEPT, precision="float32")
    for of, kept in [(OF, KEPT), ({**OF, "model": "other"}, KEPT), (OF, later)]:
        assert keep(path, of, kept)
    assert find_kept(path, OF, BOTH) == later
    assert find_kept(path, {**OF, "model": "other"}, BOTH) == KEPT
    assert find_kept(path, {**OF, "devices": ["GPU"]}, BOTH) is None
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:2]))  # The line that isn't wanted taken out.
    assert find_kept(path, OF, BOTH) == KEPT


def line(**changed):
    return json.dumps({**dataclasses.asdict(KEPT), "of": OF, **changed}) + "\n"


@pytest.mark.parametrize(
    "content",
    [
        "{\n",
        "[]\n",
        "\n",
        '{"of": {}}\n',
        line(precision="int4"),
        line(precision="auto"),
        line(precision=["bfloat16"]),
        line(date="30. 11."),
        line(date="2026-W49-1"),
        line(seconds={"float32": "0.1"}),
        line(seconds={"float32": -1}),
        line(seconds={"float\x1b": 1}),
        line(of=[]),
        line() + "\0\n",
        "\udcff\n",
    ],
)
def test_what_is_no_such_file_is_said_and_written_anew(path, content, caplog):
    path.parent.mkdir()
    path.write_text(content, errors="surrogateescape")
    assert find_kept(path, OF, BOTH) is None
    assert f"{path}" in caplog.text
    assert "isn't followed" in caplog.text
    assert keep(path, OF, KEPT)
    assert path.read_text() == line()


def test_a_line_without_its_end_stays(path):
    path.parent.mkdir()
    path.write_text(line(of={"model": "other"}).rstrip())
    assert keep(path, OF, KEPT)
    assert find_kept(path, {"model": "other"}, BOTH) == find_kept(path, OF, BOTH) == KEPT


def test_what_the_device_has_no_units_for_is_not_followed(path, caplog):
    keep(path, OF, KEPT)
    assert find_kept(path, OF, ["float32", "float16"]) is None
    assert "bfloat16 isn't followed" in caplog.text


def test_a_folder_that_cannot_be_written_is_said(tmp_path, caplog):
    (tmp_path / "cache").touch()
    assert not keep(tmp_path / "cache" / "precisions.jsonl", OF, KEPT)
    assert "can't be written" in caplog.text


def test_programs_that_write_at_once_leave_whole_lines(path):
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert all(pool.map(lambda number: keep(path, {"number": number}, KEPT), range(80)))
    assert sorted(each["of"]["number"] for each in read_json_lines(path, {"of": dict})) == list(range(80))


# A run


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run_precision")
    write_records(folder / "records", num_images=6)
    write_records(folder / "records", num_images=12, split="train")
    write_run(folder / "weights", "lenet", image_size=28)
    return folder


@pytest.fixture
def measured(monkeypatch, tmp_path):
    """Whether on features, for each measuring; bfloat16 is the faster, on a device that has both."""
    calls = []

    def measure(work, data, precisions):
        calls.append(work.on_features)
        return {name: StepMeasure({"float32": 0.4, "bfloat16": 0.1}[name], 2.0, 1.0) for name in precisions}

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(run_precision, "supported_precisions", lambda **_: BOTH)
    monkeypatch.setattr(run_precision, "_measure", measure)
    monkeypatch.setattr(run_precision, "LEAST_BATCHES", 0)
    return calls


def settings_of(data, **values):
    start = {"model": "lenet", "image_size": 28, "batch_size": 2, "checkpoint": data / "weights"}
    return TrainSettings(**{"dataset_dir": data / "records", "recipe": "all", "epochs": 2, **start, **values})


def found(settings):
    settings, devices = choose_devices(settings)
    return with_precision(settings, find_data(settings), devices).devices.precision


def test_it_is_measured_once(data, measured, tmp_path, caplog):
    caplog.set_level(logging.INFO, "finetune")
    assert found(settings_of(data)) == "bfloat16"
    assert measured == [False]
    assert "Precision: bfloat16. Measured in" in caplog.text
    path = tmp_path / "cache" / "finetune" / "precisions.jsonl"
    assert f"float32 400 ms a step, bfloat16 100 ms a step; kept in {path}" in caplog.text
    caplog.clear()
    assert found(settings_of(data, seed=3, epochs=4)) == "bfloat16"
    assert len(measured) == 1
    assert "Precision: bfloat16, as measured here on 20" in caplog.text
    assert f"Without the line in {path} it is measured anew" in caplog.text
    path.unlink()
    assert found(settings_of(data)) == "bfloat16"
    assert len(measured) == 2


@pytest.mark.parametrize(
    "values",
    [
        {"batch_size": 3},
        {"image_size": 32},
        {"model": "cifarnet", "checkpoint": "none"},
        {"checkpoint": "none"},
        {"recipe": "last-blocks"},
        {"batch_norm": "plan"},
        {"use_grayscale": True, "checkpoint": "none", "model": "cifarnet"},
        {"head": "mlp:4"},
    ],
    ids=str,
)
def test_another_training_is_measured_for_itself(data, measured, values):
    found(settings_of(data))
    values = {**values, "checkpoint": None, "recipe": None} if values.get("checkpoint") == "none" else values
    found(settings_of(data, **values, precision="auto"))
    assert len(measured) == 2


def test_another_processor_is_measured_for_itself(data, measured, monkeypatch, tmp_path):
    found(settings_of(data))
    processor = tmp_path / "cpuinfo"
    monkeypatch.setattr(precision, "CPU_FLAGS_FILE", processor)
    for number, text in enumerate(["model name : A\nflags : avx2\n", "model name : B\nflags : avx2\n"], start=2):
        processor.write_text(text)
        found(settings_of(data))
        assert len(measured) == number
    monkeypatch.setattr(run_precision.tf.version, "VERSION", "3.0")
    found(settings_of(data))
    assert len(measured) == 4


def test_a_short_run_takes_what_is_kept_and_else_does_not_measure(data, measured, monkeypatch, caplog, tmp_path):
    caplog.set_level(logging.INFO, "finetune")
    monkeypatch.setattr(run_precision, "LEAST_BATCHES", 200)
    assert found(settings_of(data)) == "float32"
    # 2 views of 12 images for the probe, and 2 epochs of them, in batches of 2.
    assert "the run computes some 24 batches, too few to pay for measuring float32 and bfloat16" in caplog.text
    assert (measured, (tmp_path / "cache").exists()) == ([], False)
    assert found(settings_of(data, epochs=100)) == "bfloat16"
    assert found(settings_of(data)) == "bfloat16"
    by_flags = {"recipe": None, "epochs": None, "max_steps": 3, "trainable_layers": "head", "exclude_scopes": ("auto",)}
    assert len(measured) == 1
    assert found(settings_of(data, **by_flags, precision="auto")) == "bfloat16"  # Who asks for it is answered.
    assert len(measured) == 2


@pytest.mark.parametrize(
    ("values", "on_features"),
    [
        ({"recipe": "all"}, False),
        ({"recipe": "head"}, False),  # What makes the features is what takes time.
        ({"recipe": "last-blocks"}, True),
        ({"recipe": "last-blocks", "cache_features": "off"}, False),
        ({**LAST_TWO, "epochs": 2}, False),  # --cache-features auto: it is too short to cache.
        ({**LAST_TWO, "epochs": 50}, True),
        ({"recipe": "none", "precision": "auto"}, False),
    ],
    ids=str,
)
def test_what_takes_the_time_is_measured(data, measured, values, on_features):
    assert found(settings_of(data, **values)) == "bfloat16"
    assert measured == [on_features]


def test_where_there_is_no_choice_nothing_is_measured_or_written(data, measured, monkeypatch, caplog, tmp_path):
    caplog.set_level(logging.INFO, "finetune")
    monkeypatch.setattr(run_precision, "supported_precisions", lambda **_: ["float32"])
    assert found(settings_of(data)) == "float32"
    assert "the only one that this device has units for" in caplog.text
    assert (measured, (tmp_path / "cache").exists()) == ([], False)


def test_several_workers_take_float32_without_measuring(measured, monkeypatch):
    of_recipe = TrainSettings(
        dataset_dir="records",
        train_dir="run",
        model="lenet",
        recipe="head",
        workers=("127.0.0.1:1", "127.0.0.1:2"),
        worker_index=0,
    )
    assert find_fitting_workers(of_recipe) is not None
    several = SimpleNamespace(team=SimpleNamespace(number=2))
    assert with_precision(of_recipe, None, several).devices.precision == "float32"
    assert measured == []
    with pytest.raises(UserError, match="--precision auto: one process does this by itself"):
        find_fitting_workers(dataclasses.replace(of_recipe, recipe=None))


def test_the_size_of_batches_is_tried_without_measuring(data):
    trial = batch_size._of_trial(settings_of(data), 1, 12)
    assert trial.devices.precision == "float32"
    assert batch_size._of_trial(settings_of(data, precision="float16"), 1, 12).devices.precision == "float16"


def test_a_run_keeps_it_in_all_of_its_stages_and_when_it_goes_on(data, measured, tmp_path):
    result = api.train(settings_of(data, train_dir=tmp_path / "run", log_every=1, epochs=1))
    assert len(measured) == 1

    def recorded():
        return tomllib.loads((tmp_path / "run" / "config.toml").read_text())["precision"]

    assert recorded() == "bfloat16"
    assert json.loads((tmp_path / "run" / "provenance.json").read_text())["settings"]["precision"] == "bfloat16"
    for path in (tmp_path / "cache").rglob("*.jsonl"):
        path.write_text(path.read_text().replace('"precision": "bfloat16"', '"precision": "float32"'))
    for path in (tmp_path / "run").glob(f"model.ckpt-{result.step}.*"):
        path.unlink()
    assert train.main(["--resume", f"--train-dir={tmp_path / 'run'}"]) == 0
    assert (recorded(), len(measured)) == ("bfloat16", 1)
    assert train.main(["--resume", f"--train-dir={tmp_path / 'run'}", "--verify"]) == 0


def test_all_folds_take_that_of_the_first(data, measured, tmp_path):
    (tmp_path / "cache").touch()  # Nothing can be kept.
    from_scratch = {"recipe": None, "epochs": None, "max_steps": 1, "image_size": 8, "checkpoint": None}
    of_folds = {"precision": "auto", "folds": 2, "report": False, "train_dir": tmp_path / "run"}
    api.cross_validate(settings_of(data, **from_scratch, **of_folds))
    assert len(measured) == 1
    configs = [tomllib.loads((tmp_path / "run" / f"fold-{fold}" / "config.toml").read_text()) for fold in (1, 2)]
    assert [config["precision"] for config in configs] == ["bfloat16", "bfloat16"]


def test_a_network_of_its_own_is_measured(data, monkeypatch, tmp_path, caplog):
    """Whatever comes of it here: the clock says which is the faster."""
    caplog.set_level(logging.INFO, "finetune")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(run_precision, "supported_precisions", lambda **_: BOTH)
    chosen = found(settings_of(data, recipe="last-blocks", epochs=100))
    (kept,) = read_json_lines(tmp_path / "cache" / "finetune" / "precisions.jsonl", {"of": dict})
    assert kept["precision"] == chosen
    assert kept["of"]["on_features"]
    assert sorted(kept["seconds"]) == sorted(BOTH)
    assert "Plan" not in caplog.text
    assert f"Precision: {chosen}. Measured in" in caplog.text
