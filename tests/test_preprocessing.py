"""Preprocessing: evaluation against slim's figures and NumPy, training against what its randomness may do."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from finetune.errors import UserError
from finetune.nets import MODELS
from finetune.preprocessing import FAMILIES, get_preprocessing
from finetune.preprocessing.geometry import crop
from finetune.settings.augmentation import AugmentationSettings
from finetune.settings.choices import AUGMENTATIONS

REFERENCE = json.loads((Path(__file__).parent / "reference" / "preprocessing.json").read_text())
RANDOM_FAMILIES = ("cifarnet", "inception", "vgg")


def augmented(name, augmentation, **details):
    return get_preprocessing(name, AugmentationSettings(augmentation=augmentation, **details))


def noise(height, width, channels=3):
    random = np.random.RandomState(height + width)
    return random.randint(0, 256, [height, width, channels], dtype=np.uint8)


def ramp(height, width):
    """Column x has the value x, in three channels."""
    return tf.constant(np.tile(np.arange(width, dtype=np.uint8)[None, :, None], [height, 1, 3]))


def over_seeds(function, num_seeds):
    """`function(seed)` for many seeds, in a graph that doesn't know them."""
    seeds = tf.data.Dataset.range(num_seeds).map(lambda number: tf.stack([number, 7]))
    return np.stack(list(seeds.map(function).as_numpy_iterator()))


def resized(image, height, width):
    """Bilinear resizing as TensorFlow 1 samples: output i looks at i * input / output."""

    def along_rows(values, size):
        at = np.arange(size) * (len(values) / size)
        below = at.astype(int)
        above = np.minimum(below + 1, len(values) - 1)
        part = (at - below)[:, None, None]
        return values[below] * (1 - part) + values[above] * part

    return along_rows(along_rows(image.astype(float), height).swapaxes(0, 1), width).swapaxes(0, 1)


def centre_crop_or_pad(image, size):
    """Cuts or pads with zeros, the odd pixel after, to a square."""
    canvas = np.pad(image, [(size, size), (size, size), (0, 0)])
    y, x = ((np.array(canvas.shape[:2]) - size + [image.shape[0] < size, image.shape[1] < size]) // 2).tolist()
    return canvas[y : y + size, x : x + size].astype(float)


def standardised(image):
    return (image - image.mean()) / max(image.std(), 1 / np.sqrt(image.size))


@pytest.mark.parametrize("key", REFERENCE)
def test_evaluation_of_photographs_equals_slims(key, shared_dir):
    kind, _, file = key.partition("/")
    expected = REFERENCE[key]
    encoded = (shared_dir / "data/flowers12/images" / file).read_bytes()
    height, width, _ = expected["shape"]
    family = FAMILIES[kind.split("_")[0]]
    image = family.evaluate(tf.io.decode_jpeg(encoded), height, width).numpy()
    tolerance = 2e-3 * (expected["max"] - expected["min"])
    lines = expected["grid_rows_and_columns"]
    np.testing.assert_allclose(image[np.ix_(lines, lines)], expected["grid"], rtol=0, atol=tolerance)
    measured = [image.min(), image.max(), image.mean(), image.std()]
    np.testing.assert_allclose(
        measured, [expected[name] for name in ("min", "max", "mean", "std")], rtol=0, atol=tolerance
    )


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("height", "width"), [(64, 80), (33, 20)])
def test_inception_evaluation(height, width, channels):
    image = noise(height, width, channels)
    top, left = int(height * 0.125 / 2), int(width * 0.125 / 2)
    expected = resized(image[top : height - top, left : width - left], 48, 40) / 127.5 - 1
    np.testing.assert_allclose(FAMILIES["inception"].evaluate(image, 48, 40), expected, atol=1e-5)


@pytest.mark.parametrize(("height", "width", "size", "short_side"), [(60, 90, 224, 256), (50, 31, 448, 512)])
def test_vgg_evaluation(height, width, size, short_side):
    image = noise(height, width)
    sides = np.round(np.array([height, width]) * short_side / min(height, width)).astype(int)
    top, left = (sides - size) // 2
    expected = resized(image, *sides)[top : top + size, left : left + size] - [123.68, 116.78, 103.94]
    np.testing.assert_allclose(FAMILIES["vgg"].evaluate(image, size, size), expected, atol=2e-3)


