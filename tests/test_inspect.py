"""`finetune-inspect`: the table, what a checkpoint holds, how two differ, the plan."""

import json
import math
import re

import numpy as np
import pytest
from reference_networks import load_reference

from finetune.commands.inspect import main
from finetune.model.checkpoint import write_checkpoint
from finetune.model.recognise import describe_variables, recognise
from finetune.model.scopes import in_any_scope
from finetune.nets import MODELS, NAMES

HEAD = "MobilenetV1/Logits"


def shapes_of(name, num_classes=5):
    return {variable.name: variable.shape for variable in describe_variables(MODELS[name], num_classes)}


def arrays_of(shapes, value=0.5):
    return {name: np.full(shape, value, np.float32) for name, shape in shapes.items()}


@pytest.fixture(scope="module")
def mobilenet(tmp_path_factory):
    """A run's checkpoint of the narrowest MobileNet V1: variables, a slot, averages of the head, a step."""
    shapes = shapes_of("mobilenet_v1_025")
    arrays = arrays_of(shapes)
    biases = arrays[f"{HEAD}/Conv2d_1c_1x1/biases"]
    extra = {
        f"{HEAD}/Conv2d_1c_1x1/biases/Momentum": biases,
        f"{HEAD}/Conv2d_1c_1x1/biases/ExponentialMovingAverage": biases + 1,
        "global_step": np.int64(12),
    }
    prefix = tmp_path_factory.mktemp("run") / "model.ckpt-12"
    write_checkpoint(prefix, {**arrays, **extra})
    return prefix


