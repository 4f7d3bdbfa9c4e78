"""Weights of Keras Applications and of the same networks here (`keras/...`): files read, with their top or without;
and the application with a network's weights.
"""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from finetune.errors import UserError, first_line
from finetune.foreign_weights.foreign_file import ForeignFile, FoundWeights
from finetune.foreign_weights.hdf5_limits import refuse_unsafe, weight_names
from finetune.model.scopes import Shape, in_any_scope
from finetune.nets.spec import NetSpec
from finetune.notices import few
from finetune.types import Array

if TYPE_CHECKING:
    from finetune.model.model import Model

KerasModel = Any

IMAGENET_CLASSES = 1000


class KerasApplicationFile(ForeignFile):
    """Weights of a network of Keras, read by Keras into its own application."""

    def __init__(self, path: Path) -> None:
        """Notes the path; only with the network known can the file be read."""
        self._path = path
        self._model: KerasModel = None

    def num_classes(self, spec: NetSpec) -> int:
        """ImageNet's. Other numbers must be told; those of a file without a top don't matter."""
        return IMAGENET_CLASSES

    def find_weights(self, spec: NetSpec, shapes: Mapping[str, Shape]) -> FoundWeights:
        """The network's variables, without those of its head where the file has no top."""
        (num_classes,) = {shape[-1] for name, shape in shapes.items() if in_any_scope(name, spec.head_scopes)}
        refused = self._load(spec, num_classes, include_top=True)
        if refused is not None and self._load(spec, num_classes, include_top=False) is not None:
            raise UserError(
                f"{self._path} does not hold weights of {spec.name} with {num_classes} classes, nor without its top. "
                f"Of the one Keras says: {first_line(refused).rstrip(':')}",
                "Give the --model that the file was made with, and the --num-classes of its classifier.",
            )
        values = {name: value for name, value in values_by_name(self._model).items() if name in shapes}
        if refused is None:
            return FoundWeights(values)
        self._refuse_another_top(spec, num_classes)
        self._model = None
        head = [name for name in shapes if name not in values]
        return FoundWeights(values, remarks=(_no_top(self._path, spec, head),), absent=tuple(head))

    def logits(self, images: Array) -> Array | None:
        """Keras's own, without the softmax; None where the file has no top."""
        if self._model is None:
            return None
        return np.asarray(self._model(self._as_keras_takes(images), training=False))[0]

    def _refuse_another_top(self, spec: NetSpec, num_classes: int) -> None:
        """Keras reads weights without their top out of files with another top, too, and doesn't say so."""
        num_more = len(weight_names(self._path)) - len(self._model.weights)
        if num_more > 0:
            raise UserError(
                f"{self._path} has {num_more} arrays more than {spec.name} without its top, but no top of "
                f"{num_classes} classes.",
                "Give --num-classes, the number of classes of its top.",
            )

    def _load(self, spec: NetSpec, num_classes: int, *, include_top: bool) -> Exception | None:
        """Makes the application and gives it the file's weights; returns what Keras says against it."""
        from finetune.nets.keras_networks.network import make_application

        self._spec = spec
        self._model = make_application(spec.arguments["application"], num_classes, include_top=include_top)
        try:
            refuse_unsafe(self._path)
            with warnings.catch_warnings(action="ignore", category=UserWarning):
                self._model.load_weights(str(self._path))
        except UserError:
            raise
        except Exception as error:  # Keras raises nearly anything for a file that isn't what it expects.
            return error
        return None

    def _as_keras_takes(self, images: Array) -> Array:
        """Images as our network takes them, as Keras's does."""
        from finetune.nets.keras_networks.network import for_keras

        return for_keras(self._spec, self._model, images)


def values_by_name(model: KerasModel) -> dict[str, Array]:
    """Values of a model's variables by the names that they have here."""
    from finetune.nets.keras_networks.network import variables_as_here

    return {name: np.asarray(variable.value) for name, variable in variables_as_here(model).items()}


def application_with_weights(model: "Model") -> KerasModel:
    """Keras's own application of a network `keras/...` with its weights, from images of the network's size to logits.

    It takes images as `in_colours` gives them. EfficientNet B is made as Keras has it with weights for ImageNet.

    Raises:
        UserError: The network has other variables than the application.
    """
    from finetune.nets.keras_networks.network import (
        make_application,
        takes_efficientnet_factor,
        variables_as_here,
        with_efficientnet_factor,
    )

    name, size = model.spec.arguments["application"], model.image_size
    application = make_application(name, model.num_classes, include_top=True, input_shape=(size, size, model.channels))
    if takes_efficientnet_factor(name, model.channels):
        application = with_efficientnet_factor(application)
    give_weights(model, variables_as_here(application), f"keras.applications.{name}")
    return application


def application_call(model: "Model") -> str:
    """The line of Python that makes Keras's own application of a network `keras/...`, to logits."""
    size = model.image_size
    return (
        f"keras.applications.{model.spec.arguments['application']}(weights=None, classes={model.num_classes}, "
        f"classifier_activation=None, input_shape=({size}, {size}, {model.channels}))"
    )


def give_weights(model: "Model", variables: Mapping[str, Any], what: str) -> None:
    """Gives Keras's variables, by the names that they have here, the values of a network's.

    Raises:
        UserError: The network has others than `what`, whose they are.
    """
    shapes = {name: tuple(variable.shape) for name, variable in variables.items()}
    own = {name: tuple(variable.shape) for name, variable in model.model_variables.items()}
    differing = [name for name in {**own, **shapes} if own.get(name) != shapes.get(name)]
    if differing:
        raise UserError(
            f"--format: the network isn't {what} as Keras has it: {few(differing)} aren't in both, or differ in shape.",
            "Take --format saved_model, which any network can be written as.",
        )
    for name, variable in variables.items():
        variable.assign(model.model_variables[name].numpy())


def _no_top(path: Path, spec: NetSpec, head: list[str]) -> str:
    return (
        f"{path} has no top: {len(head)} variables of the head ({', '.join(head)}) are left out. finetune-train begins "
        f"with a new one: --exclude-scopes {','.join(dict.fromkeys(name.partition('/')[0] for name in head))}"
    )
