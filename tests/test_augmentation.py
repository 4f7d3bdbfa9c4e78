"""Augmentations: Keras's movements against Keras, RandAugment's operations against Pillow, all against what they say."""

import numpy as np
import pytest
import tensorflow as tf
from image_files import picture
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from finetune.preprocessing import FAMILIES, get_preprocessing, keras_affine, operations
from finetune.preprocessing.geometry import transform
from finetune.preprocessing.randaugment import OPERATIONS, randaugment
from finetune.settings.augmentation import AugmentationSettings

SIZE = 96
GREY = (128, 128, 128)
BILINEAR = {"resample": Image.Resampling.BILINEAR, "fillcolor": GREY}


def made(name, augmentation, **details):
    return get_preprocessing(name, AugmentationSettings(augmentation=augmentation, **details))


def over_seeds(function, num_seeds):
    seeds = tf.data.Dataset.range(num_seeds).map(lambda number: tf.stack([number, 7]))
    return np.stack(list(seeds.map(function).as_numpy_iterator()))


@pytest.fixture(scope="module")
def photograph(shared_dir):
    path = sorted((shared_dir / "data/flowers12/images").rglob("*.jpg"))[5]
    return Image.open(path).convert("RGB").resize((SIZE, SIZE))


def pixels(image):
    array = np.asarray(image, np.float32)
    return tf.constant(array if array.ndim == 3 else array[..., None])


# RandAugment's operations


def enhanced(kind):
    return lambda image, factor: kind(image).enhance(factor)


OF_PILLOW = {
    "autocontrast": (ImageOps.autocontrast, ()),
    "equalize": (ImageOps.equalize, ()),
    "solarize": (ImageOps.solarize, (26, 100, 230)),
    "posterize": (ImageOps.posterize, (4, 7)),
    "color": (enhanced(ImageEnhance.Color), (0.19, 1.81)),
    "contrast": (enhanced(ImageEnhance.Contrast), (0.19, 1.81)),
    "brightness": (enhanced(ImageEnhance.Brightness), (0.19, 1.81)),
    "sharpness": (enhanced(ImageEnhance.Sharpness), (0.19, 1.81)),
}


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("name", OF_PILLOW)
def test_operations_on_values_are_pillows_to_rounding(name, mode, photograph):
    of_pillow, arguments = OF_PILLOW[name]
    image = photograph.convert(mode)
    for values in [(argument,) for argument in arguments] or [()]:
        expected = pixels(of_pillow(image, *values)).numpy()
        ours = getattr(operations, name)(pixels(image), *values).numpy()
        # Pillow rounds the grey, or the blur, before it blends.
        assert np.abs(ours - expected).max() < 1.5
        assert not np.array_equal(expected, pixels(image)) or (name, mode) == ("color", "L")


def test_operations_on_values_of_a_single_value():
    image = tf.fill([5, 5, 3], 90.0)
    for name in ("autocontrast", "equalize"):
        np.testing.assert_array_equal(getattr(operations, name)(image), image)
    np.testing.assert_array_equal(operations.sharpness(image[:2], 1.9), image[:2])


def affine(*rows):
    return lambda image: image.transform(image.size, Image.Transform.AFFINE, rows, **BILINEAR)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(
    ("name", "amount", "of_pillow"),
    [
        ("rotate", 27, lambda amount: lambda image: image.rotate(amount, **BILINEAR)),
        ("shear_x", 0.27, lambda amount: affine(1, amount, 0, 0, 1, 0)),
        ("shear_y", 0.27, lambda amount: affine(1, 0, 0, amount, 1, 0)),
        ("translate_x", 0.4, lambda amount: affine(1, 0, amount * SIZE, 0, 1, 0)),
        ("translate_y", 0.4, lambda amount: affine(1, 0, 0, 0, 1, amount * SIZE)),
    ],
)
def test_movements_are_pillows_to_rounding(name, amount, sign, of_pillow, photograph):
    move = of_pillow(sign * amount)
    expected = pixels(move(photograph)).numpy()
    ours = getattr(operations, name)(pixels(photograph), sign * amount).numpy()
    # Along the border of the picture, Pillow doesn't mix it with what is beyond.
    of_picture = np.asarray(move(Image.new("RGB", photograph.size, (255, 255, 255))).filter(ImageFilter.MinFilter(3)))
    beyond = np.asarray(move(Image.new("RGB", photograph.size)).filter(ImageFilter.MinFilter(3)))
    sure = (of_picture == 255) | (beyond == 128)
    sure[[0, -1]] = sure[:, [0, -1]] = False
    assert sure.mean() > 0.85
    assert np.abs(ours - expected)[sure].max() < 1.01
    assert np.abs(ours - pixels(photograph)).mean() > 10


