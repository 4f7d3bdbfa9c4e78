"""How the processes of a cluster meet, before TensorFlow is told of it: by name, in time, and with the same settings.

TensorFlow's own start waits for whoever is missing without saying for whom. Here the chief listens at its address, the
others go there, each says who it is and what it is to train, and each tries the port of every other one.
"""

import contextlib
import errno
import logging
import socket
import time
from collections.abc import Iterator, Mapping
from typing import Any

from finetune.cluster.discovery import Workers
from finetune.cluster.team import Connection, Team
from finetune.errors import UserError
from finetune.settings.workers import joined, parse_address

SECONDS_BETWEEN_TRIES = 0.2
SECONDS_FOR_A_GREETING = 10.0
SECONDS_FOR_A_PORT = 10.0
SECONDS_BETWEEN_LINES = 30.0

log = logging.getLogger("finetune")


def meet(workers: Workers, facts: Mapping[str, str], seconds: float) -> Team:
    """Waits for all processes.

    Args:
        workers: Who they are.
        facts: What all of them must have alike, by name: versions, settings.
        seconds: How long to wait.

    Raises:
        UserError: They aren't all there in time; one has other facts, or another's index; a port can't be reached.
    """
    deadline = time.monotonic() + seconds
    host, port = workers.chief
    log.info(
        "Worker %d of %d, as %s has it; meeting at %s:%d.", workers.index, workers.number, workers.said_by, host, port
    )
    with _listening(_own_port(workers)) as listener:
        if workers.index == 0:
            team = _host(workers, listener, dict(facts), deadline)
        else:
            team = _join(workers, listener.getsockname()[1], dict(facts), deadline)
    log.info("All %d are there: %s.", team.number, ", ".join(team.addresses))
    return team


def _own_port(workers: Workers) -> int:
    """Where other processes reach this one; 0: any that is free, which it says."""
    if workers.index == 0:
        return workers.chief[1]
    return parse_address(workers.addresses[workers.index], workers.said_by)[1] if workers.addresses else 0


@contextlib.contextmanager
def _listening(port: int) -> Iterator[socket.socket]:
    has_both = socket.has_dualstack_ipv6()
    try:
        listener = socket.create_server(
            ("", port), family=socket.AF_INET6 if has_both else socket.AF_INET, dualstack_ipv6=has_both, backlog=128
        )
    except (OSError, OverflowError) as error:
        taken = isinstance(error, OSError) and error.errno == errno.EADDRINUSE
        raise UserError(
            f"Port {port} of this machine {'is taken by another program' if taken else f'can not be used: {error}'}.",
            "Stop that program, perhaps a training that is still ending, or give other ports.",
        ) from error
    with listener:
        yield listener


def _host(workers: Workers, listener: socket.socket, facts: Mapping[str, str], deadline: float) -> Team:
    """The chief's part."""
    arrived: dict[int, Connection] = {}
    addresses = {0: joined(*workers.chief)}
    try:
        for connection, index, address in _greetings(workers, listener, facts, deadline, arrived):
            arrived[index], addresses[index] = connection, address
        in_order = [addresses[index] for index in range(workers.number)]
        _send_all(arrived, "addresses", in_order)
        unreached = {0: _unreached(in_order, 0)}
        for index, connection in arrived.items():
            unreached[index] = _answer_of(connection, index, SECONDS_FOR_A_PORT * workers.number)
        _refuse_unreached(unreached, in_order)
        _send_all(arrived, "begin")
    except BaseException as error:
        for connection in arrived.values():
            with contextlib.suppress(OSError):
                connection.send("refused", str(error))
            connection.close()
        raise
    return Team(0, tuple(in_order), arrived)


def _send_all(arrived: Mapping[int, Connection], kind: str, value: Any = None) -> None:
    for index, connection in arrived.items():
        try:
            connection.send(kind, value)
        except OSError as error:
            raise _ended_early(index) from error


def _answer_of(connection: Connection, index: int, seconds: float) -> str:
    """Which ports a process doesn't reach, in words; empty: none."""
    try:
        answer = connection.receive(seconds)
    except TimeoutError:
        answer = None
    if answer is None:
        raise _ended_early(index)
    return str(answer[1])


def _ended_early(index: int) -> UserError:
    return UserError(
        f"Worker {index} ended, or fell silent, before all had met.",
        "What it says is the reason; then start all again.",
    )


def _greetings(
    workers: Workers, listener: socket.socket, facts: Mapping[str, str], deadline: float, arrived: Mapping[int, Any]
) -> Iterator[tuple[Connection, int, str]]:
    """Each process as it comes, its index and address, until all are there."""
    next_line = time.monotonic() + SECONDS_BETWEEN_LINES
    while len(arrived) < workers.number - 1:
        missing = sorted(set(range(1, workers.number)) - set(arrived))
        if time.monotonic() > deadline:
            raise UserError(
                f"{_named(missing, workers)} of {workers.number} did not come in time (--worker-timeout).",
                f"See whether they were started, and reach {joined(*workers.chief)} from there; start all again.",
            )
        if time.monotonic() > next_line:
            log.info("Still waiting for %s.", _named(missing, workers))
            next_line += SECONDS_BETWEEN_LINES
        listener.settimeout(1.0)
        try:
            accepted, peer = listener.accept()
        except TimeoutError:
            continue
        connection = Connection(accepted)
        greeting = _read_greeting(connection)
        if greeting is None:  # Not one of ours: a probe of the port, say.
            connection.close()
            continue
        try:
            _check(greeting, workers, facts, arrived)
        except UserError as error:
            with contextlib.suppress(OSError):
                connection.send("refused", str(error))
            connection.close()
            raise
        yield connection, greeting["index"], _address_of(greeting, peer[0], workers)


