"""Weights of other programs, in files that those programs write here: imported, compared, exported again."""

import zlib

import numpy as np
import pytest
import tensorflow as tf
from reference_networks import ReferenceModel, load_reference, reference_images, reference_weight

from finetune.commands.import_weights import import_weights, main
from finetune.errors import UserError
from finetune.foreign_weights import keras_weights
from finetune.foreign_weights.keras_weights import build_application, write_keras_weights
from finetune.model.checkpoint import Checkpoint, write_checkpoint
from finetune.nets import get_spec, layers
from finetune.settings.import_weights import ImportSettings

SMALL = "mobilenet_v1_025"
NUM_CLASSES = 7
HEAD_BIASES = "MobilenetV1/Logits/Conv2d_1c_1x1/biases"


@pytest.fixture(scope="module")
def network():
    return ReferenceModel(get_spec(SMALL), NUM_CLASSES)


@pytest.fixture(scope="module")
def values(network):
    return {name: variable.numpy() for name, variable in network.model_variables.items()}


def import_file(path, model=SMALL, **settings):
    """Imports a file; returns the result and the values in the checkpoint."""
    output = path.with_name("imported.ckpt")
    result = import_weights(ImportSettings(file=(str(path),), model=model, output=output, **settings))
    checkpoint = Checkpoint(str(output))
    return result, {name: checkpoint.read(name) for name in checkpoint.shapes}


def assert_same(found, expected):
    assert set(found) == set(expected)
    assert all(np.array_equal(found[name], expected[name]) for name in expected)


def network_with(values, name):
    """Our network with imported weights; those of an auxiliary head may be missing, and are zero then."""
    variables = dict(values)
    network = ReferenceModel(
        get_spec(name), NUM_CLASSES, weight=lambda name, shape: variables.pop(name, np.zeros(shape, np.float32))
    )
    assert not variables
    return network


def logits_of(model, images):
    return tf.function(lambda x: model(x, is_training=False).logits, autograph=False)(images).numpy()


def freeze(spec, prefix=""):
    """The network as `freeze_graph` left it: constants under the variables' names, each with an identity `/read`."""

    def constant(getter, name, *, shape, **_):
        with tf.compat.v1.name_scope(None):
            value = tf.constant(reference_weight(name, tuple(shape)), name=prefix + name)
            return tf.identity(value, name=f"{prefix}{name}/read")

    modes = layers.layer_modes(is_training=False, is_frozen=lambda scope: True, seed=None)
    with tf.Graph().as_default() as graph:
        images = tf.compat.v1.placeholder(tf.float32, [1, 224, 224, 3], name="input")
        with tf.compat.v1.variable_scope("", custom_getter=constant, use_resource=False), modes:
            logits, _ = spec.load_function()(images, NUM_CLASSES, is_training=False, **spec.arguments)
        # What retrain.py puts behind a network.
        tf.matmul(logits, tf.constant(np.ones([NUM_CLASSES, 2], np.float32), name="final_training_ops/weights"))
    return graph.as_graph_def()


@pytest.mark.parametrize("prefix", ["", "import/"])
def test_frozen_graph(tmp_path, values, prefix):
    path = tmp_path / "frozen.pb"
    path.write_bytes(freeze(get_spec(SMALL), prefix).SerializeToString())
    result, found = import_file(path)
    assert_same(found, values)
    assert result.num_classes == NUM_CLASSES
    assert "1 arrays (final_training_ops/weights)" in result.remarks[0]
    assert "differ by at most" in result.remarks[1]


