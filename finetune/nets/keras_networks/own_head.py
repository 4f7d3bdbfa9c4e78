"""The head of a model that somebody wrote: which layer it is, and how it becomes one of logits for other classes."""

import copy
import dataclasses
from collections.abc import Sequence

from finetune.errors import UserError
from finetune.nets.keras_networks.architecture import Config, histories, output_layer
from finetune.nets.keras_networks.plain_layers import WITH_VARIABLES

_SIZES = {"Dense": "units", "Conv2D": "filters"}
_OF_PROBABILITIES = ("softmax", "sigmoid")
_BEHIND_A_HEAD = ("Dropout", "Flatten", "GlobalAveragePooling2D", "GlobalMaxPooling2D", "Reshape")


@dataclasses.dataclass(frozen=True)
class Headed:
    """A functional model to logits.

    Attributes:
        config: The model, as it is in its file but for what makes probabilities of logits.
        head: Name of the layer that depends on the number of classes.
        num_classes: That it has in the file.
        taken_off: What made probabilities, in words; none: the model gave logits.
    """

    config: Config
    head: str
    num_classes: int
    taken_off: tuple[str, ...]


def find_head(config: Config, source: str) -> Headed:
    """The last layer with variables is the head.

    Raises:
        UserError: It is no Dense or Conv2D, computes more than logits, or other layers stand behind it.
    """
    config = copy.deepcopy(config)
    layers = config["layers"]
    numbers = [number for number, layer in enumerate(layers) if layer["class_name"] in WITH_VARIABLES]
    if not numbers or layers[numbers[-1]]["class_name"] not in _SIZES:
        last = layers[numbers[-1]] if numbers else None
        found = f"{last['name']}, a {last['class_name']}" if last else "none"
        raise UserError(
            f"--model: {source}: the last layer with weights is {found}.",
            "Give a model whose last one is a Dense, or a Conv2D with the classes as filters.",
        )
    head = layers[numbers[-1]]
    if not head["config"].get("use_bias", True):
        raise UserError(
            f"--model: {source}: its head {head['name']} has no bias.", "Give it one, by which classes count."
        )
    size = _SIZES[head["class_name"]]
    num_classes = head["config"].get(size)
    if type(num_classes) is not int or num_classes < 1:
        raise UserError(
            f"--model: {source}: {size} of {head['name']} is {num_classes!r:.80}.", "Save it by Keras again."
        )
    taken_off = _linear(head, source)
    for layer in list(layers[numbers[-1] + 1 :]):
        if layer["class_name"] == "Softmax" or _is_activation_of_probabilities(layer):
            taken_off.append(f"the layer {layer['name']}")
            _bypass(config, layer)
        elif layer["class_name"] not in _BEHIND_A_HEAD:
            raise UserError(
                f"--model: {source}: {layer['name']}, a {layer['class_name']}, stands behind the head {head['name']}.",
                "Give a model whose last layer with weights gives a number for each class.",
            )
    return Headed(config, head["name"], num_classes, tuple(taken_off))


def with_num_classes(config: Config, head: str, num_classes: int) -> Config:
    """The model with another number of logits."""
    changed = copy.deepcopy(config)
    layers = changed["layers"]
    (number,) = (number for number, layer in enumerate(layers) if layer["name"] == head)
    size = _SIZES[layers[number]["class_name"]]
    old = layers[number]["config"][size]
    layers[number]["config"][size] = num_classes
    for layer in layers[number + 1 :]:
        if layer["class_name"] == "Reshape":
            shape: Sequence[int] = layer["config"]["target_shape"]
            layer["config"]["target_shape"] = [num_classes if length == old else length for length in shape]
    return changed


def _linear(head: Config, source: str) -> list[str]:
    activation = head["config"].get("activation", "linear")
    if activation not in ("linear", *_OF_PROBABILITIES):
        raise UserError(
            f"--model: {source}: its head {head['name']} ends in {activation}.", "Give one that ends in a softmax."
        )
    head["config"]["activation"] = "linear"
    return [] if activation == "linear" else [f"{activation} of {head['name']}"]


def _is_activation_of_probabilities(layer: Config) -> bool:
    if layer["module"].startswith("keras.src.ops"):
        return layer["class_name"] in ("Softmax", "Sigmoid")
    return layer["class_name"] == "Activation" and layer["config"].get("activation") in (*_OF_PROBABILITIES, "linear")


def _bypass(config: Config, layer: Config) -> None:
    """Takes a layer out: who takes its output takes its input."""
    source = next(histories(layer["inbound_nodes"]))[0]
    config["layers"].remove(layer)
    for other in config["layers"]:
        for history in histories(other["inbound_nodes"]):
            history[0] = source if history[0] == layer["name"] else history[0]
    if output_layer(config) == layer["name"]:
        config["output_layers"] = [source, 0, 0]
