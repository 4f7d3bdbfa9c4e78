"""A model of models as one functional model: its layers stand where the models were layers."""

import copy
from collections.abc import Iterator
from typing import Any

from finetune.errors import UserError
from finetune.nets.keras_networks.architecture import Config, histories
from finetune.nets.keras_networks.plain_layers import MODELS, RANDOM


class FlatModel:
    """One functional model.

    Attributes:
        config: As `get_config` of a functional model gives it.
        names: By the path of a layer in the model of models, `base/conv1`, its name here.
        left_out: Names of the layers that augment, which a run does itself.
    """

    def __init__(self, model: Config, source: str) -> None:
        """Takes what `plain_model` gives.

        Raises:
            UserError: A layer takes what no layer before it gives; there are several inputs.
        """
        self.names: dict[str, str] = {}
        self.left_out: list[str] = []
        self._layers: list[Config] = []
        self._source = source
        output = self._take(model, "", None)
        self.config: Config = {
            "name": model["config"]["name"],
            "trainable": True,
            "layers": self._layers,
            "input_layers": [self._layers[0]["name"], 0, 0],
            "output_layers": [output, 0, 0],
        }

    def _take(self, model: Config, path: str, given: str | None) -> str:
        """Adds a model's layers; `given` is the layer whose output it takes. Returns the name of its output layer."""
        config = model["config"]
        outputs: dict[str, str] = {}
        for layer, node in _with_nodes(model):
            name = layer["config"]["name"]
            if layer["class_name"] == "InputLayer":
                outputs[name] = self._input(layer, given)
                continue
            sources = self._rewire(node, outputs, name)
            if layer["class_name"] in MODELS:
                outputs[name] = self._take(layer, f"{path}{name}/", sources[0])
            elif layer["class_name"] in RANDOM:
                self.left_out.append(name)
                outputs[name] = sources[0]
            else:
                outputs[name] = self._add(layer, f"{path}{name}", node)
        if model["class_name"] == "Sequential":
            return list(outputs.values())[-1]
        return self._output_of(outputs, config["output_layers"][0])

    def _input(self, layer: Config, given: str | None) -> str:
        if given is not None:
            return given
        if self._layers:
            raise UserError(f"--model: {self._source} has several inputs.", "Give one from images to classes.")
        return self._add(layer, layer["config"]["name"], None)

    def _add(self, layer: Config, path: str, node: Config | None) -> str:
        own = path.rpartition("/")[2]
        taken = {other["name"] for other in self._layers}
        name = path.replace("/", "_") if own in taken else own
        if name in taken:
            raise UserError(f"--model: {self._source} has two layers {name}.", "Give them other names.")
        self.names[path] = name
        added = {**layer, "name": name, "config": {**layer["config"], "name": name}}
        self._layers.append({**added, "inbound_nodes": [] if node is None else [node]})
        return name

    def _rewire(self, node: Config, outputs: dict[str, str], layer: str) -> list[str]:
        sources = []
        for history in histories([node]):
            history[:] = [self._output_of(outputs, history[0]), 0, 0]
            sources.append(history[0])
        if not sources:
            raise UserError(f"--model: {self._source}: {layer} takes nothing.", "Save the model by Keras 3 again.")
        return sources

    def _output_of(self, outputs: dict[str, str], name: Any) -> str:
        if name not in outputs:
            raise UserError(
                f"--model: {self._source}: no layer in front gives {str(name)[:100]!r}.", "Save it by Keras 3 again."
            )
        return outputs[name]


def _with_nodes(model: Config) -> Iterator[tuple[Config, Config]]:
    """Layers, each with how it is called; of a Sequential each takes the one before it."""
    before = ""
    for layer in model["config"]["layers"]:
        if model["class_name"] == "Sequential":
            yield layer, {"args": [keras_tensor(before)], "kwargs": {}}
        else:
            yield layer, copy.deepcopy(layer["inbound_nodes"][0]) if layer["inbound_nodes"] else {}
        before = layer["config"]["name"]


def keras_tensor(layer: str) -> Config:
    """A layer's output, as the arguments of a call name it; Keras finds its shape anew."""
    config = {"shape": [None], "dtype": "float32", "keras_history": [layer, 0, 0]}
    return {"class_name": "__keras_tensor__", "config": config}
