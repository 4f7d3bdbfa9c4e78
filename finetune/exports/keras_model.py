"""A `.keras` file: the Keras application of the network, with its weights and a softmax, that Keras alone loads."""

from pathlib import Path
from typing import Any

import numpy as np

from finetune.errors import UserError
from finetune.exports.exported import Exported
from finetune.exports.keras_images import images_for_keras, preparation_in_words, refuse_other_head, steps_for_keras
from finetune.exports.keras_temperature import divide_logits
from finetune.exports.keras_weights_file import TOLERANCE
from finetune.exports.signatures import Signature, describe_tensor
from finetune.foreign_weights import keras_application, keras_weights
from finetune.foreign_weights.keras_names import APPLICATIONS as SLIM_APPLICATIONS
from finetune.model.model import Model
from finetune.nets.keras_networks.model_file import is_model_file
from finetune.nets.keras_networks.table import APPLICATIONS
from finetune.prediction.classifier import Classifier
from finetune.types import Array

FILE = "classifier.keras"


def write_keras_model(classifier: Classifier, folder: Path) -> Exported:
    """Writes `classifier.keras`, and loads it as its users will: in safe mode, which runs no code of a file.

    Raises:
        UserError: Keras has no such network, or another one under its name, or another head, or not for such images.
    """
    import keras

    from finetune.nets.keras_networks.network import with_softmax

    refuse_other_head(classifier.model.spec)
    application = _application(classifier)
    divide_logits(application, classifier.decision.divisor)
    with_softmax(application).save(folder / FILE)
    loaded = keras.saving.load_model(folder / FILE, compile=False, safe_mode=True)

    def run(images: Array, encoded: list[bytes]) -> Array:
        del encoded
        return np.asarray(loaded(images_for_keras(classifier, images), training=False))

    inputs = describe_tensor("images", "float32", loaded.input_shape)
    outputs = describe_tensor("probabilities", "float32", loaded.output_shape)
    return Exported(
        "Keras",
        FILE,
        (folder / FILE).stat().st_size,
        run,
        TOLERANCE,
        (Signature(None, (inputs,), (outputs,)),),
        f"keras.saving.load_model(file).predict(images). {preparation_in_words(classifier)}",
        steps_for_keras(classifier),
    )


def _application(classifier: Classifier) -> Any:
    """Keras's application with the weights of the network, to logits."""
    model = classifier.model
    if model.spec.name in APPLICATIONS:
        return keras_application.application_with_weights(model)
    if is_model_file(model.spec.name):
        return _own_network(model)
    if model.spec.name not in SLIM_APPLICATIONS:
        raise UserError(
            f"--format keras: no application of Keras computes what {model.spec.name} does.",
            "Take --format saved_model, which any network can be written as; Keras calls it by keras.layers.TFSMLayer.",
        )
    return keras_weights.application_with_weights(model, (model.image_size, model.image_size, model.channels))


def _own_network(model: Model) -> Any:
    """The network that came from a file, to logits."""
    from finetune.nets.keras_networks.network import functional_model, named_variables

    own = functional_model(**model.spec.arguments, num_classes=model.num_classes)
    variables = {name: variable for name, _, variable in named_variables(own)}
    keras_application.give_weights(model, variables, model.spec.name)
    return own
