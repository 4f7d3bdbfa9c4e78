r"""Both stages of Keras's tutorials: our program against plain Keras (keras_tutorial.py).

    python scripts/benchmarks/keras_two_stage.py --images-dir PHOTOGRAPHS --checkpoint mobilenet_v2_1.0_224.ckpt
    python scripts/benchmarks/keras_two_stage.py --images-dir PHOTOGRAPHS --model keras/inception_v3 \
        --trainable-from 249 --image-size 150 --epochs 2 2

Ours trains by configs/keras_two_stage.toml. Both see the same photographs in the same split, begin with the same file
of weights, without a checkpoint of random ones, and make the same epochs. A stage's seconds are the whole command's,
from its start to the end of the first stage, and from there to its own end.
"""

import argparse
import dataclasses
import json
import statistics
import time
import tomllib
from pathlib import Path
from typing import Any

import tomli_w
from history import Figure, record
from measuring import (
    HERE,
    command,
    make_parser,
    number,
    parse,
    print_machine,
    print_table,
    run,
    say,
    script,
    temporary_folder,
    times,
)
from programs import Photographs, finetune_train, prepare_photographs

from finetune.nets.keras_networks.table import APPLICATIONS

CONFIG = HERE.parents[1] / "configs" / "keras_two_stage.toml"
STAGES = ("new head", "from an index on")


@dataclasses.dataclass(frozen=True)
class Stages:
    """What the stages of a training came to.

    Attributes:
        seconds: Of each.
        accuracies: Of the validation at the end of each, 0 to 1.
    """

    seconds: tuple[float, ...]
    accuracies: tuple[float, ...]

    def __str__(self) -> str:
        pairs = zip(self.seconds, self.accuracies, strict=True)
        return "; ".join(f"{seconds:.1f} seconds, accuracy {accuracy:.4f}" for seconds, accuracy in pairs)


def main() -> None:
    """Measures, and prints the table."""
    arguments = parse_arguments()
    print_machine()
    results: dict[str, list[Stages]] = {"finetune": [], "Keras": []}
    with temporary_folder(arguments.work_dir) as folder:
        photographs = prepare_photographs(arguments.images_dir, folder)
        settings = settings_of(arguments)
        weights = prepare_weights(settings["model"], arguments.checkpoint, folder)
        config = folder / "settings.toml"
        config.write_text(tomli_w.dumps(settings), encoding="utf-8")
        for seed in arguments.seeds:
            results["finetune"].append(train_ours(photographs, config, folder, arguments.image_size, seed))
            say(f"seed {seed}, finetune: {results['finetune'][-1]}")
            results["Keras"].append(train_keras(photographs, config, weights, arguments.image_size, seed))
            say(f"seed {seed}, Keras: {results['Keras'][-1]}")
    print_table(
        f"{settings['model']} at {arguments.image_size} pixels, {arguments.epochs[0]} and {arguments.epochs[1]} epochs",
        ["stage", "program", *(f"seed {seed}" for seed in arguments.seeds), "mean", "seconds", "time, finetune = 1"],
        rows_of(results),
        "Accuracy on the photographs kept aside at the end of each stage; medians of the seconds.",
        f"Before ours, once: finetune-convert, {number(photographs.conversion_seconds)} seconds.",
    )
    record(arguments, figures_of(results))


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = make_parser(__doc__)
    parser.add_argument("--model", help="a network of Keras Applications; none: that of the settings")
    parser.add_argument("--checkpoint", type=Path, help="slim's, of mobilenet_v2, for that; none: random values")
    parser.add_argument("--trainable-from", type=int, help="first layer of stage 2; none: that of the settings")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of both programs")
    parser.add_argument("--epochs", type=int, nargs=2, default=[20, 20], help="of each stage")
    parser.add_argument("--image-size", type=int, default=224, help="height and width in pixels")
    return parse(parser)


def prepare_weights(model: str, checkpoint: Path | None, folder: Path) -> Path:
    """A file of Keras's for the peer; the same, imported, is `folder`/weights.ckpt for ours."""
    path = folder / "base.weights.h5"
    source = ["keras", checkpoint] if checkpoint else ["keras-random", APPLICATIONS[model].function]
    run(script("weights.py", *source, path))
    run(command("finetune-import", path, "--model", model, "--output", folder / "weights.ckpt"))
    return path