def test_graph_that_computes_something_else_is_refused(tmp_path):
    graph = freeze(get_spec(SMALL))
    for node in graph.node:
        if node.op == "Relu6":
            node.op = "Elu"
    path = tmp_path / "frozen.pb"
    path.write_bytes(graph.SerializeToString())
    with pytest.raises(UserError, match="computes other logits than the file's own network"):
        import_file(path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["frozen.pb"]


def test_npz_with_suffixes(tmp_path, values):
    path = tmp_path / "weights.npz"
    np.savez(path, **{f"{name}:0": value for name, value in values.items()})
    result, found = import_file(path)
    assert_same(found, values)
    assert "could not be compared" in result.remarks[-1]


def test_checkpoint_gives_its_moving_averages(tmp_path, values):
    averages = {f"{name}/ExponentialMovingAverage": value + 1 for name, value in values.items()}
    slots = {f"{HEAD_BIASES}/Momentum": values[HEAD_BIASES], "global_step": np.int64(3)}
    write_checkpoint(tmp_path / "model.ckpt-3", {**values, **averages, **slots})
    result, found = import_file(tmp_path / "model.ckpt-3")
    assert_same(found, {name: value + 1 for name, value in values.items()})
    assert "137 variables are taken from their moving averages" in result.remarks[0]
    assert "Momentum" in result.remarks[1]


def test_missing_variables_are_listed(tmp_path, values):
    path = tmp_path / "weights.npz"
    np.savez(path, **{name: value for name, value in values.items() if not name.endswith("gamma")})
    with pytest.raises(
        UserError, match=r"lacks 27 of the 137 variables of mobilenet_v1_025: MobilenetV1/Conv2d_0/.*24 more"
    ):
        import_file(path)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("mobilenet_v1_050", r"is \[3, 3, 3, 8\] in the file and \[3, 3, 3, 16\] in the network \(and 135 more\)"),
        ("mobilenet_v2", "holds no MobilenetV2/Logits"),
    ],
)
def test_file_of_another_network_is_refused(tmp_path, values, model, message):
    path = tmp_path / "weights.npz"
    np.savez(path, **values)
    with pytest.raises(UserError, match=message):
        import_file(path, model)


def test_auxiliary_head_may_be_missing(tmp_path):
    reference = load_reference("inception_v3")
    shapes = reference["trainable"] | reference["non_trainable"]
    path = tmp_path / "weights.npz"
    np.savez(path, **{name: np.zeros(shape, np.float32) for name, shape in shapes.items() if "AuxLogits" not in name})
    result, found = import_file(path, "inception_v3")
    assert len(found) == len(shapes) - 10
    assert "auxiliary head, left out: 10 variables" in result.remarks[0]


def test_mistakes_are_told_without_a_traceback(tmp_path, capsys, values):
    for name in ("broken.pb", "broken.npz", "broken.h5", "none.tflite", "broken.tflite"):
        (tmp_path / name).write_bytes(b"1234TFL3" + b"\xff" * 100 if name == "broken.tflite" else b"\xff" * 100)
        assert main([str(tmp_path / name), "--model", SMALL, "--output", str(tmp_path / "out")]) == 2
    assert main([str(tmp_path / "absent.pb"), "--model", SMALL, "--output", str(tmp_path / "out")]) == 2
    assert main(["--model", SMALL, "--output", str(tmp_path / "out")]) == 2
    np.savez(tmp_path / "good.npz", **values)
    arguments = [str(tmp_path / "good.npz"), "--model", SMALL, "--output", str(tmp_path / "out")]
    assert [main(arguments), main(arguments), main([*arguments, "--overwrite"])] == [0, 2, 0]
    told = capsys.readouterr()
    assert "Traceback" not in told.err
    assert told.out == 2 * f"{tmp_path / 'out'}: 137 variables, 220,343 values, 7 classes\n"


def random_application(spec):
    """The Keras application with weights that are random everywhere, statistics included."""
    model = build_application(spec, NUM_CLASSES)
    for variable in model.weights:
        random = np.random.RandomState(zlib.crc32(variable.path.encode()))
        shape = tuple(variable.shape)
        noise = random.standard_normal(shape)
        if len(shape) > 1:
            fan_in = (
                np.prod(shape[:2])
                if "depthwise" in variable.path or "conv_dw" in variable.path
                else np.prod(shape[:-1])
            )
            variable.assign(noise * np.sqrt(2 / fan_in))
        else:
            centre = 1 if variable.name in ("gamma", "moving_variance") else 0
            variable.assign(centre + 0.1 * np.abs(noise))
    return model


@pytest.fixture
def one_application(monkeypatch):
    """The applications that are built while a test runs are one for each network, its weights zero each time.

    That which the test itself makes by `build_application` is another, whose layers bear other names.
    """
    built = {}

    def build_once(spec, num_classes, input_shape=None):
        if spec.name not in built:
            built[spec.name] = build_application(spec, num_classes)
        clear(built[spec.name])
        return built[spec.name]

    monkeypatch.setattr(keras_weights, "build_application", build_once)


