"""Frozen graphs of TensorFlow 1: a GraphDef that holds a network's variables as constants."""

import math
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

# GraphDefs end at 2 GiB. Values of 32 bits: those that the constants of a graph stand for, which may be far more than
# the file's bytes, and those of a single result of an operation.
MOST_FILE_BYTES = 2**31
MOST_VALUES = 2**28

# What of a graph is run: operations that compute their results from their inputs, and do nothing else.
COMPUTING_OPERATIONS = frozenset(
    {
        "Abs",
        "Add",
        "AddN",
        "AddV2",
        "AvgPool",
        "BatchNormWithGlobalNormalization",
        "BiasAdd",
        "Cast",
        "Concat",
        "ConcatV2",
        "Const",
        "Conv2D",
        "DepthwiseConv2dNative",
        "Div",
        "Elu",
        "Exp",
        "ExpandDims",
        "FusedBatchNorm",
        "FusedBatchNormV2",
        "FusedBatchNormV3",
        "Identity",
        "LRN",
        "LeakyRelu",
        "LogSoftmax",
        "MatMul",
        "Max",
        "MaxPool",
        "Maximum",
        "Mean",
        "Min",
        "Minimum",
        "Mul",
        "Neg",
        "Pack",
        "Pad",
        "PadV2",
        "Placeholder",
        "PlaceholderWithDefault",
        "Pow",
        "Prod",
        "RealDiv",
        "Relu",
        "Relu6",
        "Reshape",
        "Rsqrt",
        "Selu",
        "Shape",
        "Sigmoid",
        "Slice",
        "Softmax",
        "Softplus",
        "Split",
        "SplitV",
        "Sqrt",
        "Square",
        "SquaredDifference",
        "Squeeze",
        "StridedSlice",
        "Sub",
        "Sum",
        "Tanh",
        "Transpose",
    }
)
# Attributes that say where and how an operation runs, not what it computes.
_ATTRIBUTES_LEFT_OUT = ("_class", "_output_shapes", "_XlaCompile", "_kernel")


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
            if path.stat().st_size > MOST_FILE_BYTES:
                raise UserError(f"{path} has more than {MOST_FILE_BYTES:,} bytes, which no frozen graph has.")
            self._graph.ParseFromString(path.read_bytes())
        except (OSError, DecodeError) as error:
            raise UserError(
                f"{path} is not a frozen graph: {first_line(error)}.", "Give a GraphDef in binary form."
            ) from error
        self._nodes: dict[str, Node] = {node.name: node for node in self._graph.node}
        self._constants = {name: node for name, node in self._nodes.items() if _may_be_variable(node)}
        self._shapes = {name: self._constant_shape(node) for name, node in self._constants.items()}
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
        head = [name for name in matches if in_any_scope(name, spec.logits_scopes[:1]) and name.endswith("/biases")]
        self._head_bias = matches[head[0]] if head else None
        values = {name: self._constant_value(self._constants[foreign]) for name, foreign in matches.items()}
        return FoundWeights(values, leftovers=tuple(sorted(set(self._constants) - set(matches.values()))))

    def logits(self, images: Array) -> Array | None:
        """Runs the graph from the images to the layer that adds the head's biases; of all else nothing is run.

        Raises:
            UserError: Between them is an operation that isn't known to do nothing but compute, or one that fails.
        """
        if self._head_bias is None:
            return None
        fetched = f"{self._consumer(self._head_bias).name}:0"
        fed = f"{self._image_placeholder().name}:0"
        try:
            part = self._computing_part(fetched, fed, images.shape)
            whole = tf.compat.v1.wrap_function(lambda: tf.import_graph_def(part, name=""), [])
            self._refuse_large_results(whole.graph)
            network = whole.prune(whole.graph.get_tensor_by_name(fed), whole.graph.get_tensor_by_name(fetched))
            return np.asarray(network(tf.constant(images))).reshape(-1)
        except (tf.errors.OpError, ValueError, TypeError, KeyError) as error:
            raise UserError(
                f"{self._path}: the graph can't be run from {fed} to {fetched}: {first_line(error)}"
            ) from error

    def _computing_part(self, fetched: str, fed: str, shape: Shape) -> Any:
        """The nodes that a tensor is computed by, as a graph of their own: no control dependencies, no functions.

        Args:
            fetched: Name of the tensor.
            fed: Name of the images' placeholder.
            shape: Of the images.

        Raises:
            UserError: One of them isn't of `COMPUTING_OPERATIONS`, or isn't there.
        """
        part = tf.compat.v1.GraphDef(versions=self._graph.versions)
        wanted, seen = [_node_of(fetched), _node_of(fed)], set()
        while wanted:
            name = wanted.pop()
            if name in seen:
                continue
            seen.add(name)
            node = self._nodes.get(name)
            if node is None:
                raise UserError(f"{self._path}: the graph lacks the node {name}, which its logits need.")
            if node.op not in COMPUTING_OPERATIONS:
                raise UserError(
                    f"{self._path}: the logits come through the operation {node.op} ({name}), which isn't one of those "
                    "that only compute. Nothing of the graph was run.",
                    "Give the checkpoint that the graph was frozen from, or a file of its arrays (.npz).",
                )
            copy = part.node.add()
            copy.CopyFrom(node)
            copy.device = ""
            for attribute in [key for key in copy.attr if key.startswith(_ATTRIBUTES_LEFT_OUT)]:
                del copy.attr[attribute]
            del copy.input[:]
            copy.input.extend(source for source in node.input if not source.startswith("^"))
            if node.op == "Const":
                self._constant_shape(node)
            if name == _node_of(fed):
                copy.attr["shape"].shape.CopyFrom(tf.TensorShape(shape).as_proto())
            wanted += map(_node_of, copy.input)
        return part

    def _refuse_large_results(self, graph: Any) -> None:
        for operation in graph.get_operations():
            for result in operation.outputs:
                size = result.shape.num_elements()
                if size is not None and size > MOST_VALUES:
                    raise UserError(
                        f"{self._path}: {operation.name} makes {size:,} values, and no network's layer makes more than "
                        f"{MOST_VALUES:,}."
                    )

    def _constant_shape(self, node: Node) -> Shape:
        """The shape of a constant, which may be larger than its content: one value may stand for all.

        Raises:
            UserError: It is no shape, or too large.
        """
        shape = tuple(dimension.size for dimension in node.attr["value"].tensor.tensor_shape.dim)
        if min(shape, default=0) < 0 or math.prod(shape) > MOST_VALUES:
            raise UserError(
                f"{self._path}: the constant {node.name} has the shape {list(shape)}, which no network's weights have.",
                "Freeze the graph again.",
            )
        return shape

    def _constant_value(self, node: Node) -> Array:
        try:
            return np.array(tf.make_ndarray(node.attr["value"].tensor))
        except (ValueError, TypeError) as error:
            raise UserError(
                f"{self._path}: the content of the constant {node.name} doesn't fit its shape "
                f"{list(self._constant_shape(node))}: {first_line(error)}",
                "Freeze the graph again.",
            ) from error

    def _image_placeholder(self) -> Node:
        placeholders = [node for node in self._graph.node if node.op == "Placeholder"]
        images = [node for node in placeholders if node.attr["dtype"].type == tf.float32.as_datatype_enum]
        if not images:
            raise UserError(f"{self._path} has no placeholder for float images, so its logits can't be compared.")
        return images[0]

    def _consumer(self, name: str) -> Node:
        """The operation that uses a constant, identities passed over."""
        passed = {name}
        while True:
            users = (node for node in self._graph.node if name in map(_node_of, node.input) and node.name not in passed)
            user = next(users, None)
            if user is None:
                raise UserError(f"{self._path}: nothing in the graph uses {name}, so its logits can't be compared.")
            if user.op != "Identity":
                return user
            name = user.name
            passed.add(name)


def _node_of(tensor: str) -> str:
    """The node that a tensor comes from; `^node` is a control dependency, of no tensor, and stays what it is."""
    return tensor.partition(":")[0]


def _may_be_variable(node: Node) -> bool:
    """Whether a node is a constant array of floats; scalars, such as an epsilon, are no variables."""
    return (
        node.op == "Const"
        and node.attr["dtype"].type == tf.float32.as_datatype_enum
        and len(node.attr["value"].tensor.tensor_shape.dim) > 0
    )