def settings_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """The settings of configs/keras_two_stage.toml with another network, first layer or length of the stages."""
    settings = tomllib.loads(CONFIG.read_text(encoding="utf-8"))
    settings["model"] = arguments.model or settings["model"]
    if arguments.trainable_from is not None:
        settings["stages"][1]["trainable_from"] = arguments.trainable_from
    for stage, length in zip(settings["stages"], arguments.epochs, strict=True):
        stage["epochs"] = length
    return settings


def train_ours(photographs: Photographs, config: Path, folder: Path, image_size: int, seed: int) -> Stages:
    """One run of both stages; the first ends with its checkpoint."""
    run_folder = folder / "run"
    words = ["--config", config, "--checkpoint", folder / "weights.ckpt", "--eval-every", 0]
    words += ["--image-size", image_size, "--seed", seed]
    start = time.time()
    finished = finetune_train(photographs.records, run_folder, *map(str, words))
    stages = json.loads((run_folder / "stages.json").read_text(encoding="utf-8"))["stages"]
    first = (run_folder / f"model.ckpt-{stages[0]['last_step']}.index").stat().st_mtime - start
    lines = (run_folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    by_step = {line["step"]: line["accuracy"] for line in map(json.loads, lines) if "accuracy" in line}
    accuracies = tuple(by_step[stage["last_step"]] for stage in stages)
    return Stages((first, finished.seconds - first), accuracies)


def train_keras(photographs: Photographs, config: Path, weights: Path, image_size: int, seed: int) -> Stages:
    """The peer with the settings that are ours."""
    settings = tomllib.loads(config.read_text(encoding="utf-8"))
    stages = settings["stages"]
    words: list[Any] = ["--application", APPLICATIONS[settings["model"]].function, "--weights", weights]
    words += ["--image-size", image_size, "--batch-size", settings["batch_size"]]
    words += ["--hidden", *hidden_sizes(settings.get("head", "linear")), "--seed", seed]
    words += ["--trainable-from", stages[1]["trainable_from"], "--epochs", *(stage["epochs"] for stage in stages)]
    start = time.time()
    finished = run(script("keras_tutorial.py", photographs.folders, *words))
    first = finished.result["stage_ends"][0] - start
    return Stages((first, finished.seconds - first), tuple(finished.result["accuracies"]))


def hidden_sizes(head: str) -> list[str]:
    """Units of the hidden layers of a head, as `--head` takes it: `linear`, or `mlp:1024,256`."""
    _, _, sizes = head.partition(":")
    return sizes.split(",") if sizes else []


def rows_of(results: dict[str, list[Stages]]) -> list[list[str]]:
    """A line of the table for each stage and program."""
    rows = []
    for number_of_stage, stage in enumerate(STAGES):
        own_seconds = median_seconds(results["finetune"], number_of_stage)
        for program, runs in results.items():
            accuracies = [run.accuracies[number_of_stage] for run in runs]
            seconds = median_seconds(runs, number_of_stage)
            told = [f"{accuracy:.4f}" for accuracy in [*accuracies, statistics.mean(accuracies)]]
            rows.append([stage, program, *told, number(seconds), times(seconds, own_seconds)])
    return rows


def figures_of(results: dict[str, list[Stages]]) -> list[Figure]:
    """Mean accuracies and median seconds, for the history."""
    figures = []
    for number_of_stage, stage in enumerate(STAGES):
        for program, runs in results.items():
            accuracy = statistics.mean(run.accuracies[number_of_stage] for run in runs)
            figures.append(Figure(f"{stage}: {program}", accuracy, "accuracy"))
            figures.append(Figure(f"{stage}: {program}", median_seconds(runs, number_of_stage), "seconds"))
    return figures


def median_seconds(runs: list[Stages], stage: int) -> float:
    """Of one stage, over the seeds."""
    return statistics.median(run.seconds[stage] for run in runs)


if __name__ == "__main__":
    main()
