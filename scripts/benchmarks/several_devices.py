"""A training on one device beside the same on several: logical ones, or processes; and how fast two processes are.

python scripts/benchmarks/several_devices.py --images-dir PHOTOGRAPHS --checkpoint mobilenet_v2_1.0_224.ckpt

Each training makes the same steps of MobileNet V2, a new head alone and all of it, batch norm frozen, with weight
decay, moving averages and, on several devices, two passes a step. Compared with one device: the records of each step,
by the chain of hashes in metrics.jsonl, and the losses, by the largest difference relative to the one device's. With
--speed instead: processes pinned to a core each, beside one on a core alone, over a hundred steps.
"""

import argparse
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from history import Figure, record
from measuring import add_repeats, command, make_parser, parse, print_machine, print_table, run, say, temporary_folder

MODEL = "mobilenet_v2"
HEAD = "MobilenetV2/Logits"
TRAINED = {"head": ["--trainable-scopes", HEAD, "--cache-features", "off"], "all": ["--batch-norm", "frozen"]}
OPTIMIZERS = ("sgd", "momentum", "rmsprop", "adam")
SPEED_STEPS = ["--max-steps", 100, "--log-every", 20]
# As tests have several devices, on a machine without GPUs.
LOGICAL_DEVICES = """
import sys
import tensorflow as tf
configurations = [tf.config.LogicalDeviceConfiguration()] * int(sys.argv[1])
tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], configurations)
from finetune.commands.train import main
sys.exit(main(sys.argv[2:]))
"""


def main() -> None:
    """The command."""
    arguments = parse_arguments()
    print_machine()
    with temporary_folder(arguments.work_dir) as folder:
        say("converting")
        run(command("finetune-convert", "--images-dir", arguments.images_dir, "--dataset-dir", folder / "records"))
        figures = measure_speed(arguments, folder) if arguments.speed else compare(arguments, folder)
    record(arguments, figures)


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = make_parser(__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True, help=f"of {MODEL}")
    parser.add_argument("--image-size", type=int, default=64, help="in pixels")
    parser.add_argument("--batch-size", type=int, default=16, help="images of all devices in a step")
    parser.add_argument("--steps", type=int, default=20, help="of each training")
    parser.add_argument("--trained", nargs="+", default=list(TRAINED), choices=TRAINED, help="what is trained")
    parser.add_argument("--optimizers", nargs="+", default=list(OPTIMIZERS), choices=OPTIMIZERS, help="to compare with")
    parser.add_argument("--devices", nargs="+", type=int, default=[2, 4], help="how many")
    parser.add_argument(
        "--learning-rate", type=float, default=0.000001, help="of all trainings; larger ones make last bits grow"
    )
    parser.add_argument("--speed", action="store_true", help="measure images a second of pinned processes instead")
    add_repeats(parser)
    return parse(parser)


def compare(arguments: argparse.Namespace, folder: Path) -> list[Figure]:
    """Each training on one device and on several."""
    rows, figures = [], []
    for what in arguments.trained:
        for optimizer in arguments.optimizers:
            words = words_of(arguments, folder, what, optimizer)
            say(f"{what}, {optimizer}: one device")
            one = train(folder / "run", [words])
            for number in arguments.devices:
                for way in ("logical devices", "processes"):
                    say(f"{what}, {optimizer}: {number} {way}")
                    several = train(folder / "run", [*passes(words, number, way)], number if way[0] == "l" else 1)
                    same = [row["data_chain"] for row in one] == [row["data_chain"] for row in several]
                    gap = max(
                        abs(left["loss"] - right["loss"]) / left["loss"]
                        for left, right in zip(one, several, strict=True)
                    )
                    say(f"losses differ by {gap:.1e}" + ("" if same else "; the records are OTHERS"))
                    rows.append([what, optimizer, f"{number} {way}", "yes" if same else "NO", f"{gap:.1e}"])
                    figures.append(Figure(f"{what}, {optimizer}: {number} {way}", gap, "relative difference of losses"))
    print_table("Against one device", ["trained", "optimizer", "on", "same records", "losses differ by"], rows)
    return figures


