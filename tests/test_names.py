"""Names that are no valid Unicode, and output in encodings that lack letters, through all commands."""

import csv
import io
import json
import os
import re
import sys
from pathlib import Path

import pytest
from image_files import encode, picture, write_file
from tiny_runs import write_run

from finetune.commands import convert, evaluate, export, predict, train
from finetune.files.whole_files import KEEP_BYTES, printable, whole_file
from finetune.runs.run_folder import RunFolder, settings_of_run
from finetune.settings.settings_file import read_toml, to_toml_table
from finetune.settings.train import TrainSettings

CAFE = os.fsdecode(b"caf\xe9")  # in Latin-1
CLASSES = (CAFE, "向日葵", "plain")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Class folders, one of which, like one of the files, has a name in Latin-1."""
    root = tmp_path_factory.mktemp("photos")
    try:
        for label, name in enumerate(CLASSES):
            for index in range(4):
                write_file(
                    root / name / f"{CAFE if index == 0 else index}.png", encode(picture(9 * label + index), "PNG")
                )
    except OSError:
        pytest.skip("this file system takes Unicode names alone")
    return root


@pytest.fixture(scope="module")
def records(photos, tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "records"
    words = [f"--images-dir={photos}", f"--dataset-dir={folder}", "--dataset-name=names", "--workers=1"]
    assert convert.main([*words, "--validation-fraction=0.5"]) == 0
    # As slim's converter leaves it, with the names' own bytes; ours writes escapes for what is no UTF-8.
    (folder / "dataset.json").unlink()
    labels = (folder / "labels.txt").read_bytes()
    (folder / "labels.txt").write_bytes(labels.replace(rb"caf\xe9", b"caf\xe9"))
    return folder


@pytest.fixture(scope="module")
def run(records, tmp_path_factory):
    """Trained for two steps."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    words = [f"--dataset-dir={records}", f"--train-dir={folder}", "--model=lenet", "--use-grayscale"]
    assert train.main([*words, "--batch-size=2", "--max-steps=2"]) == 0
    return folder


def test_training_and_evaluation_keep_the_bytes_of_names(photos, records, run, tmp_path):
    names = (run / "labels.txt").read_bytes().splitlines()
    assert {name.partition(b":")[2] for name in names} == {os.fsencode(name) for name in CLASSES}
    assert evaluate.main([f"--dataset-dir={records}", f"--checkpoint={run}", f"--output-dir={tmp_path}"]) == 0
    table = (tmp_path / "predictions.csv").read_bytes().decode("utf-8", "surrogateescape")
    rows = list(csv.DictReader(io.StringIO(table)))
    assert {row["label_name"] for row in rows} == set(CLASSES)
    assert all((photos / row["filename"]).is_file() for row in rows)
    assert {one["name"] for one in json.loads((tmp_path / "metrics.json").read_bytes())["classes"]} == set(CLASSES)
    assert os.fsencode(CAFE) in (tmp_path / "confusion_matrix.csv").read_bytes()
    report = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "caf\ufffd" in report
    assert "向日葵" in report
    assert not list(tmp_path.glob("*.partial"))


def test_predictions_keep_the_bytes_of_names_in_every_format(photos, run, tmp_path, capsysbinary):
    names = {os.fsencode(path) for path in photos.rglob("*.png")}
    for kind in ("csv", "json", "lines"):
        words = [f"--checkpoint={run}", str(photos), f"--format={kind}", "--top-k=3"]
        assert predict.main(words) == 0
        printed = capsysbinary.readouterr().out
        assert predict.main([*words, f"--output={tmp_path}/{kind}"]) == 0
        assert (tmp_path / kind).read_bytes() == printed
        if kind == "json":
            found = json.loads(printed)
            assert {os.fsencode(one["filename"]) for one in found} == names
            assert {guess["name"] for guess in found[0]["guesses"]} == set(CLASSES)
        else:
            lines = printed.splitlines()[kind == "csv" :]
            assert {re.split(rb"[,\t]", line)[0] for line in lines} == names
            assert all(os.fsencode(CAFE) in re.split(rb"[,\t]", line, maxsplit=1)[1] for line in lines)