def test_every_operation_is_drawn_as_often_and_in_both_directions(monkeypatch):
    image = tf.constant(np.random.RandomState(1).randint(60, 180, [24, 24, 3]).astype(np.float32))
    outcomes = {
        (name, direction): operation(image, tf.constant(direction), 0.5).numpy()
        for name, operation in OPERATIONS.items()
        for direction in (1.0, -1.0)
    }
    drawn = over_seeds(lambda seed: randaugment(image, 1, 5, seed), 700)
    counts = dict.fromkeys(outcomes, 0)
    for one in drawn:
        found = [key for key, outcome in outcomes.items() if np.abs(outcome - one).max() < 1e-3]
        assert found
        for key in found:
            counts[key] += 1
    assert len(OPERATIONS) == 14
    for name in OPERATIONS:
        assert 25 < max(counts[name, 1.0], counts[name, -1.0]) < 80
    for name in ("rotate", "color", "contrast", "brightness", "sharpness", "shear_x", "translate_y"):
        assert min(counts[name, 1.0], counts[name, -1.0]) > 10


@pytest.mark.parametrize("name", set(OPERATIONS) - {"identity", "autocontrast", "equalize"})
def test_more_strength_is_more_of_a_change(name, photograph):
    image = pixels(photograph)
    operation = OPERATIONS[name]
    for direction in (1.0, -1.0):
        changes = [np.abs(operation(image, tf.constant(direction), part) - image).mean() for part in (0.1, 0.5, 1.0)]
        assert changes == sorted(changes)
        assert changes[-1] > changes[0]


def test_randaugment_does_as_many_operations_as_it_is_told():
    image = tf.constant(np.random.RandomState(1).randint(0, 256, [24, 24, 3]).astype(np.float32))
    seeds = [tf.constant([number, 3]) for number in range(12)]
    for seed in seeds:
        drawn = randaugment(image, 3, 4, seed)
        assert drawn.shape == image.shape
        assert 0 <= np.min(drawn) <= np.max(drawn) <= 255
    once, thrice = ([randaugment(image, count, 9, seed).numpy() for seed in seeds] for count in (1, 3))
    same = [np.array_equal(one, three) for one, three in zip(once, thrice, strict=True)]
    assert sum(same) < 3


# Keras


CASES = [
    {"theta": 30.0},
    {"tx": 12.5, "ty": -7.0},
    {"shear": 11.5},
    {"zx": 0.8, "zy": 1.2},
    {"theta": -25.0, "tx": 9.0, "ty": 4.0, "shear": -8.0, "zx": 1.15, "zy": 0.9},
]


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.filterwarnings("ignore:Please import")  # Keras's own, of SciPy.
def test_movements_are_those_of_keras(case, photograph):
    from keras.src.legacy.preprocessing.image import apply_affine_transform

    parts = {"theta": 0.0, "tx": 0.0, "ty": 0.0, "shear": 0.0, "zx": 1.0, "zy": 1.0, **case}
    image = np.asarray(photograph, np.float32)
    expected = apply_affine_transform(image, **parts, row_axis=0, col_axis=1, channel_axis=2, fill_mode="nearest")
    matrix = keras_affine.affine_matrix(
        SIZE,
        SIZE,
        rotation_degrees=parts["theta"],
        shift=(parts["tx"], parts["ty"]),
        shear_degrees=parts["shear"],
        zoom=(parts["zx"], parts["zy"]),
    )
    ours = transform(tf.constant(image), matrix, fill_mode="NEAREST").numpy()
    # Both in float; at the border SciPy's neighbours differ by rounding alone.
    assert np.abs(ours - expected).max() < 0.05
    assert np.abs(ours - image).mean() > 3


