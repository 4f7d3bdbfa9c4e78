"""The gradient of depthwise convolutions of stride 2: TensorFlow's own beside ours, in milliseconds.

    python scripts/benchmarks/depthwise_gradient.py

layers: the four such layers of MobileNet V2 alone, the gradient of the inputs and of the kernel together.
step:   a training step of everything by slim's RMSProp, on one batch, batch norm trained.

In float32 training keeps TensorFlow's; both ways are measured here all the same.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

from bare import training_step
from history import Figure, record
from measuring import (
    HISTORY,
    HelpFormatter,
    add_repeats,
    in_turn,
    medians,
    number,
    parse,
    print_machine,
    print_table,
    times,
)

from finetune.settings.choices import PRECISIONS

PARTS = ("layers", "step")
# Height, width and channels of the inputs.
LAYERS = ((112, 112, 96), (56, 56, 144), (28, 28, 192), (14, 14, 576))
WAYS = ("TensorFlow's", "ours")


def main() -> None:
    """Measures, and prints a table for each part."""
    arguments = parse_arguments()
    print_machine()

    from finetune.commands.tensorflow_start import start_tensorflow

    start_tensorflow()
    contenders: dict[str, dict[str, Callable[[str, str, int], Callable[[], Any]]]] = {
        "layers": {" ".join(map(str, shape)): gradient_of(shape) for shape in LAYERS},
        "step": {network: step_of(network) for network in arguments.networks},
    }
    for part in arguments.parts:
        rows, figures = [], []
        for name, make in contenders[part].items():
            for precision in arguments.precisions:
                milliseconds = measure(make, precision, arguments)
                own = milliseconds[WAYS[1]]
                for way, figure in milliseconds.items():
                    rows.append([name, precision, way, number(figure), times(figure, own)])
                    figures.append(Figure(f"{name}, {precision}, {way}", figure, "ms"))
        print_table(f"Milliseconds, {part}, batch {arguments.batch_size}", ["", "type", "way", "ms", "ours = 1"], rows)
        record(arguments, figures)


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    add_repeats(parser)
    parser.add_argument("--history", type=Path, default=HISTORY, help="file that the figures are appended to")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="what to measure")
    parser.add_argument("--networks", nargs="+", default=["mobilenet_v2"], help="of the part step")
    parser.add_argument("--batch-size", type=int, default=32, help="images")
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=["bfloat16", "float32"], help="types")
    return parse(parser)


def measure(make: Callable[[str, str, int], Callable[[], Any]], precision: str, arguments: Any) -> dict[str, float]:
    """Median milliseconds of each way, after calls that warm them up."""
    calls = {way: make(way, precision, arguments.batch_size) for way in WAYS}
    contenders = {way: lambda call=call: 1000 * seconds_of(call) for way, call in calls.items()}
    in_turn(contenders, 2)
    return medians(in_turn(contenders, arguments.repeats))


def gradient_of(shape: tuple[int, int, int]) -> Callable[[str, str, int], Callable[[], Any]]:
    """Makes calls of a layer's gradient."""

    def make(way: str, precision: str, batch_size: int) -> Callable[[], Any]:
        import tensorflow as tf

        from finetune.nets.depthwise_gradient import fast_depthwise_gradients

        height, width, depth = shape
        inputs = tf.cast(tf.random.normal([batch_size, height, width, depth]), precision)
        kernel = tf.cast(tf.random.normal([3, 3, depth, 1]), precision)
        gradient = tf.cast(tf.random.normal([batch_size, height // 2, width // 2, depth]), precision)

        def gradients(inputs: Any, kernel: Any) -> Any:
            with fast_depthwise_gradients():
                outputs = tf.nn.depthwise_conv2d(inputs, kernel, [1, 2, 2, 1], "SAME")
            return tf.gradients(outputs, [inputs, kernel], gradient)

        return traced(tf.function(gradients, autograph=False), way, inputs, kernel)

    return make


def step_of(network: str) -> Callable[[str, str, int], Callable[[], Any]]:
    """Makes calls of a training step."""
    return lambda way, precision, batch_size: traced(training_step(network, precision, batch_size, "plan"), way)


def traced(call: Callable[..., Any], way: str, *inputs: Any) -> Callable[[], Any]:
    """The call, once made in one of the ways, whatever the type."""
    with mock.patch("finetune.nets.depthwise_gradient.has_slow_gradient", return_value=way == WAYS[1]):
        call(*inputs)
    return lambda: call(*inputs)


def seconds_of(call: Callable[[], Any]) -> float:
    """Of one call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
