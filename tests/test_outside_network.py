"""A network from outside the package: one record and one function, no line of the package touched."""

import sys

import pytest
from test_commands import write_colour_folders

from finetune.commands import convert, evaluate, train
from finetune.errors import UserError
from finetune.nets import get_spec

MODULE = """
import tf_slim as slim

from finetune.nets import layers
from finetune.nets.spec import NetSpec


def two_layers(images, num_classes, *, is_training, depth):
    with slim.arg_scope([slim.conv2d, slim.fully_connected], weights_regularizer=layers.decayed):
        net = slim.conv2d(images, depth, 5, stride=4, normalizer_fn=layers.batch_norm, scope="Tiny/conv")
        logits = slim.fully_connected(slim.flatten(net), num_classes, activation_fn=None, scope="Tiny/logits")
    return logits, {}


SPEC = NetSpec(
    name="tiny",
    function="outside_nets:two_layers",
    arguments={"depth": 4},
    root_scope="Tiny",
    image_size=32,
    head_scopes=("Tiny/logits",),
    layer_groups=(("Tiny/conv",), ("Tiny/logits",)),
    preprocessing="inception",
    paper="none",
)
NO_SPEC = 3
"""


@pytest.fixture
def outside_module(tmp_path, monkeypatch):
    (tmp_path / "outside_nets.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("outside_nets", None)


def test_it_is_trained_and_evaluated(outside_module, tmp_path):
    images = write_colour_folders(tmp_path / "images")
    data = [f"--dataset-dir={tmp_path / 'records'}"]
    assert convert.main([*data, f"--images-dir={images}", "--dataset-name=colours", "--workers=1"]) == 0
    run = [f"--train-dir={tmp_path / 'run'}", "--model=outside_nets:SPEC", "--max-steps=3", "--batch-size=8"]
    assert train.main([*data, *run]) == 0
    assert evaluate.main([*data, f"--checkpoint={tmp_path / 'run'}", "--no-report"]) == 0


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_such_module:SPEC", "no_such_module"),
        ("outside_nets:SPECS", "SPECS"),
        ("outside_nets:NO_SPEC", "is a int, not a"),
    ],
)
def test_what_is_no_record_is_refused(outside_module, name, message):
    with pytest.raises(UserError, match=message):
        get_spec(name)