def test_vgg_of_a_grey_image_is_the_grey_of_vgg():
    image = noise(60, 90)
    grey = image @ np.array([[0.2989], [0.587], [0.114]])
    coloured = FAMILIES["vgg"].evaluate(image, 224, 224) @ np.array([[0.2989], [0.587], [0.114]], np.float32)
    np.testing.assert_allclose(
        FAMILIES["vgg"].evaluate(grey.round().astype(np.uint8), 224, 224), coloured, rtol=0, atol=0.51
    )


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("height", "width"), [(40, 51), (32, 32), (20, 45)])
def test_cifarnet_and_lenet_evaluation(height, width, channels):
    image = noise(height, width, channels)
    middle = centre_crop_or_pad(image, 32)
    np.testing.assert_allclose(FAMILIES["cifarnet"].evaluate(image, 32, 32), standardised(middle), atol=1e-5)
    np.testing.assert_allclose(FAMILIES["lenet"].evaluate(image, 32, 32), middle / 128 - 1, atol=1e-6)


RANGES = {
    "cifarnet": (-100, 100),
    "inception": (-1, 1),
    "keras_caffe": (-123.69, 151.07),
    "keras_raw": (0, 255),
    "keras_tf": (-1, 1),
    "keras_torch": (-0.486, 0.6),
    "lenet": (-1, 1),
    "vgg": (-123.69, 151.07),
}


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (231, 517)])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", FAMILIES)
def test_any_image_in_a_graph_that_does_not_know_its_size(name, channels, shape):
    family = get_preprocessing(name)
    low, high = RANGES[name]
    signature = (tf.TensorSpec([None, None, channels], tf.uint8),)
    images = tf.data.Dataset.from_generator(lambda: [(noise(*shape, channels),)], output_signature=signature)
    results = images.map(lambda image: (family.train(image, 48, 40, [1, 2]), family.evaluate(image, 48, 40)))
    for image in next(iter(results)):
        assert image.dtype == tf.float32
        assert image.shape == [48, 40, channels]
        assert low <= np.min(image) <= np.max(image) <= high
    assert [spec.shape for spec in results.element_spec] == [[48, 40, channels]] * 2


@pytest.mark.parametrize("name", RANDOM_FAMILIES)
def test_a_seed_decides_everything(name):
    family = get_preprocessing(name)
    image = tf.constant(noise(60, 70))
    first = over_seeds(lambda seed: family.train(image, 32, 32, seed), 8)
    again = over_seeds(lambda seed: family.train(image, 32, 32, seed), 8)
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(first[3], family.train(image, 32, 32, tf.constant([3, 7])))
    assert len(np.unique(first, axis=0)) == 8


@pytest.mark.parametrize("augmentation", AUGMENTATIONS)
@pytest.mark.parametrize("name", FAMILIES)
def test_training_in_two_steps_is_training_in_one(name, augmentation):
    family = augmented(name, augmentation)
    image = tf.constant(noise(60, 70))
    for number in range(4):
        window = family.training_window(tf.shape(image), 32, 32, [number, 0])
        cut = image if window is None else crop(image, window)
        np.testing.assert_array_equal(
            family.finish_training(cut, 32, 32, [number, 0]), family.train(image, 32, 32, [number, 0])
        )


def test_inception_windows_have_the_promised_areas_and_shapes():
    windows = over_seeds(lambda seed: get_preprocessing("inception").training_window([300, 400, 3], 32, 32, seed), 500)
    y, x, height, width = windows.T
    assert (y >= 0).all() and (x >= 0).all() and (y + height <= 300).all() and (x + width <= 400).all()
    area = height * width / (300 * 400)
    assert 0.09 < area.min() < 0.15 and 0.8 < area.max() <= 1
    ratio = width / height
    assert 0.74 < ratio.min() < 0.8 and 1.25 < ratio.max() < 1.35


def test_inception_changes_brightness_within_bounds():
    image = tf.fill([40, 40, 3], tf.constant(100, tf.uint8))
    values = over_seeds(lambda seed: get_preprocessing("inception").train(image, 8, 8, seed), 200)
    assert np.ptp(values, axis=(1, 2, 3)).max() < 1e-5  # an image without colour stays so
    change = (values[:, 0, 0, 0] + 1) * 127.5 - 100
    assert -32.01 < change.min() < -25 and 25 < change.max() < 32.01


def test_inception_changes_saturation_within_bounds():
    image = tf.constant(np.full([40, 40, 3], [150, 120, 100], np.uint8))
    values = over_seeds(lambda seed: get_preprocessing("inception").train(image, 8, 8, seed), 200)
    red, green, blue = (values[:, 0, 0] + 1).T * 127.5
    factor = (red - blue) / 50
    assert 0.499 < factor.min() < 0.6 and 1.4 < factor.max() < 1.501
    np.testing.assert_allclose((red - green) / (red - blue), 0.6, atol=1e-3)  # the hue stays


def test_vgg_scales_within_bounds_and_cuts_anywhere():
    image = ramp(256, 256)
    rows = over_seeds(lambda seed: get_preprocessing("vgg").train(image, 224, 224, seed)[0, :, 0], 300) + 123.68
    rows = np.where(rows[:, :1] > rows[:, -1:], rows[:, ::-1], rows)
    source_pixels = (rows[:, 200] - rows[:, 0]) / 200 * 224
    assert 111.9 < source_pixels.min() < 115 and 215 < source_pixels.max() < 224.1
    position = rows[:, 0] / (256 - source_pixels)
    assert position.min() < 0.05 and position.max() > 0.95 and abs(position.mean() - 0.5) < 0.1


