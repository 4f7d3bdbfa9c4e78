"""--resize: squash, crop and pad, in training, evaluation, prediction and exports alike, to the bit."""

import json
import sys

import numpy as np
import pytest
import tensorflow as tf
from test_preparing_images import page_functions
from test_preprocessing import resized, standardised
from tiny_runs import write_records, write_run

from finetune.api import (
    EvalSettings,
    ExportSettings,
    PredictSettings,
    TrainSettings,
    evaluate,
    export,
    restore_classifier,
    train,
)
from finetune.commands import evaluate as evaluate_command
from finetune.commands import train as train_command
from finetune.preprocessing import FAMILIES, get_preprocessing
from finetune.preprocessing.vgg import RGB_MEANS
from finetune.runs.provenance import changes_between
from finetune.runs.trained_network import network_settings
from finetune.settings.augmentation import AugmentationSettings
from finetune.settings.choices import RESIZES
from finetune.training.feature_inputs import _said

SIZE = 4
CLASSES = tuple(f"class_{number:02d}" for number in range(SIZE * SIZE * 3))
# A network that gives back the image that it is given, and notes those that it is trained on.
MODULE = f"""
import numpy as np
import tensorflow as tf
import tf_slim as slim

from finetune.nets.spec import NetSpec

SEEN = []


def noted(values):
    SEEN.append(values.copy())
    return np.zeros_like(values)

def pixels(images, num_classes, *, is_training):
    flat = slim.flatten(images)
    if is_training:
        flat += tf.ensure_shape(tf.numpy_function(noted, [flat], tf.float32), flat.shape)
    nothing = slim.fully_connected(flat, num_classes, activation_fn=None, scope="Pixels/logits",
        weights_initializer=tf.zeros_initializer(), biases_initializer=tf.zeros_initializer())
    return flat + 0 * nothing, {{}}


SPEC = NetSpec(name="pixels:SPEC", function="pixels:pixels", root_scope="Pixels", image_size={SIZE},
    head_scopes=("Pixels/logits",), layer_groups=(("Pixels/logits",),), preprocessing="inception", paper="none")
"""
# Whose values reach to 255, and those that do nothing at random unless it is asked for.
OF_256 = ("vgg", "keras_caffe", "keras_raw")
OF_KERAS = ("keras_caffe", "keras_raw", "keras_tf", "keras_torch")
NORMALISED = {
    "cifarnet": standardised,
    "inception": lambda image: image * 2 / 255 - 1,
    "keras_caffe": lambda image: image - np.array([123.68, 116.779, 103.939]),
    "keras_raw": lambda image: image,
    "keras_tf": lambda image: image / 127.5 - 1,
    "keras_torch": lambda image: image / 255 - np.array([0.485, 0.456, 0.406]),
    "lenet": lambda image: image / 128 - 1,
    "vgg": lambda image: image - RGB_MEANS,
}


def as_said(image, way, size):
    """The three ways in NumPy: of a picture of whose sides one is a multiple of the other."""
    height, width, _ = image.shape
    if way == "squash":
        return resized(image, size, size)
    by = size / (min(height, width) if way == "crop" else max(height, width))
    whole = resized(image, round(height * by), round(width * by))
    if way == "crop":
        y, x = (whole.shape[0] - size) // 2, (whole.shape[1] - size) // 2
        return whole[y : y + size, x : x + size]
    canvas = np.full([size, size, 3], 127.5)
    y, x = (size - whole.shape[0]) // 2, (size - whole.shape[1]) // 2
    canvas[y : y + whole.shape[0], x : x + whole.shape[1]] = whole
    return canvas


@pytest.mark.parametrize("sides", [(20, 61), (60, 20), (33, 33), (7, 5)])
@pytest.mark.parametrize("way", RESIZES)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_picture_becomes_a_square_as_its_name_says(family, way, sides):
    image = np.random.RandomState(3).randint(0, 256, [*sides, 3]).astype(np.uint8)
    prepared = get_preprocessing(family, resize=way).evaluate(tf.constant(image), 12, 12)
    expected = NORMALISED[family](as_said(image, way, 12))
    np.testing.assert_allclose(prepared, expected, rtol=0, atol=2e-3 if family in OF_256 else 2e-5)


@pytest.mark.parametrize("way", RESIZES)
@pytest.mark.parametrize("sides", [(1, 500), (500, 1), (1, 1)])
def test_pictures_of_a_pixels_height_too(way, sides):
    image = tf.constant(np.full([*sides, 3], 7, np.uint8))
    assert get_preprocessing("inception", resize=way).evaluate(image, 12, 12).shape == [12, 12, 3]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("way", RESIZES)
@pytest.mark.parametrize("family", FAMILIES)
def test_what_an_export_says_is_what_is_done(family, way, channels):
    preprocessing = get_preprocessing(family, resize=way)
    image = np.random.RandomState(5).randint(0, 256, [41, 23, channels]).astype(np.uint8)
    steps = json.loads(json.dumps(preprocessing.evaluation_steps(16, 16, channels)))
    prepared = page_functions()[0].apply_steps(image, steps)
    np.testing.assert_allclose(prepared, preprocessing.evaluate(tf.constant(image), 16, 16), rtol=0, atol=2e-4)


