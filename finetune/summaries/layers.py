"""A network's layers: which there are, of which kind, and what each gives."""

import dataclasses
from collections.abc import Iterable, Mapping

from finetune.model.model import Model
from finetune.model.scopes import in_scope
from finetune.nets.keras_networks.architecture import Layer as KerasLayer
from finetune.nets.keras_networks.architecture import layers_of
from finetune.nets.keras_networks.network import KerasNetwork, called_network
from finetune.summaries.image_operations import ImageOperation, Shape

# Layers by what they compute with their kernels.
_KINDS = {
    "Conv2D": "Conv2D",
    "DepthwiseConv2dNative": "Depthwise",
    "MatMul": "Dense",
    "FusedBatchNormV3": "BatchNorm",
}
# Classes of Keras with long names.
_KERAS_KINDS = {
    "AveragePooling2D": "AvgPool",
    "BatchNormalization": "BatchNorm",
    "Concatenate": "Concat",
    "Cropping2D": "Crop",
    "DepthwiseConv2D": "Depthwise",
    "GlobalAveragePooling2D": "AvgPool",
    "GlobalMaxPooling2D": "MaxPool",
    "InputLayer": "Input",
    "LayerNormalization": "LayerNorm",
    "MaxPooling2D": "MaxPool",
    "Normalization": "Normalize",
    "SeparableConv2D": "Separable",
    "ZeroPadding2D": "Pad",
}


@dataclasses.dataclass(frozen=True)
class Layer:
    """A layer of a network.

    Attributes:
        name: The scope of its variables; of a layer of Keras its name there.
        kind: As people call it, such as Conv2D or Dense; short, for tables.
        output_shape: Of what it gives for an image; None: not known.
        variables: Their names.
    """

    name: str
    kind: str
    output_shape: Shape | None
    variables: tuple[str, ...]


def network_layers(model: Model, operations: Mapping[str, ImageOperation]) -> list[Layer]:
    """The layers of a network in their order, which is their index.

    Of slim's networks a layer is an innermost scope that holds variables, in the order of their creation; of Keras's
    every layer is one, in the order of `model.layers`.

    Args:
        model: The network.
        operations: What a pass of it does with the images.
    """
    scopes = _layers_by_scope(model, operations)
    network = called_network(model.spec, model.num_classes, model.image_size, model.channels)
    if network is None:
        return scopes
    own = [_keras_layer(model, network, layer) for layer in layers_of(network.config) if not layer.is_operation]
    taken = {name for layer in own for name in layer.variables}
    return [*own, *(layer for layer in scopes if not taken.intersection(layer.variables))]  # The latter of a new head.


def _keras_layer(model: Model, network: KerasNetwork, layer: KerasLayer) -> Layer:
    variables = tuple(name for name in model.model_variables if in_scope(name, layer.name))
    kind = _KERAS_KINDS.get(layer.kind, layer.kind)
    return Layer(layer.name, kind, network.output_shapes[layer.name], variables)


def _layers_by_scope(model: Model, operations: Mapping[str, ImageOperation]) -> list[Layer]:
    variables: dict[str, list[str]] = {}
    for name in model.model_variables:
        variables.setdefault(_scope(name), []).append(name)
    users: dict[str, list[ImageOperation]] = {scope: [] for scope in variables}
    for operation in operations.values():
        if operation.output_shape is not None:
            for scope in {_scope(name) for name in operation.variables}:
                users[scope].append(operation)
    return [_layer(model, scope, names, users[scope]) for scope, names in variables.items()]


def _layer(model: Model, scope: str, names: list[str], users: list[ImageOperation]) -> Layer:
    if all(model.model_variables[name].trainable for name in names):
        kernels = {name for name in names if len(model.model_variables[name].shape) > 1} or set(names)
        kind = _kind(user.operation.type for user in users if kernels & user.variables)
    else:
        kind = "BatchNorm"
    # The last gives what the layer gives: behind the kernel the biases are added.
    return Layer(scope, kind, users[-1].output_shape if users else None, tuple(names))


def _kind(types: Iterable[str]) -> str:
    found = list(dict.fromkeys(types))
    if {"DepthwiseConv2dNative", "Conv2D"} <= set(found):
        return "Separable"
    return next((_KINDS[name] for name in found if name in _KINDS), found[0] if found else "unused")


def _scope(variable: str) -> str:
    return variable.rpartition("/")[0]
