"""What pseudo-labels bring: a few labelled photographs of each class, the others without labels, a part kept aside.

    python scripts/benchmarks/pseudo_labels.py --images-dir PHOTOGRAPHS --checkpoint mobilenet_v2_1.0_224.ckpt

A new head of mobilenet_v2 on features of whole pictures and their mirror images, Adam with a cosine schedule. Each seed
is another choice of the labelled photographs and of those kept aside.
"""

import argparse
import csv
import hashlib
import math
import statistics
from pathlib import Path

from history import Figure, record
from measuring import (
    add_checkpoint,
    command,
    make_parser,
    parse,
    print_machine,
    print_table,
    run,
    say,
    temporary_folder,
)
from programs import finetune_train, last_accuracy

# Of Student's distribution, two-sided, for 2 to 10 differences.
T_95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
HEAD = ("--model", "mobilenet_v2", "--exclude-scopes", "auto", "--trainable-layers", "head", "--augmentation", "flip")
STEPS = ("--cache-features", "2", "--optimizer", "adam", "--learning-rate", "0.005", "--eval-every", "0")
SCHEDULE = ("--learning-rate-decay-type", "cosine", "--end-learning-rate", "0")


def main() -> None:
    """Measures, and prints the table."""
    arguments = parse_arguments()
    print_machine()
    accuracies: dict[str, list[float]] = {"without": [], **{threshold: [] for threshold in arguments.thresholds}}
    with temporary_folder(arguments.work_dir) as folder:
        for seed in arguments.seeds:
            records, unlabelled = divide(arguments, seed, folder / seed)
            for name, of_seeds in accuracies.items():
                more = [] if name == "without" else pseudo_label_words(unlabelled, name, arguments)
                words = [*HEAD, *STEPS, *SCHEDULE, "--checkpoint", str(arguments.checkpoint), "--seed", seed]
                finetune_train(records, folder / "run", *words, "--max-steps", str(arguments.max_steps), *more)
                of_seeds.append(last_accuracy(folder / "run"))
                say(f"seed {seed}, {name}: {of_seeds[-1]:.4f}")
    rows = [row_of(name, of_seeds, accuracies["without"]) for name, of_seeds in accuracies.items()]
    print_table(
        f"{arguments.labelled} labelled photographs of each class, {arguments.kept_aside} kept aside",
        ["threshold", *(f"seed {seed}" for seed in arguments.seeds), "mean", "gain, 95 % interval"],
        rows,
        "Accuracy on the photographs kept aside after the last step. Student's interval of",
        "the mean difference.",
    )
    record(arguments, [Figure(name, statistics.mean(of_seeds), "accuracy") for name, of_seeds in accuracies.items()])


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = make_parser(__doc__)
    add_checkpoint(parser)
    parser.add_argument("--labelled", type=int, default=10, help="photographs of each class")
    parser.add_argument("--kept-aside", type=int, default=20, help="photographs of each class")
    parser.add_argument("--thresholds", nargs="+", default=["0.95", "adaptive"], help="of --pseudo-label-threshold")
    parser.add_argument("--fraction", default="0.25", help="of finetune-train's --pseudo-label-fraction")
    parser.add_argument("--seeds", nargs="+", default=["0", "1", "2", "3", "4"], help="two at least")
    parser.add_argument("--max-steps", type=int, default=1000, help="of each run")
    return parse(parser)


def pseudo_label_words(unlabelled: Path, threshold: str, arguments: argparse.Namespace) -> list[str]:
    """The flags of a run with pseudo-labels."""
    words = ["--unlabeled-dir", str(unlabelled), "--pseudo-label-threshold", threshold]
    return [*words, "--pseudo-label-fraction", arguments.fraction]


def divide(arguments: argparse.Namespace, seed: str, folder: Path) -> tuple[Path, Path]:
    """Records of the labelled photographs and of those kept aside, and a folder of links to all others."""
    root, unlabelled = arguments.images_dir.resolve(), folder / "unlabelled"
    unlabelled.mkdir(parents=True)
    rows = [("path", "label", "split")]
    for class_folder in sorted(path for path in root.iterdir() if path.is_dir()):
        files = sorted(path.relative_to(root).as_posix() for path in class_folder.iterdir())
        files.sort(key=lambda file: hashlib.sha256(f"{seed}/{file}".encode()).digest())
        end = arguments.labelled + arguments.kept_aside
        rows += [(file, class_folder.name, "train") for file in files[: arguments.labelled]]
        rows += [(file, class_folder.name, "validation") for file in files[arguments.labelled : end]]
        for file in files[end:]:
            (unlabelled / file.replace("/", "-")).symlink_to(root / file)
    with (folder / "labels.csv").open("w", encoding="utf-8", newline="") as table:
        csv.writer(table).writerows(rows)
    words = ["--images-dir", root, "--labels-csv", folder / "labels.csv", "--dataset-dir", folder / "records"]
    run(command("finetune-convert", *words))
    return folder / "records", unlabelled


def row_of(name: str, accuracies: list[float], without: list[float]) -> list[str]:
    """A line of the table."""
    cells = [name, *(f"{accuracy:.4f}" for accuracy in accuracies), f"{statistics.mean(accuracies):.4f}"]
    gains = [accuracy - before for accuracy, before in zip(accuracies, without, strict=True)]
    half = T_95[len(gains) - 2] * statistics.stdev(gains) / math.sqrt(len(gains))
    return [*cells, "" if name == "without" else f"{statistics.mean(gains):+.4f} ± {half:.4f}"]


if __name__ == "__main__":
    main()
