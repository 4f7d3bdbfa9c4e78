"""A network's forward pass in finetune-predict by TensorFlow beside OpenVINO: images a second.

    python scripts/benchmarks/engines.py

In one process for each network, in turn, on a batch of noise that is there already; the networks' random weights change
no time. OpenVINO's figure has no part of the seconds that it takes to be made ready, which are told beside it.
"""

import argparse
import dataclasses
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bare import make_model, some_images
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
    run,
    script,
    times,
)

from finetune.settings.choices import ENGINES, PRECISIONS

NETWORKS = ("mobilenet_v1", "mobilenet_v2", "inception_v3", "resnet_v2_50")
CALLS = 3  # Of a measurement.


@dataclasses.dataclass(frozen=True)
class Measured:
    """Of one network: the medians of images a second by each contender, and the seconds until it was ready."""

    rates: dict[str, float]
    seconds: dict[str, float]


def main() -> None:
    """Measures, and prints the table; or, as a process of its own, measures one network."""
    arguments = parse_arguments()
    if arguments.network is not None:
        print(json.dumps(dataclasses.asdict(measure_here(arguments))))
        return
    print_machine()
    rows, figures = [], []
    for network in arguments.networks:
        measured = measure_in_child(network, arguments)
        first = next(iter(measured.rates.values()))
        for name, rate in measured.rates.items():
            rows.append([network, name, number(rate), times(rate, first), number(measured.seconds[name])])
            figures.append(Figure(f"{network}, {name}", rate, "images/s"))
    headings = ["network", "engine", "images/s", f"{ENGINES[0]} = 1", "seconds until ready"]
    print_table(f"Images a second, batch {arguments.batch_size}", headings, rows)
    record(arguments, figures)


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    add_repeats(parser)
    parser.add_argument("--history", type=Path, default=HISTORY, help="file that the figures are appended to")
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), help="to measure")
    parser.add_argument("--batch-size", type=int, default=32, help="of finetune-predict")
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=["float32"], help="of both engines")
    parser.add_argument("--network", help=argparse.SUPPRESS)
    return parse(parser)


def measure_in_child(network: str, arguments: argparse.Namespace) -> Measured:
    """What a process of its own measures."""
    words = ["--network", network, "--batch-size", arguments.batch_size, "--repeats", arguments.repeats]
    return Measured(**run(script("engines.py", *words, "--precisions", *arguments.precisions)).result)


def measure_here(arguments: argparse.Namespace) -> Measured:
    """One network, by every engine in every precision, after calls that warm each up."""
    from finetune.commands.tensorflow_start import start_tensorflow

    start_tensorflow()
    passes: dict[str, Callable[[], Any]] = {}
    seconds = {}
    for precision in arguments.precisions:
        model = make_model(arguments.network, precision)
        images = some_images(model, arguments.batch_size).numpy()
        for engine in ENGINES:
            name = f"{engine} {precision}"
            start = time.perf_counter()
            passes[name] = ready_pass(engine, model, images)
            seconds[name] = time.perf_counter() - start
    contenders = {name: rate_of(call, arguments.batch_size) for name, call in passes.items()}
    in_turn(contenders, 1)
    return Measured(medians(in_turn(contenders, arguments.repeats)), seconds)


def ready_pass(engine: str, model: Any, images: Any) -> Callable[[], Any]:
    """A pass that has been made once."""
    from finetune.prediction.engines import inference_by

    infer = inference_by(engine, model)
    infer(images)
    return lambda: infer(images)


def rate_of(call: Callable[[], Any], num_images: int) -> Callable[[], float]:
    """Measures images a second of a call."""

    def measure() -> float:
        start = time.perf_counter()
        for _ in range(CALLS):
            call()
        return CALLS * num_images / (time.perf_counter() - start)

    return measure


if __name__ == "__main__":
    main()
