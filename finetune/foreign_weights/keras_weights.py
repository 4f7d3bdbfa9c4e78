"""Weight files of Keras Applications (.h5, .weights.h5, .keras), read and written by Keras itself."""

import contextlib
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from finetune.errors import UserError, first_line
from finetune.foreign_weights.foreign_file import ForeignFile, FoundWeights
from finetune.foreign_weights.hdf5_limits import refuse_unsafe
from finetune.foreign_weights.keras_names import get_application, match_layers, scopes_in_keras, width_arguments
from finetune.model.recognise import count_classes
from finetune.model.scopes import Shape, in_any_scope
from finetune.nets.spec import NetSpec
from finetune.types import Array

if TYPE_CHECKING:
    from finetune.model.model import Model

KerasModel = Any
KerasVariable = Any

IMAGENET_CLASSES = 1000

PADDING_REMARK = (
    "Keras's own NASNet pads the pooling of its reduction cells with zeros, which slim leaves out; its logits "
    "with these weights differ a little. Compared is Keras's network with slim's padding."
)

COLOURS_REMARK = (
    "If these are the weights that Keras publishes, they want blue, green, red, and this network is given red first: "
    "import them with --model keras/vgg16 or keras/vgg19, which sees to that. Weights exported from here are right as "
    "they are."
)

# Names of variables within a layer; of several in slim, the one that the layer has.
_VARIABLES = {
    "kernel": ("weights", "depthwise_weights"),
    "bias": ("biases",),
    "depthwise_kernel": ("depthwise_weights",),
    "pointwise_kernel": ("pointwise_weights",),
    "beta": ("beta",),
    "gamma": ("gamma",),
    "moving_mean": ("moving_mean",),
    "moving_variance": ("moving_variance",),
}


class KerasFile(ForeignFile):
    """Weights of a Keras application, with its classifier."""

    def __init__(self, path: Path) -> None:
        """Notes the path; only with the network known can the file be read."""
        self._path = path
        self._model: KerasModel = None

    def num_classes(self, spec: NetSpec) -> int | None:
        """ImageNet's: Keras has no background class. Other numbers must be told."""
        get_application(spec)  # Refuses a network that Keras has not, before ours is built.
        return IMAGENET_CLASSES

    def find_weights(self, spec: NetSpec, shapes: Mapping[str, Shape]) -> FoundWeights:
        """The application's variables in slim's shapes; there are none of an auxiliary head."""
        num_classes = count_classes(spec, shapes)
        assert num_classes is not None
        self._model = build_application(spec, num_classes)
        with _keras_errors_told(self._path, spec, num_classes):
            refuse_unsafe(self._path)
            self._model.load_weights(str(self._path))
        pairs = pair_variables(self._model, spec, shapes)
        values = {name: np.asarray(variable.value).reshape(shapes[name]) for name, variable in pairs.items()}
        return FoundWeights(values, remarks=(*padding_remark(spec), *colours_remark(spec)))

    def logits(self, images: Array) -> Array | None:
        """Keras's own, without the softmax."""
        return np.asarray(self._model(images, training=False))[0]


def write_keras_weights(model: "Model", path: Path) -> KerasModel:
    """Writes the weights of a slim network for its Keras application; an auxiliary head's are left out.

    Args:
        model: The network.
        path: Ending `.weights.h5` (weights only) or `.keras` (with the network).

    Returns:
        The Keras application with these weights, from images [B,H,W,3] of its own size to logits [B,num_classes].

    Raises:
        UserError: Keras has no such network, or another one under its name; the file can't be written.
    """
    application = application_with_weights(model)
    with _keras_errors_told(path, model.spec, model.num_classes):
        application.save_weights(str(path)) if path.suffix == ".h5" else application.save(str(path))
    return application


def application_with_weights(model: "Model", input_shape: tuple[int, int, int] | None = None) -> KerasModel:
    """The Keras application with the weights of a slim network, but for an auxiliary head's.

    Args:
        model: The network.
        input_shape: Of an image that the application takes; None: as Keras has it.

    Raises:
        UserError: Keras has no such network, or another one under its name; or not for such images.
    """
    shapes = {name: tuple(variable.shape) for name, variable in model.model_variables.items()}
    application = build_application(model.spec, model.num_classes, input_shape=input_shape)
    for name, variable in pair_variables(application, model.spec, shapes).items():
        variable.assign(model.model_variables[name].numpy().reshape(variable.shape))
    return application