def test_cifarnet_cuts_out_of_a_margin_of_four_pixels():
    image = noise(32, 32, 1)
    padded = np.pad(image, [(4, 4), (4, 4), (0, 0)])
    cuts = {
        (y, x, step): standardised(padded[y : y + 32, x : x + 32][:, ::step].astype(float))
        for y in range(9)
        for x in range(9)
        for step in (1, -1)
    }
    # Of a grey image, changes of brightness and contrast leave nothing behind after standardisation.
    results = over_seeds(lambda seed: get_preprocessing("cifarnet").train(image, 32, 32, seed), 60)
    found = [min(cuts, key=lambda cut: np.abs(cuts[cut] - result).max()) for result in results]
    for result, cut in zip(results, found, strict=True):
        np.testing.assert_allclose(result, cuts[cut], atol=1e-4)
    assert [len({cut[part] for cut in found}) for part in range(3)] == [9, 9, 2]


@pytest.mark.parametrize("name", RANDOM_FAMILIES)
def test_half_of_all_images_are_mirrored(name):
    image = ramp(200, 200)
    images = over_seeds(lambda seed: get_preprocessing(name).train(image, 32, 32, seed), 300)[:, 16, :, 0]
    mirrored = images[:, 8] > images[:, 24]
    assert 0.4 < mirrored.mean() < 0.6


def test_light_augmentation_is_evaluation_mirrored_or_not():
    image = noise(60, 70)
    plain = FAMILIES["inception"].evaluate(image, 32, 32).numpy()
    images = over_seeds(lambda seed: augmented("inception", "flip").train(image, 32, 32, seed), 200)
    is_plain = (images == plain).all((1, 2, 3))
    is_mirrored = (images == plain[:, ::-1]).all((1, 2, 3))
    assert (is_plain ^ is_mirrored).all()
    assert 0.4 < is_mirrored.mean() < 0.6
    np.testing.assert_array_equal(augmented("inception", "none").train(image, 32, 32, [1, 2]), plain)


@pytest.mark.parametrize("name", RANDOM_FAMILIES)
def test_cropping_changes_no_colours(name):
    image = tf.constant(np.full([400, 400, 3], [90, 120, 150], np.uint8))
    family = augmented(name, "crop")
    cropped = over_seeds(lambda seed: family.train(image, 32, 32, seed), 20)
    if name == "cifarnet":  # Brought to mean 0 and deviation 1; only a cut into the black margin has other values.
        values = [len(np.unique(image.round(3))) for image in cropped]
        assert np.median(values) == 3
    else:
        np.testing.assert_allclose(cropped, np.broadcast_to(family.evaluate(image, 32, 32), cropped.shape), atol=1e-4)


def test_brightness_says_nothing_about_the_flip():
    image = ramp(200, 200)
    images = over_seeds(lambda seed: get_preprocessing("inception").finish_training(image, 32, 32, seed), 300)[
        :, 16, :, 0
    ]
    mirrored = images[:, 8] > images[:, 24]
    brightness = images.mean(1)
    assert abs(np.corrcoef(mirrored, brightness)[0, 1]) < 0.2


@pytest.mark.parametrize("name", MODELS)
def test_every_network_has_a_preprocessing(name):
    assert get_preprocessing(name).name == MODELS[name].preprocessing


def test_names_that_slim_forgot():
    assert get_preprocessing("mobilenet_v1_075").name == "inception"
    assert get_preprocessing("alexnet_v2").name == "vgg"


def test_unknown_names_are_told_with_the_nearest():
    with pytest.raises(UserError, match=r"'incepton'.*\n.*Did you mean inception"):
        get_preprocessing("incepton")
    with pytest.raises(UserError, match=r"'flop'.*\n.*Did you mean flip"):
        augmented("vgg", "flop")


def test_the_table_needs_no_tensorflow():
    program = "import sys; from finetune.preprocessing import get_preprocessing as g; g('vgg'); print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert "finetune.preprocessing" in modules.split() and "tensorflow" not in modules.split()


@pytest.mark.parametrize("augmentation", AUGMENTATIONS)
@pytest.mark.parametrize("name", FAMILIES)
def test_training_is_random_where_the_family_says_so(name, augmentation):
    preprocessing = augmented(name, augmentation)
    image = tf.constant(noise(40, 50))
    outcomes = over_seeds(lambda seed: preprocessing.train(image, 32, 32, seed), 20)
    assert np.any(outcomes != outcomes[0]) == preprocessing.is_random
