"""Frozen graphs of TensorFlow 1: a GraphDef that holds a network's variables as constants."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError

from finetune.errors import UserError, first_line
from finetune.foreign_weights.foreign_file import ForeignFile, FoundWeights
from finetune.foreign_weights.names import check_shapes, count_foreign_classes, match_names
from finetune.model.scopes import Shape, in_any_scope
from finetune.nets.spec import NetSpec
from finetune.types import Array

Node = Any


class FrozenGraph(ForeignFile):
    """A GraphDef in a binary file, such as `freeze_graph` and `retrain.py` wrote."""

    def __init__(self, path: Path) -> None:
        """Reads the graph.

        Raises:
            UserError: The file is no GraphDef.
        """
        self._path = path
        self._graph = tf.compat.v1.GraphDef()
        try:
            self._graph.ParseFromString(path.read_bytes())
        except (OSError, DecodeError) as error:
            raise UserError(
                f"{path} is not a frozen graph: {first_line(error)}.", "Give a GraphDef in binary form."
            ) from error
        self._nodes: dict[str, Node] = {node.name: node for node in self._graph.node}
        self._constants = {name: node for name, node in self._nodes.items() if _may_be_variable(node)}
        self._shapes = {name: _constant_shape(node) for name, node in self._constants.items()}
        self._head_bias: str | None = None

    def num_classes(self, spec: NetSpec) -> int | None:
        """From the biases of the head."""
        return count_foreign_classes(spec, self._shapes)

    def image_size(self) -> int | None:
        """From the placeholder of the images."""
        dimensions = self._image_placeholder().attr["shape"].shape.dim
        return dimensions[1].size if len(dimensions) == 4 and dimensions[1].size > 0 else None

    def find_weights(self, spec: NetSpec, shapes: Mapping[str, Shape]) -> FoundWeights:
        """Constants under the variables' names, with or without a common prefix."""
        matches = match_names(self._constants, shapes)
        check_shapes(str(self._path), {name: self._shapes[matches[name]] for name in matches}, shapes)
        head = [name for name in matches if in_any_scope(name, spec.head_scopes[:1]) and name.endswith("/biases")]
        self._head_bias = matches[head[0]] if head else None
        values = {name: _constant_value(self._constants[foreign]) for name, foreign in matches.items()}
        return FoundWeights(values, leftovers=tuple(sorted(set(self._constants) - set(matches.values()))))

    def logits(self, images: Array) -> Array | None:
        """Runs the graph from the images to the layer that adds the head's biases."""
        if self._head_bias is None:
            return None
        fetched = f"{self._consumer(self._head_bias).name}:0"
        fed = f"{self._image_placeholder().name}:0"
        try:
            whole = tf.compat.v1.wrap_function(lambda: tf.import_graph_def(self._graph, name=""), [])
            network = whole.prune(whole.graph.get_tensor_by_name(fed), whole.graph.get_tensor_by_name(fetched))
            return np.asarray(network(tf.constant(images))).reshape(-1)
        except (tf.errors.OpError, ValueError, KeyError) as error:
            raise UserError(
                f"{self._path}: the graph can't be run from {fed} to {fetched}: {first_line(error)}"
            ) from error

    def _image_placeholder(self) -> Node:
        placeholders = [node for node in self._graph.node if node.op == "Placeholder"]
        images = [node for node in placeholders if node.attr["dtype"].type == tf.float32.as_datatype_enum]
        if not images:
            raise UserError(f"{self._path} has no placeholder for float images, so its logits can't be compared.")
        return images[0]

    def _consumer(self, name: str) -> Node:
        """The operation that uses a constant, identities passed over."""
        for node in self._graph.node:
            if name in (source.split(":")[0] for source in node.input):
                return self._consumer(node.name) if node.op == "Identity" else node
        raise UserError(f"{self._path}: nothing in the graph uses {name}, so its logits can't be compared.")


def _may_be_variable(node: Node) -> bool:
    """Whether a node is a constant array of floats; scalars, such as an epsilon, are no variables."""
    return (
        node.op == "Const"
        and node.attr["dtype"].type == tf.float32.as_datatype_enum
        and len(node.attr["value"].tensor.tensor_shape.dim) > 0
    )


def _constant_shape(node: Node) -> Shape:
    return tuple(dimension.size for dimension in node.attr["value"].tensor.tensor_shape.dim)


def _constant_value(node: Node) -> Array:
    return np.array(tf.make_ndarray(node.attr["value"].tensor))
