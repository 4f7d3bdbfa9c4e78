"""All variables trained: images a second of whole training steps, our program against Keras 3.

    python scripts/benchmarks/full.py --images-dir PHOTOGRAPHS --checkpoint mobilenet_v2_1.0_224.ckpt

Batch norm takes the batch's statistics in both, as fit does by itself; with --batch-norm frozen it takes the moving
ones in both, as Keras's guide advises.
"""

import argparse
from pathlib import Path

from history import Figure, record
from measuring import (
    add_checkpoint,
    add_precision,
    add_repeats,
    in_turn,
    make_parser,
    medians,
    number,
    parse,
    print_machine,
    print_table,
    temporary_folder,
    times,
)
from programs import (
    BATCH_SIZE,
    NETWORKS,
    Photographs,
    bare_rate,
    finetune_rate,
    keras_rate,
    keras_words,
    precision_of,
    prepare_photographs,
    starting_weights,
)

from finetune.nets import get_spec


def main() -> None:
    """Measures, and prints the table."""
    arguments = parse_arguments()
    print_machine()
    with temporary_folder(arguments.work_dir) as folder:
        photographs = prepare_photographs(arguments.images_dir, folder)
        rows, figures = [], []
        for network in arguments.networks:
            rates = measure(network, arguments, photographs, folder)
            rows += [[network, name, number(rate), times(rates["finetune"], rate)] for name, rate in rates.items()]
            figures += [Figure(f"{network}, {name}", rate, "images/s") for name, rate in rates.items()]
        precision = precision_of(folder / "run")
    print_table(
        f"Images a second of steps that train everything, with their input, batch {BATCH_SIZE}",
        ["network", "program", "images/s", "finetune is"],
        rows,
        f"Both flip images at random; batch norm: {arguments.batch_norm}; finetune computes in {precision}.",
        "inception_v3 starts from random weights in both, and ours has its auxiliary",
        "head as well.",
    )
    record(arguments, figures)


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = make_parser(__doc__)
    add_repeats(parser)
    add_precision(parser)
    add_checkpoint(parser)
    parser.add_argument("--steps", type=int, default=15, help="of each run")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=NETWORKS, help="[all]")
    parser.add_argument("--batch-norm", choices=("plan", "frozen"), default="plan", help="[plan]")
    return parse(parser)


def measure(network: str, arguments: argparse.Namespace, photographs: Photographs, folder: Path) -> dict[str, float]:
    """Images a second of each contender, and of the step alone."""
    checkpoint, keras_weights = starting_weights(network, arguments.checkpoint, folder)
    batch_norm = ["--batch-norm", arguments.batch_norm]
    ours = [
        *("--model", network, "--checkpoint", str(checkpoint), "--augmentation", "flip", *batch_norm),
        *("--exclude-scopes", ",".join(get_spec(network).head_scopes), "--learning-rate", "0.0001"),
        *("--batch-size", str(BATCH_SIZE), "--precision", arguments.precision),
    ]
    theirs = [*keras_words(network, keras_weights), "--train-base"]
    if arguments.batch_norm == "plan":
        theirs.append("--batch-statistics")
    steps = arguments.steps
    results = in_turn(
        {
            "finetune": lambda: finetune_rate(photographs.records, folder / "run", steps, *ours),
            "Keras": lambda: keras_rate(photographs.folders, steps, *theirs),
            "Keras with oneDNN": lambda: keras_rate(photographs.folders, steps, *theirs, onednn=True),
        },
        arguments.repeats,
    )
    alone = bare_rate(network, "step", *batch_norm, "--precision", arguments.precision)
    return {**medians(results), "step alone": alone}


if __name__ == "__main__":
    main()
