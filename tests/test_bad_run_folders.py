"""A run's folder with files that hold something else: each is told by its name, and believed by nobody."""

import json
import re

import numpy as np
import pytest
from image_files import encode, picture
from tiny_runs import write_records, write_run

from finetune.commands import evaluate, export, predict, train
from finetune.datasets.description import read_description, read_labels
from finetune.errors import UserError
from finetune.evaluation.report import _read_plan
from finetune.files.whole_files import MOST_TEXT_BYTES
from finetune.model.checkpoint import best_checkpoint, write_checkpoint
from finetune.runs.provenance import read_provenance_or_tell
from finetune.runs.run_folder import METRICS_SHAPE, RunFolder, image_rules_of_run, settings_of_run
from finetune.runs.stage_record import read_stage_records
from finetune.settings.settings_file import CONFIG_FILE
from finetune.training.best import BEST_SHAPE, _read_best
from finetune.training.divergence import read_rate_cuts

BEST = {"checkpoint": "model.ckpt-7", "step": 7, "accuracy": 0.5, "loss": 1.0}
# Older ones lack these.
MEASURES = {"balanced_accuracy": 0.5, "macro_f1": 0.5, "mean_average_precision": 0.5, "is_extra": False}
RATE_CUTS = {"cuts": [{"step": 4, "factor": 0.5, "seen_at": 6, "why": "The loss is nan at step 6."}]}
STAGES = {
    "stages": [{"name": "head", "first_step": 0, "last_step": 3}, {"name": "", "first_step": 3, "last_step": None}]
}
VARIABLE = {"name": "a", "shape": [3], "source": None, "is_trained": True, "is_statistic": False}
DATA = {"name": "tiny", "split": "train", "num_examples": 3, "sha256": "0"}
PROVENANCE = {"versions": {"numpy": "2"}, "data": DATA, "validation": DATA}
SHARD = {"file": "f", "num_records": 1, "num_bytes": 1, "sha256": "0"}
DATASET = {
    "version": 1,
    "name": "tiny",
    "classes": ["a", "b"],
    "splits": {"train": {"num_examples": 1, "shards": [SHARD]}},
    "images": {"background": "white", "sample_bits": None},
}

# Of each file in JSON: what reads it, and something sound in it.
JSON_FILES = {
    "best.json": (lambda folder: _read_best(RunFolder(folder)), BEST),
    "images.json": (image_rules_of_run, {"background": "white", "sample_bits": None}),
    "plan.json": (lambda folder: _read_plan(folder / "plan.json"), {"variables": [VARIABLE]}),
    "provenance.json": (read_provenance_or_tell, PROVENANCE),
    "dataset.json": (read_description, DATASET),
    "rate_cuts.json": (lambda folder: read_rate_cuts(RunFolder(folder)), RATE_CUTS),
    "stages.json": (read_stage_records, STAGES),
    "metrics.jsonl": (lambda folder: RunFolder(folder).read_metrics(), {"step": 3, "loss": 0.5}),
}
NEEDED = ("images.json", "dataset.json", "rate_cuts.json", "stages.json", "metrics.jsonl")

DAMAGES = {
    "torn": (b'{"step": 1', "it is no JSON"),
    "several": (b'{"step": 1} {"step": 2}', "it is no JSON: Extra data"),
    "null": (b"null", "it is null, but must be an object with"),
    "a list": (b"[]", "it is a list, but must be an object with"),
    "a text": (b'"text"', 'it is "text", but must be an object with'),
    "a number": (b"7", "it is 7, but must be an object with"),
    "empty": (b"{}", "it lacks "),
    "deep lists": (b"[" * 100_000, "its lists and objects lie too deep in each other"),
    "deep objects": (b'{"a":' * 100_000, "its lists and objects lie too deep in each other"),
    "zero bytes": (b"\0" * 16, "it is no JSON"),
    "bytes": (b"\x80\x81\xff", "it is no"),
    "many digits": (b"1" * 5000, "Exceeds the limit"),
    "many zeros": (b"1" + b"0" * 400, "it is 10000000000"),
}


