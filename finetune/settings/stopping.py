"""When a training ends, which of its validations is the best, and what becomes of one that diverges."""

import dataclasses
import re
from typing import ClassVar

from finetune.errors import UserError
from finetune.settings.choices import BEST_BY, ON_DIVERGENCE
from finetune.settings.flags import CommandSettings, flag

_TIME = re.compile(r"(?:(\d{1,9})h)?(?:(\d{1,9})m)?(?:(\d{1,9})s)?", re.ASCII)
_SECONDS = re.compile(r"\d{1,9}", re.ASCII)


@dataclasses.dataclass(frozen=True)
class StoppingSettings(CommandSettings):
    """When a training ends before its last step, and which of its checkpoints is the best."""

    title: ClassVar[str] = "Stopping and choosing"

    early_stopping_patience: int | None = flag(
        None, above=0, metavar="N", help="end after N validations in a row without a better one; not given: never"
    )
    early_stopping_min_delta: float = flag(
        0.0, at_least=0, metavar="DELTA", help="with a patience: better is what is better by more than this"
    )
    best_by: str = flag(
        "accuracy",
        choices=BEST_BY,
        help="which validation is the best; f1: the mean over the classes; loss: the least; with multilabel "
        "mean_average_precision is the default",
    )
    on_divergence: str = flag(
        "stop",
        choices=ON_DIVERGENCE,
        help="loss or weights not finite: stop; halve: back to the last validation's checkpoint, half the rate from it",
    )
    time_limit: str | None = flag(
        None,
        metavar="TIME",
        help="of this call: 20m, 90s, 1h30m or seconds; then it validates and saves, and --resume goes on",
        is_recorded=False,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.early_stopping_min_delta and self.early_stopping_patience is None:
            raise UserError("--early-stopping-min-delta is of early stopping.", "Give --early-stopping-patience, too.")
        if self.time_limit is not None and not self.time_limit_seconds:
            raise UserError(
                f"--time-limit is {self.time_limit!r}, but must be a time above 0, such as 20m, 90s, 1h30m or 90."
            )

    @property
    def time_limit_seconds(self) -> int | None:
        """The limit in seconds; None: there is none; 0: the text is no time."""
        if self.time_limit is None:
            return None
        if _SECONDS.fullmatch(self.time_limit):
            return int(self.time_limit)
        match = _TIME.fullmatch(self.time_limit)
        hours, minutes, seconds = (int(part or 0) for part in match.groups()) if match else (0, 0, 0)
        return 3600 * hours + 60 * minutes + seconds
