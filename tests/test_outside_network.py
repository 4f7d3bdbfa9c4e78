"""A network from outside the package: one record and one function, no line of the package touched."""

import sys

import pytest
from test_commands import write_colour_folders
from tiny_runs import write_records, write_run

from finetune.commands import convert, evaluate, export, predict, train
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
    checkpoint = f"--checkpoint={tmp_path / 'run'}"
    assert evaluate.main([*data, checkpoint, "--no-report", "--model=outside_nets:SPEC"]) == 0
    resumed = [f"--train-dir={tmp_path / 'run'}", "--resume", "--max-steps=4", "--batch-size=8"]
    assert train.main([*resumed, "--model=outside_nets:SPEC"]) == 0
    assert train.main([*resumed, "--trust-code", "--max-steps=5"]) == 0


@pytest.mark.parametrize("key", ["model", "preprocessing"])
def test_run_that_somebody_sent_imports_nothing(tmp_path, monkeypatch, capsys, key):
    imported = tmp_path / "imported"
    (tmp_path / "evil_nets.py").write_text(f"open({str(imported)!r}, 'w').close()")
    monkeypatch.syspath_prepend(tmp_path)
    run = write_run(tmp_path / "run")
    config = run / "config.toml"
    config.write_text(
        config.read_text().replace('model = "cifarnet"\n', "" if key == "model" else 'model = "cifarnet"\n')
    )
    with config.open("a") as file:
        file.write(f'\n{key} = "evil_nets:SPEC"\n')
    records = f"--dataset-dir={write_records(tmp_path / 'records')}"
    image = next((tmp_path / "records" / "images").iterdir())
    commands = (
        (evaluate.main, [records, f"--checkpoint={run}", "--no-report"]),
        (predict.main, [str(image), f"--checkpoint={run}"]),
        (export.main, [f"--checkpoint={run}", f"--output-dir={tmp_path / 'export'}"]),
        (train.main, [records, f"--train-dir={run}", "--resume"]),
        (train.main, [records, f"--train-dir={tmp_path / 'new'}", f"--config={config}"]),
    )
    for main, words in commands:
        assert main(words) == 2
        assert f"say --{key} evil_nets:SPEC yourself, or --trust-code" in capsys.readouterr().err
    with config.open("a") as file:
        file.write("trust_code = true\n")
    assert train.main([records, f"--train-dir={run}", "--resume"]) == 2
    assert "which no file can say for itself" in capsys.readouterr().err
    assert not imported.exists()
    assert "evil_nets" not in sys.modules


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