def read_damaged(name, content, folder, caplog):
    """What is said of a damaged file: by an error where it is needed, else by a warning."""
    path = folder / name
    path.write_bytes(content + (b"\n" if name == "metrics.jsonl" else b""))
    read, _ = JSON_FILES[name]
    if name in NEEDED:
        with pytest.raises(UserError) as refused:
            read(folder)
        said = str(refused.value)
        assert len(said.splitlines()) == 2  # What is wrong, and what mends it.
    else:
        assert not read(folder)
        (said,) = caplog.messages
    assert said.startswith(f"{path}")
    return said


# Runs of older versions have fewer facts in provenance.json, down to none.
PAIRS = [(name, damage) for name in JSON_FILES for damage in DAMAGES if (name, damage) != ("provenance.json", "empty")]


@pytest.mark.parametrize(("name", "damage"), PAIRS)
def test_json_that_is_none_of_a_run(name, damage, tmp_path, caplog):
    content, words = DAMAGES[damage]
    assert words in read_damaged(name, content, tmp_path, caplog)


@pytest.mark.parametrize("name", JSON_FILES)
def test_what_is_sound_is_read(name, tmp_path, caplog):
    read, content = JSON_FILES[name]
    write_checkpoint(tmp_path / "model.ckpt-7", {"a": np.zeros(1)})
    (tmp_path / name).write_text(json.dumps({**content, "another": [1]}) + "\n")
    assert read(tmp_path)
    assert not caplog.messages


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("best.json", {"accuracy": 2}, "accuracy is 2, but must be a finite number and at least 0 and at most 1"),
        ("best.json", {"accuracy": float("nan")}, "accuracy is NaN"),
        ("best.json", {"accuracy": True}, "accuracy is true"),
        ("best.json", {"accuracy": "0.5"}, 'accuracy is "0.5"'),
        ("best.json", {"step": "7"}, 'step is "7", but must be a whole number and at least 0'),
        ("best.json", {"step": 7.0}, "step is 7.0"),
        ("best.json", {"step": -1}, "step is -1"),
        ("best.json", {"loss": float("inf")}, "loss is Infinity"),
        ("best.json", {"loss": None}, "loss is null"),
        ("best.json", {"checkpoint": ["model.ckpt-7"]}, "checkpoint is a list, but must be a text"),
        ("best.json", {"macro_f1": 2}, "macro_f1 is 2, but must be a finite number"),
        ("best.json", {"is_extra": 1}, "is_extra is 1, but must be true or false"),
        ("rate_cuts.json", {"cuts": [{**RATE_CUTS["cuts"][0], "factor": 2}]}, "cuts.0.factor is 2"),
        ("rate_cuts.json", {"cuts": [{**RATE_CUTS["cuts"][0], "step": -1}]}, "cuts.0.step is -1"),
        ("images.json", {"background": 3}, "background is 3, but must be a text or null"),
        ("images.json", {"background": "octarine"}, "'octarine' is no opaque colour"),
        ("images.json", {"sample_bits": True}, "sample_bits is true, but must be a whole number or null"),
        ("images.json", {"sample_bits": 99}, "is 99; files of 16 bits a sample use 8 to 16"),
        ("plan.json", {"variables": {}}, "variables is an object, but must be a list"),
        ("plan.json", {"variables": [{**VARIABLE, "shape": [-3]}]}, "variables.0.shape.0 is -3"),
        (
            "plan.json",
            {"variables": [{**VARIABLE, "is_trained": 1}]},
            "variables.0.is_trained is 1, but must be true or",
        ),
        ("provenance.json", {"data": "tiny"}, 'data is "tiny", but must be an object with name, split, num_examples'),
        ("provenance.json", {"versions": {"numpy": 2}}, "versions.numpy is 2, but must be a text"),
        ("provenance.json", {"validation": None}, "validation is null"),
        ("metrics.jsonl", {"step": "3"}, 'line 1, can\'t be read: step is "3"'),
        ("metrics.jsonl", {"loss": float("nan")}, "loss is NaN"),
        ("metrics.jsonl", {"accuracy": 2, "split": "validation"}, "accuracy is 2"),
        ("metrics.jsonl", {"balanced_accuracy": "1"}, 'balanced_accuracy is "1"'),
        ("dataset.json", {"version": "1"}, 'version is "1", but must be a whole number'),
        ("dataset.json", {"classes": "ab"}, 'classes is "ab", but must be a list'),
        ("dataset.json", {"classes": [1, 2]}, "classes.0 is 1, but must be a text"),
        ("dataset.json", {"name": None}, "name is null, but must be a text"),
        ("dataset.json", {"splits": [1]}, "splits is a list, but must be an object"),
        ("dataset.json", {"splits": {"a b": []}}, 'splits."a b" is a list, but must be an object with num_examples'),
        (
            "dataset.json",
            {"splits": {"train": {"num_examples": 1, "shards": [{**SHARD, "num_bytes": "1"}]}}},
            'splits.train.shards.0.num_bytes is "1", but must be a whole number and at least 0',
        ),
        ("dataset.json", {"images": {"background": "white"}}, "images lacks sample_bits"),
        ("dataset.json", {"images": {"background": "octarine", "sample_bits": None}}, "no opaque colour"),
    ],
)
def test_values_of_other_types_and_out_of_range(name, changes, words, tmp_path, caplog):
    _, content = JSON_FILES[name]
    assert words in read_damaged(name, json.dumps({**content, **changes}).encode(), tmp_path, caplog)


