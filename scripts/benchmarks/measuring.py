"""What all benchmarks share: programs run and timed in turn, and tables of what came out. Linux; no TensorFlow."""

import argparse
import contextlib
import dataclasses
import datetime
import importlib.metadata
import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import finetune

Result = TypeVar("Result")


class Timed(Protocol):
    """What took some seconds."""

    @property
    def seconds(self) -> float:
        """From start to end."""


TimedRun = TypeVar("TimedRun", bound=Timed)

HERE = Path(__file__).parent
HISTORY = HERE / "history.csv"
ONEDNN = "TF_ENABLE_ONEDNN_OPTS"
# What decides whether bfloat16 is fast, and which kernels oneDNN has.
INSTRUCTION_SETS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")


@dataclasses.dataclass(frozen=True)
class Finished:
    """A program that has ended well.

    Attributes:
        seconds: From its start to its end.
        output: What it wrote to standard output.
    """

    seconds: float
    output: str

    @property
    def result(self) -> Any:
        """The last line of the output, which our own scripts write as JSON."""
        return json.loads(self.output.splitlines()[-1])


@dataclasses.dataclass(frozen=True)
class Machine:
    """Where and when a benchmark runs.

    Attributes:
        date: In ISO format.
        versions: Of this package, TensorFlow, Keras and Python, as in "TensorFlow 2.21.0".
        processor: Its name.
        units: The number of cores, and those of `INSTRUCTION_SETS` that it has.
    """

    date: str
    versions: tuple[str, ...]
    processor: str
    units: tuple[str, ...]


# Flags that change no figure.
NO_PART_OF_IT = ("work_dir", "history")


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Keeps the lines of a description, and names defaults where there are some."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default in (None, False) else super()._get_help_string(action)


def make_parser(description: str | None) -> argparse.ArgumentParser:
    """A parser with the flags of every benchmark."""
    parser = argparse.ArgumentParser(description=description, formatter_class=HelpFormatter)
    parser.add_argument("--images-dir", type=Path, required=True, help="folder with a folder of photographs per class")
    parser.add_argument("--work-dir", type=Path, help="where temporary files go, instead of the system's place")
    parser.add_argument("--history", type=Path, default=HISTORY, help="file that the figures are appended to")
    return parser


def parse(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """The command line, and as `command` what of it is the same on every machine.

    That is the flags that are not at their defaults, and of a path its last component.
    """
    arguments = parser.parse_args()
    words = [parser.prog]
    for name, value in vars(arguments).items():
        if name not in NO_PART_OF_IT and value != parser.get_default(name):
            values = value if isinstance(value, list) else [value.name if isinstance(value, Path) else value]
            words += [f"--{name.replace('_', '-')}", *map(str, values)]
    arguments.command = shlex.join(words)
    return arguments


def add_precision(parser: argparse.ArgumentParser) -> None:
    """The flag for our program's precision; Keras keeps its own, float32."""
    parser.add_argument("--precision", default="auto", help="of finetune-train, and of the limit")


def add_repeats(parser: argparse.ArgumentParser) -> None:
    """The flag for how often."""
    parser.add_argument("--repeats", type=int, default=3, help="of each measurement; the median counts")


def add_checkpoint(parser: argparse.ArgumentParser) -> None:
    """The flag for the pretrained weights."""
    parser.add_argument("--checkpoint", type=Path, required=True, help="prefix of slim's mobilenet_v2 checkpoint")


@contextlib.contextmanager
def temporary_folder(work_dir: Path | None) -> Iterator[Path]:
    """A folder that is removed in the end."""
    if work_dir is not None:
        work_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=work_dir, prefix="benchmark_") as name:
        yield Path(name)


def command(name: str, *words: object) -> list[str]:
    """A console command of this package, of the environment that runs the benchmark."""
    return [str(Path(sys.executable).with_name(name)), *map(str, words)]


def script(name: str, *words: object) -> list[str]:
    """A script beside this file, run by the same Python."""
    return [sys.executable, str(HERE / name), *map(str, words)]


