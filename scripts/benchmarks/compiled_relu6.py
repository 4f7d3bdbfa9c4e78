"""Relu6 that XLA compiles beside TensorFlow's own: milliseconds of a training step in bfloat16, and of the first one.

    python scripts/benchmarks/compiled_relu6.py

A step trains everything, batch norm too, by slim's RMSProp on one batch. The first one traces the step, and compiles.
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

WAYS = ("TensorFlow's", "compiled")


def main() -> None:
    """Measures, and prints a table."""
    arguments = parse_arguments()
    print_machine()

    from finetune.commands.tensorflow_start import start_tensorflow

    start_tensorflow()
    rows, figures = [], []
    for network in arguments.networks:
        steps = {way: training_step(network, "bfloat16", arguments.batch_size, "plan") for way in WAYS}
        first = {way: milliseconds_of_first(steps[way], way) for way in WAYS}
        contenders = {way: lambda step=step: milliseconds(step) for way, step in steps.items()}
        in_turn(contenders, 2)
        later = medians(in_turn(contenders, arguments.repeats))
        for way in WAYS:
            rows.append([network, way, number(first[way]), number(later[way]), times(later[way], later[WAYS[1]])])
            figures.append(Figure(f"{network}, {way}", later[way], "ms"))
    header = ["network", "Relu6", "first step, ms", "ms", "compiled = 1"]
    print_table(f"A training step, batch {arguments.batch_size}", header, rows)
    record(arguments, figures)


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    add_repeats(parser)
    parser.add_argument("--history", type=Path, default=HISTORY, help="file that the figures are appended to")
    parser.add_argument("--networks", nargs="+", default=["mobilenet_v2"], help="that have it")
    parser.add_argument("--batch-size", type=int, default=32, help="images")
    return parse(parser)


def milliseconds_of_first(step: Callable[[], Any], way: str) -> float:
    """Of the call that traces a step in one of the ways."""
    if way == WAYS[1]:
        return milliseconds(step)
    with mock.patch("finetune.nets.mobilenet_blocks._is_trained_in_bfloat16", return_value=False):
        return milliseconds(step)


def milliseconds(step: Callable[[], Any]) -> float:
    """Of one call."""
    start = time.perf_counter()
    step()
    return 1000 * (time.perf_counter() - start)


if __name__ == "__main__":
    main()