def words_of(arguments: argparse.Namespace, folder: Path, what: str, optimizer: str) -> list[Any]:
    """The flags that all ways to train have."""
    return [
        *(
            "--train-dir",
            folder / "run",
            "--dataset-dir",
            folder / "records",
            "--model",
            MODEL,
            "--exclude-scopes",
            HEAD,
        ),
        *("--checkpoint", arguments.checkpoint, "--image-size", arguments.image_size, "--log-every", 1),
        *("--global-batch-size", arguments.batch_size, "--max-steps", arguments.steps, "--eval-every", 0),
        *("--optimizer", optimizer, "--learning-rate", arguments.learning_rate, "--moving-average-decay", 0.9),
        *("--clone-on-cpu", *TRAINED[what]),
    ]


def passes(words: Sequence[Any], number: int, way: str) -> list[list[Any]]:
    """The words of each process; each device makes two passes a step."""
    words = [*words, "--accumulate-steps", 2]
    if way == "logical devices":
        return [[*words, "--num-clones", number]]
    return on_workers(words, number)


def on_workers(words: Sequence[Any], number: int) -> list[list[Any]]:
    """The words of each of several processes."""
    listed = addresses(number)
    return [[*words, "--workers", listed, "--worker-index", index] for index in range(number)]


def addresses(number: int) -> str:
    """Of ports that are free."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    listed = ",".join(f"127.0.0.1:{each.getsockname()[1]}" for each in sockets)
    for each in sockets:
        each.close()
    return listed


def train(run_folder: Path, words: Sequence[Sequence[Any]], devices: int = 1, cores: bool = False) -> list[Any]:
    """Trains in a process for each of the command lines; the rows of the steps in metrics.jsonl.

    Args:
        run_folder: Which goes when it is read.
        words: Of each process.
        devices: Logical ones of each.
        cores: Whether each has one of its own.
    """
    program = [sys.executable, "-c", LOGICAL_DEVICES, devices]
    processes = [
        subprocess.Popen(
            list(map(str, [*(["taskset", "-c", place] if cores else []), *program, *of_one])),
            env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for place, of_one in enumerate(words)
    ]
    errors = [process.communicate()[1] for process in processes]
    if any(process.returncode for process in processes):
        raise SystemExit("\n".join(errors))
    lines = [json.loads(line) for line in (run_folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    shutil.rmtree(run_folder)
    return [line for line in lines if "learning_rate" in line]


def measure_speed(arguments: argparse.Namespace, folder: Path) -> list[Figure]:
    """Images a second, the median of twenty steps' mean but for the first, of one process on a core and of two on two.

    Whoever tells of each step waits for it, and so do the others: trainings tell now and then.
    """
    rows, figures = [], []
    for what in arguments.trained:
        words = words_of(arguments, folder, what, "momentum")
        rates: dict[int, list[float]] = {1: [], 2: []}
        for _ in range(arguments.repeats):
            for number, found in rates.items():
                say(f"{what}: {number} on a core each")
                # A worker has as many images in a step as the one process.
                of_all = [*words, "--global-batch-size", arguments.batch_size * number, *SPEED_STEPS]
                by_process = [of_all] if number == 1 else on_workers(of_all, number)
                steps = train(folder / "run", by_process, cores=True)
                found.append(statistics.median(row["images_per_second"] for row in steps[1:]))
        one, two = (statistics.median(of_number) for of_number in rates.values())
        rows.append([what, f"{one:.1f}", f"{two:.1f}", f"{two / one / 2:.2f}"])
        figures += [Figure(f"{what}: {n} processes", rate, "images/s") for n, rate in ((1, one), (2, two))]
    print_table("Two processes against one", ["trained", "one process, images/s", "two", "efficiency"], rows)
    return figures


if __name__ == "__main__":
    main()
