"""`--model my.keras`: somebody's own network out of a file, its weights, and the way back to plain Keras."""

import json
import zipfile

import keras
import numpy as np
import pytest
from tiny_runs import CLASSES

from finetune.commands import evaluate, export, import_weights, inspect, predict, train
from finetune.errors import UserError
from finetune.model.recognise import describe_variables
from finetune.nets import get_spec
from finetune.nets.keras_networks.model_file import read_model


def own_model(path, *, activation="softmax", top=()):
    """A base of two layers in a model of augmentation, range and head, as tutorials write it."""
    base = keras.Sequential(
        [
            keras.Input((24, 24, 3)),
            keras.layers.Conv2D(4, 3, strides=2, name="conv"),
            keras.layers.BatchNormalization(name="norm"),
            keras.layers.ReLU(),
        ],
        name="base",
    )
    images = keras.Input((24, 24, 3), name="images")
    values = keras.Sequential([keras.layers.RandomFlip("horizontal", name="flip")], name="augmentation")(images)
    values = keras.layers.Rescaling(1 / 127.5, offset=-1, name="range")(values)
    values = keras.layers.GlobalAveragePooling2D(name="pool")(base(values, training=False))
    for layer in top:
        values = layer(values)
    outputs = keras.layers.Dense(3, activation=activation, name="classes", kernel_regularizer="l2")(values)
    model = keras.Model(images, outputs, name="own")
    random = np.random.RandomState(0)
    model.set_weights([random.uniform(0.2, 1.5, weight.shape).astype(weight.dtype) for weight in model.get_weights()])
    model.save(path)
    return model


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    path = tmp_path_factory.mktemp("own") / "own.keras"
    return path, own_model(path)


@pytest.fixture(scope="module")
def imported(own):
    path, _ = own
    prefix = path.with_name("own.ckpt")
    assert import_weights.main([str(path), f"--model={path}", f"--output={prefix}"]) == 0
    return prefix


def test_the_record_of_a_file(own):
    path, model = own
    spec = get_spec(str(path))
    assert spec.layer_groups == (("conv", "norm"), ("classes",))
    assert (spec.head_scopes, spec.image_size, spec.channels) == (("classes",), 24, 3)
    assert spec.preprocessing == "keras_raw"
    assert spec.num_parameters == sum(weight.numpy().size for weight in model.trainable_weights)


def test_out_of_keras_and_back(own, imported, records, tmp_path, capsys):
    path, model = own
    words = [f"--checkpoint={imported}", f"--model={path}", f"--output-dir={tmp_path / 'out'}", "--format=keras"]
    assert export.main(words) == 0
    loaded = keras.saving.load_model(tmp_path / "out/classifier.keras")
    images = np.random.RandomState(1).uniform(0, 255, [4, 24, 24, 3]).astype(np.float32)
    expected = model.predict(images, verbose=0)
    assert np.ptp(expected, axis=0).max() > 1e-3
    np.testing.assert_allclose(loaded.predict(images, verbose=0), expected, atol=1e-5)


def test_a_run_keeps_the_network(own, imported, records, tmp_path, capsys):
    path, _ = own
    copy = tmp_path / "copy.keras"
    copy.write_bytes(path.read_bytes())
    run = tmp_path / "run"
    words = [f"--dataset-dir={records}", f"--model={copy}", f"--train-dir={run}", "--batch-size=4"]
    assert train.main([*words, "--max-steps=1"]) == 2
    assert f"finetune-import {copy}" in capsys.readouterr().err
    words.append(f"--checkpoint={imported}")
    assert train.main([*words, "--max-steps=1", "--trainable-scopes=classes"]) == 0
    assert "keras_raw" in (run / "config.toml").read_text()
    copy.write_text("something else")
    assert train.main([f"--train-dir={run}", "--resume", "--max-steps=2"]) == 0
    assert f"{copy} is another network by now" in capsys.readouterr().err
    copy.unlink()
    assert inspect.main([str(run), "--summary"]) == 0
    assert evaluate.main([f"--checkpoint={run}", f"--dataset-dir={records}"]) == 0
    assert predict.main([f"--checkpoint={run}", str(records / "images/train_00.jpg")]) == 0
    assert export.main([f"--checkpoint={run}", f"--output-dir={tmp_path / 'out'}", "--format=keras"]) == 0
    assert keras.saving.load_model(tmp_path / "out/classifier.keras").output_shape == (None, len(CLASSES))


