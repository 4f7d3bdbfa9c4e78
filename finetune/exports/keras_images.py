"""Images as Keras's own application of a network takes them, beside what the network's preprocessing makes of them."""

from finetune.errors import UserError
from finetune.nets.keras_networks.model_file import is_model_file
from finetune.nets.keras_networks.table import APPLICATIONS
from finetune.nets.spec import NetSpec
from finetune.prediction.classifier import Classifier
from finetune.preprocessing import steps
from finetune.types import Array


def refuse_other_head(spec: NetSpec) -> None:
    """Refuses a network whose head is none of Keras's.

    Raises:
        UserError: There is one by `--head`.
    """
    if spec.head is not None:
        raise UserError(
            f"--format: the network has {spec.head.flags}, a head that no network of Keras has.",
            "Take --format saved_model, which any network can be written as.",
        )


def steps_for_keras(classifier: Classifier) -> tuple[steps.Step, ...]:
    """What must be done to prepared images; `preprocess_input` of Keras's application does it."""
    from finetune.nets.keras_networks.network import deviations

    of_colours = {"bgr": steps.reverse_channels(), "deviations": steps.divide(deviations(classifier.model.channels))}
    return tuple(step for colours, step in of_colours.items() if colours == _colours(classifier.model.spec))


def images_for_keras(classifier: Classifier, images: Array) -> Array:
    """Prepared images, float32 [B,H,W,C], after these steps."""
    from finetune.nets.keras_networks.network import in_colours

    prepared: Array = in_colours(images, _colours(classifier.model.spec))
    return prepared


def preparation_in_words(classifier: Classifier) -> str:
    """Whether `preprocess_input` of the application prepares images."""
    spec = classifier.model.spec
    if spec.name in APPLICATIONS and classifier.preprocessing.name == spec.preprocessing:
        return (
            "Images of the network's size as image_preparation says, of which preprocess_input of the module of "
            f"keras.applications.{APPLICATIONS[spec.name].function} does all behind the resizing."
        )
    if is_model_file(spec.name):
        return "The images are prepared as image_preparation says."
    return "Not by its preprocess_input: the images are prepared as image_preparation says."


def _colours(spec: NetSpec) -> str:
    return str(spec.arguments["colours"]) if spec.name in APPLICATIONS else ""
