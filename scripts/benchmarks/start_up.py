"""Seconds from the start of a command to its help text, and to the end of the first training step.

python scripts/benchmarks/start_up.py --images-dir PHOTOGRAPHS --checkpoint mobilenet_v2_1.0_224.ckpt
"""

import argparse
import functools
import shutil
import subprocess
import sys
import time
from pathlib import Path

from history import Figure, record
from measuring import (
    add_checkpoint,
    add_repeats,
    command,
    default_environment,
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
from programs import NETWORKS, Photographs, head_words, keras_words, prepare_photographs, starting_weights

from finetune.commands.verbs import VERBS

COMMANDS = ("finetune", *(f"finetune-{name}" for name, verb in VERBS.items() if verb.has_program))
LIMITS = {"python -c pass": "pass", "import tensorflow": "import tensorflow"}


def main() -> None:
    """Measures, and prints two tables."""
    arguments = parse_arguments()
    print_machine()
    limits = {name: functools.partial(seconds_of, [sys.executable, "-c", code]) for name, code in LIMITS.items()}
    helps = {f"{name} --help": functools.partial(seconds_of, command(name, "--help")) for name in COMMANDS}
    seconds = medians(in_turn({**helps, **limits}, arguments.repeats))
    print_seconds("Seconds to the help text", seconds)
    with temporary_folder(arguments.work_dir) as folder:
        photographs = prepare_photographs(arguments.images_dir, folder)
        rows = []
        for network in arguments.networks:
            first = first_steps(network, arguments, photographs, folder)
            rows += [[network, name, number(value), times(value, first["finetune"])] for name, value in first.items()]
            seconds |= {f"first step of {network}, {name}": value for name, value in first.items()}
    print_table(
        "Seconds to the end of the first step, a new head on a frozen network",
        ["network", "program", "seconds", "finetune = 1"],
        rows,
    )
    record(arguments, [Figure(name, value, "seconds") for name, value in seconds.items()])


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = make_parser(__doc__)
    add_repeats(parser)
    add_checkpoint(parser)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=NETWORKS, help="to take a first step with")
    return parse(parser)


def seconds_of(words: list[str]) -> float:
    """From the start of a program to its end."""
    return run(words).seconds


def print_seconds(title: str, seconds: dict[str, float]) -> None:
    """A row for each command."""
    print_table(title, ["command", "seconds"], [[name, number(value)] for name, value in seconds.items()])


def first_steps(
    network: str, arguments: argparse.Namespace, photographs: Photographs, folder: Path
) -> dict[str, float]:
    """The median of each program's seconds."""
    checkpoint, keras_weights = starting_weights(network, arguments.checkpoint, folder)
    ours = [*head_words(network, checkpoint), "--cache-features", "off"]
    theirs = keras_words(network, keras_weights)
    results = in_turn(
        {
            "finetune": lambda: finetune_first_step(photographs.records, folder / "run", *ours),
            "Keras": lambda: keras_first_step(photographs.folders, *theirs),
        },
        arguments.repeats,
    )
    return medians(results)


def finetune_first_step(records: Path, run_folder: Path, *words: str) -> float:
    """Until finetune-train's log tells of the first step."""
    shutil.rmtree(run_folder, ignore_errors=True)
    options = ["--dataset-dir", records, "--train-dir", run_folder, *("--max-steps", "1", "--log-every", "1")]
    start = time.monotonic()
    process = subprocess.Popen(
        command("finetune-train", *options, *words),
        env=default_environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    seconds, log = None, []
    for line in process.stderr or []:
        log.append(line)
        if line.startswith("step 1/") and seconds is None:
            seconds = time.monotonic() - start
    if process.wait() != 0 or seconds is None:
        sys.exit(f"finetune-train failed:\n{''.join(log)}")
    return seconds


def keras_first_step(folders: Path, *words: str) -> float:
    """Until the peer's script has ended its first step."""
    start = time.time()
    result = run(script("keras_transfer.py", folders, "--steps", "1", "--no-validate", *words)).result
    return float(result["step_ends"][0]) - start


if __name__ == "__main__":
    main()