def test_other_exports(own, imported, tmp_path, capsys):
    words = [f"--checkpoint={imported}", f"--model={own[0]}", f"--output-dir={tmp_path / 'out'}"]
    assert export.main([*words, "--format=keras-weights"]) == 2
    assert "--format keras." in capsys.readouterr().err


def test_a_lambda_layer_is_refused(tmp_path, capsys):
    path = tmp_path / "lambda.keras"
    own_model(path, top=[keras.layers.Lambda(lambda values: values * 2, name="twice")])
    assert import_weights.main([str(path), f"--model={path}", f"--output={tmp_path / 'x.ckpt'}"]) == 2
    error = capsys.readouterr().err
    assert "Traceback" not in error
    assert "twice" in error
    assert "Lambda" in error
    assert not (tmp_path / "x.ckpt.index").exists()


@keras.saving.register_keras_serializable("mine")
class Mine(keras.layers.Layer):
    """Of somebody's package."""

    def call(self, values):
        return values


def test_a_custom_layer_is_refused(tmp_path):
    path = tmp_path / "custom.keras"
    own_model(path, top=[Mine(name="my_layer")])
    with pytest.raises(UserError, match=r"my_layer.*Mine"):
        get_spec(str(path))


def changed(own, path, change):
    """The file with other content in its architecture."""
    with zipfile.ZipFile(own[0]) as source, zipfile.ZipFile(path, "w") as target:
        architecture = json.loads(source.read("config.json"))
        change(architecture)
        target.writestr("config.json", json.dumps(architecture))
        target.writestr("model.weights.h5", source.read("model.weights.h5"))
    return str(path)


def layer_of(architecture, name):
    (layer,) = (layer for layer in architecture["config"]["layers"] if layer["config"]["name"] == name)
    return layer


FUNCTION = {"module": "os", "class_name": "function", "config": "system", "registered_name": "system"}


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (lambda a: layer_of(a, "classes")["config"].update(activation=FUNCTION), "classes.*activation.*system"),
        (lambda a: layer_of(a, "classes")["config"].update(kernel_initializer=FUNCTION), "classes.*function.*os"),
        (lambda a: layer_of(a, "pool").update(module="os.path"), "pool.*os.path"),
        (lambda a: layer_of(a, "classes")["config"].update(units=10**9), "values"),
        (lambda a: layer_of(a, "classes")["config"].update(units="many"), "units of classes"),
        (lambda a: layer_of(a, "range")["config"].update(scale="x"), "range has scale 'x'"),
        (lambda a: layer_of(a, "range")["config"].update(offset=[1, 2]), "compute|fit"),
        (lambda a: layer_of(a, "pool").update(inbound_nodes=[[["base", 0, 0, {}]]]), "Keras 2"),
        (lambda a: layer_of(a, "pool")["inbound_nodes"][0]["args"][0]["config"].update(keras_history=1), "pool takes"),
        (lambda a: a.update(class_name="Classifier", module="mine"), "Classifier of mine"),
        (lambda a: a["config"].update(layers=[]), "no list"),
        (lambda a: layer_of(a, "images")["config"].update(batch_shape=[None, 24, 32, 3]), "24×32"),
        (lambda a: layer_of(a, "images")["config"].update(name="../x"), "called"),
    ],
)
def test_what_a_file_says_is_not_believed(own, tmp_path, change, parts):
    with pytest.raises(UserError, match=parts):
        describe_variables(get_spec(changed(own, tmp_path / "changed.keras", change)), 3)


def test_more_than_the_file_holds_takes_no_memory(own, tmp_path, capsys):
    path = changed(own, tmp_path / "huge.keras", lambda a: layer_of(a, "classes")["config"].update(units=10**7))
    assert import_weights.main([path, f"--model={path}", f"--output={tmp_path / 'x.ckpt'}"]) == 2
    assert "bytes" in capsys.readouterr().err


def test_a_long_architecture_is_not_read(tmp_path):
    path = tmp_path / "bomb.keras"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as target:
        target.writestr("config.json", " " * (2**24 + 1))
    with pytest.raises(UserError, match="bytes"):
        read_model(str(path))


def test_what_makes_probabilities_is_taken_off(tmp_path):
    path = tmp_path / "sequential.keras"
    layers = [keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(2), keras.layers.Softmax()]
    keras.Sequential(layers).save(path)
    spec = get_spec(str(path))
    assert "Softmax" not in spec.arguments["architecture"]
    assert (spec.channels, spec.preprocessing) == (1, "keras_tf")
