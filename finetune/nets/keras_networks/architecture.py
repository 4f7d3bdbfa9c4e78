"""A Keras functional model as data, as `get_config` gives it: what is told by that, and changed. Keras isn't needed."""

import copy
import dataclasses
import re
from collections.abc import Iterator, Mapping
from typing import Any

Config = dict[str, Any]

_AUTOMATIC_NAME = re.compile(r"(.+?)(?:_(\d+))?$")


@dataclasses.dataclass(frozen=True)
class Layer:
    """One layer of a functional model, or an operation of `keras.ops` between its layers.

    Attributes:
        name: Its own; with a slash and the name of a variable in it, that variable's path.
        kind: Its class in Keras.
        inputs: Names of those whose outputs it takes, in order.
        is_operation: Whether `model.layers` leaves it out.
    """

    name: str
    kind: str
    inputs: tuple[str, ...]
    is_operation: bool


def layers_of(config: Config) -> list[Layer]:
    """The layers of a model, each behind those that it takes; but for operations in the order of `model.layers`."""
    return [
        Layer(
            name=layer["name"],
            kind=layer["class_name"],
            inputs=tuple(dict.fromkeys(_sources(layer["inbound_nodes"]))),
            is_operation=".ops" in (layer["module"] or ""),
        )
        for layer in config["layers"]
    ]


def output_layer(config: Config) -> str:
    """Name of the layer that gives the model's only output."""
    outputs = config["output_layers"]
    return str(outputs[0] if isinstance(outputs[0], str) else outputs[0][0])


def batch_norm_epsilon(config: Config) -> float | None:
    """What the first batch norm adds to the variance; None: there is none."""
    own = (layer["config"]["epsilon"] for layer in config["layers"] if layer["class_name"] == "BatchNormalization")
    return next(own, None)


def cuts(layers: list[Layer]) -> list[str]:
    """Names of the layers whose output is all that the layers behind them take of the model, in order."""
    last_use = {source: number for number, layer in enumerate(layers) for source in layer.inputs}
    found, open_until = [], 0
    for number, layer in enumerate(layers):
        # Nothing that an earlier layer gave is taken behind this one.
        if open_until <= number:
            found.append(layer.name)
        open_until = max(open_until, last_use.get(layer.name, number))
    return found


def activation_of_output(config: Config) -> str | None:
    """What the output layer itself does last, by Keras's word; None: it is of no kind that has an activation."""
    return _output(config)["config"].get("activation")


def with_activation_of_output(config: Config, activation: str) -> Config:
    """The same model with another activation in its output layer, which has one."""
    changed = copy.deepcopy(config)
    _output(changed)["config"]["activation"] = activation
    return changed


def _output(config: Config) -> Config:
    (layer,) = (layer for layer in config["layers"] if layer["name"] == output_layer(config))
    return dict(layer)


def with_names_of_a_new_process(config: Config) -> Config:
    """The same model with the names that its layers have where it is the first one that a process makes."""
    return _renamed(config, names_of_a_new_process(config))


def names_of_a_new_process(config: Config) -> dict[str, str]:
    """By the name of a layer that was not named by hand the one that it has in the first model of a process.

    Keras counts unnamed layers of a class through the whole process: `conv2d`, `conv2d_1` are `conv2d_94`, `conv2d_95`
    in the second InceptionV3. A variable's name in a checkpoint may not depend on that.
    """
    names = [layer["name"] for layer in config["layers"]]
    automatic = {layer["name"] for layer in config["layers"] if _is_automatic(layer)}
    first: dict[str, int] = {}
    for name in automatic:
        stem, number = _parts(name)
        first[stem] = min(first.get(stem, number), number)
    new = {name: _numbered(stem, number - first[stem]) for name in automatic for stem, number in [_parts(name)]}
    assert len({new.get(name, name) for name in names}) == len(names)
    return new


def _is_automatic(layer: Mapping[str, Any]) -> bool:
    stem, _ = _parts(layer["name"])
    return stem == _snake_case(layer["class_name"])


def _parts(name: str) -> tuple[str, int]:
    match = _AUTOMATIC_NAME.match(name)
    assert match is not None
    return match[1], int(match[2] or 0)


def _numbered(stem: str, number: int) -> str:
    return f"{stem}_{number}" if number else stem


def _snake_case(class_name: str) -> str:
    """`BatchNormalization` as `batch_normalization` and `Conv2D` as `conv2d`, as Keras names unnamed layers."""
    words = re.sub(r"(.)([A-Z][a-z0-9]+)", r"\1_\2", re.sub(r"\W+", "", class_name))
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", words).lower()


def _renamed(config: Config, new: Mapping[str, str]) -> Config:
    renamed = copy.deepcopy(config)
    for layer in renamed["layers"]:
        layer["name"] = layer["config"]["name"] = new.get(layer["name"], layer["name"])
        for history in histories(layer["inbound_nodes"]):
            history[0] = new.get(history[0], history[0])
    for ends in ("input_layers", "output_layers"):
        for end in _ends(renamed[ends]):
            end[0] = new.get(end[0], end[0])
    return renamed


def _sources(nodes: Any) -> Iterator[str]:
    for history in histories(nodes):
        yield history[0]


def histories(nodes: Any) -> Iterator[list[Any]]:
    """The parts of a layer's `inbound_nodes` that name another layer: [name, its call, its output]."""
    if isinstance(nodes, Mapping):
        if nodes.get("class_name") == "__keras_tensor__":
            yield nodes["config"]["keras_history"]
        else:
            for value in nodes.values():
                yield from histories(value)
    elif isinstance(nodes, list | tuple):
        for value in nodes:
            yield from histories(value)


def _ends(ends: Any) -> list[list[Any]]:
    """A model's inputs or outputs; where there is one alone Keras leaves out the outer list."""
    return [ends] if ends and isinstance(ends[0], str) else list(ends)
