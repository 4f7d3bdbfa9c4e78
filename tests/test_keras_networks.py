"""Every network of Keras Applications: its structure, its logits beside Keras's own, a step, and whole commands.

The smallest of each family is in the quick round. Of those with the most layers, and of those with hundreds of millions
of values, the structure alone is tested.
"""

import json
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from image_files import encode, picture
from keras.src.applications.convnext import StochasticDepth
from reference_networks import quick_weight, reference_images
from tiny_runs import CLASSES, write_records

from finetune.commands import evaluate, export, predict, train
from finetune.model.checkpoint import Checkpoint, write_checkpoint
from finetune.model.model import Model
from finetune.model.scopes import in_any_scope, plan_variables
from finetune.nets import get_spec
from finetune.nets.keras_networks.architecture import layers_of, names_of_a_new_process
from finetune.nets.keras_networks.network import KerasNetwork, application_network, for_keras, named_variables
from finetune.nets.keras_networks.record import application_record
from finetune.nets.keras_networks.table import APPLICATIONS
from finetune.nets.layers import layer_modes
from finetune.preprocessing.keras_pictures import KERAS_FAMILIES
from finetune.settings.stage import OptimizerSettings
from finetune.training.losses import TrainingLoss
from finetune.training.optimizers import Optimizer
from finetune.training.step import TrainingStep

# A member of each family, and the smallest images that Keras makes it for; but for two that take half a minute each.
SMALLEST = {
    "keras/vgg16": 32,
    "keras/mobilenet_v2": 32,
    "keras/mobilenet_v3_small": 32,
    "keras/mobilenet": 32,
    "keras/xception": 71,
    "keras/resnet50": 32,
    "keras/resnet50_v2": 32,
    "keras/inception_v3": 75,
    "keras/densenet121": 32,
    "keras/efficientnet_b0": 32,
    "keras/efficientnet_v2_b0": 32,
    "keras/convnext_tiny": 32,
}
QUICK = ("keras/mobilenet_v2", "keras/mobilenet_v3_small", "keras/vgg16")
QUICK_STRUCTURE = (*QUICK, "keras/mobilenet", "keras/inception_v3", "keras/convnext_tiny", "keras/efficientnet_b0")


def names(of, quick):
    return [name if name in quick else pytest.param(name, marks=pytest.mark.slow) for name in of]


# Structure


def network_of(name):
    """The network as the record describes it, with no values."""
    application = APPLICATIONS[name]
    return application_network(application.function, 1000, *[application.image_size] * 2, 3, "float32")


@pytest.mark.parametrize("name", names(APPLICATIONS, QUICK_STRUCTURE))
def test_structure(name):
    spec, network = get_spec(name), network_of(name)
    trained = [variable for variable in network.variables.values() if variable.trainable]
    assert sum(int(np.prod(variable.shape)) for variable in trained) == spec.num_parameters
    scopes = [scope for group in spec.layer_groups for scope in group]
    assert len(set(scopes)) == len(scopes)
    assert {variable.partition("/")[0] for variable in network.variables} == set(scopes)
    assert spec.layer_groups[-1] == spec.head_scopes
    of_classes = {variable for variable, value in network.variables.items() if value.shape[-1] == 1000}
    assert {variable.partition("/")[0] for variable in of_classes} >= set(spec.head_scopes)
    # Groups follow each other as the layers do.
    order = [layer.name for layer in layers_of(network.config) if layer.name in scopes]
    firsts = [min(order.index(scope) for scope in group) for group in spec.layer_groups]
    assert firsts == sorted(firsts)
    epsilons = {
        layer["config"]["epsilon"] for layer in network.config["layers"] if layer["class_name"] == "BatchNormalization"
    }
    assert epsilons <= {spec.batch_norm_epsilon}
    assert all(new == old for old, new in names_of_a_new_process(network.config).items())


