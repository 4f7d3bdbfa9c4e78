"""The record of a network that a `.keras` file holds."""

import functools
import json
import math
from collections.abc import Sequence

from finetune.errors import UserError, first_line
from finetune.nets.keras_networks.architecture import Config, Layer, batch_norm_epsilon, layers_of
from finetune.nets.keras_networks.depth import layer_groups, num_top_groups
from finetune.nets.keras_networks.flattening import FlatModel
from finetune.nets.keras_networks.model_file import read_model
from finetune.nets.keras_networks.own_head import find_head
from finetune.nets.keras_networks.plain_layers import WITH_VARIABLES
from finetune.nets.spec import NetSpec
from finetune.notices import few, tell_once

MOST_VALUES = 2**30
_DEFAULT_SIZE = 224
_MOST_SIZE = 8192
_OF_RANGE = ("Rescaling", "Normalization", "TrueDivide", "Divide", "Multiply", "Subtract", "Add")


def file_record(name: str) -> NetSpec:
    """The record of the network in a file; Keras is imported for it.

    Raises:
        UserError: What `read_model`, `FlatModel` and `find_head` refuse; images that aren't square or of other than 1
            or 3 channels; layers that don't fit each other, or are too large.
    """
    return _record(name, json.dumps(read_model(name)))


@functools.lru_cache(maxsize=8)
def _record(name: str, architecture: str) -> NetSpec:
    from finetune.nets.keras_networks.network import file_network

    flat = FlatModel(json.loads(architecture), name)
    headed = find_head(flat.config, name)
    size, channels = _images(headed.config, name)
    config = json.dumps(headed.config)
    layers = layers_of(headed.config)
    try:
        network = file_network(config, headed.head, headed.num_classes, size, size, channels, "float32")
    except (ValueError, TypeError, KeyError, OverflowError, AttributeError) as error:
        raise UserError(
            f"--model: the layers of {name} don't fit each other for images of {size} pixels, as Keras says: "
            f"{first_line(error)}",
            "Give a file that Keras loads.",
        ) from error
    num_values = sum(math.prod(variable.shape) for variable in network.variables.values())
    if num_values > MOST_VALUES:
        raise UserError(f"--model: {name} has {num_values:,} values, more than {MOST_VALUES:,}.", "Give a smaller one.")
    variables: dict[str, list[str]] = {}
    for variable in network.variables:
        variables.setdefault(variable.partition("/")[0], []).append(variable)
    groups = _with_head_alone(layer_groups(layers, variables), headed.head)
    preprocessing, why = _preprocessing(layers)
    for remark in _remarks(flat, headed.taken_off, preprocessing, why):
        tell_once(f"--model {name}: {remark}")
    return NetSpec(
        name=name,
        function="finetune.nets.keras_networks.network:network_of_file",
        arguments={"architecture": config, "head": headed.head},
        root_scope="",
        image_size=size,
        channels=channels,
        head_scopes=(headed.head,),
        layer_groups=groups,
        num_top_groups=num_top_groups(layers, groups),
        preprocessing=preprocessing,
        paper="",
        num_parameters=sum(math.prod(v.shape) for v in network.variables.values() if v.trainable),
        batch_norm_epsilon=batch_norm_epsilon(headed.config) or NetSpec.batch_norm_epsilon,
    )


def _images(config: Config, name: str) -> tuple[int, int]:
    """Height and width, and channels, of the images that a model takes."""
    shape = config["layers"][0]["config"].get("batch_shape")
    if not isinstance(shape, list) or len(shape) != 4 or shape[3] not in (1, 3):
        raise UserError(
            f"--model: {name} takes {shape}, no images of 1 or 3 channels.", "Give one with Input((H, W, C))."
        )
    height, width = shape[1:3]
    if height != width or not isinstance(height, int | None) or not 0 < (height or 1) <= _MOST_SIZE:
        raise UserError(f"--model: {name} takes images of {height}×{width} pixels.", "Give one of square images.")
    return height or _DEFAULT_SIZE, shape[3]


def _preprocessing(layers: Sequence[Layer]) -> tuple[str, str]:
    """Which one is likely, and by what."""
    for layer in layers:
        if layer.kind in _OF_RANGE:
            return "keras_raw", f"its layer {layer.name} brings pixels of 0 to 255 into range"
        if layer.kind in WITH_VARIABLES:
            break
    return "keras_tf", "no layer of it brings pixels into range, so that -1 to 1 is likely"


def _remarks(flat: FlatModel, taken_off: Sequence[str], preprocessing: str, why: str) -> list[str]:
    remarks = [f"the file doesn't say how images are prepared. {preprocessing} unless --preprocessing is given: {why}."]
    if taken_off:
        remarks.append(f"taken off, since losses take logits: {', '.join(taken_off)}.")
    if flat.left_out:
        remarks.append(f"left out, for --augmentation does that: {few(flat.left_out)}.")
    return remarks


def _with_head_alone(groups: tuple[tuple[str, ...], ...], head: str) -> tuple[tuple[str, ...], ...]:
    rest = tuple(tuple(name for name in group if name != head) for group in groups)
    return (*(group for group in rest if group), (head,))
