"""A Keras network's layers in groups by depth, found in how the layers hang together."""

from collections.abc import Collection, Mapping, Sequence

from finetune.nets.keras_networks.architecture import Layer, cuts

_BRANCHES_OF_A_CELL = 4
_DEPTHWISE = "DepthwiseConv2D"
_ENDS_OF_FEATURES = ("GlobalAveragePooling2D", "GlobalMaxPooling2D", "Flatten")


def layer_groups(layers: Sequence[Layer], variables: Mapping[str, Collection[str]]) -> tuple[tuple[str, ...], ...]:
    """Names of the layers with variables, from input to output: a block of a network is a group, so is a plain layer.

    Where all that is computed later hangs on the output of one layer a group may end: what lies between two such
    places, a residual block or an Inception module, stays together. A batch norm goes with the convolution that it
    follows, and a depthwise convolution with the pointwise one behind it, as in slim's groups. In NASNet a cell takes
    the outputs of two cells before it, so that there are no such places; its groups end where a cell's branches are
    joined.

    Args:
        layers: In order.
        variables: Names of the variables in each layer that has some.
    """
    groups: list[list[str]] = [[]]
    is_complete = False
    for segment in _segments(layers):
        kinds = {layer.kind for layer in segment if _has_kernel(variables.get(layer.name, ()))}
        if kinds and is_complete:
            groups.append([])
            is_complete = False
        is_complete = is_complete or bool(kinds - {_DEPTHWISE})
        groups[-1] += [layer.name for layer in segment if variables.get(layer.name)]
    return tuple(tuple(group) for group in groups if group)


def last_feature_map(layers: Sequence[Layer]) -> str | None:
    """Name of the layer whose output [B,H,W,C] all pooling before the head takes; None: there is no such pooling."""
    through = set(cuts(list(layers)))
    for layer in layers:
        if layer.kind in _ENDS_OF_FEATURES and layer.name in through:
            return layer.inputs[0]
    return None


def num_top_groups(layers: Sequence[Layer], groups: Sequence[Sequence[str]]) -> int | None:
    """How many groups lie behind the last feature map; None: there is none that another head could stand on."""
    features = last_feature_map(layers)
    if features is None:
        return None
    until = {layer.name for layer in layers[: [layer.name for layer in layers].index(features) + 1]}
    return sum(not until.intersection(group) for group in groups)


def _segments(layers: Sequence[Layer]) -> list[list[Layer]]:
    ends = set(cuts(list(layers))) | _joins_within_two(layers)
    segments: list[list[Layer]] = [[]]
    for layer in layers:
        segments[-1].append(layer)
        if layer.name in ends:
            segments.append([])
    return [segment for segment in segments if segment]


def _joins_within_two(layers: Sequence[Layer]) -> set[str]:
    """Names of the layers that join branches, and whose output is one of at most two that the layers behind take."""
    last_use = {source: number for number, layer in enumerate(layers) for source in layer.inputs}
    return {
        layer.name
        for number, layer in enumerate(layers)
        if len(layer.inputs) >= _BRANCHES_OF_A_CELL
        and sum(last_use.get(earlier.name, 0) > number for earlier in layers[: number + 1]) <= 2
    }


def _has_kernel(variables: Collection[str]) -> bool:
    return any(name.endswith("kernel") for name in variables)