@pytest.mark.parametrize("name", [*JSON_FILES, CONFIG_FILE])
def test_files_larger_than_any_of_a_run_are_not_read_into_memory(name, tmp_path, caplog):
    read = settings_of_run if name == CONFIG_FILE else JSON_FILES[name][0]
    with (tmp_path / name).open("wb") as file:
        file.truncate(50 * MOST_TEXT_BYTES)  # A hole: it takes no room on the disk.
    if name in (*NEEDED, CONFIG_FILE):
        with pytest.raises(UserError, match="bytes"):
            read(tmp_path)
    else:
        assert not read(tmp_path)
        assert f"it has more than {MOST_TEXT_BYTES:,} bytes" in caplog.text


@pytest.mark.parametrize("name", JSON_FILES)
def test_a_folder_in_the_place_of_a_file(name, tmp_path, caplog):
    (tmp_path / name).mkdir()
    read, _ = JSON_FILES[name]
    if name == "images.json":  # As where it isn't there.
        assert read(tmp_path) is None
    elif name in NEEDED:
        with pytest.raises(UserError, match="it is no file"):
            read(tmp_path)
    else:
        assert not read(tmp_path)
        assert "it is no file" in caplog.text


def test_a_best_that_cannot_be_believed_is_not_followed(tmp_path):
    write_checkpoint(tmp_path / "model.ckpt-7", {"a": np.zeros(1)})
    (tmp_path / "best.json").write_text('{"checkpoint": 7}')
    assert best_checkpoint(tmp_path) is None


def test_what_a_full_disk_left_of_the_last_line_is_passed_over(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "lo')
    assert RunFolder(tmp_path).read_metrics() == [{"step": 1, "loss": 2.0}]
    assert METRICS_SHAPE.keys() >= {"step", "loss"}
    assert BEST_SHAPE.keys() == BEST.keys() | MEASURES.keys()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("model = ", "is not TOML"),
        ("model = 'lenet'\nmodel = 'lenet'", "is not TOML"),
        ("\0\0", "is not TOML"),
        ("a = " + "[" * 100_000, "is not TOML"),
        (f"max_steps = {'1' * 5000}", "is not TOML"),
        ("[model]\na = 1", "--model is {'a': 1}, but must be a text"),
        ("model = [1]", "--model is [1], but must be a text"),
        ("model = ':'", "is no package.module:SPEC"),
        ("image_size = 'many'", "--image-size is 'many', but must be a whole number"),
        ("image_size = 100000", "--image-size is 100000, but must be above 0 and at most 8192"),
        ("image_size = -3", "--image-size is -3"),
        ("use_grayscale = 7", "--use-grayscale is '7', but must be true or false"),
        ("labels_offset = -1", "--labels-offset is -1"),
        ("labels_offset = 1e3", "--labels-offset is '1000.0', but must be a whole number"),
        ("learning_rate = nan", "--learning-rate is nan"),
        ("dataset_dir = ''", "--dataset-dir is '', but must be a path"),
        ("precision = 'float8'", "--precision is 'float8'"),
        ("nonsense = 1", "has the unknown key 'nonsense'"),
        ("trainable_scopes = 7\nlearning_rate = 1979-05-27", "--learning-rate is datetime.date(1979, 5, 27), but"),
    ],
)
def test_settings_of_a_run_that_are_none(content, words, run, tmp_path, capsys):
    folder = tmp_path / "run"
    folder.mkdir()
    for file in run.iterdir():
        (folder / file.name).symlink_to(file)
    (folder / CONFIG_FILE).unlink()
    (folder / CONFIG_FILE).write_text(content)
    image = tmp_path / "image.jpg"
    image.write_bytes(encode(picture(0)))
    assert predict.main(["--checkpoint", str(folder), str(image)]) == 2
    said = capsys.readouterr().err
    assert words in said
    if "SPEC" not in words:
        assert str(folder / CONFIG_FILE) in said


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"0:a\n99999999:b", "99999998 are left out"),
        (b"0:a\n" + b"9" * 5000 + b":b", "is not of the form id:name"),
        (b"0:a\n0:b", "was named before"),
        (b"0:a\nb", "is not of the form id:name"),
        (b"0:", "has no name"),
        (b"\0a\0b", "holds zero bytes"),
        (b'["a", "b"]', "is not of the form id:name"),
        (b"item {", "is not of the form id:name"),
        (b"-1:a\n0:b", "is not of the form id:name"),
    ],
)
def test_labels_that_are_none(content, words, tmp_path):
    path = tmp_path / "labels.txt"
    path.write_bytes(content)
    with pytest.raises(UserError, match=words) as refused:
        read_labels(path)
    assert str(path) in str(refused.value)
    assert len(str(refused.value)) < 1000


