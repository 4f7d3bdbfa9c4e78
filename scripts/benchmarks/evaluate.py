"""The scoring pass of finetune-eval against the bare forward pass: images a second.

    python scripts/benchmarks/evaluate.py --images-dir PHOTOGRAPHS

In one process for each network, with the program's own settings: passes over the training split (it is the larger one)
and forward passes on a batch that is there already, in turn. Weights are random, which changes no time.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

from bare import make_model, some_images
from history import Figure, record
from measuring import (
    add_repeats,
    in_turn,
    make_parser,
    medians,
    number,
    parse,
    print_machine,
    print_table,
    run,
    script,
    temporary_folder,
    times,
)
from programs import NETWORKS, prepare_photographs

from finetune.settings.choices import PRECISIONS

PASS, BARE = "finetune-eval's pass", "forward pass alone"


def main() -> None:
    """Measures, and prints the table; or, as a process of its own, measures one network."""
    arguments = parse_arguments()
    if arguments.network is not None:
        print(json.dumps(measure_here(arguments)))
        return
    print_machine()
    rows, figures = [], []
    with temporary_folder(arguments.work_dir) as folder:
        records = prepare_photographs(arguments.images_dir, folder).records
        for network in arguments.networks:
            rates = measure_in_child(network, records, arguments)
            rows += [[network, name, number(rate), times(rate, rates[BARE])] for name, rate in rates.items()]
            figures += [Figure(f"{network}, {name}", rate, "images/s") for name, rate in rates.items()]
    print_table(
        f"Images a second in evaluation, batch {arguments.batch_size}, {arguments.precision}",
        ["network", "what", "images/s", "forward pass = 1"],
        rows,
    )
    record(arguments, figures)


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = make_parser(__doc__)
    add_repeats(parser)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=NETWORKS, help="to measure")
    parser.add_argument("--batch-size", type=int, default=100, help="of finetune-eval")
    parser.add_argument("--precision", choices=PRECISIONS, default="float32", help="of both")
    parser.add_argument("--network", choices=NETWORKS, help=argparse.SUPPRESS)
    return parse(parser)


def measure_in_child(network: str, records: Path, arguments: argparse.Namespace) -> dict[str, float]:
    """The rates that a process of its own measures."""
    words = ["--images-dir", records, "--network", network, "--batch-size", arguments.batch_size]
    options = ["--repeats", arguments.repeats, "--precision", arguments.precision]
    rates: dict[str, float] = run(script("evaluate.py", *words, *options)).result
    return rates


def measure_here(arguments: argparse.Namespace) -> dict[str, float]:
    """Images a second of the pass and of the network alone, after one pass of each to warm up."""
    from finetune.commands.tensorflow_start import start_tensorflow

    start_tensorflow()
    from finetune.datasets.dataset_search import find_dataset
    from finetune.datasets.decoding import ReadOptions
    from finetune.datasets.pipeline import evaluation_batches
    from finetune.evaluation.scoring import inference_function, score
    from finetune.preprocessing import get_preprocessing

    model = make_model(arguments.network, arguments.precision)
    infer = inference_function(model)
    dataset = find_dataset(arguments.images_dir, None, "train")
    options = ReadOptions(get_preprocessing(arguments.network), model.image_size, model.channels)
    batches = evaluation_batches(dataset, options, batch_size=arguments.batch_size)
    images = some_images(model, arguments.batch_size)
    num_batches = max(1, dataset.num_examples // arguments.batch_size)

    def score_split() -> int:
        return score([infer], batches).num_examples

    def infer_only() -> int:
        for _ in range(num_batches):
            infer(images).numpy()
        return num_batches * arguments.batch_size

    contenders = {PASS: lambda: rate_of(score_split), BARE: lambda: rate_of(infer_only)}
    in_turn(contenders, 1)
    return medians(in_turn(contenders, arguments.repeats))


def rate_of(count: Callable[[], int]) -> float:
    """Images a second of a function that returns how many it has done."""
    start = time.perf_counter()
    num_images = count()
    return num_images / (time.perf_counter() - start)


if __name__ == "__main__":
    main()