def _read_greeting(connection: Connection) -> dict[str, Any] | None:
    try:
        message = connection.receive(SECONDS_FOR_A_GREETING)
    except TimeoutError:
        return None
    kinds = {"index": int, "number": int, "port": int, "facts": dict}
    if message is None or message[0] != "greeting" or not isinstance(message[1], dict):
        return None
    return message[1] if all(isinstance(message[1].get(name), kind) for name, kind in kinds.items()) else None


def _check(greeting: Mapping[str, Any], workers: Workers, facts: Mapping[str, str], arrived: Mapping[int, Any]) -> None:
    """Refuses a process that isn't one of this cluster.

    Raises:
        UserError: What it says doesn't go with what the others say.
    """
    index, number = greeting["index"], greeting["number"]
    if number != workers.number or not 0 < index < number:
        raise UserError(
            f"A process came as worker {index} of {number}, and the chief expects {workers.number}.",
            "Start all with the same list of workers, each with its own index, and no others at this address.",
        )
    if index in arrived:
        raise UserError(f"Two processes came as worker {index}.", "Give each an index of its own (--worker-index).")
    theirs = greeting["facts"]
    different = [name for name in sorted({*facts, *theirs}) if facts.get(name) != theirs.get(name)]
    if different:
        said = "; ".join(f"{name} is {theirs.get(name)} there and {facts.get(name)} here" for name in different)
        raise UserError(
            f"Worker {index} is to do something else than worker 0: {said}.",
            "Start all with the same command and the same versions; trainings that have nothing to do with each other "
            "are started with --strategy one.",
        )


def _address_of(greeting: Mapping[str, Any], peer: str, workers: Workers) -> str:
    """Where the others reach a process: as the list has it, else where it came from."""
    if workers.addresses:
        return workers.addresses[greeting["index"]]
    host = peer.removeprefix("::ffff:").partition("%")[0]
    is_here = host.startswith("127.") or host == "::1"  # Of the chief's machine, as others don't know it.
    return joined(workers.chief[0] if is_here else host, greeting["port"])


def _join(workers: Workers, port: int, facts: Mapping[str, str], deadline: float) -> Team:
    """The part of all but the chief."""
    connection = Connection(_connected(workers, deadline))
    who = {"index": workers.index, "number": workers.number, "port": port, "facts": facts}
    with contextlib.suppress(OSError):  # What the chief has said before it ended can still be read.
        connection.send("greeting", who)
    addresses = tuple(_answer(connection, "addresses", deadline))
    with contextlib.suppress(OSError):
        connection.send("unreached", _unreached(addresses, workers.index))
    _answer(connection, "begin", deadline + SECONDS_FOR_A_PORT * workers.number)
    return Team(workers.index, addresses, {0: connection})


def _connected(workers: Workers, deadline: float) -> socket.socket:
    last: Exception | None = None
    while time.monotonic() < deadline:
        try:
            return socket.create_connection(workers.chief, timeout=SECONDS_FOR_A_PORT)
        except OSError as error:
            last = error
            time.sleep(SECONDS_BETWEEN_TRIES)
    raise UserError(
        f"Worker {workers.index} can't reach the chief, {joined(*workers.chief)}, in time (--worker-timeout): {last}.",
        "See whether it was started, whether its name is known here, and whether a firewall keeps the port.",
    )


def _answer(connection: Connection, kind: str, deadline: float) -> Any:
    """The chief's next word.

    Raises:
        UserError: It refuses, is gone, or says nothing in time.
    """
    try:
        message = connection.receive(max(1.0, deadline - time.monotonic()) + SECONDS_FOR_A_GREETING)
    except TimeoutError:
        message = None
    if message is not None and message[0] == kind:
        return message[1]
    connection.close()
    if message is not None and message[0] == "refused":
        raise UserError(str(message[1]))
    raise UserError(
        "The chief, worker 0, ended before all had met.", "What it says is the reason; then start all again."
    )


def _unreached(addresses: tuple[str, ...] | list[str], own: int) -> str:
    """Which of the other ports can't be reached from here, and why, in words; empty: none."""
    failed = []
    for index, address in enumerate(addresses):
        if index == own:
            continue
        try:
            socket.create_connection(parse_address(address, "--workers"), timeout=SECONDS_FOR_A_PORT).close()
        except OSError as error:
            failed.append(f"worker {index} ({address}): {error.strerror or error}")
    return ", ".join(failed)


def _refuse_unreached(unreached: Mapping[int, str], addresses: list[str]) -> None:
    failed = [f"from worker {index} ({addresses[index]}) {text}" for index, text in sorted(unreached.items()) if text]
    if failed:
        raise UserError(
            f"Not all processes reach each other: {'; '.join(failed)}.",
            "Open the ports between the machines, or give addresses that all of them know (--workers).",
        )


def _named(missing: list[int], workers: Workers) -> str:
    names = [f"{index} ({workers.addresses[index]})" if workers.addresses else str(index) for index in missing[:8]]
    more = f" and {len(missing) - 8} more" if len(missing) > 8 else ""
    return f"worker{'s' if len(missing) > 1 else ''} {', '.join(names)}{more}"
