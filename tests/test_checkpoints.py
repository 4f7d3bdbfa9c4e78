"""What is found in real folders of checkpoints, and what is said of it: copied runs, other formats, prefixes, NaN."""

import gzip
import io
import json
import re
import shlex
import shutil
import tarfile
import zipfile

import numpy as np
import pytest
import tensorflow as tf
from tiny_runs import write_records, write_run

from finetune.commands import evaluate, export, import_weights, inspect, predict, train
from finetune.errors import UserError, first_line
from finetune.model.checkpoint import Checkpoint, newest_whole, open_checkpoint, write_checkpoint
from finetune.model.model import Model
from finetune.nets import get_spec
from finetune.runs.mean_checkpoint import MeanCheckpoint, last_checkpoints


def values_of(run):
    checkpoint = open_checkpoint(run)
    return {name: checkpoint.read(name) for name in checkpoint.shapes}


def write_steps(folder, *steps):
    for step in steps:
        write_checkpoint(folder / f"model.ckpt-{step}", {"Net/w": np.full(2, step, np.float32), "global_step": step})
    return folder


def write_state(folder, newest, *others):
    lines = [f'model_checkpoint_path: "{newest}"', *(f'all_model_checkpoint_paths: "{other}"' for other in others)]
    (folder / "checkpoint").write_text("\n".join(lines) + "\n")


# Copied runs.


@pytest.mark.parametrize(
    "named", ["{original}/model.ckpt-20", "../original/model.ckpt-20", "D:\\\\runs\\\\model.ckpt-20"]
)
def test_a_copied_run_stays_in_its_folder(tmp_path, capsys, named):
    original, copy = write_steps(tmp_path / "original", 10, 20, 30), tmp_path / "copy"
    shutil.copytree(original, copy)
    write_state(copy, named.format(original=original), f"{original}/model.ckpt-30")
    assert [checkpoint.prefix for checkpoint in last_checkpoints(copy, 2)] == [
        str(copy / f"model.ckpt-{step}") for step in (20, 30)
    ]
    assert inspect.main([str(copy), "--json"]) == 0
    told = capsys.readouterr()
    assert json.loads(told.out)["checkpoint"] == str(copy / "model.ckpt-20")
    assert "its namesake in this folder is taken, model.ckpt-20" in told.err


def test_a_copy_that_lacks_the_named_checkpoint_says_so_and_takes_the_highest_step(tmp_path, capsys):
    original, copy = write_steps(tmp_path / "original", 9, 100), write_steps(tmp_path / "copy", 9, 10)
    write_state(copy, f"{original}/model.ckpt-100")
    assert inspect.main([str(copy), "--json"]) == 0
    told = capsys.readouterr()
    assert json.loads(told.out)["checkpoint"] == str(copy / "model.ckpt-10")
    assert told.err.count("\n") == 1
    assert f"names {original}/model.ckpt-100, which is not in this folder: model.ckpt-10 is taken" in told.err


@pytest.mark.parametrize(
    "content", [b"", b"garbage {{{", b"\xff\xfe\x00", b'all_model_checkpoint_paths: "model.ckpt-9"\n']
)
def test_a_list_of_checkpoints_that_names_none_is_told_in_one_line(tmp_path, capfd, content):
    (write_steps(tmp_path, 9, 10) / "checkpoint").write_bytes(content)
    assert inspect.main([str(tmp_path), "--json"]) == 0
    told = capfd.readouterr()
    assert json.loads(told.out)["checkpoint"] == str(tmp_path / "model.ckpt-10")
    assert told.err == f"{tmp_path}/checkpoint names no checkpoint: model.ckpt-10 is taken, the newest there is.\n"