@pytest.mark.parametrize("name", ["keras/inception_v3", "keras/convnext_tiny"])
def test_names_do_not_depend_on_what_was_made_before(name):
    before, variables = get_spec(name), list(network_of(name).variables)
    application_record.cache_clear()
    application_network.cache_clear()
    keras.layers.Conv2D(1, 1)  # Counted by Keras, too.
    assert get_spec(name) == before
    assert list(network_of(name).variables) == variables
    numbered = {"conv2d/kernel", "conv2d_93/kernel", "batch_normalization_93/beta"}
    unnamed = {f"convnext_tiny_stage_{stage}_block_0_layer_scale/variable" for stage in range(4)}
    assert (numbered if name == "keras/inception_v3" else unnamed) <= set(variables)


def test_a_network_takes_no_memory_for_values_of_its_own(monkeypatch):
    """Nor with the next model of Keras that anyone makes, which gives values to all variables that wait for theirs."""
    application_network.cache_clear()
    network, made = network_of("keras/mobilenet"), []
    zeros = keras.initializers.Zeros.__call__
    monkeypatch.setattr(
        keras.initializers.Zeros,
        "__call__",
        lambda self, shape, **kwargs: made.append(shape) or zeros(self, shape, **kwargs),
    )

    class OfSomeone(keras.layers.Layer):
        def build(self, input_shape):
            self.bias = self.add_weight(shape=[7], initializer="zeros")

        def call(self, inputs):
            return inputs + self.bias

    OfSomeone()(keras.Input([7]))
    assert made == [(7,)]
    assert len(network.variables) > 100


def test_keras_has_all_of_the_table_and_no_more():
    functions = {name for name in dir(keras.applications) if name[0].isupper()}
    assert {application.function for application in APPLICATIONS.values()} == functions
    assert set(SMALLEST) <= set(APPLICATIONS)


@pytest.mark.parametrize("name", names(SMALLEST, QUICK))
def test_preprocessing_is_kerass(name):
    """Pixels come to the layers as by the `preprocess_input` that Keras has beside the network."""
    spec = get_spec(name)
    pixels = np.random.default_rng(0).integers(0, 256, [1, 4, 4, 3]).astype(np.float32)
    module = sys.modules[getattr(keras.applications, spec.arguments["application"]).__module__]
    prepared = KERAS_FAMILIES[spec.preprocessing].to_network_range(tf.constant(pixels[0])).numpy()[np.newaxis]
    if name != "keras/efficientnet_b0":  # Whose published weights want more; test_logits_are_kerass has it.
        prepared = for_keras(spec, None, prepared)
    np.testing.assert_allclose(prepared, module.preprocess_input(pixels.copy()), rtol=1e-5, atol=1e-4)


# Beside Keras's own


class WeightedModel(Model):
    """A model of three classes for small images, its weights a function of their names."""

    def __init__(self, name):
        super().__init__(get_spec(name), 3, image_size=SMALLEST[name], initialise=False)
        for variable_name, variable in self.model_variables.items():
            variable.assign(weight(variable_name, tuple(variable.shape)))


def weight(name, shape):
    """Spread so that activations keep their size; a depthwise kernel takes one channel."""
    if name.endswith("/variance"):
        return 1 + 0.1 * np.abs(quick_weight(name, shape))
    value = quick_weight(name, shape)
    return value * np.sqrt(shape[2], dtype=np.float32) if len(shape) == 4 and shape[3] == 1 else value


@pytest.fixture(scope="module", params=names(SMALLEST, QUICK))
def network(request):
    return WeightedModel(request.param)


def keras_model(network):
    """Keras's own, with the values that the network has, given by their names."""
    size = network.image_size
    make = getattr(keras.applications, network.spec.arguments["application"])
    model = make(weights=None, classes=3, classifier_activation=None, input_shape=(size, size, 3))
    new = names_of_a_new_process(model.get_config())
    given = set()
    for name, _, variable in named_variables(model):
        layer, _, rest = name.partition("/")
        given.add(f"{new.get(layer, layer)}/{rest}")
        variable.assign(network.model_variables[f"{new.get(layer, layer)}/{rest}"].numpy())
    for layer in model.layers:
        if isinstance(layer, keras.layers.Normalization):
            layer.finalize_state()
    assert given == set(network.model_variables)
    return model


