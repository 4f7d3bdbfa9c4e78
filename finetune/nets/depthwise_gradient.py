"""The gradient of depthwise convolutions that have a stride, by the fastest way where layers compute in bfloat16.

On a processor TensorFlow leaves that gradient to oneDNN. For the inputs' it has a depthwise routine of stride 1 alone:
with stride 2 a general one takes its place, in bfloat16 many times as slow for the four such layers of MobileNet V2
(`scripts/benchmarks/depthwise_gradient.py`). A convolution with a stride is one without whose other outputs are left
out, so its inputs' gradient is that of the one without, with zeros for these outputs. In float32 TensorFlow's own is no
slower, and stays; so does the kernel's gradient in both, for which the routine with a stride is the faster.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import tensorflow as tf

from finetune.types import Operation, Tensor

# Registered by name, and so found by copies of a graph, too; a function of `tf.custom_gradient` isn't.
GRADIENT_NAME = "FinetuneDepthwiseConv2d"


@contextmanager
def fast_depthwise_gradients() -> Iterator[None]:
    """Depthwise convolutions that the current graph gets within it have this module's gradient."""
    graph = tf.compat.v1.get_default_graph()
    with graph.gradient_override_map({"DepthwiseConv2dNative": GRADIENT_NAME}):
        yield


@tf.RegisterGradient(GRADIENT_NAME)
def depthwise_gradient(operation: Operation, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """TensorFlow's gradient, to rounding.

    Args:
        operation: A `DepthwiseConv2dNative` of inputs [B,H,W,C] and a kernel [h,w,C,M].
        gradient: Of its outputs, [B,H',W',C*M].

    Returns:
        Gradients of the inputs and of the kernel, in their shapes and type.
    """
    inputs, kernel = operation.inputs
    settings: dict[str, Any] = {
        name: operation.get_attr(name) for name in ("strides", "padding", "explicit_paddings", "dilations")
    }
    settings["data_format"] = operation.get_attr("data_format").decode()
    settings["padding"] = settings["padding"].decode()
    of_kernel = tf.raw_ops.DepthwiseConv2dNativeBackpropFilter(
        input=inputs, filter_sizes=tf.shape(kernel), out_backprop=gradient, **settings
    )
    if has_slow_gradient(operation):
        gradient = _spread(gradient, inputs.shape[1:3], kernel.shape[:2], settings["strides"][1:3], settings["padding"])
        settings |= {"strides": [1, 1, 1, 1], "padding": "SAME"}
    of_inputs = tf.raw_ops.DepthwiseConv2dNativeBackpropInput(
        input_sizes=tf.shape(inputs), filter=kernel, out_backprop=gradient, **settings
    )
    return of_inputs, of_kernel


def has_slow_gradient(operation: Operation) -> bool:
    """Whether oneDNN's way to the inputs' gradient is the general one, and the other way is known to be right."""
    inputs, _ = operation.inputs
    return (
        inputs.dtype == tf.bfloat16
        and max(operation.get_attr("strides")) > 1
        and max(operation.get_attr("dilations")) == 1
        and operation.get_attr("data_format") == b"NHWC"
        and operation.get_attr("padding") in (b"SAME", b"VALID")
        and inputs.shape[1:3].is_fully_defined()
        and not tf.config.get_visible_devices("GPU")
    )


def _spread(gradient: Tensor, input_size: Any, kernel_size: Any, strides: Any, padding: str) -> Tensor:
    """The gradient of the outputs that stride 1 and `SAME` have, which are as many as the inputs: zeros between.

    Args:
        gradient: Of the outputs that the strides leave, [B,H',W',C].
        input_size: H and W.
        kernel_size: Height and width.
        strides: Of height and width.
        padding: `SAME` or `VALID`, of the convolution with the strides.

    Returns:
        [B,H,W,C].
    """
    of_rows, of_columns = (
        _cells(*axis, padding) for axis in zip(gradient.shape[1:3], input_size, kernel_size, strides, strict=True)
    )
    spread = tf.pad(gradient[:, :, None, :, None], [[0, 0], *of_rows, *of_columns, [0, 0]])
    _, num_rows, row_stride, num_columns, column_stride, depth = spread.shape
    spread = tf.reshape(spread, [-1, num_rows * row_stride, num_columns * column_stride, depth])
    return spread[:, : input_size[0], : input_size[1]]


def _cells(num_outputs: int, size: int, width: int, stride: int, padding: str) -> tuple[list[int], list[int]]:
    """How an axis is padded so that each output has a cell of `stride` places: with cells, and within each."""
    padded = max((num_outputs - 1) * stride + width - size, 0) if padding == "SAME" else 0
    first = (width - 1) // 2 - padded // 2  # Where stride 1 has the first of the outputs.
    before, within = divmod(first, stride)
    after = max(-(-size // stride) - before - num_outputs, 0)
    return [before, after], [within, stride - 1 - within]
