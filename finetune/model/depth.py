"""Layers by depth: which scopes lie behind a place in the network. TensorFlow is not needed.

A network's record has its layers in groups from input to output, the last of which is the head. Freezing by depth is
what Keras's users do by `layer.trainable = False` for the first layers of a model.
"""

import math
from collections.abc import Callable, Collection

from finetune.errors import UserError, did_you_mean
from finetune.model.scopes import in_scope
from finetune.nets.spec import NetSpec

Scopes = tuple[str, ...]


def scopes_of_layers(spec: NetSpec, layers: str) -> Scopes:
    """The scopes of the last groups of layers; none where these are all.

    Args:
        spec: The network's record.
        layers: `head`; `all`; `last=N`, the last N groups, of which the head is one, or `last=N%` of them, rounded
            up; `from=GROUP`, a group and those behind it.

    Raises:
        UserError: There is no such group.
    """
    kind, _, which = layers.partition("=")
    groups = spec.layer_groups
    if kind == "head":
        return spec.head_scopes
    if kind == "all":
        return ()
    if kind == "from":
        return scopes_from_group(spec, which, "--trainable-layers from")
    share = which.endswith("%")
    count = math.ceil(len(groups) * int(which[:-1]) / 100) if share else int(which)
    return scopes_from(spec, max(0, len(groups) - count))


def scopes_from_group(spec: NetSpec, group: str, flag: str) -> Scopes:
    """The scopes of a group of layers and of those behind it; none where these are all.

    Args:
        spec: The network's record.
        group: By one of its scopes, with or without the network's root.
        flag: That names the group.

    Raises:
        UserError: There is no such group.
    """
    first = _groups_in(spec, group)
    if not first:
        raise _no_such_group(flag, spec, group, group_names(spec))
    return scopes_from(spec, first[0])


def scopes_behind(spec: NetSpec, layer: str, variables_until: Callable[[str], Collection[str] | None]) -> Scopes:
    """The scopes of the groups of layers behind a group, or behind an end point, of the network.

    Args:
        spec: The network's record.
        layer: A group by one of its scopes, with or without the network's root; or an end point by its name.
        variables_until: From the name of an end point to the names of the variables that it is computed by; None:
            there is no such end point. It takes a second.

    Raises:
        UserError: There is no such group or end point, or nothing is left to be trained.
    """
    until = _groups_in(spec, layer)
    if not until:
        variables = variables_until(layer)
        if variables is None:
            raise _no_such_group("--freeze-until", spec, layer, group_names(spec))
        until = [
            n for n, group in enumerate(spec.layer_groups) if any(in_scope(v, s) for v in variables for s in group)
        ]
    if not until:
        raise UserError(f"--freeze-until {layer}: no layer with variables lies before it.", "Name a later one.")
    if until[-1] == len(spec.layer_groups) - 1:
        raise UserError(
            f"--freeze-until {layer} leaves nothing to be trained: it holds the head.", "Name an earlier one."
        )
    return scopes_from(spec, until[-1] + 1)


def group_names(spec: NetSpec) -> list[str]:
    """The scopes of all groups, from input to output, without the network's root."""
    return [_short(spec, scope) for group in spec.layer_groups for scope in group]


def group_name(spec: NetSpec, number: int) -> str:
    """The first scope of a group, without the network's root."""
    return _short(spec, spec.layer_groups[number][0])


def scopes_from(spec: NetSpec, first: int) -> Scopes:
    """The scopes of the groups of layers from the one with this number on; none where these are all."""
    return tuple(scope for group in spec.layer_groups[first:] for scope in group) if first else ()


def _groups_in(spec: NetSpec, layer: str) -> list[int]:
    """Numbers of the groups that lie in a scope, or that one of whose scopes it is."""
    layer = _short(spec, layer.strip("/"))
    return [
        number
        for number, group in enumerate(spec.layer_groups)
        if any(in_scope(_short(spec, scope), layer) for scope in group)
    ]


def _short(spec: NetSpec, scope: str) -> str:
    return scope.removeprefix(f"{spec.root_scope}/") if spec.root_scope else scope


def _no_such_group(flag: str, spec: NetSpec, layer: str, names: list[str]) -> UserError:
    mend = did_you_mean(layer, names) or f"They are {', '.join(names)}."
    return UserError(f"{flag}: {spec.name} has no group of layers {layer!r}.", mend)