def test_a_label_file_that_is_a_folder_or_too_large(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match="can't be read"):
        read_labels(tmp_path / "folder")
    with (tmp_path / "large").open("wb") as file:
        file.truncate(50 * MOST_TEXT_BYTES)
    with pytest.raises(UserError, match="has more than"):
        read_labels(tmp_path / "large")


def test_evaluation_goes_without_what_it_does_not_need(tmp_path, records, capsys):
    run = write_run(tmp_path / "run")
    for name in ("best.json", "plan.json", "provenance.json", "metrics.jsonl"):
        (run / name).write_bytes(b'{"step": [[\n')
    assert evaluate.main(["--checkpoint", str(run), "--dataset-dir", str(records)]) == 0
    said = capsys.readouterr().err
    for name in ("best.json", "plan.json", "provenance.json", "metrics.jsonl"):
        assert said.count(str(run / name)) == 1
    assert (run / "eval_validation/report.html").exists()


def test_evaluation_goes_with_what_older_runs_say_of_themselves(tmp_path, records):
    run = write_run(tmp_path / "run")
    (run / "provenance.json").write_text('{"versions": {"numpy": "1.99"}}')
    assert evaluate.main(["--checkpoint", str(run), "--dataset-dir", str(records)]) == 0
    assert "numpy 1.99" in (run / "eval_validation/report.html").read_text()


def test_a_resumed_run_says_which_line_of_its_metrics_is_none(tmp_path, capsys):
    records = write_records(tmp_path / "records", num_images=4, split="train")
    flags = ["--dataset-dir", str(records), "--model=lenet", "--batch-size=2", "--train-dir", str(tmp_path / "run")]
    assert train.main([*flags, "--max-steps=1"]) == 0
    metrics = tmp_path / "run/metrics.jsonl"
    metrics.write_text(metrics.read_text() + '"torn"\n')
    before = {path: path.read_bytes() for path in (tmp_path / "run").iterdir() if "events" not in path.name}
    capsys.readouterr()
    assert train.main([*flags, "--max-steps=2", "--resume"]) == 2
    assert f'{metrics}, line 2, can\'t be read: it is "torn"' in capsys.readouterr().err
    assert {path: path.read_bytes() for path in before} == before
    metrics.rename(tmp_path / "away")  # As the message says.
    (tmp_path / "run/best.json").write_text(json.dumps({**BEST, "accuracy": 2}))
    assert train.main([*flags, "--max-steps=2", "--resume"]) == 0


@pytest.mark.parametrize("command", [predict, export])
def test_a_run_whose_images_were_prepared_nobody_knows_how(command, run, tmp_path, capsys):
    (run / "images.json").write_text('{"background": "white"}')
    words = [str(tmp_path)] if command is predict else ["--output-dir", str(tmp_path / "export")]
    (tmp_path / "a.jpg").write_bytes(encode(picture(0)))
    assert command.main(["--checkpoint", str(run), *words]) == 2
    assert re.search(r"images\.json can't be read: it lacks sample_bits\.\n  It says", capsys.readouterr().err)
