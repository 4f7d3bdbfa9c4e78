"""Which devices train in step, and, where several machines do, which they are."""

import dataclasses
import re
from collections.abc import Sequence
from typing import ClassVar

from finetune.errors import UserError
from finetune.settings.choices import STRATEGIES
from finetune.settings.flags import CommandSettings, flag

MOST_PORT = 65535
_ADDRESS = re.compile(r"(?P<host>\[[0-9A-Fa-f:.%]+\]|[^:\s\[\]]+):(?P<port>[0-9]{1,5})", re.ASCII)


@dataclasses.dataclass(frozen=True, kw_only=True)
class WorkerSettings(CommandSettings):
    """One process for each machine, or for each core; its index in the cluster is no setting of the run."""

    title: ClassVar[str] = "Several devices and machines"

    strategy: str = flag(
        "auto",
        choices=STRATEGIES,
        help="one: a device; mirrored: --num-clones devices, or all GPUs; multi-worker: the processes of a launcher; "
        "auto: what there is of the three",
        is_recorded=False,
    )
    workers: tuple[str, ...] = flag(
        (),
        metavar="HOST:PORT,...",
        help="addresses of all processes, the chief first; not given: as TF_CONFIG, Slurm, Open MPI, torchrun or "
        "Kubernetes say",
        is_recorded=False,
    )
    worker_index: int | None = flag(
        None,
        at_least=0,
        metavar="I",
        help="which of --workers this is, from 0; slim's --task I is the same",
        is_recorded=False,
    )
    worker_replicas: int = flag(
        1, above=0, metavar="N", help="how many processes; with --workers and launchers that say it, found by itself"
    )
    worker_timeout: float = flag(
        300.0, above=0, metavar="SECONDS", help="wait so long at the start for all processes", is_recorded=False
    )
    data_service: tuple[str, ...] = flag(
        (),
        metavar="HOST:PORT,...",
        help="processes of finetune data-service, which decode and augment the images of the steps",
        is_recorded=False,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_addresses(self.workers, "--workers")
        check_addresses(self.data_service, "--data-service")
        if self.strategy in ("one", "mirrored") and self.workers:
            raise UserError(
                f"--strategy {self.strategy} is of one process, and --workers names several.", "Leave one of them out."
            )


def check_addresses(addresses: Sequence[str], said_by: str) -> None:
    """Refuses what are no addresses, each of one process.

    Args:
        addresses: `host:port` each.
        said_by: Their flag.

    Raises:
        UserError: One is none, or is there twice.
    """
    for address in addresses:
        parse_address(address, said_by)
    twice = next((address for address in addresses if addresses.count(address) > 1), None)
    if twice is not None:
        raise UserError(f"{said_by} names {twice} twice.", "Give each process an address of its own.")


def parse_address(address: str, said_by: str) -> tuple[str, int]:
    """Host, without the brackets of an IPv6 address, and port of `host:port`.

    Args:
        address: The text.
        said_by: Where it comes from, for messages.

    Raises:
        UserError: It is none.
    """
    match = _ADDRESS.fullmatch(address)
    if match is None or not 0 < int(match["port"]) <= MOST_PORT:
        raise UserError(
            f"{said_by}: {address!r} is no HOST:PORT with a port from 1 to {MOST_PORT}.",
            "Such as node1:12345, or [fd00::1]:12345.",
        )
    return match["host"].strip("[]"), int(match["port"])


def joined(host: str, port: int) -> str:
    """`host:port`, an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