@pytest.mark.parametrize("augmentation", ["none", "flip", "crop", "default"])
@pytest.mark.parametrize("family", FAMILIES)
def test_what_training_does_with_it(family, augmentation):
    image = tf.constant(np.random.RandomState(5).randint(0, 256, [30, 47, 3]).astype(np.uint8))
    seed, settings = tf.constant([1, 2]), AugmentationSettings(augmentation=augmentation)
    outcomes = {
        way: get_preprocessing(family, settings, way).train(image, 8, 8, seed).numpy() for way in (None, *RESIZES)
    }
    preprocessing = get_preprocessing(family, settings, "pad")
    if preprocessing.trains_on_windows:
        assert family in ("inception", "vgg") and augmentation in ("crop", "default")
        assert all((outcome == outcomes[None]).all() for outcome in outcomes.values())
        return
    # By themselves Keras's families squash.
    assert len({outcome.tobytes() for outcome in outcomes.values()}) == (3 if family in OF_KERAS else 4)
    if augmentation == "none" or family == "lenet" or (family in OF_KERAS and augmentation != "flip"):
        plain = preprocessing.evaluate(image, 8, 8).numpy()
        mirrored = plain[:, ::-1] if augmentation == "flip" else plain
        assert (outcomes["pad"] == plain).all() or (outcomes["pad"] == mirrored).all()


@pytest.fixture
def pixels(tmp_path, monkeypatch):
    (tmp_path / "pixels.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    import pixels

    yield pixels
    sys.modules.pop("pixels", None)


@pytest.mark.parametrize("way", [None, *RESIZES])
@pytest.mark.parametrize("family", FAMILIES)
def test_train_evaluate_predict_and_export_see_the_same_image_to_the_bit(pixels, tmp_path, family, way):
    """Of a photograph that is no square; only the training is told how it is resized."""
    data = write_records(tmp_path / "data", classes=CLASSES, num_images=1)
    write_records(data, classes=CLASSES, num_images=1, split="train")
    (photograph,) = (data / "images").glob("train*")
    (data / "images" / "validation_00.jpg").write_bytes(photograph.read_bytes())
    run = tmp_path / "run"
    model = {"model": "pixels:SPEC", "trust_code": True}
    train(
        TrainSettings(
            dataset_dir=data,
            train_dir=run,
            preprocessing=family,
            resize=way,
            augmentation="none",
            max_steps=1,
            batch_size=1,
            **model,
        )
    )
    (trained,) = pixels.SEEN
    evaluated = evaluate(
        EvalSettings(checkpoint=(run,), dataset_dir=data, split="train", report=False, write_logits=True, **model)
    )
    np.testing.assert_array_equal(evaluated.scores.logits, trained)
    classifier = restore_classifier(PredictSettings(checkpoint=run, images=(str(photograph),), **model))
    np.testing.assert_array_equal(classifier.prepare(photograph.read_bytes()).numpy().ravel(), trained[0])
    export(ExportSettings(checkpoint=run, output_dir=tmp_path / "served", **model))
    served = tf.saved_model.load(str(tmp_path / "served")).signatures["serving_default"]
    answer = served(encoded=tf.constant([photograph.read_bytes()]))
    np.testing.assert_array_equal(answer["logits"], trained)
    assert json.loads((tmp_path / "served/export.json").read_text())["resize"] == way


def test_a_run_keeps_it_and_a_command_may_say_another(tmp_path):
    run = write_run(tmp_path / "run", resize="pad")
    prefix = str(run / "model.ckpt-7")
    assert network_settings(PredictSettings(checkpoint=run), prefix).resize == "pad"
    assert network_settings(PredictSettings(checkpoint=run, resize="crop"), prefix).resize == "crop"
    old = write_run(tmp_path / "old")
    assert network_settings(PredictSettings(checkpoint=old), str(old / "model.ckpt-7")).resize is None


def test_another_way_is_another_run_and_other_features():
    before, now = {"settings": {}}, {"settings": {"resize": "pad"}}
    assert [change.name for change in changes_between(before, now)] == ["resize"]
    assert _said(get_preprocessing("vgg", resize="pad")) != _said(get_preprocessing("vgg"))
    assert _said(get_preprocessing("vgg")) == {"name": "vgg", "augmentation": "default"}  # As older runs' key has it.


def test_that_random_windows_stay_their_own_is_said(records, tmp_path, capsys):
    words = [f"--dataset-dir={records}", "--model=cifarnet", "--preprocessing=inception", "--batch-size=4"]
    words += ["--max-steps=1", "--resize=pad"]
    assert train_command.main([*words, f"--train-dir={tmp_path / 'a'}"]) == 0
    assert "Training sees random windows as before" in capsys.readouterr().err
    assert 'resize = "pad"' in (tmp_path / "a/config.toml").read_text()
    assert train_command.main([*words, f"--train-dir={tmp_path / 'b'}", "--augmentation=none"]) == 0
    assert "random windows" not in capsys.readouterr().err


def test_an_unknown_way_is_refused(capsys, run, records):
    assert evaluate_command.main([f"--checkpoint={run}", f"--dataset-dir={records}", "--resize=stretch"]) == 2
    assert "--resize is 'stretch', not one of squash, crop, pad" in capsys.readouterr().err
