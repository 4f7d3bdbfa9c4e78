"""`scripts/test.sh --matrix`: the tests with each Python and with the highest and lowest versions of what is installed.

Each pair has an environment of its own, made by uv. Pythons that aren't here are skipped, with a word.
"""

import argparse
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PYTHONS = ("3.11", "3.12", "3.13")
# Of what pyproject.toml names itself: the newest within its bounds, and the oldest.
RESOLUTIONS = ("highest", "lowest-direct")
EXTRAS = "dev,demo"
PASSED = "passed"

Command = list[str]


@dataclass(frozen=True)
class Round:
    """One environment and its tests."""

    python: str
    resolution: str

    @property
    def name(self) -> str:
        return f"Python {self.python}, {self.resolution} versions"

    @property
    def environment(self) -> Path:
        return ROOT / ".venv" / "matrix" / f"{self.python}-{self.resolution}"

    def commands(self, interpreter: str, pytest_words: Sequence[str]) -> Iterator[Command]:
        """What makes the environment and runs the tests in it, one after another."""
        python = str(self.environment / "bin" / "python")
        yield ["uv", "venv", "--quiet", "--clear", "--python", interpreter, str(self.environment)]
        yield [
            *["uv", "pip", "install", "--quiet", "--python", python, "--resolution", self.resolution],
            *["--editable", f"{ROOT}[{EXTRAS}]"],
        ]
        yield [python, "-m", "pytest", "-n", "2", "--no-loadscope-reorder", "--max-worker-restart=0", *pytest_words]


def all_rounds() -> list[Round]:
    """Each Python with each set of versions."""
    return [Round(python, resolution) for python in PYTHONS for resolution in RESOLUTIONS]


def find_interpreter(version: str) -> str | None:
    """A Python of that version that is here; none is downloaded."""
    found = subprocess.run(
        ["uv", "python", "find", "--no-python-downloads", "--no-project", version],
        capture_output=True,
        text=True,
        check=False,
        cwd="/",  # Where no .python-version or virtual environment says otherwise.
        env={name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"},
    )
    return found.stdout.strip() if found.returncode == 0 else None


def run_all(
    pytest_words: Sequence[str],
    find: Callable[[str], str | None] = find_interpreter,
    run: Callable[[Command], int] = lambda command: subprocess.run(command, check=False, cwd=ROOT).returncode,
    passed: str = PASSED,
) -> int:
    """Makes the rounds, and says what became of each.

    Args:
        pytest_words: Arguments of pytest.
        find: From a version to an interpreter; None: there is none.
        run: Runs a command, and returns its exit status.
        passed: What a round is called whose commands all ended with 0.

    Returns:
        The exit status: 1 where a round failed, 2 where none could be made.
    """
    outcomes = {}
    for each in all_rounds():
        interpreter = find(each.python)
        if interpreter is None:
            outcomes[each] = f"skipped: there is no Python {each.python} here (uv python install {each.python})"
            continue
        print(f"== {each.name}: {interpreter}", flush=True)
        outcomes[each] = passed
        for command in each.commands(interpreter, pytest_words):
            print(f"$ {shlex.join(command)}", flush=True)
            status = run(command)
            if status != 0:
                outcomes[each] = f"failed: {Path(command[0]).name} {' '.join(command[1:3])} ended with {status}"
                break
    print("== matrix")
    for each, outcome in outcomes.items():
        print(f"{each.name}: {outcome}")
    if any(outcome.startswith("failed") for outcome in outcomes.values()):
        return 1
    return 0 if passed in outcomes.values() else 2


def main(argv: Sequence[str] | None = None) -> int:
    """The command line: `--dry-run` shows the commands alone; all other words go to pytest."""
    parser = argparse.ArgumentParser(prog="test.sh --matrix", description=__doc__)
    parser.add_argument("--dry-run", action="store_true", help="show the commands, run none")
    arguments, pytest_words = parser.parse_known_args(argv)
    if shutil.which("uv") is None:
        print("--matrix needs uv, which is not on PATH: pip install uv. Nothing was tested.", file=sys.stderr)
        return 2
    if arguments.dry_run:
        return run_all(pytest_words, run=lambda command: 0, passed="would be tested")
    return run_all(pytest_words)


if __name__ == "__main__":
    sys.exit(main())