def test_a_copied_run_of_v1_checkpoints(tmp_path):
    for step in (9, 100):
        tf.raw_ops.Save(filename=str(tmp_path / f"model.ckpt-{step}"), tensor_names=["a"], data=[tf.constant([1.0])])
        (tmp_path / f"model.ckpt-{step}.meta").touch()
    write_state(tmp_path, "/elsewhere/model.ckpt-9")
    assert open_checkpoint(tmp_path).prefix == str(tmp_path / "model.ckpt-9")
    write_state(tmp_path, "/elsewhere/model.ckpt-7")
    assert open_checkpoint(tmp_path).prefix == str(tmp_path / "model.ckpt-100")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"checkpoint": "model.ckpt-5"}', "names model.ckpt-5, which is not there: model.ckpt-20 is taken"),
        ('{"checkpoint": "../other/model.ckpt-10"}', "lies outside of its folder and is not followed"),
        ('{"checkpoint": "{other}/model.ckpt-10"}', "lies outside of its folder and is not followed"),
        ('["model.ckpt-10"]', "names no checkpoint"),
        ('{"checkpoint"', "names no checkpoint"),
        ('{"checkpoint": "model.ckpt-10"}', None),
    ],
)
def test_best_json_is_followed_in_its_folder_alone(tmp_path, capsys, content, said):
    other, folder = write_steps(tmp_path / "other", 10), write_steps(tmp_path / "run", 10, 20)
    (folder / "best.json").write_text(content.replace("{other}", str(other)))
    assert inspect.main([str(folder), "--json"]) == 0
    told = capsys.readouterr()
    assert json.loads(told.out)["checkpoint"] == str(folder / f"model.ckpt-{10 if said is None else 20}")
    assert said in told.err if said else told.err == ""


# Files that are no checkpoints.


def tar_of(path, name, content):
    with tarfile.open(path, "w:gz") as tar:
        member = tarfile.TarInfo(name)
        member.size = len(content)
        tar.addfile(member, io.BytesIO(content))


def write_other_file(path):
    """A file of the kind that its name tells; what stands before a `~` is another name for the same kind."""
    kind = path.name.partition("~")[0].partition(".")[2]
    if kind in ("h5", "weights.h5", "hdf5"):
        path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(600))
    elif kind in ("keras", "npz", "zip", "pt"):
        member = {"keras": "model.weights.h5", "npz": "a.npy", "zip": "model.ckpt.index", "pt": "archive/data.pkl"}[
            kind
        ]
        with zipfile.ZipFile(path, "w") as zipped:
            zipped.writestr(member, b"x")
    elif kind in ("tgz", "tar.gz"):
        tar_of(path, "model.ckpt", b"x")
    elif kind == "gz":
        path.write_bytes(gzip.compress(b"x"))
    elif kind == "pth":
        path.write_bytes(b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.")
    elif kind == "safetensors":
        header = b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
        path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    else:
        path.write_bytes(
            {
                "tflite": b"\x1c\x00\x00\x00TFL3",
                "pb": b"\n\x05\n\x01a",
                "onnx": b"\x08\x08",
                "xml": b'<?xml version="1.0"?>\n<net name="a" version="11">',
            }[kind]
            + bytes(9)
        )


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("w.h5", ["a Keras file", "finetune-import {path} --model lenet --output {folder}/w.ckpt"]),
        ("w.weights.h5", ["a Keras file", "finetune-import {path} --model lenet --output {folder}/w.ckpt"]),
        ("w.keras", ["a Keras file", "finetune-import"]),
        ("w.tflite", ["a TensorFlow Lite file", "finetune-import"]),
        ("w.pb", ["a frozen graph", "finetune-import"]),
        ("w.npz", ["NumPy arrays", "finetune-import"]),
        ("w.tgz", ["an archive", "Unpack it, tar -xf {path}"]),
        ("w.tar.gz", ["an archive", "tar -xf"]),
        ("w.zip", ["an archive", "unzip {path}"]),
        ("w.pth", ["a PyTorch file", "can't be read"]),
        ("w.pt", ["a PyTorch file", "can't be read"]),
        ("w.safetensors", ["safetensors", "can't be read"]),
        ("w.onnx", ["ONNX", "can't be read"]),
        ("w.xml", ["an OpenVINO file", "can't be read"]),
        # Told by what is in them.
        ("w.h5~renamed", ["a Keras file", "finetune-import"]),
        ("w.tflite~renamed", ["a TensorFlow Lite file"]),
        ("w.npz~renamed", ["NumPy arrays"]),
        ("w.tgz~renamed", ["an archive"]),
        ("w.pt~renamed", ["a PyTorch file"]),
    ],
)
def test_a_file_of_another_kind_is_named_with_what_reads_it(tmp_path, name, parts):
    path = tmp_path / name
    write_other_file(path)
    for given in (path, tmp_path):
        with pytest.raises(UserError) as caught:
            open_checkpoint(given, model="lenet")
        for part in parts:
            assert part.format(path=path, folder=tmp_path) in str(caught.value)


