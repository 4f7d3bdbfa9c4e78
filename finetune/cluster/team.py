"""The processes that train in step, once they have met: what one of them decides, and that one of them is gone.

TensorFlow's collective operations carry the numbers. What hangs on a clock or a signal is for one to decide: a process
that ended, or summed up, a step before the others would leave them waiting. So the chief, process 0, says it, over the
connections by which they met; they are also what tells at once that a process has died.
"""

import contextlib
import json
import logging
import queue
import socket
import threading
from collections.abc import Mapping
from typing import Any, Self

from finetune.errors import UserError, first_line

MOST_MESSAGE_BYTES = 16 << 20

log = logging.getLogger("finetune")


class WorkerLostError(UserError):
    """A process of the cluster has ended before the others."""


class Connection:
    """Messages, each a JSON object in a line, to and from another process."""

    def __init__(self, connected: socket.socket) -> None:
        """Takes over a connected socket."""
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self._socket = connected
        self._lines = connected.makefile("rb")
        self._sending = threading.Lock()

    def send(self, kind: str, value: Any = None) -> None:
        """Sends a message.

        Raises:
            OSError: The other end is gone.
        """
        line = json.dumps({"kind": kind, "value": value}).encode() + b"\n"
        with self._sending:
            self._socket.sendall(line)

    def receive(self, seconds: float | None = None) -> tuple[str, Any] | None:
        """The next message, its kind and its value; None: the other end is gone, or no process of ours.

        Args:
            seconds: How long to wait; None: as long as it takes.

        Raises:
            TimeoutError: None came in time.
        """
        try:
            self._socket.settimeout(seconds)  # Which fails where this end was closed just now.
            line = self._lines.readline(MOST_MESSAGE_BYTES)
            message = json.loads(line) if line.endswith(b"\n") else None
        except TimeoutError:
            raise
        except (OSError, ValueError):
            return None
        if not isinstance(message, dict) or not isinstance(message.get("kind"), str):
            return None
        return message["kind"], message.get("value")

    def close(self) -> None:
        """Ends the connection."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._lines.close()
        self._socket.close()


class Team:
    """This process among those that train in step; alone it decides for itself.

    Attributes:
        index: Of this process; 0 is the chief.
        addresses: `host:port` of all, by index.
    """

    def __init__(
        self, index: int = 0, addresses: tuple[str, ...] = ("",), others: Mapping[int, Connection] | None = None
    ) -> None:
        """Begins to listen to the others.

        Args:
            index: Of this process.
            addresses: Of all.
            others: By index: for the chief connections to all others, for each of these the one to the chief.
        """
        self.index = index
        self.addresses = addresses
        self._others = dict(others or {})
        self._said: dict[int, queue.Queue[tuple[str, Any]]] = {other: queue.Queue() for other in self._others}
        self._has_left: set[int] = set()
        self._lost: str | None = None
        self.stop_asked: int | None = None
        for other in self._others:
            threading.Thread(target=self._listen, args=(other,), name=f"worker {other}", daemon=True).start()

    @property
    def number(self) -> int:
        """Of processes."""
        return len(self.addresses)

    @property
    def is_chief(self) -> bool:
        """Whether this process decides and writes."""
        return self.index == 0

    def agreed(self, value: Any) -> Any:
        """The chief's value, a JSON one, for all; to be called by all, at the same places in the same order.

        Raises:
            WorkerLostError: The chief is gone, or another process.
        """
        if self.number == 1:
            return value
        if not self.is_chief:
            return self._wait(0, "agreed")
        self._raise_if_lost()
        self._tell_all("agreed", value)
        return value

    def gathered(self, value: Any) -> list[Any]:
        """The values of all processes, JSON ones, by index; to be called by all, none of which goes on before.

        Raises:
            WorkerLostError: A process is gone.
        """
        if self.number == 1:
            return [value]
        if not self.is_chief:
            self._tell(0, "gathered", value)
            values: list[Any] = self._wait(0, "gathered")
            return values
        values = [value, *(self._wait(other, "gathered") for other in sorted(self._others))]
        self._tell_all("gathered", values)
        return values

    def ask_to_stop(self, signal_number: int) -> None:
        """Has the chief stop all of them after a step."""
        if self.is_chief:
            self.stop_asked = signal_number
        else:
            self._tell(0, "stop", signal_number)

    def loss(self, seconds: float) -> WorkerLostError | None:
        """Which process is gone, where that is known or becomes known in so many seconds."""
        waiting = threading.Event()
        for _ in range(max(1, round(seconds * 10))):
            if self._lost is not None:
                return self._lost_error()
            waiting.wait(0.1)
        return None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: object) -> None:
        """Tells the others that this process ends, and why, where it does before them."""
        for other in self._others:
            with contextlib.suppress(OSError):
                self._others[other].send("left" if error is None else "failed", error and first_line(error))
        if error is None:
            self._wait_for_others()
        for connection in self._others.values():
            connection.close()

    def _wait_for_others(self) -> None:
        """Until they are through, too: their last collective operations need this process."""
        for other, said in self._said.items():
            while other not in self._has_left and self._lost is None:
                with contextlib.suppress(queue.Empty):
                    said.get(timeout=0.1)

    def _listen(self, other: int) -> None:
        while (message := self._others[other].receive()) is not None:
            kind, value = message
            if kind == "stop":
                self.stop_asked = int(value)
            elif kind == "failed":
                self._lose(other, f"ended: {value}")
            elif kind == "lost":
                self._lost = self._lost or str(value)
            elif kind == "left":
                self._has_left.add(other)
            self._said[other].put(message)
        if other not in self._has_left:
            self._lose(other, "is gone without a word: it was killed, or its machine can't be reached")
        self._said[other].put(("lost", None))

    def _lose(self, other: int, how: str) -> None:
        if self._lost is None:
            self._lost = f"worker {other} of {self.number} ({self.addresses[other]}) {how}"
            if self.is_chief:
                self._tell_all("lost", self._lost)

    def _wait(self, other: int, kind: str) -> Any:
        """The next value that a process sends for this kind of occasion."""
        while True:
            self._raise_if_lost()
            found, value = self._said[other].get()
            if found == kind:
                return value
            self._raise_if_lost()
            if found in ("agreed", "gathered", "left"):
                raise WorkerLostError(
                    f"worker {other} of {self.number} ({self.addresses[other]}) is at another place of the training: "
                    f"{found} where {kind} was expected.",
                    "Start all processes with the same program and settings.",
                )

    def _tell(self, other: int, kind: str, value: Any) -> None:
        try:
            self._others[other].send(kind, value)
        except OSError:
            self._lose(other, "is gone without a word: it was killed, or its machine can't be reached")
            self._raise_if_lost()

    def _tell_all(self, kind: str, value: Any) -> None:
        for other in self._others:
            with contextlib.suppress(OSError):  # The thread that listens to it tells.
                self._others[other].send(kind, value)

    def _raise_if_lost(self) -> None:
        if self._lost is not None:
            raise self._lost_error()

    def _lost_error(self) -> WorkerLostError:
        return WorkerLostError(
            f"Training ends here: {self._lost}.",
            "Start all processes again: by --resume they go on from the newest whole checkpoint, where there is one.",
        )
