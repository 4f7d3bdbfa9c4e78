"""Settings of `finetune data-service`, and the ports of an input worker."""

import dataclasses
from typing import ClassVar

from finetune.errors import UserError
from finetune.settings.flags import CommandSettings, flag
from finetune.settings.workers import MOST_PORT, parse_address


@dataclasses.dataclass(frozen=True)
class DataServiceSettings(CommandSettings):
    """Settings of `finetune data-service`."""

    title: ClassVar[str] = "Input worker"

    address: str | None = flag(
        None,
        metavar="HOST:PORT",
        help="where trainings reach this process, as --data-service names it; it takes the next port, too",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.address is not None:
            ports_of(self.address, "--address")


def ports_of(address: str, said_by: str) -> tuple[str, int, int]:
    """Host of an input worker, the port where trainings ask for it, and the one where it gives what it made.

    Args:
        address: `host:port`.
        said_by: Where it comes from, for messages.

    Raises:
        UserError: It is none, or there is no next port.
    """
    host, port = parse_address(address, said_by)
    if port == MOST_PORT:
        raise UserError(f"{said_by}: {address} has the last port, and the next one is needed, too.", "Give another.")
    return host, port, port + 1