def test_every_command_says_it_and_finetune_import_in_its_own_words(tmp_path, records, capsys):
    path = tmp_path / "w.weights.h5"
    write_other_file(path)
    data, given = f"--dataset-dir={records}", f"--checkpoint={path}"
    image = str(records / "images/train_00.jpg")
    for command in (
        lambda: train.main([data, given, f"--train-dir={tmp_path / 'run'}", "--model=lenet", "--batch-size=2"]),
        lambda: evaluate.main([data, given, "--model=lenet"]),
        lambda: predict.main([given, image]),
        lambda: export.main([given, f"--output-dir={tmp_path / 'out'}"]),
        lambda: inspect.main([str(path)]),
        lambda: inspect.main([str(path), "--model=lenet"]),
    ):
        assert command() == 2
        assert f"finetune-import {path} --model" in capsys.readouterr().err
    for name in ("w.pth", "w.tgz", "absent.ckpt", "absent.h5"):
        if "absent" not in name:
            write_other_file(tmp_path / name)
        words = [str(tmp_path / name), "--model=lenet", f"--output={tmp_path / 'imported'}"]
        assert import_weights.main(words) == 2
        error = capsys.readouterr().err
        assert "FILE" in error
        assert "--checkpoint" not in error


def test_a_renamed_file_is_imported_by_what_it_is(tmp_path, run):
    values = {name: value for name, value in values_of(run).items() if "/" in name}
    np.savez(tmp_path / "weights.npz", **values)
    (tmp_path / "weights.npz").rename(tmp_path / "weights.bin")
    words = [str(tmp_path / "weights.bin"), "--model=cifarnet", f"--output={tmp_path / 'imported.ckpt'}"]
    assert import_weights.main(words) == 0
    assert set(open_checkpoint(tmp_path / "imported.ckpt").shapes) == set(values)


def test_following_the_command_line_of_the_message_mends_it(tmp_path, run, records, capsys):
    np.savez(tmp_path / "of weights.npz", **{name: value for name, value in values_of(run).items() if "/" in name})
    words = [f"--dataset-dir={records}", "--model=cifarnet", f"--output-dir={tmp_path / 'e'}", "--no-report"]
    assert evaluate.main([*words, f"--checkpoint={tmp_path / 'of weights.npz'}"]) == 2
    command = shlex.split(re.search(r"finetune-import (.*)", capsys.readouterr().err)[1])
    assert import_weights.main(command) == 0
    assert evaluate.main([*words, f"--checkpoint={command[-1]}"]) == 0


def test_the_list_of_a_folders_checkpoints_is_not_one_of_them(tmp_path):
    write_state(write_steps(tmp_path, 3), "model.ckpt-3")
    with pytest.raises(UserError, match="list of a folder's checkpoints") as caught:
        open_checkpoint(tmp_path / "checkpoint")
    assert str(caught.value).endswith(str(tmp_path))
    assert str(caught.value).count("not ") == 1


def test_a_saved_model_is_named_and_its_weights_are_read_where_it_says(tmp_path, run, capsys):
    output = tmp_path / "served"
    assert export.main([f"--checkpoint={run}", f"--output-dir={output}"]) == 0
    for given in (output, output / "saved_model.pb"):
        with pytest.raises(UserError, match="is a SavedModel") as caught:
            open_checkpoint(given)
    again = open_checkpoint(str(caught.value).split("give ")[-1])
    np.testing.assert_array_equal(again.read("CifarNet/conv1/weights"), values_of(run)["CifarNet/conv1/weights"])
    (output / "variables/variables.index").unlink()
    with pytest.raises(UserError, match="checkpoint that it was made of"):
        open_checkpoint(output)


