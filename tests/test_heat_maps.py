"""Heat maps: found in any network's graph, on the half of a picture that has the class, laid where a network looks."""

import csv
import dataclasses
import json

import numpy as np
import pytest
import tensorflow as tf
import tf_slim as slim
from image_files import encode, picture, write_file
from PIL import Image
from scipy.optimize import nnls

from finetune.commands import evaluate, predict
from finetune.errors import UserError
from finetune.explanation.class_activation_maps import METHODS, ClassActivationMaps
from finetune.explanation.last_feature_map import last_feature_map
from finetune.explanation.overlays import overlay, shown_picture
from finetune.explanation.seen_region import SeenRegion, seen_region
from finetune.model.checkpoint import Checkpoint
from finetune.model.model import Model
from finetune.nets import get_spec
from finetune.nets.heads import Head, with_head
from finetune.nets.spec import NetSpec
from finetune.prediction.heat_maps import heat_map_name
from finetune.preprocessing import get_preprocessing
from finetune.preprocessing.steps import to_pixels
from finetune.settings.evaluate import EvalSettings
from finetune.settings.predict import PredictSettings
from finetune.trunk.traced_pass import TracedPass, trace_pass

# Network, image size, where its last feature map is, and its height and width.
FOUND = [
    ("lenet", 28, "LeNet/conv2/Relu", 14),  # Not what pooling makes of it.
    ("cifarnet", 32, "CifarNet/LRN_1", 16),
    ("vgg_a", 224, "vgg_a/conv5/conv5_2/Relu", 14),
    ("vgg_a", 256, "vgg_a/conv5/conv5_2/Relu", 16),  # Where fully connected layers have several positions.
    ("mobilenet_v1_025", 32, "MobilenetV1/Conv2d_11_pointwise/Relu6", 2),  # Deeper ones have one position.
    ("mobilenet_v3_small", 224, "MobilenetV3/Conv_1/mul_1", 7),  # Before convolutions of what is pooled.
    ("keras/mobilenet", 64, None, 2),
]


@pytest.mark.parametrize(("name", "image_size", "expected", "size"), FOUND)
def test_the_last_feature_map_is_found_in_the_graph(name, image_size, expected, size):
    with tf.Graph().as_default():  # Where variables take no memory.
        model = Model(get_spec(name), 3, image_size=image_size, initialise=False)
        found = last_feature_map(trace_pass(model, is_training=False))
    assert found.shape[1:3].as_list() == [size, size]
    assert expected in (None, found.op.name)


def dense_network(images, num_classes, *, is_training):
    return slim.fully_connected(slim.flatten(images), num_classes, activation_fn=None, scope="Dense/logits"), {}


def test_a_network_without_a_feature_map_is_told():
    spec = NetSpec(
        name="dense",
        function=f"{__name__}:dense_network",
        root_scope="Dense",
        image_size=8,
        head_scopes=("Dense/logits",),
        layer_groups=(("Dense/logits",),),
        preprocessing="lenet",
        paper="none",
    )
    with pytest.raises(UserError, match="dense with images of 8 pixels has no feature map"):
        ClassActivationMaps(Model(spec, 2), "gradcam", 1)


def test_behind_mean_pooling_the_maps_are_the_classes_weighted_channels():
    model = Model(with_head(get_spec("lenet"), Head(pooling="avg")), 3)
    images = np.random.default_rng(0).uniform(-1, 1, [2, 28, 28, 1]).astype(np.float32)
    class_ids = np.array([[2, 0], [1, 2]])
    inner = tf.function(lambda given: model(given, is_training=False).end_points["conv2"], autograph=False)
    feature_map = inner(tf.constant(images)).numpy()
    weights = model.model_variables["head/logits/weights"].numpy()[:, class_ids].transpose(1, 2, 0)
    # Pooling by 2 x 2 maxima lies between the two: of each window one position has its gradient, a 49th of the mean.
    is_greatest = feature_map == feature_map.reshape(2, 7, 2, 7, 2, 64).max((2, 4)).repeat(2, 1).repeat(2, 2)
    weights = weights[:, :, np.newaxis, np.newaxis] / 49
    expected = {
        "gradcam": (weights / 4 * feature_map[:, np.newaxis]).sum(-1),
        "layercam": (weights.clip(0) * (is_greatest * feature_map)[:, np.newaxis]).sum(-1),
    }
    for method, values in expected.items():
        found = ClassActivationMaps(model, method, 2)(images, class_ids)
        np.testing.assert_allclose(found, values.clip(0), atol=1e-5 * values.max())