def test_movements_are_as_far_as_those_of_keras_generator():
    from keras.src.legacy.preprocessing.image import ImageDataGenerator

    generator = ImageDataGenerator(
        rotation_range=40, width_shift_range=0.2, height_shift_range=0.2, shear_range=11.459, zoom_range=0.2
    )
    np.random.seed(1)
    drawn = [generator.get_random_transform((100, 100, 3)) for _ in range(3000)]
    keras = {name: np.array([one[name] for one in drawn]) for name in ("theta", "tx", "ty", "shear", "zx", "zy")}
    ours = {name: [] for name in keras}
    original = keras_affine.affine_matrix

    def noting(height, width, *, rotation_degrees, shift, shear_degrees, zoom):
        parts = (rotation_degrees, *shift, shear_degrees, *zoom)
        for name, value in zip(keras, parts, strict=True):
            ours[name].append(float(value))
        return original(
            height, width, rotation_degrees=rotation_degrees, shift=shift, shear_degrees=shear_degrees, zoom=zoom
        )

    image = tf.zeros([100, 100, 1])
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(keras_affine, "affine_matrix", noting)
        for number in range(400):
            keras_affine.random_affine(image, tf.constant([number, 1]))
    for name, values in keras.items():
        low, high = values.min(), values.max()
        spread = high - low
        assert low - 0.02 * spread < min(ours[name]) < low + 0.05 * spread
        assert high - 0.05 * spread < max(ours[name]) < high + 0.02 * spread
        assert abs(np.mean(ours[name]) - (low + high) / 2) < 0.06 * spread
    together = np.corrcoef([ours[name] for name in keras])
    assert np.abs(together - np.eye(6)).max() < 0.2


def test_keras_fills_with_the_border_and_mirrors_half():
    image = tf.constant(np.full([60, 60, 3], 77, np.uint8))
    images = over_seeds(lambda seed: made("inception", "keras").train(image, 32, 32, seed), 30)
    np.testing.assert_allclose(images, 77 / 127.5 - 1, atol=1e-4)


# Turns


@pytest.mark.parametrize("name", FAMILIES)
def test_turns_have_eight_outcomes_all_as_likely(name):
    image = np.asarray(picture(width=60, height=60))
    turned = [
        mirrored.numpy()
        for quarters in range(4)
        for plain in [FAMILIES[name].evaluate(tf.constant(np.rot90(image, quarters).copy()), 32, 32)]
        for mirrored in (plain, plain[:, ::-1])
    ]
    drawn = over_seeds(lambda seed: made(name, "turns").train(tf.constant(image), 32, 32, seed), 400)
    found = [[index for index, one in enumerate(turned) if np.abs(one - image).max() < 1e-4] for image in drawn]
    assert {len(indices) for indices in found} == {1}
    counts = np.bincount([index for (index,) in found], minlength=8)
    assert len(counts) == 8
    assert 28 < counts.min() <= counts.max() < 75  # 50 each; four standard deviations are 26.


def test_turns_of_an_oblong_picture_have_the_networks_size():
    image = tf.constant(np.asarray(picture(width=80, height=40)))
    assert over_seeds(lambda seed: made("vgg", "turns").train(image, 32, 48, seed), 8).shape == (8, 32, 48, 3)


# slim's, for other networks


@pytest.mark.parametrize("augmentation", ["inception", "vgg"])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_familys_augmentation_under_another_is_its_own_in_another_range(augmentation, channels):
    image = tf.constant(np.asarray(picture(width=90, height=70)))
    image = image if channels == 3 else tf.image.rgb_to_grayscale(image)
    seeds = [tf.constant([number, 7]) for number in range(5)]
    to_range = {"inception": lambda x: x / 127.5 - 1, "lenet": lambda x: x / 128 - 1, "vgg": lambda x: x}
    values = {}
    for name, to_network in to_range.items():
        images = np.stack([made(name, augmentation).train(image, 32, 32, seed).numpy() for seed in seeds])
        means = np.array([123.68, 116.78, 103.94]) if channels == 3 else np.array([117.07])
        values[name] = (
            images + means if name == "vgg" else {"inception": (images + 1) * 127.5, "lenet": (images + 1) * 128}[name]
        )
        assert to_network is not None
    own = np.stack([made(augmentation, "default").train(image, 32, 32, seed).numpy() for seed in seeds])
    np.testing.assert_array_equal(
        own, np.stack([made(augmentation, augmentation).train(image, 32, 32, s) for s in seeds])
    )
    for name in values:
        np.testing.assert_allclose(values[name], values[augmentation], atol=0.01)
