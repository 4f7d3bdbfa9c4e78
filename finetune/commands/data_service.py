"""`finetune data-service`: an input worker of trainings, which decodes and augments images for them."""

import contextlib
import socket
import threading
from collections.abc import Iterator, Sequence

from finetune.commands.command import run_command, say
from finetune.commands.verbs import VERBS
from finetune.errors import UserError
from finetune.settings.data_service import DataServiceSettings, ports_of
from finetune.settings.workers import joined

# So long a worker asks its dispatcher again, an hour by TensorFlow's own choice: this one is of the same process, and
# gone when that ends.
DISPATCHER_TIMEOUT_MS = 5000

DESCRIPTION = f"""{VERBS["data-service"].summary}

Trainings are told the addresses of several by --data-service. An input
worker reads the records where the training does: the files must have the
same paths here. It runs what whoever reaches its ports sends it: keep
these within a network that you trust. Ctrl-C ends it."""


@contextlib.contextmanager
def serving(address: str) -> Iterator[None]:
    """An input worker serves for as long as the context lasts.

    Args:
        address: `host:port`, as trainings know it.

    Raises:
        UserError: A port can't be had.
    """
    host, port, data_port = ports_of(address, "--address")
    for each in (port, data_port):
        _refuse_taken(each)
    from finetune.commands.tensorflow_start import start_tensorflow

    start_tensorflow()
    from finetune.datasets.data_service import service

    # They serve for as long as somebody holds them.
    dispatcher = service.DispatchServer(service.DispatcherConfig(port=port))
    worker = service.WorkerServer(
        service.WorkerConfig(
            dispatcher_address=joined("localhost", port),
            worker_address=joined(host, data_port),
            port=data_port,
            dispatcher_timeout_ms=DISPATCHER_TIMEOUT_MS,
        )
    )
    try:
        yield
    finally:
        # In this order, whatever ends the context: a worker whose dispatcher is gone may wait for ever.
        del worker, dispatcher


def _refuse_taken(port: int) -> None:
    try:
        socket.create_server(("", port)).close()
    except OSError as error:
        raise UserError(f"--address: port {port} can't be had: {error.strerror}.", "Give another one.") from None


def _serve(settings: DataServiceSettings) -> None:
    if settings.address is None:
        raise UserError("Where trainings reach this process isn't said.", "Give --address HOST:PORT.")
    with serving(settings.address):
        say(f"Input worker at {settings.address}; Ctrl-C ends it.")
        threading.Event().wait()


def main(argv: Sequence[str] | None = None, prog: str = "finetune data-service") -> int:
    """The command: serves until a signal ends it."""
    return run_command(DataServiceSettings, _serve, prog=prog, description=DESCRIPTION, argv=argv)
