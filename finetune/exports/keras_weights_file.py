"""Weights for the Keras application of the same network."""

from pathlib import Path

import numpy as np
import tensorflow as tf

from finetune.errors import UserError
from finetune.exports.exported import Exported
from finetune.exports.signatures import Signature, describe_tensor
from finetune.foreign_weights.keras_weights import application_call, padding_remark, write_keras_weights
from finetune.prediction.classifier import Classifier
from finetune.types import Array

FILE = "classifier.weights.h5"
# Keras's kernels add in another order than ours.
TOLERANCE = 1e-4


def write_keras_weights_file(classifier: Classifier, folder: Path) -> Exported:
    """Writes `classifier.weights.h5`, to be loaded into Keras's application of the network; it takes prepared images.

    Raises:
        UserError: Keras has no such network, or another one under its name, or at another image size.
    """
    application = write_keras_weights(classifier.model, folder / FILE)
    size, own_size = application.input_shape[1], classifier.model.image_size
    if own_size != size:
        raise UserError(
            f"--format keras-weights: Keras's application takes {size} pixels, the network {own_size}.",
            f"Give --image-size {size}: the weights are the same at any size.",
        )

    def run(images: Array, encoded: list[bytes]) -> Array:
        return np.asarray(tf.nn.softmax(application(images, training=False)))

    inputs = describe_tensor("images", "float32", application.input_shape)
    outputs = describe_tensor("logits", "float32", application.output_shape)
    return Exported(
        "Keras weights",
        FILE,
        (folder / FILE).stat().st_size,
        run,
        TOLERANCE,
        (Signature(None, (inputs,), (outputs,)),),
        _loading(classifier),
    )


def _loading(classifier: Classifier) -> str:
    spec = classifier.model.spec
    words = [
        f"{application_call(spec, classifier.model.num_classes)}.load_weights(file).",
        "Not by its preprocess_input: the images are prepared as image_preparation says.",
        *padding_remark(spec),
    ]
    return " ".join(words)