def textures(size, channels):
    """Of two classes, warm stripes and cold checks, 8 pictures each, float32 [2,8,size,size,channels]."""
    random = np.random.default_rng(0)
    y, x = np.mgrid[:size, :size]
    shifts = random.integers(0, 16, [8, 2])
    stripes = [(x + shift) // 2 % 2 for shift, _ in shifts]
    checks = [((x + right) // 6 + (y + down) // 6) % 2 for right, down in shifts]
    patterns = 0.6 * np.stack([stripes, checks])[..., np.newaxis] - 0.3
    colours = np.array([[1.0, 0.3, -0.6], [-0.6, 0.1, 1.0]])[:, np.newaxis, np.newaxis, np.newaxis, :channels]
    noise = random.normal(0, 0.1, [2, 8, size, size, channels])
    return (patterns + colours * random.uniform(0.6, 1, [2, 8, 1, 1, 1]) + noise).astype(np.float32)


def positions_of(model, pictures):
    """Of each class's pictures what the last feature map holds, at 600 positions or so, [P,C]."""

    def values(given):
        outputs = model(given, is_training=False)
        graph = tf.compat.v1.get_default_graph()
        return last_feature_map(TracedPass(model, graph, given, given, outputs, graph.get_operations()))

    feature_map = tf.function(values, autograph=False)
    found = [feature_map(tf.constant(images)).numpy() for images in pictures]
    return [values.reshape(-1, values.shape[-1])[:: max(1, values[..., 0].size // 600)] for values in found]


def fit_head(model, positions, method):
    """Makes each class's logit large on the positions of its own pictures, and small on those of the other's.

    LayerCAM sees only what speaks for a class: for it the weights are at least 0, so that nothing else does.
    """
    features = np.concatenate(positions).astype(np.float64)
    features /= features.max()
    is_first = np.repeat([1.0, 0.0], [len(of_class) for of_class in positions])
    if method == "layercam":
        kernel = np.stack([nnls(features, is_own)[0] for is_own in (is_first, 1 - is_first)], axis=1)
    else:
        products = features @ features.T
        ridge = 1e-3 * products.trace() / len(products) * np.eye(len(products))
        weights = features.T @ np.linalg.solve(products + ridge, 2 * is_first - 1)
        kernel = np.stack([weights, -weights], axis=1)
    model.model_variables["head/logits/weights"].assign(kernel.astype(np.float32))


def pasted(first, second):
    """The left half of pictures of one class, the right half of another's, [B,H,W,C]."""
    middle = first.shape[2] // 2
    return np.concatenate([first[:, :, :middle], second[:, :, middle:]], axis=2)


def shares_on_own_halves(maps, first, second):
    """How much of the maps of two classes, of pictures pasted both ways, is on the half of the class; [2,2,B]."""
    shares = []
    for left, right in ((first, second), (second, first)):
        of_both = maps(pasted(left, right), np.tile([[0, 1]], [len(left), 1]))
        middle = of_both.shape[-1] // 2
        halves = of_both[..., :middle].sum((2, 3)), of_both[..., -middle:].sum((2, 3))
        own = np.stack([halves[0 if left is first else 1][:, 0], halves[1 if left is first else 0][:, 1]])
        shares.append(own / np.maximum(halves[0] + halves[1], 1e-30).T)
    return np.array(shares)


@pytest.mark.parametrize(
    ("name", "image_size", "method"),
    [
        ("lenet", 32, "gradcam"),
        ("lenet", 32, "layercam"),
        ("cifarnet", 64, "gradcam"),
        ("cifarnet", 64, "layercam"),
        ("alexnet_v2", 160, "gradcam"),
        ("vgg_a", 96, "gradcam"),
        ("inception_v1", 128, "gradcam"),
    ],
)
def test_on_pictures_pasted_of_two_classes_each_map_is_on_its_half(name, image_size, method):
    model = Model(with_head(get_spec(name), Head(pooling="avg")), 2, image_size=image_size)
    stripes, checks = textures(image_size, model.channels)
    fit_head(model, positions_of(model, [stripes, checks]), method)
    shares = shares_on_own_halves(ClassActivationMaps(model, method, 2), stripes, checks)
    assert shares.mean(axis=-1).min() > 0.6


def test_on_pasted_photographs_each_map_is_on_its_half(shared_dir):
    """MobileNet V2 with ImageNet's weights, a new head on its own pooling, on photographs that the head hasn't seen."""
    checkpoint = Checkpoint(str(shared_dir / "checkpoints/mobilenet_v2_1.0_224/mobilenet_v2_1.0_224.ckpt"))
    model = Model(with_head(get_spec("mobilenet_v2"), Head(pooling="avg")), 2)
    for name, variable in model.model_variables.items():
        if not name.startswith("head/"):
            variable.assign(checkpoint.read(name))
    photographs = []
    for kind in ("dandelion", "pansy"):
        files = sorted((shared_dir / "data/flowers12/images" / kind).iterdir())[:20]
        photographs.append(np.stack([np.asarray(Image.open(file), np.float32) / 127.5 - 1 for file in files]))
    positions = positions_of(model, [images[:12] for images in photographs])
    for method in METHODS:
        fit_head(model, positions, method)
        shares = shares_on_own_halves(ClassActivationMaps(model, method, 2), *(images[12:] for images in photographs))
        assert shares.mean(axis=-1).min() > 0.6


PREPARED = [("inception", None), ("vgg", None), ("lenet", None), ("keras_tf", None)]
PREPARED += [("inception", resize) for resize in ("squash", "crop", "pad")]


@pytest.mark.parametrize(("family", "resize"), PREPARED)
@pytest.mark.parametrize(("height", "width"), [(90, 200), (300, 130), (40, 31)])
def test_the_seen_region_is_what_the_network_is_given(family, resize, height, width):
    preprocessing, size = get_preprocessing(family, resize=resize), 48
    steps = preprocessing.evaluation_steps(size, size, 3)
    region = seen_region(steps, height, width)
    # The picture's colours say where in it they are: red across, green down, blue that there is a picture.
    y, x = np.mgrid[:height, :width]
    pixels = np.stack([255 * (x + 0.5) / width, 255 * (y + 0.5) / height, np.full(x.shape, 255.0)], axis=-1)
    given = preprocessing.evaluate(tf.constant(pixels.astype(np.uint8)), size, size).numpy()
    red, green, blue = np.moveaxis(to_pixels(given, steps), -1, 0)
    places = (np.arange(size) + 0.5) / size
    across = region.left + places * (region.right - region.left)
    down = region.top + places * (region.bottom - region.top)
    margin = 1.5 / min(height, width, size)
    is_picture = blue > 250
    inside = np.ix_((down > margin) & (down < 1 - margin), (across > margin) & (across < 1 - margin))
    outside = np.ix_((down < -margin) | (down > 1 + margin), (across < -margin) | (across > 1 + margin))
    assert is_picture[inside].all()
    assert not is_picture[outside].any()
    np.testing.assert_allclose(red[inside] / 255, np.broadcast_to(across, [size, size])[inside], atol=margin)
    np.testing.assert_allclose(green[inside] / 255, np.broadcast_to(down[:, None], [size, size])[inside], atol=margin)


def test_an_overlay_has_the_map_where_it_belongs_and_grey_around():
    pixels = np.full([64, 200, 3], [200, 100, 50], np.uint8)
    shown = shown_picture(pixels, get_preprocessing("inception", resize="crop").evaluation_steps(32, 32, 3))
    activation = np.zeros([4, 4], np.float32)
    activation[0, 3] = 5.0
    laid = np.asarray(overlay(shown, activation))
    assert laid.shape == (82, 256, 3)  # Small pictures are enlarged, in their own proportions.
    is_grey = (laid.max(-1) == laid.min(-1)).all(0)
    seen = np.flatnonzero(~is_grey)
    assert (seen[0], seen[-1]) == (87, 168)  # The middle 64 of 200 columns.
    warmth = laid[..., 0].astype(int) - laid[..., 2]
    row, column = np.unravel_index(warmth.argmax(), warmth.shape)
    assert row < 41
    assert column > 128
    nothing = np.asarray(overlay(shown, np.zeros([4, 4], np.float32)))[:, seen]
    assert np.ptp(nothing.reshape(-1, 3), axis=0).max() == 0


def test_borders_that_preprocessing_adds_are_no_part_of_an_overlay():
    shown = shown_picture(np.zeros([300, 600, 3], np.uint8), [])
    whole = SeenRegion(0.0, -0.5, 1.0, 1.5)
    activation = np.array([[9.0, 9.0], [0.0, 1.0], [0.0, 1.0], [9.0, 9.0]], np.float32)
    laid = np.asarray(overlay(dataclasses.replace(shown, region=whole), activation))
    assert laid.shape == (300, 600, 3)
    assert (laid.max(-1) > laid.min(-1)).all()


def test_names_of_heat_maps_do_not_collide():
    names = ["a/x.jpg", "b/x.jpg", "a/x.png", "a/x y.jpg", "a/x_y.jpg", "a/\udcff\n/..jpg", "a/" + 200 * "x", ""]
    written = [heat_map_name(name, rank) for name in names for rank in (1, 2, 11)]
    assert len(set(written)) == len(written)
    assert all(len(name) < 120 and name.isascii() and "/" not in name for name in written)


def size_of(path):
    with Image.open(path) as opened:
        return opened.size


def test_predict_writes_a_picture_for_each_guess(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    turned = Image.Exif()
    turned[0x0112] = 6
    write_file(tmp_path / "in/a/x.jpg", encode(picture(1, width=80)))
    write_file(tmp_path / "in/b/x.jpg", encode(picture(2, width=80), exif=turned.tobytes()))
    write_file(tmp_path / "in/c/x.jpg", b"no image")
    words = [f"--checkpoint={run}", "in", "--top-k=2", "--batch-size=2"]
    assert predict.main([*words, "--output=plain.csv"]) == 4
    assert predict.main([*words, "--output=out.csv", "--explain=gradcam"]) == 4
    with (tmp_path / "plain.csv").open() as plain_file, (tmp_path / "out.csv").open() as file:
        plain, rows = list(csv.DictReader(plain_file)), list(csv.DictReader(file))
    heatmaps = [[row.pop("heatmap"), row.pop("heatmap_2")] for row in rows]
    assert rows == plain
    assert heatmaps[2] == ["", ""]
    assert len({*heatmaps[0], *heatmaps[1]}) == 4
    assert sorted(path for pair in heatmaps[:2] for path in pair) == sorted(
        f"out_heatmaps/{path.name}" for path in (tmp_path / "out_heatmaps").iterdir()
    )
    assert [size_of(pair[0]) for pair in heatmaps[:2]] == [(256, 102), (102, 256)]

    # In shares, and as JSON in a folder of one's own, they are the same pictures.
    before = {path.name: path.read_bytes() for path in (tmp_path / "out_heatmaps").iterdir()}
    shared = [*words, "--output=out.json", "--explain=gradcam", "--explain-dir=own"]
    for share in ("--shard=1/2", "--shard=2/2"):
        assert predict.main([*shared, share]) == 0
    assert predict.main([*shared, "--merge-shards=2"]) == 4
    guesses = [each.get("guesses", []) for each in json.loads((tmp_path / "out.json").read_text())]
    assert [[guess["heatmap"] for guess in each] for each in guesses] == [
        *([path.replace("out_heatmaps", "own") for path in pair] for pair in heatmaps[:2]),
        [],
    ]
    assert {path.name: path.read_bytes() for path in (tmp_path / "own").iterdir()} == before


def test_a_folder_that_cannot_be_made_ends_with_a_line(run, tmp_path, capsys):
    image = write_file(tmp_path / "in.jpg", encode(picture(1)))
    place = write_file(tmp_path / "file", b"")
    words = [f"--checkpoint={run}", str(image), "--explain=layercam", f"--explain-dir={place}"]
    assert predict.main(words) == 2
    assert f"--explain-dir: {place} can't be written" in capsys.readouterr().err


REFUSED = [
    (PredictSettings, {"checkpoint": "c", "explain": "gradcam"}, "no place for the pictures"),
    (PredictSettings, {"checkpoint": "c", "explain_dir": "d"}, "nothing is explained"),
    (EvalSettings, {"dataset_dir": "d", "explain": "gradcam", "report": False}, "--explain and --no-report"),
    (EvalSettings, {"dataset_dir": "d", "explain": "gradcam", "compare": ("a", "b")}, "--explain and --compare"),
    (EvalSettings, {"dataset_dir": "d", "explain": "gradcam", "shard": "1/2"}, "--explain and --shard"),
    (EvalSettings, {"dataset_dir": "d", "explain": "gradcam", "merge_shards": 2}, "--explain and --merge-shards"),
]


@pytest.mark.parametrize(("settings_class", "values", "message"), REFUSED)
def test_what_explains_nothing_is_refused(settings_class, values, message):
    with pytest.raises(UserError, match=message):
        settings_class(**values)


def test_the_report_shows_what_spoke_for_both_classes(run, records, tmp_path):
    words = [f"--checkpoint={run}", f"--dataset-dir={records}"]
    for name, more in (("plain", []), ("explained", ["--explain=layercam"])):
        assert evaluate.main([*words, f"--output-dir={tmp_path / name}", *more]) == 0
    plain, explained = (
        (tmp_path / name / "report.html").read_text(encoding="utf-8") for name in ("plain", "explained")
    )
    num_mistakes = plain.count('<div class="frame">')
    assert num_mistakes > 0
    assert explained.count('alt="what spoke for ') == 2 * num_mistakes
    assert explained.count("<img src=") == plain.count("<img src=") + 2 * num_mistakes
    assert "LayerCAM" in explained
    assert "LayerCAM" not in plain
    assert len(explained) < len(plain) + 2 * num_mistakes * 40_000
    predictions = [(tmp_path / name / "predictions.csv").read_text() for name in ("plain", "explained")]
    assert predictions[0] == predictions[1]
