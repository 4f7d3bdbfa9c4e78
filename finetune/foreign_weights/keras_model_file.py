"""Weights of a network of a `.keras` file (`--model my.keras`), from that file or one with the weights alone."""

import json
import math
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from finetune.errors import UserError, first_line
from finetune.foreign_weights.foreign_file import ForeignFile, FoundWeights
from finetune.foreign_weights.hdf5_limits import refuse_unsafe
from finetune.model.recognise import count_classes
from finetune.model.scopes import Shape
from finetune.nets.keras_networks.architecture import output_layer
from finetune.nets.keras_networks.flattening import FlatModel
from finetune.nets.keras_networks.model_file import read_model
from finetune.nets.keras_networks.own_head import find_head
from finetune.nets.spec import NetSpec
from finetune.types import Array

_BYTES_OF_A_VALUE = 4


class KerasModelFile(ForeignFile):
    """Weights read by Keras into the layers that `plain_model` takes of the network's file."""

    def __init__(self, path: Path) -> None:
        """Notes the path; only with the network known can the file be read."""
        self._path = path
        self._model: Any = None
        self._head, self._last = "", ""

    def num_classes(self, spec: NetSpec) -> int:
        """As many as the file's own head has."""
        return find_head(FlatModel(read_model(spec.name), spec.name).config, spec.name).num_classes

    def find_weights(self, spec: NetSpec, shapes: Mapping[str, Shape]) -> FoundWeights:
        """All variables: those of models that are layers by their names in the one that holds them."""
        self._refuse_larger(spec, shapes)
        self._model = self._load(spec)
        flat = FlatModel(read_model(spec.name), spec.name)
        values = {_name_here(path, flat.names): value for path, value in _values(self._model).items()}
        for name, value in values.items():
            if name in shapes and value.shape != shapes[name]:
                raise UserError(
                    f"{self._path}: {name} is {list(value.shape)}, and {list(shapes[name])} in {spec.name}.",
                    f"Leave --num-classes out: it has {self.num_classes(spec)}.",
                )
        headed = find_head(flat.config, spec.name)
        self._head, self._last = headed.head, output_layer(headed.config)
        return FoundWeights({name: value for name, value in values.items() if name in shapes})

    def logits(self, images: Array) -> Array | None:
        """Keras's own, without what makes probabilities of them; None where its head lies in a model within it."""
        import keras

        own = {layer.name: layer for layer in self._model.layers}
        if self._head not in own or self._last not in own:
            return None
        own[self._head].activation = keras.activations.linear
        to_logits = keras.Model(self._model.inputs[0], own[self._last].output)
        return np.asarray(to_logits(images, training=False))[0]

    def _refuse_larger(self, spec: NetSpec, shapes: Mapping[str, Shape]) -> None:
        """Before memory is taken for what the architecture claims, that is compared with what the file can hold."""
        claimed = _BYTES_OF_A_VALUE * sum(math.prod(shape) for shape in shapes.values())
        if claimed > self._path.stat().st_size:
            raise UserError(
                f"{self._path} has {self._path.stat().st_size:,} bytes, and weights of {spec.name} with "
                f"{count_classes(spec, shapes)} classes take {claimed:,}.",
                "Give the file that holds them.",
            )

    def _load(self, spec: NetSpec) -> Any:
        from finetune.nets.keras_networks.network import model_of_file

        try:
            refuse_unsafe(self._path)
            model = model_of_file(json.dumps(read_model(spec.name)))
            with warnings.catch_warnings(action="ignore", category=UserWarning):
                model.load_weights(str(self._path))
        except UserError:
            raise
        except Exception as error:  # Keras raises nearly anything for a file that isn't what it expects.
            raise UserError(
                f"{self._path} does not hold weights of {spec.name}, as Keras says: {first_line(error).rstrip(':')}",
                "Give the file that --model names.",
            ) from error
        return model


def _values(model: Any) -> dict[str, Array]:
    from finetune.nets.keras_networks.network import named_variables

    return {name: np.asarray(variable.value) for name, _, variable in named_variables(model)}


def _name_here(path: str, names: Mapping[str, str]) -> str:
    """A variable's name in the flat model, by its path in the model of models."""
    layer, _, variable = path.rpartition("/")
    while layer not in names and layer:
        layer, _, first = layer.rpartition("/")
        variable = f"{first}/{variable}"
    return f"{names[layer]}/{variable}" if layer else path