def build_application(
    spec: NetSpec, num_classes: int, *, input_shape: tuple[int, int, int] | None = None
) -> KerasModel:
    """The Keras application with random weights, from images [B,H,W,C] to logits [B,num_classes].

    Args:
        spec: The slim network's record.
        num_classes: Number of logits.
        input_shape: Of an image; None: as Keras has it.

    Raises:
        UserError: Keras has no such network, or another one under its name; or not for such images.
    """
    import keras

    application = get_application(spec)
    build = getattr(keras.applications, application.name)
    try:
        model = build(**_arguments(spec, num_classes), input_shape=input_shape)
    except ValueError as error:
        raise UserError(
            f"--image-size: keras.applications.{application.name} takes no images of {input_shape}, as Keras says: "
            f"{first_line(error)}",
            "Give the --image-size that it takes.",
        ) from error
    return _pad_as_slim(model) if get_application(spec).pads_with_zeros else model


def application_call(spec: NetSpec, num_classes: int) -> str:
    """The line of Python that makes the application, as Keras has it, for a network's weights."""
    arguments = ", ".join(f"{name}={value!r}" for name, value in _arguments(spec, num_classes).items())
    return f"keras.applications.{get_application(spec).name}({arguments})"


def padding_remark(spec: NetSpec) -> tuple[str, ...]:
    """In what Keras's application, as it is, differs from `build_application`'s; empty where in nothing."""
    return (PADDING_REMARK,) if get_application(spec).pads_with_zeros else ()


def colours_remark(spec: NetSpec) -> tuple[str, ...]:
    """What a user must know of published weights of Keras's VGG under slim's network; empty for others."""
    return (COLOURS_REMARK,) if get_application(spec).name.startswith("VGG") else ()


def _arguments(spec: NetSpec, num_classes: int) -> dict[str, Any]:
    return {"weights": None, "classes": num_classes, "classifier_activation": None, **width_arguments(spec)}


def _pad_as_slim(nasnet: KerasModel) -> KerasModel:
    """NASNet whose reduction cells pool as slim's: the border is left out of account, not taken as zeros."""
    config = nasnet.get_config()
    for layer in config["layers"]:
        if layer["name"].startswith("reduction_pad"):
            layer["config"]["padding"] = ((0, 0), (0, 0))
        elif layer["class_name"] in ("MaxPooling2D", "AveragePooling2D") and layer["name"].startswith("reduction"):
            layer["config"]["padding"] = "same"
    return nasnet.from_config(config)


def pair_variables(model: KerasModel, spec: NetSpec, shapes: Mapping[str, Shape]) -> dict[str, KerasVariable]:
    """Keras's variables by slim's names; a fully connected layer's may have another shape of the same size.

    Args:
        model: The Keras application.
        spec: The slim network's record.
        shapes: Of all the slim network's variables by name, in the order in which it makes them.

    Raises:
        UserError: A variable of one of the two is not in the other, or of another size.
    """
    root = f"{spec.root_scope}/" if spec.root_scope else ""
    needed = [name for name in shapes if not in_any_scope(name, spec.head_scopes[1:])]
    layers = {layer.name: layer for layer in model.layers if layer.weights}
    matches = match_layers(get_application(spec).rules, list(layers), scopes_in_keras(spec, shapes))
    pairs = {}
    for layer_name, scope in matches.items():
        for variable in layers[layer_name].weights:
            for leaf in _VARIABLES[variable.name]:
                if f"{root}{scope}/{leaf}" in shapes:
                    pairs[f"{root}{scope}/{leaf}"] = variable
    unpaired = [name for name in needed if name not in pairs]
    if unpaired or len(pairs) != len(model.weights):
        raise UserError(
            f"Keras's {model.name} has {len(model.weights)} variables, {spec.name} {len(needed)}, of which "
            f"{len(pairs)} are the same."
        )
    for name, variable in pairs.items():
        if np.prod(variable.shape) != np.prod(shapes[name]):
            raise UserError(f"{name} is {list(variable.shape)} in Keras and {list(shapes[name])} in {spec.name}.")
    return pairs


@contextlib.contextmanager
def _keras_errors_told(path: Path, spec: NetSpec, num_classes: int) -> Iterator[None]:
    """Keras raises nearly anything for a file that isn't what it expects, and warns before."""
    try:
        with warnings.catch_warnings(action="ignore", category=UserWarning):
            yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"{path} does not hold weights of {spec.name} with {num_classes} classes, as Keras says: "
            f"{first_line(error).rstrip(':')}",
            "Give the --model that the file was made with, and the --num-classes of its classifier.",
        ) from error
