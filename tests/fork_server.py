"""Processes that start at once, to be killed: forks of one that has imported what they need and has run none of it.

A start of TensorFlow takes seconds; a fork of a process in which it hasn't computed anything yet takes none, and is as
good as a new one. Run as a program this module is that process.
"""

import importlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

TRAINING = (
    "finetune.commands.train",
    "finetune.evaluation.scoring",
    "finetune.training.feature_inputs",
    "finetune.training.image_inputs",
    "finetune.training.loop",
    "finetune.training.resumption",
)
CONVERSION = ("finetune.commands.convert", "finetune.published.obtain", "finetune.progress", "filelock")
# What Python tells of the calls that change names in a folder.
_NAMING_CALLS = ("os.rename", "os.remove", "os.rmdir", "os.mkdir")


class ForkServer:
    """Starts functions in processes of their own, one at a time. As a context it ends with it."""

    def __init__(self, modules: Sequence[str]) -> None:
        """Imports the modules, with TensorFlow's silence where they bring it along."""
        environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
        words = [sys.executable, __file__, *modules]
        self._process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        assert self._answer() == "ready"

    def __enter__(self) -> "ForkServer":
        return self

    def __exit__(self, *exception: object) -> None:
        self._process.communicate()

    def start(self, function: str, *arguments: object, output: Path, kill_at: int | None = None) -> int:
        """Calls a function in a new process, whose exit status is what it returns.

        Args:
            function: As "module:function".
            arguments: Of the function: words, numbers, lists.
            output: File that gets what it writes to standard output and standard error.
            kill_at: The process is killed before the call of this number, from 0 on, that makes, renames or removes
                a name, or has something written through to the disk.

        Returns:
            The number of the process.
        """
        request = {"function": function, "arguments": arguments, "output": str(output), "kill_at": kill_at}
        print(json.dumps(request), file=self._process.stdin, flush=True)
        return self._answer()

    def wait(self) -> int:
        """Waits for the end of the process that was started last; its exit status, or minus a signal's number."""
        return self._answer()

    def run(self, function: str, *arguments: object, output: Path, kill_at: int | None = None) -> int:
        """Starts a process and waits for its end."""
        self.start(function, *arguments, output=output, kill_at=kill_at)
        return self.wait()

    def _answer(self):
        line = self._process.stdout.readline()
        assert line, "the server has ended"
        return json.loads(line)


def _serve(modules: Sequence[str]) -> None:
    sys.path.insert(0, str(Path(__file__).parents[1]))
    for name in modules:
        importlib.import_module(name)
    _say("ready")
    for line in sys.stdin:
        request = json.loads(line)
        process = os.fork()
        if process == 0:
            _call(**request)
        _say(process)
        _say(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]))


def _say(answer: object) -> None:
    print(json.dumps(answer), flush=True)


def _call(function: str, arguments: Sequence[object], output: str, kill_at: int | None) -> None:
    status = 70
    try:
        log = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(log, 1)
        os.dup2(log, 2)
        if kill_at is not None:
            _kill_at(kill_at)
        module, _, name = function.partition(":")
        status = getattr(importlib.import_module(module), name)(*arguments)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _kill_at(number: int) -> None:
    """Lets this process be killed as nothing else does: no clean-up runs, and the disk stays as it is."""
    left, fsync = number, os.fsync

    def count() -> None:
        nonlocal left
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1

    def count_and_flush(descriptor: int) -> None:
        count()
        fsync(descriptor)

    sys.addaudithook(lambda event, arguments: count() if event in _NAMING_CALLS else None)
    os.fsync = count_and_flush


if __name__ == "__main__":
    _serve(sys.argv[1:])
