"""Which scopes `--trainable-from` trains: layers in the order of Keras's `model.layers`, by their indices or names."""

import functools
from collections.abc import Mapping

from finetune.errors import UserError, nearest
from finetune.foreign_weights.keras_names import (
    APPLICATIONS,
    NAMESAKES,
    get_application,
    match_layers,
    scopes_in_keras,
    width_arguments,
)
from finetune.model.depth import Scopes, group_name, scopes_from, scopes_from_group
from finetune.model.recognise import describe_variables
from finetune.model.scopes import in_any_scope
from finetune.nets import get_spec
from finetune.nets.keras_networks.architecture import layers_of
from finetune.nets.spec import NetSpec
from finetune.notices import tell_once

FLAG = "--trainable-from"

_OF_KERAS = "finetune.nets.keras_networks."

# By the name of each layer, in the order of `model.layers`, whether it has variables.
Layers = Mapping[str, bool]


def scopes_from_layer(spec: NetSpec, model: str, layer: str) -> Scopes:
    """The scopes of a layer and of those behind it, and a log line on what its index stands for.

    Args:
        spec: The record of the network as it is trained, perhaps with another head than its own.
        model: Its name, as `--model` takes it.
        layer: An index in `model.layers` of the network in Keras, or a name: of a layer of a Keras network; of a group
            of layers of another one.

    Returns:
        Scopes; none where these are all. Of a network that Keras has under slim's names they are those of whole groups.

    Raises:
        UserError: There is no such layer, Keras has no such network, or nothing would be trained.
    """
    if get_spec(model).function.startswith(_OF_KERAS):
        return _scopes_of_keras(spec, model, layer)
    if not layer.isdecimal():
        return scopes_from_group(spec, layer, FLAG)
    return scopes_from(spec, _group_of_slim(spec, model, int(layer)))


def _scopes_of_keras(spec: NetSpec, model: str, layer: str) -> Scopes:
    from finetune.nets.keras_networks.network import called_network, takes_efficientnet_factor

    own = get_spec(model)
    network = called_network(own, 1000, own.image_size, own.channels)
    assert network is not None
    with_variables = {variable.partition("/")[0] for variable in network.variables}
    layers = {each.name: each.name in with_variables for each in layers_of(network.config) if not each.is_operation}
    names = list(layers)
    index = int(layer) if layer.isdecimal() else _index_of(model, names, layer)
    first = _first_with_variables(model, layers, index)
    more = ""
    if layer.isdecimal() and takes_efficientnet_factor(own.arguments.get("application", ""), own.channels):
        more = f'; Keras counts it as {index + 1} with weights="imagenet", for a Rescaling more at its input'
    tell_once(f"{FLAG}: {index} of the {len(layers)} layers of {model} is {names[index]}{more}.")
    groups = [scope for group in spec.layer_groups for scope in group]
    frozen = {name for name in names[:first] if layers[name]}
    return tuple(scope for scope in groups if scope not in frozen) if frozen else ()


def _group_of_slim(spec: NetSpec, model: str, index: int) -> int:
    """Number of the group that holds the first layer with variables, from an index in Keras on."""
    if model not in APPLICATIONS:
        raise _not_in_keras(spec, model, index)
    layers = _layers_in_keras(get_spec(model))
    whose = f"Keras's {APPLICATIONS[model].name}"
    first = _first_with_variables(whose, layers, index)
    of_groups = _groups_of_layers(model)
    names = list(layers)
    last = len(spec.layer_groups) - 1
    # Whatever head is in the place of the network's own is the last group.
    group = min(last, *(of_groups[name] for name in names[first:] if layers[name]))
    is_begun = any(of_groups[name] >= group for name in names[:first] if layers[name])
    called = group_name(spec, group)
    place = f"lies in {called}, which is trained as a whole" if is_begun else f"is {called}"
    without = "" if first == index else f"is {names[index]}, without variables; {first} "
    tell_once(f"{FLAG}: {index} of {whose} {without}{place}.")
    return group


@functools.cache
def _groups_of_layers(model: str) -> Mapping[str, int]:
    """Numbers of a slim network's groups by the names of Keras's layers with variables."""
    spec = get_spec(model)
    variables = [variable.name for variable in describe_variables(spec, 2)]
    layers = [name for name, has_variables in _layers_in_keras(spec).items() if has_variables]
    matches = match_layers(get_application(spec).rules, layers, scopes_in_keras(spec, variables))
    root = f"{spec.root_scope}/" if spec.root_scope else ""
    return {layer: _number_of_group(spec, f"{root}{scope}") for layer, scope in matches.items()}


def _layers_in_keras(spec: NetSpec) -> Layers:
    from finetune.nets.keras_networks.network import layers_with_variables

    return layers_with_variables(get_application(spec).name, spec.image_size, **width_arguments(spec))


def _number_of_group(spec: NetSpec, scope: str) -> int:
    return next(number for number, group in enumerate(spec.layer_groups) if in_any_scope(scope, group))


def _first_with_variables(whose: str, layers: Layers, index: int) -> int:
    names = list(layers)
    if index >= len(names):
        raise UserError(
            f"{FLAG} is {index}, but {whose} has {len(names)} layers: 0, {names[0]}, to {len(names) - 1}, {names[-1]}.",
            "Give a lower index.",
        )
    numbers = [number for number, has_variables in enumerate(layers.values()) if has_variables]
    if index > numbers[-1]:
        raise UserError(
            f"{FLAG} leaves nothing to be trained: no layer of {whose} from {index}, {names[index]}, on has variables.",
            f"The last that has is {numbers[-1]}, {names[numbers[-1]]}.",
        )
    return next(number for number in numbers if number >= index)


def _index_of(model: str, names: list[str], layer: str) -> int:
    if layer in names:
        return names.index(layer)
    close = nearest(layer, names)
    what_there_is = f"They are 0, {names[0]}, to {len(names) - 1}, {names[-1]}; an index will do."
    raise UserError(
        f"{FLAG}: {model} has no layer {layer!r}.", f"Did you mean {' or '.join(close)}?" if close else what_there_is
    )


def _not_in_keras(spec: NetSpec, model: str, index: int) -> UserError:
    groups = [group_name(spec, number) for number in range(len(spec.layer_groups) - 1)]
    why = f"Keras has no {model}"
    if model in NAMESAKES:
        why = f"Keras's {model} is another network under the same name: {NAMESAKES[model]}"
    return UserError(
        f"{FLAG} is {index}, which counts Keras's layers, but {why}.",
        f"Give --freeze-until with the last group to be frozen: {', '.join(groups)}.",
    )