def clear(application):
    for variable in application.weights:
        variable.assign(np.zeros(variable.shape, variable.dtype))


@pytest.mark.parametrize(
    ("name", "ending"),
    [
        (SMALL, ".weights.h5"),
        (SMALL, ".h5"),
        (SMALL, ".keras"),
        *(
            pytest.param(name, ".weights.h5", marks=pytest.mark.slow)
            # VGG, whose values take gigabytes in so many copies, and Inception V3, of whose layers Inception-ResNet V2
            # is, are in tests/test_keras_and_slim.py.
            for name in ("mobilenet_v2", "nasnet_mobile")
        ),
    ],
)
def test_keras_weights_there_and_back(tmp_path, one_application, name, ending):
    spec = get_spec(name)
    keras_model = random_application(spec)
    weights = keras_model.get_weights()
    path = tmp_path / f"keras{ending}"
    keras_model.save_weights(path) if ending == ".weights.h5" else keras_model.save(path)
    _, found = import_file(path, name, num_classes=NUM_CLASSES)
    images = reference_images(spec.image_size, 3)
    expected = np.asarray(keras_model(images, training=False))
    model = network_with(found, name)
    assert np.abs(logits_of(model, images) - expected).max() <= 1e-4 * np.abs(expected).max()

    back = tmp_path / "back.weights.h5"
    write_keras_weights(model, back)
    clear(keras_model)
    keras_model.load_weights(back)
    assert all(np.array_equal(a, b) for a, b in zip(keras_model.get_weights(), weights, strict=True))


@pytest.mark.parametrize("name", ["resnet_v1_50", "resnet_v2_101"])
def test_keras_resnets_are_refused_with_what_differs(tmp_path, name):
    path = tmp_path / "resnet.weights.h5"
    path.touch()
    with pytest.raises(UserError, match=r"epsilon of 1.001e-5"):
        import_file(path, name)


def test_keras_file_of_other_classes_is_refused(tmp_path):
    path = tmp_path / "keras.weights.h5"
    build_application(get_spec(SMALL), 3).save_weights(path)
    with pytest.raises(UserError, match="--num-classes"):
        import_file(path)


def convert_to_tflite(network, *, float16=False, int8=False):
    """As slim's networks were published: from one image to probabilities, batch norm folded."""
    size = network.image_size
    function = tf.function(lambda images: tf.nn.softmax(network(images, is_training=False).logits), autograph=False)
    concrete = function.get_concrete_function(tf.TensorSpec([1, size, size, 3], tf.float32))
    converter = tf.lite.TFLiteConverter.from_concrete_functions([concrete], network)
    if float16 or int8:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if float16:
        converter.target_spec.supported_types = [tf.float16]
    return converter.convert()


@pytest.mark.parametrize("float16", [False, True])
def test_tflite(tmp_path, network, float16):
    path = tmp_path / "model.tflite"
    path.write_bytes(convert_to_tflite(network, float16=float16))
    result, found = import_file(path)
    assert set(found) == set(network.model_variables)
    images = reference_images(network.image_size, 3)
    expected = logits_of(network, images)
    tolerance = 1e-2 if float16 else 1e-4
    assert np.abs(logits_of(network_with(found, SMALL), images) - expected).max() <= tolerance * np.abs(expected).max()
    assert "Batch norm was folded" in result.remarks[0]


def test_tflite_in_integers_is_refused(tmp_path, network):
    path = tmp_path / "model.tflite"
    path.write_bytes(convert_to_tflite(network, int8=True))
    with pytest.raises(UserError, match="kept in integers"):
        import_file(path)


@pytest.mark.slow
def test_tflite_layers_in_another_order_are_found_by_name(tmp_path):
    network = ReferenceModel(get_spec("resnet_v1_50"), NUM_CLASSES)
    path = tmp_path / "model.tflite"
    path.write_bytes(convert_to_tflite(network))
    result, _ = import_file(path, "resnet_v1_50")
    assert "differ by at most" in result.remarks[-1]
