"""A new head on a frozen network: our program against Keras 3 as its transfer-learning guide does it.

    python scripts/benchmarks/head_only.py --images-dir PHOTOGRAPHS --checkpoint mobilenet_v2_1.0_224.ckpt

accuracy: seconds of the whole command to a validation accuracy, mobilenet_v2, by configs/flowers_head.toml.
long:     the same for 1,000 steps and one validation at the end, both augmenting; Keras needs minutes for it.
rates:    images a second of steps that compute everything (--cache-features off), with their input.
cache:    steps a second from cached features, against steps that compute everything.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from history import Figure, record
from keras_transfer import ROUNDING
from measuring import (
    add_checkpoint,
    add_precision,
    add_repeats,
    in_turn,
    make_parser,
    median_run,
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
from programs import (
    BATCH_SIZE,
    NETWORKS,
    Photographs,
    Trained,
    bare_rate,
    finetune_rate,
    finetune_train,
    head_words,
    keras_rate,
    keras_words,
    last_accuracy,
    precision_of,
    prepare_photographs,
    starting_weights,
)

PARTS = ("accuracy", "long", "rates", "cache")
NETWORK = "mobilenet_v2"
# In 1,000 steps Keras sees 60 rotated images of each photograph; a few views of each teach ours as much.
LONG_WORDS = ("--augmentation", "default", "--cache-features", "6")


def main() -> None:
    """Measures, and prints a table for each part."""
    arguments = parse_arguments()
    print_machine()
    measure = {
        "accuracy": time_to_accuracy,
        "long": time_of_steps,
        "rates": rates_with_input,
        "cache": steps_from_cache,
    }
    with temporary_folder(arguments.work_dir) as folder:
        photographs = prepare_photographs(arguments.images_dir, folder)
        for part in arguments.parts:
            record(arguments, measure[part](arguments, photographs, folder))


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = make_parser(__doc__)
    add_repeats(parser)
    add_precision(parser)
    add_checkpoint(parser)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="what to measure")
    parser.add_argument("--long-repeats", type=int, default=1, help="of the part long")
    parser.add_argument("--target-accuracy", type=float, default=0.95, help="of the part accuracy")
    parser.add_argument("--max-epochs", type=int, default=60, help="after which Keras gives up, in the part accuracy")
    parser.add_argument(
        "--steps", type=int, default=1000, help="of ours in the part accuracy, of both in the part long"
    )
    parser.add_argument("--rate-steps", type=int, default=30, help="of the parts rates and cache")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=NETWORKS, help="of the part rates")
    return parse(parser)


def time_to_accuracy(arguments: argparse.Namespace, photographs: Photographs, folder: Path) -> list[Figure]:
    """Ours makes all its steps, Keras stops after the epoch that reaches the accuracy."""
    target = arguments.target_accuracy
    options = ["--target-accuracy", str(target), "--epochs", str(arguments.max_epochs)]
    runs = compare_whole(arguments, photographs, folder, [], options, arguments.repeats)
    remarks = [
        f"{name}: {trained.accuracy:.4f} is below {target}, so its time is no time to that accuracy."
        for name, trained in runs.items()
        if trained.accuracy < target - ROUNDING
    ]
    print_whole(f"Whole command to a validation accuracy of {target}, {NETWORK}", runs, photographs, remarks)
    return figures_of_whole("accuracy", runs)


def time_of_steps(arguments: argparse.Namespace, photographs: Photographs, folder: Path) -> list[Figure]:
    """The same number of steps for both, each with one validation in the end."""
    options = ["--steps", str(arguments.steps)]
    runs = compare_whole(arguments, photographs, folder, LONG_WORDS, options, arguments.long_repeats)
    print_whole(f"Whole command of {arguments.steps} steps and one validation, {NETWORK}", runs, photographs, [])
    return figures_of_whole("long", runs)


def compare_whole(
    arguments: argparse.Namespace,
    photographs: Photographs,
    folder: Path,
    own_options: Sequence[str],
    keras_options: Sequence[str],
    repeats: int,
) -> dict[str, Trained]:
    """The run of median length of each program."""
    checkpoint, keras_weights = starting_weights(NETWORK, arguments.checkpoint, folder)

    def finetune() -> Trained:
        words = [*head_words(NETWORK, checkpoint), *own_options, "--precision", arguments.precision]
        words += ["--max-steps", str(arguments.steps)]
        finished = finetune_train(photographs.records, folder / "run", *words)
        return Trained(finished.seconds, last_accuracy(folder / "run"), arguments.steps)

    def keras() -> Trained:
        words = [*keras_words(NETWORK, keras_weights), *keras_options]
        finished = run(script("keras_transfer.py", photographs.folders, *words))
        return Trained(finished.seconds, finished.result["accuracies"][-1], len(finished.result["step_ends"]))

    results = in_turn({"finetune": finetune, "Keras": keras}, repeats)
    return {name: median_run(runs) for name, runs in results.items()}


def print_whole(title: str, runs: dict[str, Trained], photographs: Photographs, remarks: list[str]) -> None:
    """Seconds and accuracies side by side."""
    own_seconds = runs["finetune"].seconds
    rows = [
        [name, number(run.seconds), f"{run.accuracy:.4f}", f"{run.num_steps:,}", times(run.seconds, own_seconds)]
        for name, run in runs.items()
    ]
    print_table(
        title,
        ["", "seconds", "accuracy", "steps", "time, finetune = 1"],
        rows,
        *remarks,
        f"Before ours, once: finetune-convert, {number(photographs.conversion_seconds)} seconds.",
    )


def figures_of_whole(part: str, runs: dict[str, Trained]) -> list[Figure]:
    """Seconds and accuracies for the history."""
    seconds = [Figure(f"{part}: {name}", run.seconds, "seconds") for name, run in runs.items()]
    return seconds + [Figure(f"{part}: {name}", run.accuracy, "accuracy") for name, run in runs.items()]


def rates_with_input(arguments: argparse.Namespace, photographs: Photographs, folder: Path) -> list[Figure]:
    """Images a second of steps that compute everything."""
    rows, figures = [], []
    for network in arguments.networks:
        rates = measure_rates(network, arguments, photographs, folder)
        rows += [[network, name, number(rate), times(rates["finetune"], rate)] for name, rate in rates.items()]
        figures += [Figure(f"rates: {network}, {name}", rate, "images/s") for name, rate in rates.items()]
    print_table(
        f"Images a second of head-only steps with their input, nothing cached, batch {BATCH_SIZE}",
        ["network", "program", "images/s", "finetune is"],
        rows,
        "Both flip images at random. inception_v3 starts from random weights in both,",
        f"and ours trains its auxiliary head as well. finetune computes in {precision_of(folder / 'run')}.",
    )
    return figures


def measure_rates(
    network: str, arguments: argparse.Namespace, photographs: Photographs, folder: Path
) -> dict[str, float]:
    """Images a second of each contender, and of the network alone."""
    checkpoint, keras_weights = starting_weights(network, arguments.checkpoint, folder)
    ours = [*head_words(network, checkpoint), "--cache-features", "off", "--precision", arguments.precision]
    theirs = keras_words(network, keras_weights)
    steps = arguments.rate_steps
    results = in_turn(
        {
            "finetune": lambda: finetune_rate(photographs.records, folder / "run", steps, *ours),
            "Keras": lambda: keras_rate(photographs.folders, steps, *theirs),
            "Keras with oneDNN": lambda: keras_rate(photographs.folders, steps, *theirs, onednn=True),
        },
        arguments.repeats,
    )
    alone = bare_rate(network, "forward", "--precision", arguments.precision)
    return {**medians(results), "forward pass alone": alone}


def steps_from_cache(arguments: argparse.Namespace, photographs: Photographs, folder: Path) -> list[Figure]:
    """Steps a second with and without the cache."""
    words = [*head_words(NETWORK, arguments.checkpoint), "--precision", arguments.precision]
    results = in_turn(
        {
            "from the cache": lambda: finetune_rate(photographs.records, folder / "run", arguments.steps, *words),
            "computing everything": lambda: finetune_rate(
                photographs.records, folder / "run", arguments.rate_steps, *words, "--cache-features", "off"
            ),
        },
        arguments.repeats,
    )
    rates = {name: rate / BATCH_SIZE for name, rate in medians(results).items()}
    rows = [[name, number(rate), times(rates["from the cache"], rate)] for name, rate in rates.items()]
    print_table(
        f"Steps a second of finetune-train, {NETWORK} head only, batch {BATCH_SIZE}",
        ["steps", "steps/s", "from the cache is"],
        rows,
    )
    return [Figure(f"cache: {name}", rate, "steps/s") for name, rate in rates.items()]


if __name__ == "__main__":
    main()
