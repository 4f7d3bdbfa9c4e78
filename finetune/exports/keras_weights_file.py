"""Weights for the Keras application of the same network."""

from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from finetune.errors import UserError
from finetune.exports.exported import Exported
from finetune.exports.keras_images import images_for_keras, preparation_in_words, refuse_other_head, steps_for_keras
from finetune.exports.keras_temperature import divide_logits
from finetune.exports.signatures import Signature, describe_tensor
from finetune.foreign_weights import keras_application
from finetune.foreign_weights.keras_weights import application_call, padding_remark, write_keras_weights
from finetune.nets.keras_networks.model_file import is_model_file
from finetune.nets.keras_networks.table import APPLICATIONS
from finetune.prediction.classifier import Classifier
from finetune.types import Array

FILE = "classifier.weights.h5"
# Keras's kernels add in another order than ours.
TOLERANCE = 1e-4


def write_keras_weights_file(classifier: Classifier, folder: Path) -> Exported:
    """Writes `classifier.weights.h5`, to be loaded into Keras's application of the network; it takes prepared images.

    Raises:
        UserError: Keras has no such network, or another one under its name, or at another image size, or no call that
            makes it without published weights.
    """
    refuse_other_head(classifier.model.spec)
    if is_model_file(classifier.model.spec.name):
        raise UserError("--format keras-weights is for Keras's applications.", "Take --format keras.")
    is_of_keras = classifier.model.spec.name in APPLICATIONS
    write = _write_application if is_of_keras else _write_for_slim
    application, call, remarks = write(classifier, folder / FILE)

    def run(images: Array, encoded: list[bytes]) -> Array:
        del encoded
        return np.asarray(tf.nn.softmax(application(images_for_keras(classifier, images), training=False)))

    inputs = describe_tensor("images", "float32", application.input_shape)
    outputs = describe_tensor("logits", "float32", application.output_shape)
    return Exported(
        "Keras weights",
        FILE,
        (folder / FILE).stat().st_size,
        run,
        TOLERANCE,
        (Signature(None, (inputs,), (outputs,)),),
        " ".join([f"{call}.load_weights(file).", preparation_in_words(classifier), *remarks]),
        steps_for_keras(classifier),
    )


def _write_for_slim(classifier: Classifier, path: Path) -> tuple[Any, str, tuple[str, ...]]:
    """Writes a slim network's weights; returns Keras's application with them, the line that makes it, and remarks."""
    model = classifier.model
    application = write_keras_weights(model, path)
    divide_logits(application, classifier.decision.divisor)
    application.save_weights(path)
    size = application.input_shape[1]
    if model.image_size != size:
        raise UserError(
            f"--format keras-weights: Keras's application takes {size} pixels, the network {model.image_size}.",
            f"Give --image-size {size}: the weights are the same at any size.",
        )
    return application, application_call(model.spec, model.num_classes), padding_remark(model.spec)


def _write_application(classifier: Classifier, path: Path) -> tuple[Any, str, tuple[str, ...]]:
    """The same of a network `keras/...`; the application is made anew, and reads the file as its users will."""
    from finetune.nets.keras_networks.network import make_application, takes_efficientnet_factor

    model = classifier.model
    name = model.spec.arguments["application"]
    if takes_efficientnet_factor(name, model.channels):
        raise UserError(
            f"--format keras-weights: keras.applications.{name} divides colours otherwise with weights of its own than "
            "without, so that a file of weights is not enough.",
            "Take --format keras, a file that has the network as well.",
        )
    application = keras_application.application_with_weights(model)
    divide_logits(application, classifier.decision.divisor)
    application.save_weights(path)
    size = model.image_size
    application = make_application(name, model.num_classes, include_top=True, input_shape=(size, size, model.channels))
    application.load_weights(path)
    return application, keras_application.application_call(model), ()
