"""`--trainable-from`: layers as Keras's `model.layers` counts them, or by name, of Keras's networks and of slim's."""

import contextlib
import json

import numpy as np
import pytest
from tiny_runs import write_records, write_run

from finetune.commands import train
from finetune.errors import UserError
from finetune.foreign_weights.keras_layer_order import scopes_from_layer
from finetune.foreign_weights.keras_names import APPLICATIONS
from finetune.model.checkpoint import Checkpoint
from finetune.model.depth import group_names, scopes_of_layers
from finetune.model.recognise import describe_variables
from finetune.model.scopes import in_any_scope
from finetune.nets import get_spec
from finetune.settings.settings_file import read_toml
from finetune.settings.stage import StageSettings
from finetune.settings.stages import Stage
from finetune.settings.train import TrainSettings


@pytest.fixture(autouse=True)
def nothing_told(monkeypatch):
    """Lines that were said in other tests are said again."""
    monkeypatch.setattr("finetune.notices._told", set())


def scopes_from(model, layer):
    return scopes_from_layer(get_spec(model), model, layer)


def trained_names(model, layer):
    """Names of the variables that are trained or updated."""
    scopes, names = scopes_from(model, layer), [variable.name for variable in describe_variables(get_spec(model), 1000)]
    return {name for name in names if not scopes or in_any_scope(name, scopes)}


# Settings


@pytest.mark.parametrize("layer", ["", "-1", "-249", "1234567", "9" * 5000])
def test_what_is_no_layer(layer):
    with pytest.raises(UserError, match=r"^--trainable-from is .*must be a layer's index, from 0 on, or its name"):
        StageSettings(trainable_from=layer)


@pytest.mark.parametrize(
    ("other", "value"), [("trainable_layers", "head"), ("freeze_until", "conv1"), ("trainable_scopes", ("a",))]
)
def test_what_is_trained_is_said_once(other, value):
    with pytest.raises(UserError, match=f"said twice: .*--{other.replace('_', '-')} .*--trainable-from 3|said twice"):
        StageSettings(trainable_from="3", **{other: value})


def test_a_stage_has_it_in_place_of_those_around():
    stage = Stage.of_table({"trainable-from": 249, "steps": 1})
    assert Stage.of_table(stage.table()) == stage
    resolved = stage.settings(StageSettings(trainable_scopes=("a",)))
    assert (resolved.trainable_from, resolved.trainable_scopes) == ("249", ())
    around = StageSettings(trainable_from="249")
    assert Stage.of_text("head:1").settings(around).trainable_from is None


# Keras's networks


@pytest.mark.parametrize("index", [0, 1, 2, 20, 43, 85])
def test_an_index_is_kerass(index):
    """What Keras itself trains where the layers before are not trainable."""
    keras = pytest.importorskip("keras")
    model = keras.applications.MobileNet(weights=None, alpha=1.0)
    for layer in model.layers[:index]:
        layer.trainable = False
    expected = {f"{layer.name}/{weight.name}" for layer in model.layers[index:] for weight in layer.weights}
    assert trained_names("keras/mobilenet", str(index)) == expected


def test_a_name_stands_for_its_index(caplog):
    assert scopes_from("keras/mobilenet", "conv_dw_13") == scopes_from("keras/mobilenet", "80")
    assert "--trainable-from: 80 of the 91 layers of keras/mobilenet is conv_dw_13." in caplog.messages


def test_the_published_weights_of_efficientnet_come_with_a_layer_more(caplog):
    scopes_from("keras/efficientnet_b0", "200")
    assert caplog.messages == [
        "--trainable-from: 200 of the 240 layers of keras/efficientnet_b0 is block6c_se_expand; Keras counts it as 201 "
        'with weights="imagenet", for a Rescaling more at its input.'
    ]


@pytest.mark.parametrize(
    ("model", "layer", "message"),
    [
        ("keras/mobilenet", "400", r"is 400, but keras/mobilenet has 91 layers: 0, input_layer, to 90, predictions\."),
        (
            "keras/mobilenet",
            "90",
            r"nothing to be trained: .* from 90, predictions, on has variables\.\n.* is 88",
        ),
        ("keras/mobilenet", "conv_dw_31", r"has no layer 'conv_dw_31'\.\n  Did you mean conv_dw_"),
        (
            "keras/mobilenet",
            "§",
            r"has no layer '§'\.\n  They are 0, input_layer, to 90, predictions; an index",
        ),
        ("mobilenet_v1_025", "400", r"is 400, but Keras's MobileNet has 91 layers"),
        ("mobilenet_v1_025", "90", r"no layer of Keras's MobileNet from 90, predictions, on has variables"),
        (
            "mobilenet_v1_025",
            "Conv2d_13_deptwise",
            r"no group of layers 'Conv2d_13_deptwise'\.\n  Did you mean Conv2d",
        ),
        ("lenet", "2", r"Keras has no lenet\.\n  Give --freeze-until .*: conv1, conv2, fc3\.$"),
        ("resnet_v1_50", "100", r"Keras's resnet_v1_50 is another network .*--freeze-until.* block4/unit_3\.$"),
        ("inception_v4", "100", r"Keras has no inception_v4.* Mixed_7d\.$"),
    ],
)
def test_layers_that_are_not_there(model, layer, message):
    with pytest.raises(UserError, match=f"(?s)^--trainable-from.*{message}"):
        scopes_from(model, layer)


