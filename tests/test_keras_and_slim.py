"""The same network as Keras's and as slim's, with the same weights: the same logits.

Weights go the way that configs/keras_two_stage.toml names: a slim checkpoint, a file for Keras, a checkpoint again.
"""

import numpy as np
import pytest
import tensorflow as tf
from reference_networks import ReferenceModel, quick_weight

from finetune.commands.import_weights import import_weights
from finetune.foreign_weights.keras_weights import pair_variables, write_keras_weights
from finetune.model.checkpoint import Checkpoint
from finetune.model.model import Model
from finetune.nets import get_spec
from finetune.nets.keras_networks.architecture import names_of_a_new_process
from finetune.nets.keras_networks.network import named_variables
from finetune.prediction.classifier import restore_classifier
from finetune.settings.classifier import ClassifierSettings
from finetune.settings.import_weights import ImportSettings


def logits_of(model, images):
    return tf.function(lambda x: model(x, is_training=False).logits, autograph=False)(tf.constant(images)).numpy()


def assert_same_logits(keras_network, slims, images):
    expected = logits_of(slims, images)
    # Keras's VGG takes blue first, which our network sees to; slim's weights are for red first.
    takes_blue_first = keras_network.spec.arguments["colours"] == "bgr"
    found = logits_of(keras_network, images[..., ::-1] if takes_blue_first else images)
    assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()
    assert np.ptp(expected) > 1e-3 * np.abs(expected).max()


def images_of(size):
    return np.random.RandomState(0).uniform(-1, 1, [2, size, size, 3]).astype(np.float32)


def imported(slims, model, folder, image_size):
    """The Keras network with a slim network's weights, by way of a file."""
    write_keras_weights(slims, folder / "network.weights.h5")
    words = {"file": (str(folder / "network.weights.h5"),), "model": model, "output": folder / "imported.ckpt"}
    import_weights(ImportSettings(num_classes=slims.num_classes, **words))
    checkpoint = Checkpoint(str(folder / "imported.ckpt"))
    network = Model(get_spec(model), slims.num_classes, image_size=image_size, initialise=False)
    assert set(checkpoint.shapes) == set(network.model_variables)
    for name, variable in network.model_variables.items():
        variable.assign(checkpoint.read(name))
    return network


@pytest.mark.parametrize(
    ("model", "image_size"), [("mobilenet_v2", 64), pytest.param("inception_v3", 139, marks=pytest.mark.slow)]
)
def test_imported_weights(model, image_size, tmp_path):
    slims = ReferenceModel(get_spec(model), 5, image_size=image_size, weight=quick_weight)
    assert_same_logits(imported(slims, f"keras/{model}", tmp_path, image_size), slims, images_of(image_size))


@pytest.mark.slow
def test_vgg():
    """For small images, so without a file: of the own size the first dense layer alone has 102 million values."""
    import keras

    slims = ReferenceModel(get_spec("vgg_16"), 5, image_size=32, weight=quick_weight)
    application = keras.applications.VGG16(weights=None, classes=5, classifier_activation=None, input_shape=(32, 32, 3))
    shapes = {name: tuple(variable.shape) for name, variable in slims.model_variables.items()}
    for name, variable in pair_variables(application, slims.spec, shapes).items():
        variable.assign(slims.model_variables[name].numpy().reshape(variable.shape))
    network = Model(get_spec("keras/vgg16"), 5, image_size=32, initialise=False)
    new = names_of_a_new_process(application.get_config())
    for name, _, variable in named_variables(application):
        layer, _, rest = name.partition("/")
        network.model_variables[f"{new.get(layer, layer)}/{rest}"].assign(np.asarray(variable.value))
    assert_same_logits(network, slims, images_of(32))


@pytest.mark.slow
def test_published_weights(shared_dir, tmp_path):
    """Slim's own checkpoint, at the image size that it was trained at."""
    prefix = shared_dir / "checkpoints/mobilenet_v2_1.0_224/mobilenet_v2_1.0_224.ckpt"
    slims = restore_classifier(ClassifierSettings(checkpoint=prefix, model="mobilenet_v2")).model
    assert_same_logits(imported(slims, "keras/mobilenet_v2", tmp_path, 224), slims, images_of(224))