def assert_near(found, expected, tolerance):
    found, expected = np.asarray(found), np.asarray(expected)
    assert np.abs(found - expected).max() <= tolerance * np.abs(expected).max()
    assert np.ptp(expected) > 1e-3 * np.abs(expected).max()


def test_logits_are_kerass(network):
    """In inference, then by the statistics of sixteen images, which move the averages."""
    model, size = keras_model(network), network.image_size
    images = np.random.RandomState(0).uniform(-1, 1, [16, size, size, 3]).astype(np.float32)
    network.is_frozen = lambda scope: False
    theirs = for_keras(network.spec, model, images)
    assert_near(logits_of(network, images, is_training=False), model(theirs, training=False), 1e-4)
    if not any(layer.__class__.__name__ in ("Dropout", "StochasticDepth") for layer in model.layers):
        # Maps of one pixel: rounding is much beside the deviation of sixteen values.
        assert_near(logits_of(network, images, is_training=True), model(theirs, training=True), 1e-3)


def logits_of(network, images, *, is_training):
    def run(images):
        return network(images, is_training=is_training, seed=tf.constant([0, 0, 0])).logits

    return tf.function(run, autograph=False)(tf.constant(images))


def test_a_step_of_the_head_leaves_all_else_as_it_is(network):
    head = network.spec.head_scopes
    shapes = {variable.name: variable.shape for variable in network.network_variables()}
    plan = plan_variables(
        network.network_variables(), checkpoint_shapes=shapes, trainable_scopes=head, head_scopes=head
    )
    network.freeze(plan)
    before = {name: variable.numpy() for name, variable in network.model_variables.items()}
    trained = [network.model_variables[variable.name] for variable in plan.trained]
    step = TrainingStep(
        lambda images, seed: network(images, is_training=True, seed=seed),
        TrainingLoss(),
        Optimizer(OptimizerSettings("momentum"), trained, {}),
    )
    step((tf.constant(reference_images(network.image_size, 3)), tf.constant([0, 1])), 0, 0.1)
    changed = {
        name for name, variable in network.model_variables.items() if not np.array_equal(before[name], variable.numpy())
    }
    assert changed == {name for name in before if in_any_scope(name, head)}


# What is random


def random_network(kind):
    """Ones [8,...] for images, through one random layer of Keras."""
    inputs = keras.Input([4, 4, 8])
    layer = {
        "dropout": keras.layers.Dropout(0.5, name="layer"),
        "dropout of images": keras.layers.Dropout(0.5, noise_shape=(None, 1, 1, 1), name="layer"),
        "drop path": StochasticDepth(0.5, name="layer"),
        "channels": keras.layers.SpatialDropout2D(0.5, name="layer"),
    }[kind]
    return KerasNetwork(keras.Model(inputs, layer(inputs)).get_config())


