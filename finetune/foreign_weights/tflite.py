"""TensorFlow Lite files of slim networks, whose batch norm was folded into the convolution before it."""

import dataclasses
import math
import struct
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from finetune.errors import UserError, first_line
from finetune.foreign_weights.foreign_file import ForeignFile, FoundWeights
from finetune.model.scopes import Shape, in_any_scope
from finetune.nets.spec import NetSpec
from finetune.types import Array

FILE_IDENTIFIER = b"TFL3"

FOLDED_REMARK = (
    "Batch norm was folded into the weights, and its statistics are lost: mean 0 and variance 1 stand for them. Keep "
    "these layers frozen, or give --batch-norm frozen: with batch statistics they would compute something else."
)

_KERNELS = ("weights", "depthwise_weights", "pointwise_weights")
# Values of a single tensor.
MOST_VALUES = 2**28

_CUSTOM = schema.BuiltinOperator.CUSTOM
_FLOATS = {schema.TensorType.FLOAT32: np.float32, schema.TensorType.FLOAT16: np.float16}


@dataclasses.dataclass(frozen=True)
class Layer:
    """A convolution or a fully connected layer of the file.

    Attributes:
        name: What the converter called its kernel: after the operation that used it, or after all that were merged.
        kernel: In slim's order of axes: [height, width, in, out], or [in, out] of a fully connected layer, or
            [height, width, in, multiplier] of a depthwise convolution.
        bias: [out]; zeros where it has none.
        output: Index of the tensor that it computes.
    """

    name: str
    kernel: Array
    bias: Array
    output: int


class TFLiteFile(ForeignFile):
    """A TensorFlow Lite model in floats, of 32 or 16 bits."""

    def __init__(self, path: Path) -> None:
        """Reads the layers.

        Raises:
            UserError: It is no TensorFlow Lite file, or its weights are kept in 8 bits.
        """
        self._path = path
        try:
            content = path.read_bytes()
            if content[4:8] != FILE_IDENTIFIER:
                raise UserError(f"{path} is no TensorFlow Lite file.")
            self._interpreter = _interpreter(content)
            self._model = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(content, 0))
            self._graph = self._model.subgraphs[0]
            self._refuse_what_is_not_run()
            self._sources = {operator.outputs[0]: operator for operator in self._graph.operators}
            self._layers = [layer for operator in self._graph.operators if (layer := self._read_layer(operator))]
        except (OSError, ArithmeticError, AttributeError, LookupError, RuntimeError, ValueError, TypeError) as error:
            raise UserError(f"{path} is not a whole TensorFlow Lite file: {first_line(error)}.") from error
        except struct.error as error:
            raise UserError(f"{path} is not a whole TensorFlow Lite file: {first_line(error)}.") from error
        if not self._layers:
            raise UserError(f"{path} has no convolutions with weights of its own.")

    def num_classes(self, spec: NetSpec) -> int | None:
        """Outputs of the last layer."""
        return len(self._layers[-1].bias)

    def image_size(self) -> int | None:
        """From the shape of the input."""
        if len(self._graph.inputs) == 0:
            return None
        shape = self._graph.tensors[self._graph.inputs[0]].shape
        return int(shape[1]) if shape is not None and len(shape) == 4 else None

    def find_weights(self, spec: NetSpec, shapes: Mapping[str, Shape]) -> FoundWeights:
        """The layers by their names where these tell them apart, else in order."""
        kernels = [
            name
            for name in shapes
            if name.rpartition("/")[2] in _KERNELS and not in_any_scope(name, spec.head_scopes[1:])
        ]
        if len(kernels) != len(self._layers):
            raise UserError(
                f"{self._path} has {len(self._layers)} convolutions and fully connected layers, {spec.name} has "
                f"{len(kernels)}.",
                "Give the --model, and the --head, that the file was made of.",
            )
        values: dict[str, Array] = {}
        for name, layer in zip(kernels, _in_order_of(kernels, self._layers), strict=True):
            if layer.kernel.size != np.prod(shapes[name]):
                raise UserError(
                    f"{self._path}: {name} is {list(layer.kernel.shape)} in the file and {list(shapes[name])} in the "
                    "network.",
                    "Give the --model that the file was made of, its --head and its --num-classes.",
                )
            values[name] = layer.kernel.reshape(shapes[name])
            values.update(_unfold(name.rpartition("/")[0], layer.bias, shapes, spec.batch_norm_epsilon))
        is_folded = any(name.endswith("/moving_variance") for name in values)
        return FoundWeights(values, remarks=(FOLDED_REMARK,) if is_folded else ())

    def logits(self, images: Array) -> Array | None:
        """What the last layer computes; in the file, a softmax may follow."""
        try:
            self._interpreter.allocate_tensors()
            self._interpreter.set_tensor(self._graph.inputs[0], images)
            self._interpreter.invoke()
        except ValueError as error:
            raise UserError(f"{self._path} takes no float images: {first_line(error)}.") from error
        except RuntimeError as error:
            raise UserError(f"{self._path} can't be run: {first_line(error)}.") from error
        return np.asarray(self._interpreter.get_tensor(self._layers[-1].output)).reshape(-1)

    def _refuse_what_is_not_run(self) -> None:
        """Operators of other programs, and results that no network's layer has the size of.

        Raises:
            UserError: The file has some.
        """
        if any(code.customCode or code.builtinCode == _CUSTOM for code in self._model.operatorCodes):
            raise UserError(
                f"{self._path} has operators that are not TensorFlow Lite's own, which are not run.",
                "Give the checkpoint that the file was made of.",
            )
        for tensor in self._graph.tensors:
            shape = [] if tensor.shape is None else [int(size) for size in tensor.shape]
            if math.prod(shape) > MOST_VALUES:
                raise UserError(f"{self._path}: a tensor of the shape {shape} is larger than any network's.")

    def _read_layer(self, operator: Any) -> Layer | None:
        opcode = self._model.operatorCodes[operator.opcodeIndex]
        # Old files keep the code in the field of one byte.
        code = max(opcode.builtinCode, opcode.deprecatedBuiltinCode)
        axes = {
            schema.BuiltinOperator.CONV_2D: (1, 2, 3, 0),
            schema.BuiltinOperator.DEPTHWISE_CONV_2D: (1, 2, 3, 0),
            schema.BuiltinOperator.FULLY_CONNECTED: (1, 0),
        }.get(code)
        if axes is None:
            return None
        kernel = self._constant(operator.inputs[1]).transpose(axes)
        has_bias = len(operator.inputs) > 2 and operator.inputs[2] >= 0
        num_outputs = kernel.shape[2] if code == schema.BuiltinOperator.DEPTHWISE_CONV_2D else kernel.shape[-1]
        bias = self._constant(operator.inputs[2]) if has_bias else np.zeros(num_outputs, np.float32)
        name = self._graph.tensors[operator.inputs[1]].name.decode()
        return Layer(name, kernel, bias, int(operator.outputs[0]))

    def _constant(self, index: int) -> Array:
        """A tensor of the file in 32 bits; in files of 16 bits it is what an operator makes of a constant."""
        tensor = self._graph.tensors[index]
        data = self._model.buffers[tensor.buffer].data
        if data is None and index in self._sources and index not in self._sources[index].inputs:
            return self._constant(self._sources[index].inputs[0])
        if tensor.type not in _FLOATS:
            raise UserError(
                f"{self._path}: the tensor {tensor.name.decode()} is kept in integers, which are rounded weights.",
                "Import the file in floats, or the checkpoint that it was made of.",
            )
        return np.frombuffer(bytes(data), _FLOATS[tensor.type]).astype(np.float32).reshape(tensor.shape)


