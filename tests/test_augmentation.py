"""Augmentations: Keras's movements against Keras's, RandAugment's operations against Pillow's, and what is refused."""

from collections import Counter

import numpy as np
import pytest
import tensorflow as tf
from image_files import picture
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from finetune.errors import UserError
from finetune.preprocessing import FAMILIES, get_preprocessing, keras_affine, operations, random_erasing
from finetune.preprocessing.geometry import transform
from finetune.preprocessing.randaugment import OPERATIONS, randaugment
from finetune.preprocessing.steps import to_pixels
from finetune.settings.augmentation import AugmentationSettings
from finetune.settings.choices import AUGMENTATIONS
from finetune.settings.stages import Stage
from finetune.settings.train import TrainSettings

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


def test_every_operation_is_drawn_as_often_and_in_both_directions():
    image = tf.constant(np.random.RandomState(1).randint(60, 180, [24, 24, 3]).astype(np.float32))
    outcomes = {
        (name, direction): operation(image, tf.constant(direction), 0.5).numpy()
        for name, operation in OPERATIONS.items()
        for direction in (1.0, -1.0)
    }
    drawn = over_seeds(lambda seed: randaugment(image, 1, 5, seed), 700)
    found = [{key for key, outcome in outcomes.items() if np.abs(outcome - one).max() < 1e-3} for one in drawn]
    assert {len({name for name, _ in keys}) for keys in found} == {1}  # Each is one of them, and no other.
    counts = Counter(key for keys in found for key in keys)
    has_directions = set(OPERATIONS) - {"identity", "autocontrast", "equalize", "solarize", "posterize"}
    assert len(OPERATIONS) == 14
    for name in OPERATIONS:
        times = [counts[name, direction] for direction in (1.0, -1.0)]
        assert 25 < (sum(times) if name in has_directions else times[0]) < 80
        assert min(times) > 9


@pytest.mark.parametrize("name", sorted({*OPERATIONS} - {"identity", "autocontrast", "equalize"}))
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

    def outcomes(name, wanted):
        preprocessing = made(name, wanted)
        images = over_seeds(lambda seed: preprocessing.train(image, 32, 32, seed), 5)
        return images, to_pixels(images, preprocessing.evaluation_steps(32, 32, channels))

    own, in_pixels = outcomes(augmentation, "default")
    np.testing.assert_array_equal(outcomes(augmentation, augmentation)[0], own)
    for name in ("inception", "lenet", "vgg"):
        np.testing.assert_allclose(outcomes(name, augmentation)[1], in_pixels, atol=0.01)


@pytest.mark.parametrize("crop_area", [(0.02, 0.04), (0.3, 0.6), (0.9, 1.0)])
def test_windows_take_the_area_that_they_are_told(crop_area):
    for name, augmentation in (
        ("inception", "default"),
        ("inception", "crop"),
        ("vgg", "inception"),
        ("vgg", "randaugment"),
    ):
        preprocessing = made(name, augmentation, crop_area=crop_area)
        windows = over_seeds(lambda seed, each=preprocessing: each.training_window([900, 1200, 3], 32, 32, seed), 200)
        area = windows[:, 2] * windows[:, 3] / (900 * 1200)
        low, high = crop_area
        assert low * 0.99 < area.min() < low + 0.2 * (high - low)
        assert high - 0.2 * (high - low) < area.max() < high * 1.01


def test_windows_of_the_whole_area_are_the_whole_picture():
    windows = over_seeds(lambda s: made("vgg", "inception", crop_area=(1, 1)).training_window([90, 120, 3], 9, 9, s), 5)
    np.testing.assert_array_equal(windows, [[0, 0, 90, 120]] * 5)


# Random erasing


def test_erasing_is_as_often_as_large_and_as_long_as_it_says():
    image = tf.fill([100, 100, 3], -1.0)
    erased = over_seeds(lambda seed: random_erasing.erase(image, 0.6, seed), 600)
    masks = (erased >= 0).all(-1)
    assert (masks == (erased >= 0).any(-1)).all()
    is_erased = masks.any((1, 2))
    assert 0.53 < is_erased.mean() < 0.67
    heights, widths = masks.any(2).sum(1)[is_erased], masks.any(1).sum(1)[is_erased]
    areas = masks.sum((1, 2))[is_erased]
    np.testing.assert_array_equal(areas, heights * widths)  # One rectangle.
    assert 180 < areas.min() < 400 and 3000 < areas.max() < 3450
    ratios = heights / widths
    assert 0.25 < ratios.min() < 0.4 and 2.6 < ratios.max() < 3.7
    assert 0.4 < (ratios > 1).mean() < 0.6
    assert masks.any((0, 1)).all() and masks.any((0, 2)).all()  # Anywhere, up to the border.
    values = erased[masks]
    assert values.min() < 1 and values.max() > 254 and abs(values.mean() - 127.5) < 1


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("augmentation", AUGMENTATIONS)
def test_erasing_goes_with_any_augmentation(augmentation, name, channels):
    image = tf.constant(np.asarray(picture(width=60, height=50)))
    image = image if channels == 3 else tf.image.rgb_to_grayscale(image)
    plain, erasing = (made(name, augmentation, random_erasing=probability) for probability in (0.0, 1.0))
    assert erasing.is_random
    for number in range(2):
        seed = tf.constant([number, 5])
        before, after = (each.train(image, 28, 32, seed).numpy() for each in (plain, erasing))
        assert after.shape == (28, 32, channels)
        assert not np.array_equal(before, after)
        if name != "cifarnet":  # Whose values hang on the whole image.
            assert 0.01 < (np.abs(before - after).max(-1) > 1e-6).mean() < 0.4


def test_a_rectangle_that_fits_nowhere_erases_nothing():
    image = tf.fill([1, 400, 1], -1.0)
    assert over_seeds(lambda seed: random_erasing.erase(image, 1.0, seed), 20).max() <= 255


# Settings


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"randaugment": (2, 9)}, "--randaugment 2,9 would have no effect with --augmentation default"),
        ({"randaugment": (2,), "augmentation": "randaugment"}, "--randaugment takes 2 values, N,M, not 1"),
        ({"crop_area": (0.5,)}, "--crop-area is 0.5, but must be two shares"),
        ({"crop_area": (0.5, 0.2)}, "--crop-area is 0.5,0.2, but must be two shares"),
        ({"crop_area": (0.2, 0.5), "augmentation": "flip"}, "--crop-area 0.2,0.5 would have no effect with --augment"),
        ({"crop_area": (0.2, 0.5), "augmentation": "keras"}, "Give --augmentation inception or randaugment"),
    ],
)
def test_what_has_no_effect_is_refused(given, words):
    with pytest.raises(UserError) as refused:
        TrainSettings(dataset_dir="d", **given)
    assert words in str(refused.value)


def test_an_area_is_refused_where_the_network_has_other_windows():
    with pytest.raises(UserError, match=r"of the preprocessing vgg: no windows.*\n.*--crop-area="):
        made("resnet_v1_50", "crop", crop_area=(0.2, 1))
    assert made("resnet_v1_50", "inception", crop_area=(0.2, 1)).takes_crop_area


def test_a_stage_of_another_augmentation_leaves_the_details_behind():
    around = TrainSettings(dataset_dir="d", augmentation="inception", crop_area=(0.2, 1), random_erasing=0.5).stage
    own = Stage(own={"augmentation": "flip"}).settings(around).augment
    assert own == AugmentationSettings(augmentation="flip", random_erasing=0.5)
    assert Stage(own={"random_erasing": 0.0}).settings(around).augment.crop_area == (0.2, 1)