def test_what_is_not_there_names_the_download_and_what_lies_deeper(tmp_path):
    with pytest.raises(UserError, match=r"there is no checkpoint .*\n.*finetune-download mobilenet_v1_025"):
        open_checkpoint(tmp_path / "none.ckpt", model="mobilenet_v1_025")
    with pytest.raises(UserError, match="finetune-download NAME"):
        open_checkpoint(tmp_path / "none.ckpt")
    with pytest.raises(UserError) as caught:
        open_checkpoint(tmp_path / "none.ckpt", model="lenet")  # Nobody published one.
    assert "finetune-download" not in str(caught.value)
    write_steps(tmp_path / "unpacked", 3)
    with pytest.raises(UserError, match="unpacked does: give ") as caught:
        open_checkpoint(tmp_path)
    assert open_checkpoint(str(caught.value).split("give ")[-1]).step() == 3


# Names behind a prefix, and names of objects.


@pytest.mark.parametrize("prefix", ["module", "tower_0", "a/model"])
def test_a_prefix_is_found_named_and_taken_off_by_every_command(tmp_path, run, records, capsys, prefix):
    values = {(f"{prefix}/{name}" if "/" in name else name): value for name, value in values_of(run).items()}
    write_checkpoint(tmp_path / "model.ckpt-7", values)
    data, given = f"--dataset-dir={records}", f"--checkpoint={tmp_path / 'model.ckpt-7'}"
    steps = ["--model=cifarnet", "--batch-size=4", "--max-steps=1"]
    commands = [
        lambda *words: train.main(
            [data, given, f"--train-dir={tmp_path / '_'.join(['run', *words]).replace('/', '_')}", *steps, *words]
        ),
        lambda *words: evaluate.main([data, given, "--model=cifarnet", "--no-report", *words]),
        lambda *words: predict.main([given, str(records / "images/train_00.jpg"), *words]),
        lambda *words: inspect.main([str(tmp_path / "model.ckpt-7"), "--model=cifarnet", *words]),
    ]
    for command in commands if prefix == "module" else commands[3:]:
        assert command() == 2
        found = re.search(r"--checkpoint-prefix (\S+)", capsys.readouterr().err)[1]
        assert found == prefix
        assert command(f"--checkpoint-prefix={found}") == 0
        assert command("--checkpoint-prefix=modul") == 2
        assert "nothing in" in capsys.readouterr().err
    assert inspect.main([str(tmp_path / "model.ckpt-7")]) == 0
    assert f"network: cifarnet, 3 classes, under the prefix {prefix}/" in capsys.readouterr().out
    checkpoint = open_checkpoint(tmp_path / "model.ckpt-7", name_prefix=f"{prefix}/")
    assert set(checkpoint.shapes) == set(values_of(run))
    assert checkpoint.step() == 7
    if prefix == "module":
        assert "CifarNet/conv1/weights" in open_checkpoint(tmp_path / "run_--checkpoint-prefix=module").shapes


def test_a_trunk_within_a_larger_model_is_found_though_its_head_is_missing(tmp_path, run, capsys):
    values = {f"FeatureExtractor/{name}": value for name, value in values_of(run).items() if "conv" in name}
    write_checkpoint(tmp_path / "detector.ckpt", {**values, "BoxPredictor/weights": np.zeros(3, np.float32)})
    words = [str(tmp_path / "detector.ckpt"), "--model=cifarnet", "--num-classes=3"]
    assert inspect.main(words) == 2
    assert "holds 4 of the 10 variables" in capsys.readouterr().err
    words.append("--checkpoint-prefix=FeatureExtractor")
    assert inspect.main(words) == 2
    assert (
        inspect.main([*words, re.search(r"--exclude-scopes \S+\w", capsys.readouterr().err)[0].replace(" ", "=")]) == 0
    )


def as_objects(values, front):
    """Nested modules, one for each component of a name, whose variables bear no names of their own."""
    root = tf.Module()
    for name, value in values.items():
        *scopes, leaf = f"{front}{name}".split("/")
        node = root
        for scope in scopes:
            if not hasattr(node, scope):
                setattr(node, scope, tf.Module())
            node = getattr(node, scope)
        setattr(node, leaf, tf.Variable(value))
    return root


