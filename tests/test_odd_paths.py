"""Every command in folders whose names TensorFlow takes for patterns, and checkpoints so named."""

import io
import json
import os
import tempfile

import numpy as np
import pytest
import tensorflow as tf
from image_files import write_class_folders
from tiny_runs import write_run

from finetune.commands import convert, evaluate, export, import_weights, inspect, predict, train
from finetune.errors import UserError
from finetune.model.checkpoint import Checkpoint, delete_checkpoint, open_checkpoint, write_checkpoint
from finetune.model.tensorflow_paths import plain_folder, plain_prefix

NO_TEXT = os.fsdecode(b"caf\xe9")  # Latin-1, as old disks have it.
ODD_NAMES = ("exp [1]*?", "back\\slash", "[!a]", NO_TEXT, "plain")


@pytest.mark.parametrize("name", ODD_NAMES)
def test_checkpoints_of_both_versions_are_read_and_removed(tmp_path, name):
    folder = tmp_path / name
    values = {"Net/weights": np.arange(6, dtype=np.float32).reshape(2, 3), "global_step": np.int64(5)}
    for prefix in (folder / "model.ckpt-5", folder / f"{name}.ckpt-4"):
        write_checkpoint(prefix, values)
        for given in (prefix, f"{prefix}.index"):
            checkpoint = open_checkpoint(given)
            assert checkpoint.step() == 5
            np.testing.assert_array_equal(checkpoint.read("Net/weights"), values["Net/weights"])
    assert open_checkpoint(folder).prefix == str(folder / "model.ckpt-5")
    delete_checkpoint(str(folder / f"{name}.ckpt-4"))
    assert {path.name.split(".")[0] for path in folder.iterdir()} == {"model"}
    v1 = folder / "old.ckpt"
    tf.raw_ops.Save(filename=os.fsencode(v1), tensor_names=["Net/weights"], data=[tf.constant(values["Net/weights"])])
    np.testing.assert_array_equal(Checkpoint(str(v1)).read("Net/weights"), values["Net/weights"])


def test_what_cannot_be_written_leaves_nothing_behind(tmp_path):
    folder = tmp_path / "exp [1]"
    (folder / "model[2].ckpt.data-00000-of-00001").mkdir(parents=True)
    with pytest.raises(UserError, match="can't be written"):
        write_checkpoint(folder / "model[2].ckpt", {"a": np.zeros(2, np.float32)})
    assert [path.name for path in folder.iterdir()] == ["model[2].ckpt.data-00000-of-00001"]


def test_links_are_gone_after_reading_and_plain_paths_need_none(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    write_checkpoint(tmp_path / "a[1].ckpt", {"a": np.zeros(2, np.float32)})
    with plain_prefix(str(tmp_path / "a[1].ckpt")) as path, plain_folder(tmp_path / "temporary") as same:
        assert "[" not in path
        assert same == tmp_path / "temporary"
    Checkpoint(str(tmp_path / "a[1].ckpt")).read("a")
    assert list((tmp_path / "temporary").iterdir()) == []
    odd = tmp_path / "odd*"
    odd.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(odd))
    with pytest.raises(UserError, match="TMPDIR"):
        Checkpoint(str(tmp_path / "a[1].ckpt"))


