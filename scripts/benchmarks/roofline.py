"""What bounds a training step of everything: its FLOPs and its bytes, against what this machine can do in a second.

    python scripts/benchmarks/roofline.py

Counted in the graph of the step as it is traced: a multiplication and an addition are two FLOPs, and an operation reads
its inputs and writes its outputs once. TensorFlow fuses some of them, so that fewer bytes go; oneDNN reads some more
than once, so that more do. The machine's FLOPs are those of a product of large matrices, its bytes those of a sum of
two large tensors, both through TensorFlow; a step can't take less than the larger of the two times, kind by kind.
"""

import argparse
import collections
import dataclasses
import functools
import math
from pathlib import Path
from typing import Any

from bare import median_seconds, step_and_batch
from history import Figure, record
from measuring import HISTORY, HelpFormatter, number, parse, print_machine, print_table

from finetune.settings.choices import BATCH_NORM_MODES, PRECISIONS

MATRIX_SIZE = 2048
SUMMED_VALUES = 64 * 2**20
CALLS = 5
# By the beginning of an operation's type. What is in none of them moves next to nothing.
KINDS = {
    "Conv2DBackpropFilter": "convolutions, gradient of kernels",
    "Conv2DBackpropInput": "convolutions, gradient of inputs",
    "Conv2D": "convolutions",
    "DepthwiseConv2dNativeBackpropFilter": "depthwise, gradient of kernels",
    "DepthwiseConv2dNativeBackpropInput": "depthwise, gradient of inputs",
    "DepthwiseConv2dNative": "depthwise convolutions",
    "FusedBatchNormGrad": "batch norm, gradient",
    "FusedBatchNorm": "batch norm",
    "Relu6Grad": "activations, gradient",
    "ReluGrad": "activations, gradient",
    "Relu": "activations",
    "ResourceApply": "update of variables",
}
OTHERS = "all others"
# They pass on what they are given.
FREE = ("ReadVariableOp", "Reshape", "Identity", "Const", "Placeholder", "VarHandleOp", "NoOp", "Shape", "Squeeze")


@dataclasses.dataclass
class Work:
    """Of some operations: floating-point operations, and bytes that are read and written."""

    flops: float = 0.0
    num_bytes: float = 0.0


def main() -> None:
    """Counts, measures, and prints a table for each network and type."""
    arguments = parse_arguments()
    print_machine()

    from finetune.commands.tensorflow_start import start_tensorflow

    start_tensorflow()
    figures = []
    for precision in arguments.precisions:
        most_flops, most_bytes = flops_per_second(precision), bytes_per_second(precision)
        print(f"{precision}: {most_flops / 1e9:.0f} GFLOP/s, {most_bytes / 1e9:.1f} GB/s")
        for network in arguments.networks:
            step, batch = step_and_batch(network, precision, arguments.batch_size, arguments.batch_norm)
            seconds = median_seconds(functools.partial(step, batch, 0, 0.0001), CALLS)
            work = count(step.trace(batch, 0).get_operations())
            rows, least = rows_of(work, most_flops, most_bytes)
            title = f"{network}, {precision}: a step of {arguments.batch_size} images takes {1000 * seconds:.0f} ms"
            print_table(
                title,
                ["", "GFLOP", "GB", "FLOP per byte", "at least ms"],
                rows,
                f"{least / seconds:.0%} of the time is that.",
            )
            figures.append(Figure(f"{network}, {precision}, share of the bound", least / seconds, "of 1"))
    record(arguments, figures)


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument("--history", type=Path, default=HISTORY, help="file that the figures are appended to")
    parser.add_argument("--networks", nargs="+", default=["mobilenet_v2", "inception_v3"], help="to measure")
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=["float32", "bfloat16"], help="types")
    parser.add_argument("--batch-size", type=int, default=32, help="images in a step")
    parser.add_argument("--batch-norm", choices=BATCH_NORM_MODES, default="plan", help="of the step")
    return parse(parser)


def flops_per_second(precision: str) -> float:
    """Of a product of matrices."""
    import tensorflow as tf

    matrix = tf.ones([MATRIX_SIZE, MATRIX_SIZE], precision)
    product = tf.function(lambda: tf.matmul(matrix, matrix)[0, 0])
    return 2 * MATRIX_SIZE**3 / median_seconds(lambda: product().numpy(), CALLS)


def bytes_per_second(precision: str) -> float:
    """Of a sum of two tensors, which are read and written whole."""
    import tensorflow as tf

    values = tf.Variable(tf.ones([SUMMED_VALUES], precision))
    others = tf.ones([SUMMED_VALUES], precision)
    add = tf.function(lambda: values.assign(values + others)[0])
    return 3 * SUMMED_VALUES * values.dtype.size / median_seconds(lambda: add().numpy(), CALLS)


def count(operations: list[Any]) -> dict[str, Work]:
    """What they do, by kind."""
    work: dict[str, Work] = collections.defaultdict(Work)
    for operation in operations:
        if operation.type in FREE:
            continue
        kind = next((words for beginning, words in KINDS.items() if operation.type.startswith(beginning)), OTHERS)
        work[kind].flops += flops_of(operation)
        work[kind].num_bytes += sum(bytes_of(tensor) for tensor in [*operation.inputs, *operation.outputs])
    return work


def bytes_of(tensor: Any) -> int:
    """Of a tensor; 0 of one whose shape isn't known, such as a shape itself."""
    if not tensor.shape.is_fully_defined() or tensor.dtype.size is None:
        return 0
    return math.prod(tensor.shape.as_list()) * int(tensor.dtype.size)


def flops_of(operation: Any) -> float:
    """Two for each value of the kernel at each place of the outputs; one for each value of other operations."""
    shapes = [tensor.shape.as_list() for tensor in (*operation.inputs, *operation.outputs) if tensor.shape.rank == 4]
    if "Conv2" not in operation.type:
        return math.prod(shapes[0]) if shapes else 0
    kernel, outputs = shapes_of_convolution(operation, shapes)
    height, width, _, last = kernel
    depth = kernel[2] if operation.type.startswith("Conv2D") else 1
    num_channels = outputs[3] if operation.type.startswith("Depthwise") else last
    return 2.0 * math.prod(outputs[:3]) * height * width * depth * num_channels


def shapes_of_convolution(operation: Any, shapes: list[list[int]]) -> tuple[list[int], list[int]]:
    """Of its kernel and of its outputs, as which the gradient's inputs count: shapes are of inputs, then of outputs."""
    if operation.type.endswith("BackpropFilter"):  # Inputs, gradient; kernel.
        return shapes[2], shapes[1]
    if operation.type.endswith("BackpropInput"):  # Kernel, gradient; inputs.
        return shapes[0], shapes[1]
    return shapes[1], shapes[2]


def rows_of(work: dict[str, Work], most_flops: float, most_bytes: float) -> tuple[list[list[str]], float]:
    """Rows of a table, and the seconds that all kinds together take at least."""
    least = {kind: max(each.flops / most_flops, each.num_bytes / most_bytes) for kind, each in work.items()}
    rows = [
        [
            kind,
            number(work[kind].flops / 1e9),
            number(work[kind].num_bytes / 1e9),
            number(work[kind].flops / max(work[kind].num_bytes, 1)),
            number(1000 * seconds),
        ]
        for kind, seconds in sorted(least.items(), key=lambda item: -item[1])
    ]
    return rows, sum(least.values())


if __name__ == "__main__":
    main()
