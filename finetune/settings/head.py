"""The head: what stands between a network's last feature map and the logits."""

import dataclasses
import re
from typing import ClassVar

from finetune.errors import UserError
from finetune.settings.choices import HEAD_POOLINGS
from finetune.settings.flags import CommandSettings, flag

LINEAR = "linear"
_SIZE = r"[1-9]\d{0,4}"
_HEAD = re.compile(rf"{LINEAR}|mlp:{_SIZE}(,{_SIZE})*", re.ASCII)

_METAVAR = "linear|mlp:SIZE,..."
_HELP = "linear: the network's own; mlp: on the last feature map, hidden ReLU layers of these sizes, then logits"
_DROPOUT_HELP = "of values before each dense layer of a head on that map; given, a linear one is such a head, too"
_POOLING_HELP = "of that map, for such a head; given, a linear one is such a head, too; not given: avg"


@dataclasses.dataclass(frozen=True, kw_only=True)
class HeadSettings(CommandSettings):
    """The head of a network that is made."""

    title: ClassVar[str] = "Head"

    head: str = flag(LINEAR, metavar=_METAVAR, help=_HELP)
    head_dropout: float = flag(0.0, at_least=0, below=1, metavar="PROBABILITY", help=_DROPOUT_HELP)
    head_pooling: str | None = flag(None, choices=HEAD_POOLINGS, help=_POOLING_HELP)

    def __post_init__(self) -> None:
        super().__post_init__()
        _check(self.head)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainedHeadSettings(CommandSettings):
    """The head of a network that was trained; what is not given is known from a run's own settings."""

    title: ClassVar[str] = "Head"

    head: str | None = flag(None, metavar=_METAVAR, help="not given: the run's, else linear, the network's own")
    head_dropout: float | None = flag(
        None, at_least=0, below=1, metavar="PROBABILITY", help="as it was trained with; drops nothing here"
    )
    head_pooling: str | None = flag(None, choices=HEAD_POOLINGS, help="not given: the run's")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.head is not None:
            _check(self.head)


HEAD_FLAGS = tuple(field.name for field in dataclasses.fields(HeadSettings))


def _check(head: str) -> None:
    if not _HEAD.fullmatch(head):
        raise UserError(
            f"--head is {head!r}, but must be {LINEAR}, or mlp: and the sizes of hidden layers, from 1 to 99999 each.",
            "Such as --head mlp:1024, or --head mlp:512,256.",
        )
