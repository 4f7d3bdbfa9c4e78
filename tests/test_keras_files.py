"""A finished network as a `.keras` file: plain Keras loads it, and computes what the network does."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from tiny_runs import CLASSES, write_run

from finetune.commands import export, import_weights
from finetune.datasets.description import write_labels
from finetune.errors import UserError
from finetune.evaluation.scoring import inference_function
from finetune.exports.image_preparation import image_preparation
from finetune.exports.keras_images import images_for_keras, refuse_other_head, steps_for_keras
from finetune.exports.measure import fixed_batch
from finetune.model.checkpoint import write_checkpoint
from finetune.model.model import Model
from finetune.nets import get_spec
from finetune.nets.heads import Head, with_head
from finetune.prediction.classifier import restore_classifier
from finetune.preprocessing import get_preprocessing
from finetune.settings.export import ExportSettings


def write_keras_run(folder, model):
    """A run of a network for images of 32 pixels, its weights random and its moving statistics those of noise."""
    network = Model(get_spec(model), len(CLASSES), image_size=32)
    network.batch_norm_decay = 0.0
    noise = tf.random.stateless_uniform([16, 32, 32, 3], [1, 2], -1.0, 1.0)
    tf.function(lambda: network(noise, is_training=True, seed=tf.constant([3, 4, 0])).logits, autograph=False)()
    values = {name: variable.numpy() for name, variable in network.model_variables.items()}
    write_checkpoint(folder / "model.ckpt-7", {**values, "global_step": np.int64(7)})
    (folder / "config.toml").write_text(f'model = "{model}"\ndataset_dir = "nowhere"\nimage_size = 32\n')
    write_labels(folder / "labels.txt", CLASSES)
    return folder


@pytest.fixture(scope="module")
def mobilenet(tmp_path_factory):
    return write_keras_run(tmp_path_factory.mktemp("runs") / "mobilenet_v2", "keras/mobilenet_v2")


@pytest.fixture(scope="module")
def exported(mobilenet):
    output = mobilenet.with_name("exported")
    assert run_export(mobilenet, output, "--format=keras") == 0
    return output


def run_export(run, output, *words):
    return export.main([f"--checkpoint={run}", f"--output-dir={output}", *words])


def images_and_probabilities(run, **settings):
    """Prepared images, and what the network makes of them."""
    classifier = restore_classifier(ExportSettings(checkpoint=run, output_dir=run, **settings))
    images = fixed_batch(classifier).images
    probabilities = np.asarray(keras.ops.softmax(inference_function(classifier.model)(images)))
    assert np.ptp(probabilities, axis=0).max() > 1e-3  # They tell images apart.
    return images, probabilities


def test_a_network_of_keras_as_plain_keras_loads_it(mobilenet, exported):
    loaded = keras.saving.load_model(exported / "classifier.keras")
    assert loaded.input_shape == (None, 32, 32, 3)
    assert loaded.layers[-1].name == "predictions"
    images, expected = images_and_probabilities(mobilenet)
    np.testing.assert_allclose(loaded.predict(images, verbose=0), expected, atol=1e-4)
    description = json.loads((exported / "export.json").read_text())
    assert description["class_names"] == list(CLASSES)
    assert "preprocess_input of" in description["files"][0]["loading"]


def test_and_back_in_again(tmp_path, mobilenet, exported):
    file, prefix = exported / "classifier.keras", tmp_path / "back.ckpt"
    assert import_weights.main([str(file), f"--model={file}", f"--output={prefix}"]) == 0
    images, expected = images_and_probabilities(mobilenet)
    same_images, probabilities = images_and_probabilities(prefix, model=str(file))
    np.testing.assert_array_equal(same_images, images)
    np.testing.assert_allclose(probabilities, expected, atol=1e-4)


def test_weights_for_an_application(tmp_path, mobilenet):
    assert run_export(mobilenet, tmp_path / "out", "--format=keras-weights") == 0
    (file,) = json.loads((tmp_path / "out/export.json").read_text())["files"]
    call, _, _ = file["loading"].partition(".load_weights(file). ")
    network = eval(call, {"keras": keras})
    network.load_weights(tmp_path / "out" / file["file"])
    images, expected = images_and_probabilities(mobilenet)
    np.testing.assert_allclose(keras.ops.softmax(network(images, training=False)), expected, atol=1e-4)


def test_a_network_of_slim_that_keras_has_too(tmp_path):
    run = write_run(tmp_path / "run", "mobilenet_v1_025", image_size=64)
    assert run_export(run, tmp_path / "out", "--format=keras") == 0
    loaded = keras.saving.load_model(tmp_path / "out/classifier.keras")
    assert loaded.input_shape == (None, 64, 64, 3)
    images, expected = images_and_probabilities(run)
    np.testing.assert_allclose(loaded.predict(images, verbose=0), expected, atol=1e-4)
    (file,) = json.loads((tmp_path / "out/export.json").read_text())["files"]
    assert "Not by its preprocess_input" in file["loading"]


class OneOfMany:
    """What of a classifier says how its images are prepared."""

    def __init__(self, model, colours):
        spec = type("Spec", (), {"name": model, "arguments": {"colours": colours}})()
        self.model = type("Network", (), {"spec": spec, "image_size": 4, "channels": 3})()
        self.image_rules = type("Rules", (), {"background_rgb": None, "sample_bits": None})()
        self.preprocessing = get_preprocessing(f"keras_{'caffe' if colours == 'bgr' else 'torch'}")


@pytest.mark.parametrize(
    ("model", "colours", "mode", "order"),
    [("keras/resnet50", "bgr", "caffe", "BGR"), ("keras/densenet121", "deviations", "torch", "RGB")],
)
def test_its_images_are_those_of_preprocess_input(model, colours, mode, order):
    classifier = OneOfMany(model, colours)
    pixels = np.random.RandomState(0).randint(0, 256, [2, 4, 4, 3]).astype(np.uint8)
    prepared = np.stack([classifier.preprocessing.evaluate(tf.constant(image), 4, 4) for image in pixels])
    found = images_for_keras(classifier, prepared)
    expected = keras.applications.imagenet_utils.preprocess_input(pixels.astype(np.float32), mode=mode)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    told = image_preparation(classifier, by_caller=True, more_steps=steps_for_keras(classifier))
    assert told["result"]["channel_order"] == order
    extremes = np.float32([[[[0, 0, 0], [255, 255, 255]]]])
    bounds = keras.applications.imagenet_utils.preprocess_input(extremes, mode=mode)[0, 0]
    np.testing.assert_allclose(told["result"]["value_range"]["least"], bounds[0], rtol=1e-5)
    np.testing.assert_allclose(told["result"]["value_range"]["largest"], bounds[1], rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["keras/vgg16", "keras/efficientnet_b0"])
def test_colours_of_a_whole_network(tmp_path, capsys, model):
    """`finetune-export` itself compares it with the network, on the images that it says that it takes."""
    run = write_keras_run(tmp_path / "run", model)
    assert run_export(run, tmp_path / "out", "--format=keras") == 0
    assert run_export(run, tmp_path / "weights", "--format=keras-weights") == (2 if "efficientnet" in model else 0)
    assert ("--format keras," in capsys.readouterr().err) == ("efficientnet" in model)


def test_another_head_is_refused():
    with pytest.raises(UserError, match=r"--head mlp:4[^\n]*\n.*saved_model"):
        refuse_other_head(with_head(get_spec("mobilenet_v1_025"), Head((4,))))


def test_what_keras_does_not_have_is_refused(tmp_path, run, capsys):
    assert run_export(run, tmp_path / "out", "--format=keras") == 2
    error = capsys.readouterr().err
    assert "cifarnet" in error
    assert "--format saved_model" in error
    assert not (tmp_path / "out").exists()
