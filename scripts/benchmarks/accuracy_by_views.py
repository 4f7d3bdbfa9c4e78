"""Validation accuracy of a new head by the number of augmented views in the feature cache, and with the cache off.

    python scripts/benchmarks/accuracy_by_views.py --images-dir PHOTOGRAPHS --checkpoint mobilenet_v2_1.0_224.ckpt

mobilenet_v2 with the default augmentation of its preprocessing, batch 32, Adam with a cosine schedule.
"""

import argparse
import statistics
from pathlib import Path

from history import Figure, record
from measuring import (
    add_checkpoint,
    make_parser,
    number,
    parse,
    print_machine,
    print_table,
    say,
    temporary_folder,
)
from programs import Trained, finetune_train, head_words, last_accuracy, prepare_photographs


def main() -> None:
    """Measures, and prints the table."""
    arguments = parse_arguments()
    print_machine()
    rows, figures = [], []
    with temporary_folder(arguments.work_dir) as folder:
        records = prepare_photographs(arguments.images_dir, folder).records
        for views in arguments.views:
            runs = [train(views, seed, arguments, records, folder / "run") for seed in arguments.seeds]
            accuracies = [run.accuracy for run in runs]
            mean, seconds = statistics.mean(accuracies), statistics.median(run.seconds for run in runs)
            rows.append([views, *(f"{accuracy:.4f}" for accuracy in accuracies), f"{mean:.4f}", number(seconds)])
            figures += [Figure(f"views {views}", mean, "accuracy"), Figure(f"views {views}", seconds, "seconds")]
    print_table(
        f"mobilenet_v2 head, {arguments.max_steps} steps, augmentation {arguments.augmentation}",
        ["views", *(f"seed {seed}" for seed in arguments.seeds), "mean", "seconds"],
        rows,
        "Accuracy on the validation split after the last step; median seconds of the",
        "whole command.",
    )
    record(arguments, figures)


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = make_parser(__doc__)
    add_checkpoint(parser)
    parser.add_argument("--views", nargs="+", default=["1", "4", "16", "off"], help="values of --cache-features")
    parser.add_argument("--seeds", nargs="+", default=["0", "1", "2"], help="of finetune-train")
    parser.add_argument("--max-steps", type=int, default=300, help="of each run")
    parser.add_argument("--learning-rate", default="0.005", help="at the first step")
    parser.add_argument("--optimizer", default="adam", help="of finetune-train")
    parser.add_argument("--augmentation", default="default", help="of finetune-train")
    return parse(parser)


def train(views: str, seed: str, arguments: argparse.Namespace, records: Path, run_folder: Path) -> Trained:
    """One run."""
    finished = finetune_train(
        records,
        run_folder,
        *head_words("mobilenet_v2", arguments.checkpoint),
        *("--cache-features", views, "--seed", seed, "--augmentation", arguments.augmentation),
        *("--optimizer", arguments.optimizer, "--learning-rate", arguments.learning_rate),
        *("--max-steps", str(arguments.max_steps)),
    )
    trained = Trained(finished.seconds, last_accuracy(run_folder), arguments.max_steps)
    say(f"views {views}, seed {seed}: {trained}")
    return trained


if __name__ == "__main__":
    main()
