"""Settings of a command whose work can be shared out to the jobs of an array."""

import dataclasses
from typing import ClassVar

from finetune.errors import UserError
from finetune.files.shares import MOST_SHARES, Share
from finetune.settings.flags import CommandSettings, flag


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShareSettings(CommandSettings):
    """Of one job, and of what puts all together."""

    title: ClassVar[str] = "Array jobs"

    shard: str | None = flag(
        None,
        metavar="I/N",
        help="do share I of N equal shares alone, I from 1 to N, and keep it beside what the whole will be; jobs with "
        "the other shares may run at the same time",
        is_recorded=False,
    )
    merge_shards: int | None = flag(
        None,
        at_least=1,
        at_most=MOST_SHARES,
        metavar="N",
        help="in place of --shard: put the N shares together, if all are there and of one piece, as if there had been "
        "none",
        is_recorded=False,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.shard is not None:
            Share.of_text(self.shard)
        if self.shard is not None and self.merge_shards is not None:
            raise UserError(
                "--shard and --merge-shards don't go together.", "Give --merge-shards when all shares are there."
            )

    @property
    def share(self) -> Share | None:
        """Of the work; None: all of it."""
        return None if self.shard is None else Share.of_text(self.shard)