def default_environment() -> dict[str, str]:
    """The benchmark's own, without what would change a program's choice of kernels."""
    environment = {name: value for name, value in os.environ.items() if name != ONEDNN}
    return {**environment, "KERAS_BACKEND": "tensorflow"}


def run(words: Sequence[str], **environment: str) -> Finished:
    """Runs a program to its end; if it fails, so does the benchmark, with what the program said."""
    start = time.monotonic()
    process = subprocess.run(
        words, env={**default_environment(), **environment}, capture_output=True, text=True, check=False
    )
    seconds = time.monotonic() - start
    if process.returncode != 0:
        sys.exit(f"{shlex.join(words)}\nended with status {process.returncode}:\n{process.stderr}")
    return Finished(seconds, process.stdout)


def in_turn(contenders: Mapping[str, Callable[[], Result]], repeats: int) -> dict[str, list[Result]]:
    """Runs each contender once, then each once more, so that a slow minute of the machine hits all of them."""
    results: dict[str, list[Result]] = {name: [] for name in contenders}
    for repeat in range(1, repeats + 1):
        for name, measure in contenders.items():
            result = measure()
            results[name].append(result)
            say(f"{name}, {repeat} of {repeats}: {number(result) if isinstance(result, float) else result}")
    return results


def medians(results: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """The median of each contender's figures."""
    return {name: statistics.median(figures) for name, figures in results.items()}


def median_run(runs: Sequence[TimedRun]) -> TimedRun:
    """The run of median length; of two in the middle, the shorter one."""
    return sorted(runs, key=lambda run: run.seconds)[(len(runs) - 1) // 2]


def say(text: str) -> None:
    """A line on the progress, to standard error."""
    print(text, file=sys.stderr, flush=True)


def number(value: float) -> str:
    """With about three digits: 0.95, 12.3, 123, 4,567."""
    if value >= 99.95:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 9.995 else f"{value:.2f}"


def times(value: float, of: float) -> str:
    """How many times `of` goes into the value: 2.50×."""
    return f"{number(value / of)}×"


def markdown_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of Markdown with aligned columns: figures to the right, words to the left."""
    columns = list(zip(headings, *rows, strict=True))
    widths = [max(3, *map(len, column)) for column in columns]
    are_figures = [all(cell[:1].isdigit() or not cell for cell in cells) for _, *cells in columns]

    def line(cells: Sequence[str]) -> str:
        aligned = (
            cell.rjust(width) if is_figure else cell.ljust(width)
            for cell, width, is_figure in zip(cells, widths, are_figures, strict=True)
        )
        return f"| {' | '.join(aligned)} |"

    rule = ["-" * (width - 1) + (":" if figure else "-") for width, figure in zip(widths, are_figures, strict=True)]
    return "\n".join([line(headings), line(rule), *map(line, rows)])


def print_table(title: str, headings: Sequence[str], rows: Sequence[Sequence[str]], *remarks: str) -> None:
    """A table under a title, with remarks below it, to standard output."""
    print(f"\n{title}\n\n{markdown_table(headings, rows)}", flush=True)
    if remarks:
        print("\n" + "\n".join(remarks), flush=True)


def print_machine() -> None:
    """Date, versions and processor, before the tables."""
    for line in describe_machine():
        print(line)


def describe_machine() -> list[str]:
    """Lines on the date and the versions, on the processor, and on its cores and instruction sets."""
    machine = this_machine()
    return [f"{machine.date}: {', '.join(machine.versions)}", machine.processor, ", ".join(machine.units)]


def this_machine() -> Machine:
    """The one that the benchmark runs on."""
    packages = {"TensorFlow": "tensorflow", "Keras": "keras"}
    versions = [f"finetune {finetune.__version__}"]
    versions += [f"{name} {importlib.metadata.version(package)}" for name, package in packages.items()]
    versions.append(f"Python {platform.python_version()}")
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    facts = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    flags = facts.get("flags", "").split()
    return Machine(
        date=str(datetime.datetime.now(datetime.UTC).date()),
        versions=tuple(versions),
        processor=facts.get("model name", platform.machine()),
        units=(f"{len(os.sched_getaffinity(0))} cores", *(unit for unit in INSTRUCTION_SETS if unit in flags)),
    )
