"""Weights for the Keras application of the same network."""

from pathlib import Path

import numpy as np
import tensorflow as tf

from finetune.classifier import Classifier
from finetune.errors import UserError
from finetune.exports.exported import Array, Exported
from finetune.foreign_weights.keras_weights import write_keras_weights

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

    return Exported("Keras weights", FILE, (folder / FILE).stat().st_size, run, TOLERANCE)