def run_json(capsys, *arguments):
    assert main([*map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_table_lists_every_network_in_both_forms(capsys):
    rows = run_json(capsys, "--models")
    assert [row["name"] for row in rows] == list(NAMES)
    assert main(["--models"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["network", "parameters", "pixels", "top-1", "%", "published", "file"]
    mobilenet = next(line for line in lines if line.startswith("mobilenet_v1 "))
    assert mobilenet.split() == ["mobilenet_v1", "4,233,001", "224", "70.9", "mobilenet_v1_1.0_224.tgz"]


@pytest.mark.parametrize("name", MODELS)
def test_number_of_parameters_is_that_of_slims_network(name):
    spec, reference = MODELS[name], load_reference(name)
    num_classes = 10 if spec.image_size <= 32 else 1001 - spec.label_offset
    total = 0
    for variable, shape in reference["trainable"].items():
        is_classifier = in_any_scope(variable, spec.head_scopes[:1]) and shape[-1] == reference["num_classes"]
        if not in_any_scope(variable, spec.head_scopes[1:]):
            total += math.prod([*shape[:-1], num_classes] if is_classifier else shape)
    assert spec.num_parameters == total


def test_checkpoint(capsys, mobilenet):
    holdings = run_json(capsys, mobilenet)
    assert (holdings["model"], holdings["num_classes"], holdings["global_step"]) == ("mobilenet_v1_025", 5, 12)
    kinds = {tensor["name"]: tensor["kind"] for tensor in holdings["tensors"]}
    biases = f"{HEAD}/Conv2d_1c_1x1/biases"
    assert kinds[biases] == "variable"
    assert kinds[f"{biases}/Momentum"] == "optimizer slot"
    assert kinds[f"{biases}/ExponentialMovingAverage"] == "moving average"
    assert kinds["MobilenetV1/Conv2d_0/BatchNorm/moving_mean"] == "moving statistic"
    assert kinds["global_step"] == "counter"
    assert main([str(mobilenet)]) == 0
    told = capsys.readouterr().out
    assert "network: mobilenet_v1_025, 5 classes\nglobal step: 12\n" in told
    assert re.search(r"^MobilenetV1/Conv2d_0/weights +\[3, 3, 3, 8\] +216  variable$", told, re.MULTILINE)
    assert re.search(r"^optimizer slots +1 +5 values$", told, re.MULTILINE)


def test_unknown_network_is_said_to_be_none(capsys, tmp_path):
    write_checkpoint(tmp_path / "other.ckpt", {"Other/weights": np.zeros([3], np.float32)})
    assert main([str(tmp_path / "other.ckpt")]) == 0
    assert "network: none of the table\nglobal step: none\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    "name", ["lenet", "mobilenet_v1_050", "mobilenet_v3_small_minimalistic", "vgg_a", "resnet_v1_50"]
)
def test_networks_are_told_from_their_like(name):
    likeness = recognise(shapes_of(name, num_classes=3))
    assert (likeness.spec.name, likeness.num_classes) == (name, 3)


def test_trunk_without_a_head_is_recognised_too():
    shapes = {name: shape for name, shape in shapes_of("mobilenet_v1_075").items() if not in_any_scope(name, [HEAD])}
    likeness = recognise(shapes)
    assert (likeness.spec.name, likeness.num_classes) == ("mobilenet_v1_075", None)


def test_difference_of_two(capsys, mobilenet, tmp_path):
    shapes = shapes_of("mobilenet_v1_025", num_classes=6)
    arrays = arrays_of(shapes)
    arrays["MobilenetV1/Conv2d_0/weights"] = arrays["MobilenetV1/Conv2d_0/weights"] - 0.25
    other = tmp_path / "other.ckpt"
    write_checkpoint(other, {**arrays, "stray": np.float32(0)})
    difference = run_json(capsys, mobilenet, other)
    assert difference["only_in_second"] == ["stray"]
    assert {name.rsplit("/", 1)[-1] for name in difference["only_in_first"]} == {
        "Momentum",
        "ExponentialMovingAverage",
        "global_step",
    }
    assert difference["other_shape"] == [
        {"name": f"{HEAD}/Conv2d_1c_1x1/biases", "first": [5], "second": [6]},
        {"name": f"{HEAD}/Conv2d_1c_1x1/weights", "first": [1, 1, 256, 5], "second": [1, 1, 256, 6]},
    ]
    assert difference["other_values"] == [{"name": "MobilenetV1/Conv2d_0/weights", "largest_difference": 0.25}]
    assert difference["num_equal"] == len(shapes) - 3
    assert main([str(mobilenet), str(other)]) == 0
    told = capsys.readouterr().out
    assert re.search(r"^other values +MobilenetV1/Conv2d_0/weights +by up to 0\.25$", told, re.MULTILINE)
    assert re.search(rf"^other shape +{HEAD}/Conv2d_1c_1x1/biases +\[5\] and \[6\]$", told, re.MULTILINE)
    assert re.search(r"^only in second +stray$", told, re.MULTILINE)


def test_plan(capsys, mobilenet):
    arguments = [mobilenet, "--model", "mobilenet_v1_025", "--exclude-scopes", HEAD, "--trainable-scopes", HEAD]
    plan = run_json(capsys, *arguments, "--num-classes", 2)
    assert plan["counts"] == [
        {"from": "restored", "in_training": "frozen", "num_variables": 135, "num_parameters": 218544},
        {"from": "initialised", "in_training": "trained", "num_variables": 2, "num_parameters": 514},
    ]
    assert main([*map(str, arguments)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["MobilenetV1/Conv2d_0/weights", "[3,", "3,", "3,", "8]", "restored", "frozen"]
    assert len([line for line in lines if line.endswith("initialised  trained")]) == 2
    assert lines[lines.index("") + 1].split() == ["from", "in", "training", "variables", "parameters"]
    assert lines[-2].split() == ["initialised", "trained", "2", "1,285"]
    assert lines[-1].split() == ["all", "137", "219,829"]


def test_the_stages_of_a_recipe(capsys, mobilenet):
    words = ["--model", "mobilenet_v1_025", "--num-classes", 2, "--recipe", "head-then-all"]
    head, everything = run_json(capsys, mobilenet, *words)
    assert (head["name"], everything["name"]) == ("head", "all")
    assert {row["from"]: row["num_variables"] for row in head["counts"]} == {"restored": 135, "initialised": 2}
    assert {row["from"] for row in everything["counts"]} == {"restored"}
    assert sum(row["num_variables"] for row in everything["counts"]) == 137
    assert main([str(mobilenet), *map(str, words)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["stage", "head", "all"]
    assert lines[2].split()[:3] == ["trained", "parameters", "514"]


def test_stages_without_a_checkpoint(capsys):
    stages = run_json(capsys, "--model", "lenet", "--num-classes", 3, "--stages", "all:3,last=2:0.5e:0.1")
    assert [stage["length"] for stage in stages] == ["3 steps", "0.5 epochs"]
    assert stages[1]["settings"] == {"trainable_layers": "last=2", "learning_rate": 0.1}


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["--recipe=head"], "--recipe is of a network.\n  Name it with --model"),
        (["--model=lenet", "--recipe=head", "--stages=all:1"], "said twice: --recipe and --stages"),
        (["--model=lenet", "--recipe=head", "--trainable-scopes=LeNet"], "Leave out --trainable-scopes"),
        (["--model=lenet", "--stages=from=conv3:1"], "no group of layers 'conv3'"),
    ],
)
def test_stages_that_cannot_be_shown(words, what, capsys):
    assert main(words) == 2
    assert what in capsys.readouterr().err


def test_a_name_is_whole_whatever_the_width_of_the_terminal(capsys, mobilenet, monkeypatch):
    assert main([str(mobilenet)]) == 0
    in_a_file = capsys.readouterr().out
    monkeypatch.setenv("COLUMNS", "40")
    assert main([str(mobilenet)]) == 0
    assert capsys.readouterr().out == in_a_file
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    assert main([str(mobilenet)]) == 0
    lines = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out).splitlines()
    assert max(len(line) for line in lines if not line.startswith("checkpoint: ")) == 80
    assert "…" not in "".join(lines)
    assert lines[1].split() == ["tensor", "shape", "values", "kind"]
    names = "".join(re.match(r" ?(\S*)", line)[1] for line in lines)
    assert f"{HEAD}/Conv2d_1c_1x1/biases/ExponentialMovingAverage" in names


def test_mistakes(capsys, mobilenet):
    assert main([]) == 2
    assert main(["nowhere/model.ckpt"]) == 2
    assert main([str(mobilenet), "--model", "mobilenet_v1_025", "--trainable-scopes", "MobilenetV1/Logit"]) == 2
    assert main([str(mobilenet), str(mobilenet), "--model", "mobilenet_v1_025"]) == 2
    told = capsys.readouterr().err
    assert "Did you mean MobilenetV1/Logits" in told
    assert "Traceback" not in told