def test_exports_keep_the_bytes_of_class_names(run, tmp_path):
    words = [f"--checkpoint={run}", f"--output-dir={tmp_path / 'out'}", "--format=tflite"]
    assert export.main(words) == 0
    assert (tmp_path / "out/labels.txt").read_bytes() == (run / "labels.txt").read_bytes()
    described = json.loads((tmp_path / "out/export.json").read_bytes())["class_names"]
    assert sorted(described) == sorted(CLASSES)


def test_settings_hold_paths_that_are_no_unicode(tmp_path):
    folder = Path(f"/data/{CAFE}")
    RunFolder(tmp_path).write_settings(to_toml_table(TrainSettings(dataset_dir=folder)), EmptyPlan, None)
    assert settings_of_run(tmp_path)["dataset_dir"] == folder
    config = tmp_path / "mine.toml"
    config.write_bytes(b'\xef\xbb\xbfdataset_dir = "/data/caf\xe9"\n')  # with a byte-order mark, in Latin-1
    assert read_toml(TrainSettings, config)["dataset_dir"] == folder


class EmptyPlan:
    """Of a network without variables."""

    variables = ()


ENCODINGS = pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])


def set_output(monkeypatch, encoding):
    """Gives standard output and error an encoding, as PYTHONIOENCODING does; returns what reads the former."""
    outputs = {name: io.BytesIO() for name in ("stdout", "stderr")}
    for name, output in outputs.items():
        monkeypatch.setattr(sys, name, io.TextIOWrapper(output, encoding=encoding, errors="strict"))

    def read():
        sys.stdout.flush()
        return outputs["stdout"].getvalue().decode(encoding, "surrogateescape")

    return read


@ENCODINGS
def test_converting_ends_well_whatever_letters_the_output_has(photos, tmp_path, monkeypatch, encoding):
    read = set_output(monkeypatch, encoding)
    words = [f"--images-dir={photos}", f"--dataset-dir={tmp_path / 'records'}", "--workers=1"]
    assert convert.main(words) == 0
    assert ("━" in read()) == (encoding == "utf-8")
    assert ("向日葵" if encoding == "utf-8" else r"\u5411\u65e5\u8475") in read()


@ENCODINGS
@pytest.mark.parametrize("kind", ["csv", "json", "lines"])
def test_predicting_ends_well_whatever_letters_the_output_has(photos, run, monkeypatch, encoding, kind):
    read = set_output(monkeypatch, encoding)
    assert predict.main([f"--checkpoint={run}", str(photos), f"--format={kind}"]) == 0
    assert read().count(".png") == len(list(photos.rglob("*.png")))
    if kind != "json":
        assert ("café" if encoding == "latin-1" else CAFE) in read()


def test_mistakes_are_told_whatever_letters_the_output_has(monkeypatch):
    set_output(monkeypatch, "ascii")
    assert predict.main(["--checkpoint=向日葵", "向日葵"]) == 2
    sys.stderr.flush()
    assert rb"\u5411\u65e5\u8475" in sys.stderr.buffer.getvalue()


def test_only_bytes_are_kept_and_other_lone_surrogates_are_escaped():
    assert "a\udce9\ud800é向".encode("ascii", KEEP_BYTES) == rb"a" + b"\xe9" + rb"\ud800\xe9\u5411"
    assert printable("a\udce9向") == "a\ufffd向"


def test_a_file_that_is_not_finished_leaves_the_old_one(tmp_path):
    path = write_file(tmp_path / "table.csv", b"old")

    def break_off():
        with whole_file(path) as file:
            file.write("new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        break_off()
    assert [(one.name, one.read_bytes()) for one in tmp_path.iterdir()] == [("table.csv", b"old")]


def test_an_output_that_is_a_folder_is_refused_before_anything_is_predicted(tmp_path, capsys):
    run = write_run(tmp_path / "run")
    image = write_file(tmp_path / "0.png", encode(picture(), "PNG"))
    assert predict.main([f"--checkpoint={run}", str(image), f"--output={tmp_path}", "--format=csv"]) == 2
    assert "is a folder" in capsys.readouterr().err
