"""Training, evaluation and export on records that other programs wrote."""

import csv
import json

import pytest
import tensorflow as tf
from image_files import encode
from PIL import Image

from finetune.commands import evaluate, export, predict, train
from finetune.settings.settings_file import read_toml
from finetune.settings.train import TrainSettings

COLOURS = ((200, 30, 30), (30, 200, 30), (30, 30, 200))


def write_other_records(folder, label_of, **files):
    """Compressed records of coloured images under `image`, with labels under `target`; `label_of` takes 0 to 2."""
    folder.mkdir()
    for split, num_images in files.items():
        with tf.io.TFRecordWriter(str(folder / f"{split}.tfrec"), "GZIP") as writer:
            for index in range(num_images):
                colour = tuple(channel + index for channel in COLOURS[index % 3])
                example = tf.train.Example()
                example.features.feature["image"].bytes_list.value.append(encode(Image.new("RGB", (32, 32), colour)))
                label = label_of(index % 3)
                kind = "bytes_list" if isinstance(label, bytes) else "int64_list"
                getattr(example.features.feature["target"], kind).value.append(label)
                writer.write(example.SerializeToString())
    return folder


def run_train(records, run, *more: str) -> int:
    words = ["--model=lenet", "--optimizer=adam", "--learning-rate=0.01", "--batch-size=6", "--max-steps=12"]
    words += [f"--dataset-dir={records}", f"--train-dir={run}", "--image-key=image", "--label-key=target"]
    return train.main([*words, "--log-every=6", "--augmentation=none", *more])


def test_a_run_knows_its_keys_and_its_offset(tmp_path, capfd):
    """Labels from 1 without labels.txt: the advice of the first run is followed."""
    records = write_other_records(tmp_path / "records", lambda index: index + 1, training=12, val=6)
    assert run_train(records, tmp_path / "four", "--max-steps=1") == 0
    said = capfd.readouterr().err
    assert "no record has the label 0" in said
    assert "--labels-offset 1" in said
    assert "are compressed (GZIP)" in said

    run = tmp_path / "run"
    assert run_train(records, run, "--labels-offset=1") == 0
    assert "--labels-offset 1" not in capfd.readouterr().err
    settings = read_toml(TrainSettings, run / "config.toml")
    assert (settings["image_key"], settings["label_key"], settings["labels_offset"]) == ("image", "target", 1)
    assert json.loads((run / "best.json").read_text())["accuracy"] == 1  # It was validated, on val.

    assert evaluate.main([f"--dataset-dir={records}", f"--checkpoint={run}", "--no-report"]) == 0
    metrics = json.loads((run / "eval_validation" / "metrics.json").read_text())
    assert (metrics["accuracy"], metrics["num_examples"]) == (1, 6)
    assert [one["name"] for one in metrics["classes"]] == ["1", "2", "3"]
    with (run / "eval_validation" / "predictions.csv").open() as file:
        assert [row["label_name"] for row in csv.DictReader(file)] == ["1", "2", "3"] * 2

    red = tmp_path / "red.png"
    Image.new("RGB", (32, 32), COLOURS[0]).save(red)
    capfd.readouterr()
    assert predict.main([f"--checkpoint={run}", str(red), "--format=json"]) == 0
    assert '"1"' in capfd.readouterr().out

    words = [f"--checkpoint={run}", f"--dataset-dir={records}", f"--output-dir={tmp_path / 'served'}"]
    assert export.main(words) == 0
    description = json.loads((tmp_path / "served" / "export.json").read_text())
    assert description["class_names"] == ["1", "2", "3"]
    assert {one["accuracy"] for one in description["measured"]} == {1}


def test_names_of_classes_as_labels(tmp_path, capfd):
    names = (b"red", b"green", b"blue")
    records = write_other_records(tmp_path / "records", names.__getitem__, train=12)
    assert run_train(records, tmp_path / "run") == 2
    assert "is the text 'red', and there is no labels.txt to look it up in" in capfd.readouterr().err
    assert not (tmp_path / "run").exists()
    (records / "labels.txt").write_text("0:blue\n1:green\n2:red\n")
    assert run_train(records, tmp_path / "run") == 0
    words = [f"--dataset-dir={records}", f"--checkpoint={tmp_path / 'run'}", "--no-report", "--split=train"]
    assert evaluate.main(words) == 0
    with (tmp_path / "run" / "eval_train" / "predictions.csv").open() as file:
        assert [row["label_name"] for row in csv.DictReader(file)] == ["red", "green", "blue"] * 4


@pytest.mark.parametrize("name", ["flowers", "cifar10"])
def test_labels_under_another_key_are_never_taken_for_0(tmp_path, capfd, name):
    records = write_other_records(tmp_path / "records", lambda index: index, **{f"{name}_train": 6})
    words = ["--model=lenet", f"--dataset-dir={records}", f"--train-dir={tmp_path / 'run'}", "--image-key=image"]
    assert train.main(words) == 2
    said = capfd.readouterr().err
    assert "there is no label under image/class/label; found: image (1 x bytes), target (1 x int64)" in said
    assert "Name the key of the label with --label-key." in said
    assert not (tmp_path / "run").exists()