@pytest.mark.parametrize("name", ["exp [1]*?/back\\slash", NO_TEXT])
def test_the_whole_chain(tmp_path, capsysbinary, name):
    root = tmp_path / name
    images = write_class_folders(root / "images [a-z]", blue=6, red=6)
    records, run = root / "records*", root / "run?"
    assert (
        convert.main([f"--images-dir={images}", f"--dataset-dir={records}", "--dataset-name=two", "--workers=1"]) == 0
    )
    config = root / "config [1].toml"
    config.write_text('model = "lenet"\nimage_size = 16\nbatch_size = 4\nlearning_rate = 0.001\n')
    words = [f"--config={config}", f"--dataset-dir={records}", f"--train-dir={run}"]
    assert train.main([*words, "--max-steps=2"]) == 0
    assert train.main(["--resume", f"--train-dir={run}", "--max-steps=4"]) == 0
    assert open_checkpoint(run / "model.ckpt-4").step() == 4
    assert train.main([*words, f"--train-dir={root / 'second'}", f"--checkpoint={run}", "--max-steps=1"]) == 0
    split = [f"--dataset-dir={records}", f"--checkpoint={run}", "--split=train"]
    assert evaluate.main([*split, f"--output-dir={root / 'eval[x]'}", "--no-report"]) == 0
    assert evaluate.main([*split, "--average=2", "--no-report"]) == 0
    assert evaluate.main([*split, "--watch", "--timeout=0.1", "--no-report"]) == 0
    output = root / "found[1].csv"
    labels = f"--labels={run / 'labels.txt'}"
    assert predict.main([str(images), f"--checkpoint={run}", labels, f"--output={output}"]) == 0
    assert len(output.read_bytes().splitlines()) == 1 + 12
    for file_format in ("saved_model", "tflite"):
        exported = root / f"{file_format}[1]"
        assert export.main([f"--checkpoint={run}", f"--output-dir={exported}", f"--format={file_format}"]) == 0
        assert json.loads((exported / "export.json").read_text())["measured"]
    assert b"TensorFlow can't load a SavedModel from a path with" in capsysbinary.readouterr().err
    (root / "saved_model[1]").rename(tmp_path / "served")
    assert "serving_default" in tf.saved_model.load(str(tmp_path / "served")).signatures
    assert inspect.main([str(run), str(run / "model.ckpt-2")]) == 0
    cifar = open_checkpoint(write_run(root / "cifar*", "cifarnet"))
    npz = root / "weights[1].npz"
    np.savez(npz, **{name: cifar.read(name) for name in cifar.shapes if "/" in name})
    for file, imported in ((cifar.prefix, root / "imported[1].ckpt"), (npz, root / "from npz*.ckpt")):
        assert import_weights.main([str(file), "--model=cifarnet", f"--output={imported}"]) == 0
        assert open_checkpoint(imported).shapes["CifarNet/logits/biases"] == (3,)


LONG = "y" * 252  # A name that fits, and doesn't with an ending such as .index.


@pytest.mark.parametrize("command", [evaluate, predict, export, inspect, train])
def test_a_name_that_is_too_long_with_its_ending(command, records, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    data = ["--dataset-dir", str(records)]
    words = {
        evaluate: [*data, "--checkpoint", LONG],
        predict: ["--checkpoint", LONG, str(records / "images")],
        export: ["--output-dir", "e", "--checkpoint", LONG],
        inspect: [LONG],
        train: [
            "--dataset-dir",
            str(records),
            "--train-dir",
            "t",
            "--model=lenet",
            "--batch-size=2",
            "--checkpoint",
            LONG,
        ],
    }[command]
    assert command.main(words) == 2
    assert f"{LONG} can't be looked for: File name too long." in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_table_may_name_files_that_there_cannot_be(tmp_path, capsys):
    write_class_folders(tmp_path / "images", a=2, b=2)
    table = tmp_path / "table.csv"
    table.write_text(f"file,class\na/000.jpg,a\n{'x' * 300}.jpg,a\na\0b,b\nb/000.jpg,b\n")
    words = ["--images-dir", str(tmp_path / "images"), "--labels-csv", str(table), "--dataset-dir", str(tmp_path / "d")]
    assert convert.main(words) == 2
    assert "table.csv" in capsys.readouterr().err
    assert not (tmp_path / "d").exists()


def test_standard_input_may_name_files_that_there_cannot_be(run, records, monkeypatch, capsys):
    image = min((records / "images").iterdir())
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{'x' * 300}.jpg\na\0b\n\n{image}\n"))
    status = predict.main(["--checkpoint", str(run), "-"])
    printed = capsys.readouterr()
    assert status in (2, 4)
    assert "xxx" in printed.out + printed.err


def test_what_else_is_too_long_with_an_ending_is_told_by_the_command(run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert import_weights.main([str(run / "model.ckpt-7"), "--model=cifarnet", "--output", f"{LONG}"]) == 2
    assert "too long" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