def test_object_based_checkpoints_are_read_by_names_or_places(tmp_path, run, capsys):
    values = {name: value for name, value in values_of(run).items() if "/" in name}
    model = Model(get_spec("cifarnet"), 3)
    for name, value in values.items():
        model.model_variables[name].assign(value)
    prefixes = [
        tf.train.Checkpoint(net=model, save=tf.Variable(1)).write(str(tmp_path / "names")),
        tf.train.Checkpoint(net=as_objects(values, "")).write(str(tmp_path / "places")),
        tf.train.Checkpoint(net=as_objects(values, "inner/model/")).save(str(tmp_path / "deeper")),
        tf.train.Checkpoint(**{name: tf.Variable(value) for name, value in values.items()}).write(
            str(tmp_path / "flat")
        ),
    ]
    for prefix in prefixes:
        capsys.readouterr()
        checkpoint = open_checkpoint(prefix)
        assert set(checkpoint.shapes) == set(values), prefix
        for name, value in values.items():
            np.testing.assert_array_equal(checkpoint.read(name), value)
        assert inspect.main([prefix]) == 0
        told = capsys.readouterr()
        assert "network: cifarnet, 3 classes\n" in told.out
        assert f"was written by tf.train.Checkpoint; {len(values)} of its values are read" in told.err


def test_objects_of_another_library_are_said_to_be_what_they_are(tmp_path, records, capsys):
    import keras

    network = keras.Sequential([keras.Input((4, 4, 3)), keras.layers.Conv2D(2, 2)])
    prefix = tf.train.Checkpoint(model=network).write(str(tmp_path / "keras.ckpt"))
    assert inspect.main([prefix]) == 0
    capsys.readouterr()
    assert evaluate.main([f"--dataset-dir={records}", f"--checkpoint={prefix}", "--model=cifarnet"]) == 2
    error = capsys.readouterr().err
    assert "another network" in error
    assert "tf.train.Checkpoint wrote it" in error
    assert "finetune-import" in error


# Values that are not finite.


def test_nan_and_infinity_are_refused_before_anything_runs(tmp_path, run, records, capsys):
    values = values_of(run)
    values["CifarNet/conv1/weights"].flat[[0, 5]] = np.nan
    values["CifarNet/fc3/biases"][1] = -np.inf
    write_checkpoint(tmp_path / "bad.ckpt", values)
    data, given = f"--dataset-dir={records}", f"--checkpoint={tmp_path / 'bad.ckpt'}"
    new_run = [data, "--model=cifarnet", "--batch-size=4", "--max-steps=1", given]
    for command in (
        lambda: train.main([*new_run, f"--train-dir={tmp_path / 'run'}"]),
        lambda: evaluate.main([data, given, "--model=cifarnet"]),
        lambda: predict.main([given, str(records / "images/train_00.jpg")]),
        lambda: export.main([given, f"--output-dir={tmp_path / 'out'}"]),
        lambda: import_weights.main([str(tmp_path / "bad.ckpt"), "--model=cifarnet", f"--output={tmp_path / 'o'}"]),
    ):
        assert command() == 2
        error = capsys.readouterr().err
        assert "bad.ckpt" in error
        assert "CifarNet/conv1/weights" in error
        assert "step 1" not in error
    assert train.main([*new_run, f"--train-dir={tmp_path / 'refused'}"]) == 2
    error = capsys.readouterr().err
    assert (
        "2 of the 4800 values of CifarNet/conv1/weights are NaN or infinite, and some of CifarNet/fc3/biases." in error
    )
    scopes = re.search(r"--exclude-scopes (\S+)", error)[1]
    assert scopes == "CifarNet/conv1/weights,CifarNet/fc3/biases"
    assert train.main([*new_run, f"--train-dir={tmp_path / 'mended'}", f"--exclude-scopes={scopes}"]) == 0


