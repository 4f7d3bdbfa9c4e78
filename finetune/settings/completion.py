"""Settings of `finetune completion`."""

import dataclasses
from typing import ClassVar

from finetune.settings.choices import SHELLS
from finetune.settings.flags import CommandSettings, flag


@dataclasses.dataclass(frozen=True)
class CompletionSettings(CommandSettings):
    """Settings of `finetune completion`."""

    title: ClassVar[str] = "Shell"

    shell: tuple[str, ...] = flag(
        (), choices=SHELLS, positional=True, metavar="SHELL", help=f"which one: {' or '.join(SHELLS)}"
    )