def outputs_of(network, seed, num_parts=1, is_frozen=False):
    def run(images):
        with layer_modes(True, lambda scope: is_frozen, tf.constant(seed), num_parts=num_parts):
            return network(images, is_training=True)[0]

    return tf.function(run, autograph=False)(tf.ones([8 // num_parts, 4, 4, 8])).numpy()


@pytest.mark.parametrize("kind", ["dropout", "dropout of images", "drop path", "channels"])
def test_random_layers_are_functions_of_the_seed_and_still_where_frozen(kind):
    network = random_network(kind)
    first = outputs_of(network, [0, 1, 0])
    assert (outputs_of(network, [0, 1, 0]) == first).all()
    assert (outputs_of(network, [0, 2, 0]) != first).any()
    assert (outputs_of(network, [0, 1, 0], is_frozen=True) == 1.0).all()
    if kind != "channels":
        assert set(np.unique(first)) == {0.0, 2.0}
        parts = [outputs_of(network, [0, 1, part], num_parts=2) for part in range(2)]
        np.testing.assert_array_equal(np.concatenate(parts), first)
    if kind in ("dropout of images", "drop path"):
        assert (first == first[:, :1, :1, :1]).all()


def test_a_model_knows_whether_its_layers_draw_by_part(tmp_path):
    inputs = keras.Input([8, 8, 3])
    for kind, layer in (("spatial", keras.layers.SpatialDropout2D(0.5)), ("plain", keras.layers.Dropout(0.5))):
        hidden = layer(keras.layers.Conv2D(4, 3, name="conv")(inputs))
        outputs = keras.layers.Dense(3, name="logits")(keras.layers.GlobalAveragePooling2D()(hidden))
        path = tmp_path / f"{kind}.keras"
        keras.Model(inputs, outputs).save(path)
        assert Model(get_spec(str(path)), 3, image_size=8).draws_by_part == (kind == "spatial")


# Whole commands


def test_whole_commands(tmp_path):
    """A head is trained and its run resumed, evaluated, used and exported, all by what its folder says."""
    name = "keras/mobilenet"
    records = write_records(write_records(tmp_path / "records", num_images=6), num_images=8, split="train")
    values = {
        variable: each.numpy() for variable, each in Model(get_spec(name), 3, image_size=32).model_variables.items()
    }
    write_checkpoint(tmp_path / "weights.ckpt", values)
    run, head = tmp_path / "run", get_spec(name).head_scopes
    words = [f"--model={name}", "--image-size=32", "--batch-size=4", "--precision=float32", "--cache-features=off"]
    words += [f"--checkpoint={tmp_path / 'weights.ckpt'}", "--exclude-scopes=auto", "--trainable-layers=head"]
    assert train.main([f"--dataset-dir={records}", f"--train-dir={run}", *words, "--max-steps=1"]) == 0
    assert train.main(["--resume", f"--train-dir={run}", "--max-steps=2"]) == 0
    after = Checkpoint(str(run / "model.ckpt-2"))
    assert {variable for variable in values if np.array_equal(values[variable], after.read(variable))} == {
        variable for variable in values if not in_any_scope(variable, head)
    }
    assert (
        evaluate.main([f"--checkpoint={run}", f"--dataset-dir={records}", "--output-dir", str(tmp_path / "eval")]) == 0
    )
    assert json.loads((tmp_path / "eval" / "metrics.json").read_text(encoding="utf-8"))["num_examples"] == 6
    (tmp_path / "photo.jpg").write_bytes(encode(picture(0)))
    table = tmp_path / "predictions.csv"
    assert predict.main([f"--checkpoint={run}", str(tmp_path / "photo.jpg"), f"--output={table}"]) == 0
    assert any(word in table.read_text(encoding="utf-8") for word in CLASSES)
    assert export.main([f"--checkpoint={run}", f"--output-dir={tmp_path / 'served'}", f"--dataset-dir={records}"]) == 0
    served = json.loads((tmp_path / "served" / "export.json").read_text(encoding="utf-8"))
    assert served["model"] == name


@pytest.mark.slow
def test_two_devices_train_all_of_it(tmp_path):
    """Dropout and batch norm among it; each has a batch of its own."""
    records = write_records(write_records(tmp_path / "records", num_images=6), num_images=12, split="train")
    run, name = tmp_path / "run", "keras/mobilenet"
    words = [f"--dataset-dir={records}", f"--train-dir={run}", f"--model={name}", "--image-size=32", "--batch-size=3"]
    words += ["--num-clones=2", "--clone-on-cpu", "--precision=float32", "--learning-rate=0.1", "--eval-every=0"]
    assert train.main([*words, "--max-steps=1"]) == 0
    assert train.main([*words, "--max-steps=2", "--resume"]) == 0
    first, second = (Checkpoint(str(run / f"model.ckpt-{step}")) for step in (1, 2))
    of_network = Model(get_spec(name), 3, image_size=32, initialise=False).model_variables
    moved = {variable for variable in of_network if not np.array_equal(first.read(variable), second.read(variable))}
    assert {"conv_preds/kernel", "conv1/kernel", "conv1_bn/moving_mean"} <= moved