def test_a_run_without_a_finite_checkpoint_is_begun_anew_as_advised(tmp_path, capsys):
    run = write_run(tmp_path / "a run", dataset_dir=str(write_records(tmp_path / "data", split="train")), batch_size=4)
    checkpoint = Checkpoint(str(run / "model.ckpt-7"))
    values = {name: checkpoint.read(name) for name in checkpoint.shapes}
    values["CifarNet/conv1/weights"] = np.full_like(values["CifarNet/conv1/weights"], np.nan)
    write_checkpoint(run / "model.ckpt-7", values)
    assert train.main(["--resume", f"--train-dir={run}", "--max-steps=8"]) == 2
    advice = capsys.readouterr().err.splitlines()[-1].partition("without --resume: ")[2]
    words = shlex.split(advice.replace("OTHER", str(tmp_path / "other").replace(" ", "")))
    assert train.main([*words, "--max-steps=1"]) == 0


def test_a_run_is_resumed_from_its_newest_finite_checkpoint(tmp_path, capsys):
    write_steps(tmp_path, 10, 20)
    write_checkpoint(tmp_path / "model.ckpt-30", {"Net/w": np.array([1, np.nan], np.float32), "global_step": 30})
    assert newest_whole(tmp_path).step() == 20


def test_the_unsound_one_of_a_mean_is_named(tmp_path):
    write_steps(tmp_path, 10, 20)
    write_checkpoint(tmp_path / "model.ckpt-15", {"Net/w": np.array([1, np.nan], np.float32), "global_step": 15})
    with pytest.raises(UserError, match=r"model\.ckpt-15: 1 of the 2 values of Net/w"):
        MeanCheckpoint(last_checkpoints(tmp_path, 3)).read("Net/w")
    assert (
        MeanCheckpoint([Checkpoint(str(tmp_path / f"model.ckpt-{step}")) for step in (10, 20)]).read("Net/w")[0] == 15
    )


# TensorFlow's messages.


def test_names_of_nodes_and_operations_do_not_reach_the_user(tmp_path, capsys):
    with pytest.raises(tf.errors.OpError) as caught:
        tf.raw_ops.RestoreV2(prefix="/none", tensor_names=["a"], shape_and_slices=[""], dtypes=[tf.float32])
    assert "{{function_node" in str(caught.value)
    line = first_line(caught.value)
    assert line.startswith("Unsuccessful TensorSliceReader constructor")
    assert not re.search(r"\{\{|\[Op:", line)
    text = "\n{{node a/b}} Bad [[{{node a/b}}]] input: [[1,2]] [Op:Save] name: \n\t more"
    assert first_line(ValueError(text)) == "Bad input:"
    assert first_line(ValueError("shape [3] of {a}")) == "shape [3] of {a}"
    assert first_line(IndexError()) == "IndexError"
    for name in ("notes.txt", "empty.ckpt", "breaks.ckpt.index"):
        (tmp_path / name).write_bytes(b"" if name == "empty.ckpt" else b"some words " * 20)
        with pytest.raises(UserError) as unlike:
            open_checkpoint(tmp_path / name)
        assert "is not a whole checkpoint: it is something else, or breaks off." in str(unlike.value)
    (tmp_path / "folder").touch()
    with pytest.raises(UserError) as told:
        write_checkpoint(tmp_path / "folder/a.ckpt", {"a": np.zeros(1, np.float32)})
    assert "{{" not in str(told.value)


def test_a_checkpoint_without_its_data_is_told_in_a_readable_line(tmp_path):
    write_steps(tmp_path, 3)
    (tmp_path / "model.ckpt-3.data-00000-of-00001").unlink()
    with pytest.raises(UserError) as caught:
        Checkpoint(str(tmp_path / "model.ckpt-3")).read("Net/w")
    assert "model.ckpt-3" in str(caught.value)
    assert "{{" not in str(caught.value)
    assert "Copy it again" in str(caught.value)


@pytest.mark.parametrize("ending", [".meta", ".data-00000-of-00001"])
def test_a_checkpoint_without_its_index_says_so(tmp_path, ending):
    (tmp_path / f"model.ckpt-3{ending}").touch()
    for given in ("model.ckpt-3", f"model.ckpt-3{ending}"):
        with pytest.raises(UserError, match=rf"there is model.ckpt-3\{ending}, but no model.ckpt-3\.index"):
            open_checkpoint(tmp_path / given)
