"""Settings of `finetune-download`."""

import dataclasses
from pathlib import Path
from typing import ClassVar

from finetune.settings.choices import PUBLISHED_DATASETS
from finetune.settings.flags import CommandSettings, flag


@dataclasses.dataclass(frozen=True)
class DownloadSettings(CommandSettings):
    """Settings of `finetune-download`."""

    title: ClassVar[str] = "Published files"

    name: tuple[str, ...] = flag(
        (),
        help=f"a network of finetune-inspect --models, or {', '.join(PUBLISHED_DATASETS)}",
        positional=True,
        metavar="NAME",
    )
    output_dir: Path | None = flag(None, help="gets NAME/ and, kept, the archives; not given: ~/.cache/finetune")
    base_url: str | None = flag(None, metavar="URL", help="a mirror, in place of the host in the published addresses")