# slim's networks


@pytest.mark.parametrize(
    ("model", "index", "group", "said"),
    [
        ("inception_v3", 249, "Mixed_7b", "249 of Keras's InceptionV3 is Mixed_7b."),
        ("inception_v3", 248, "Mixed_7b", "248 of Keras's InceptionV3 is mixed8, without variables; 249 is Mixed_7b."),
        ("inception_v3", 252, "Mixed_7b", "252 of Keras's InceptionV3 lies in Mixed_7b, which is trained as a whole."),
        ("inception_v3", 312, "Logits", "312 of Keras's InceptionV3 is Logits."),
        ("mobilenet_v2_035", 100, "expanded_conv_11", None),
        ("mobilenet_v1_025", 80, "Conv2d_13_depthwise", "80 of Keras's MobileNet is Conv2d_13_depthwise."),
        ("vgg_16", 15, "conv5", "15 of Keras's VGG16 is conv5."),
    ],
)
def test_an_index_in_slims_networks(model, index, group, said, caplog):
    assert scopes_from(model, str(index)) == scopes_of_layers(get_spec(model), f"from={group}")
    assert said is None or f"--trainable-from: {said}" in caplog.messages


def test_index_0_trains_all():
    assert scopes_from("mobilenet_v1_025", "0") == scopes_from("keras/mobilenet", "0") == ()


def test_a_name_is_a_group():
    assert scopes_from("resnet_v1_50", "block4") == scopes_of_layers(get_spec("resnet_v1_50"), "from=block4")


@pytest.mark.slow
@pytest.mark.parametrize("model", [name for name in APPLICATIONS if name != "nasnet_large"])
def test_every_index_has_its_group(model):
    """Groups follow each other as Keras's layers do, from all to the head."""
    num_scopes, sizes = len(group_names(get_spec(model))), []
    with contextlib.suppress(UserError):
        for index in range(1000):
            sizes.append(len(scopes_from(model, str(index))) or num_scopes)
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] == len(get_spec(model).head_scopes)


# Whole commands


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("from") / "records"
    write_records(folder, num_images=6)
    return write_records(folder, num_images=8, split="train")


def begin(data, run, *words):
    flags = ["--batch-size=4", "--eval-every=0", "--augmentation=none", "--cache-features=off", "--precision=float32"]
    return train.main([f"--dataset-dir={data}", f"--train-dir={run}", *flags, *words])


def test_what_it_comes_to_is_recorded_as_scopes(data, tmp_path):
    weights = tmp_path / "weights"
    weights.mkdir()
    write_run(weights, "mobilenet_v1_025", image_size=32)
    network = ["--model=mobilenet_v1_025", "--image-size=32", f"--checkpoint={weights}"]
    assert begin(data, tmp_path / "run", *network, "--trainable-from=80", "--max-steps=1") == 0
    recorded = read_toml(TrainSettings, tmp_path / "run" / "config.toml")
    assert recorded["trainable_scopes"] == scopes_from("mobilenet_v1_025", "80")
    assert "trainable_from" not in recorded
    before, after = Checkpoint(str(weights / "model.ckpt-7")), Checkpoint(str(tmp_path / "run/model.ckpt-1"))
    kernels = [name for name in before.shapes if name.endswith("weights")]
    changed = {name for name in kernels if not np.array_equal(before.read(name), after.read(name))}
    assert changed == {name for name in kernels if in_any_scope(name, recorded["trainable_scopes"])}


def test_stages_may_have_it(data, tmp_path):
    config = tmp_path / "stages.toml"
    stages = "[[stages]]\nsteps = 1\n[[stages]]\ntrainable_from = 'fc3'\nsteps = 1\n"
    config.write_text(stages, encoding="utf-8")
    assert begin(data, tmp_path / "run", "--model=lenet", "--image-size=8", f"--config={config}") == 0
    written = json.loads((tmp_path / "run" / "stages.json").read_text(encoding="utf-8"))["stages"]
    assert [stage["name"] for stage in written] == ["stage 1", "from fc3"]
    assert train.main(["--resume", f"--train-dir={tmp_path / 'run'}"]) == 0
    assert read_toml(TrainSettings, tmp_path / "run" / "config.toml")["stages"][1].own == {"trainable_from": "fc3"}


def test_a_layer_that_is_not_there_ends_before_anything_is_trained(data, tmp_path, capsys):
    assert begin(data, tmp_path / "run", "--model=mobilenet_v1_025", "--trainable-from=400", "--max-steps=2") == 2
    assert "--trainable-from is 400, but Keras's MobileNet has 91 layers" in capsys.readouterr().err
    assert not list(tmp_path.glob("run/model.ckpt*"))