def _interpreter(content: bytes) -> Any:
    """The file's network, ready to be given memory. It proves the file whole, so that reading it ends.

    Raises:
        ValueError, RuntimeError: The file is damaged.
    """
    from ai_edge_litert.interpreter import Interpreter

    with warnings.catch_warnings():
        # The last layer's output is kept no other way, where a softmax follows.
        warnings.filterwarnings("ignore", r"\s*Warning: Enabling `experimental_preserve_all_tensors`", UserWarning)
        return Interpreter(model_content=content, experimental_preserve_all_tensors=True)


def _in_order_of(kernels: Sequence[str], layers: Sequence[Layer]) -> Sequence[Layer]:
    """The layer of each kernel by their scopes, where each scope is one layer's; else the layers as they are."""
    scopes = [kernel.partition("/")[2].rpartition("/")[0] for kernel in kernels]
    by_scope = {}
    for layer in layers:
        inside = [scope for scope in scopes if f"/{scope}/" in layer.name]
        if inside:
            by_scope[max(inside, key=len)] = layer
    return [by_scope[scope] for scope in scopes] if len(by_scope) == len(kernels) else layers


def _unfold(scope: str, bias: Array, shapes: Mapping[str, Shape], epsilon: float) -> dict[str, Array]:
    """The variables beside a kernel: its biases, or a batch norm that does nothing but add the bias."""
    norm = f"{scope}/BatchNorm"
    candidates = {
        f"{scope}/biases": bias,
        f"{norm}/beta": bias,
        f"{norm}/gamma": np.ones_like(bias),
        f"{norm}/moving_mean": np.zeros_like(bias),
        f"{norm}/moving_variance": np.full_like(bias, 1 - epsilon),
    }
    return {name: value for name, value in candidates.items() if name in shapes}
