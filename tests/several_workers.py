"""Trainings by several processes of this machine, each with a port of its own."""

import contextlib
import os
import random
import socket
import subprocess
import sys

ENVIRONMENT = {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}


# Below those that systems give to connections: a port that is free now is free when a process has started.
PORTS = range(20_000, 32_000)


def addresses(number):
    """Of ports that are free."""
    with contextlib.ExitStack() as stack:
        ports = []
        while len(ports) < number:
            port = random.SystemRandom().choice(PORTS)
            with contextlib.suppress(OSError):
                stack.enter_context(socket.create_server(("127.0.0.1", port)))
                ports.append(port)
        return [f"127.0.0.1:{port}" for port in ports]


def start(words, number, *, environ=None, of_each=None):
    """Begins a training on so many workers; the processes, the chief's first. `of_each` are variables of one alone."""
    listed = ",".join(addresses(number))
    environ = {**os.environ, **ENVIRONMENT, **(environ or {})}
    return [
        subprocess.Popen(
            [sys.executable, "-m", "finetune", "train", *words, f"--workers={listed}", f"--worker-index={index}"],
            env={**environ, **(of_each[index] if of_each else {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(number)
    ]


def finish(processes, seconds=300):
    """What each of them ends with: its status, and what it says."""
    results = []
    for process in processes:
        out, error = process.communicate(timeout=seconds)
        results.append((process.returncode, out, error))
    return results
