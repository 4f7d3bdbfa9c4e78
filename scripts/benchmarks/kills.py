"""What is lost when a training is killed again and again, and goes on each time: ours, and Keras's BackupAndRestore.

python scripts/benchmarks/kills.py --images-dir PHOTOGRAPHS

Each program trains a small network on the same photographs with a seed, once to the end, and once more with a SIGKILL
after so many updates of each start, the same numbers for both. Counted is what the final weights were given: of each
update the last time that it was made.
"""

import argparse
import contextlib
import dataclasses
import json
import random
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from history import Figure, record
from measuring import (
    command,
    default_environment,
    make_parser,
    parse,
    print_machine,
    print_table,
    run,
    say,
    script,
    temporary_folder,
)
from photographs import link_splits

IMAGE_SIZE = 32
BATCH_SIZE = 20
MODEL = "lenet"
UPDATES = "updates"


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What final weights were made of.

    Attributes:
        updates: For each update, in order, the numbers of the images that it was given.
        weights: By name, or by place.
        num_failed_starts: How often the program couldn't go on and was begun anew.
    """

    updates: list[list[int]]
    weights: dict[str, Any]
    num_failed_starts: int

    def counts(self, num_images: int) -> Counter[int]:
        """How often each image was given."""
        counts = Counter(dict.fromkeys(range(num_images), 0))
        counts.update(number for numbers in self.updates for number in numbers)
        return counts


@dataclasses.dataclass(frozen=True)
class Program:
    """A program that trains.

    Attributes:
        name: For the table.
        words: The command line, for a folder of its own, whether it is begun or goes on.
        weights: Of that folder, at the end.
    """

    name: str
    words: Callable[[Path], Sequence[str]]
    weights: Callable[[Path], dict[str, Any]]


def main() -> None:
    """Kills, counts, and prints a table."""
    arguments = parse_arguments()
    print_machine()
    with temporary_folder(arguments.work_dir) as folder:
        link_splits(arguments.images_dir, folder / "photographs")
        records = folder / "records"
        options = ["--dataset-name", "benchmark", "--validation-fraction", "0.25"]
        run(command("finetune-convert", "--images-dir", arguments.images_dir, "--dataset-dir", records, *options))
        num_images = sum(1 for _ in (folder / "photographs" / "train").glob("*/*"))
        steps_per_epoch = num_images // BATCH_SIZE
        assert steps_per_epoch * BATCH_SIZE == num_images, f"{num_images} images to train on are no whole batches"
        moments = random.Random(arguments.seed)
        # So that the last kill comes, as a rule, before the end.
        most = max(1, 3 * steps_per_epoch * arguments.epochs // (2 * arguments.kills))
        kills = [moments.randint(1, most) for _ in range(arguments.kills)]
        say(f"{num_images} images, {steps_per_epoch} updates an epoch; killed after updates {kills}")
        programs = [
            finetune(records, steps_per_epoch * arguments.epochs, arguments.save_seconds),
            keras(folder / "photographs" / "train", arguments.epochs, arguments.save_freq),
        ]
        found = {}
        for program in programs:
            unbroken = train(program, folder / f"{program.name} unbroken", [])
            killed = train(program, folder / f"{program.name} killed", kills)
            found[program.name] = compare(unbroken, killed, num_images)
    facts = list(next(iter(found.values())))
    print_table(
        f"After {len(kills)} kills in {arguments.epochs} epochs of {num_images} images",
        ["in the final weights", *found],
        [[fact, *(f"{of_program[fact]:,g}" for of_program in found.values())] for fact in facts],
    )
    record(arguments, [Figure(f"{name}, {UPDATES}", facts[UPDATES], "updates") for name, facts in found.items()])


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = make_parser(__doc__)
    parser.add_argument("--kills", type=int, default=10, help="in one run")
    parser.add_argument("--epochs", type=int, default=4, help="of each run")
    parser.add_argument("--seed", type=int, default=0, help="of the moments of the kills")
    parser.add_argument("--save-freq", default="5", help='batches between Keras\'s backups, or "epoch"')
    parser.add_argument("--save-seconds", type=float, default=0.1, help="between our checkpoints")
    return parse(parser)


def finetune(records: Path, num_steps: int, save_seconds: float) -> Program:
    """Ours."""

    def words(folder: Path) -> list[str]:
        run_folder = folder / "run"
        begin = ["--dataset-dir", records, "--model", MODEL, "--image-size", IMAGE_SIZE, "--batch-size", BATCH_SIZE]
        begin += ["--optimizer", "adam", "--learning-rate", 0.001, "--max-steps", num_steps, "--eval-every", 0]
        begin += ["--save-interval-seconds", save_seconds, "--log-every", 1]
        has_begun = any(run_folder.glob("*.index"))
        if not has_begun:  # Killed before its first checkpoint.
            shutil.rmtree(run_folder, ignore_errors=True)
        options = ["--resume"] if has_begun else begin
        return script("noted_training.py", folder / "seen", "--train-dir", run_folder, *options)

    def weights(folder: Path) -> dict[str, Any]:
        from finetune.model.checkpoint import open_checkpoint

        checkpoint = open_checkpoint(folder / "run" / f"model.ckpt-{num_steps}")
        return {name: checkpoint.read(name) for name in checkpoint.shapes}

    return Program("finetune", words, weights)


def keras(photographs: Path, epochs: int, save_freq: str) -> Program:
    """The peer."""

    def words(folder: Path) -> list[str]:
        options = ["--backup-dir", folder / "backup", "--seen", folder / "seen", "--weights", folder / "weights.npz"]
        options += ["--epochs", epochs, "--save-freq", save_freq]
        options += ["--image-size", IMAGE_SIZE, "--batch-size", BATCH_SIZE]
        return script("keras_backup.py", photographs, *options)

    def weights(folder: Path) -> dict[str, Any]:
        with np.load(folder / "weights.npz") as arrays:
            return dict(arrays)

    return Program("Keras", words, weights)


def train(program: Program, folder: Path, kills: Sequence[int]) -> Outcome:
    """Trains to the end; a start for each kill, which comes after so many updates, and a last one."""
    folder.mkdir()
    num_failed = 0
    for kill in (*kills, None):
        while not (status := start(program.words(folder), folder / "seen", kill)) <= 0:
            say(f"{program.name} ended with status {status} and is begun anew")
            num_failed += 1
            shutil.rmtree(folder)
            folder.mkdir()
        if kill is not None and status == 0:
            say(f"{program.name} came to its end before it was killed after {kill} more updates")
            break
    last = dict(json.loads(line) for line in (folder / "seen").read_text(encoding="utf-8").splitlines())
    return Outcome([last[update] for update in sorted(last)], program.weights(folder), num_failed)


def start(words: Sequence[str], seen: Path, kill: int | None) -> int:
    """Runs a program to its end, or until it has made so many updates; its status, or minus a signal's number."""
    before = num_lines(seen)
    process = subprocess.Popen(words, env=default_environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None:
        if kill is not None and num_lines(seen) - before >= kill:
            process.send_signal(signal.SIGKILL)
        time.sleep(0.002)
    return process.returncode


def num_lines(path: Path) -> int:
    """Lines of a file so far; 0 where there is none."""
    with contextlib.suppress(FileNotFoundError):
        return path.read_bytes().count(b"\n")
    return 0


def compare(unbroken: Outcome, killed: Outcome, num_images: int) -> dict[str, float]:
    """What the weights after kills were given beside those of the unbroken run."""
    before, after = unbroken.counts(num_images), killed.counts(num_images)
    pairs = list(zip(unbroken.updates, killed.updates, strict=False))
    return {
        UPDATES: len(killed.updates),
        "updates of an unbroken run": len(unbroken.updates),
        "updates with other images": sum(given != expected for expected, given in pairs),
        "images given once too often": (after - before).total(),
        "images given once too seldom": (before - after).total(),
        "largest difference of a weight": largest_difference(unbroken.weights, killed.weights),
        "starts that failed": killed.num_failed_starts,
    }


def largest_difference(expected: dict[str, Any], found: dict[str, Any]) -> float:
    """Of all arrays of numbers."""
    return max(
        float(np.abs(found[name].astype(np.float64) - value).max())
        for name, value in expected.items()
        if value.dtype.kind == "f"
    )


if __name__ == "__main__":
    main()
