"""Settings of `finetune-download`."""

import dataclasses
import urllib.parse
from pathlib import Path
from typing import ClassVar

from finetune.errors import UserError
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
    output_dir: Path | None = flag(
        None, access="write", help="gets NAME/ and, kept, the archives; not given: ~/.cache/finetune"
    )
    base_url: str | None = flag(None, metavar="URL", help="a mirror, in place of the host in the published addresses")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.base_url is not None and not _is_address(self.base_url):
            raise UserError(
                f"--base-url is {self.base_url!r}, which is no address of a server.",
                "Give one such as https://mirror.example.org or http://localhost:8000/files.",
            )


def _is_address(url: str) -> bool:
    try:
        parts = urllib.parse.urlsplit(url)
        parts.port  # noqa: B018  Reading it tells whether it is a number of a port.
    except ValueError:
        return False
    is_printable = url.isascii() and url.isprintable() and " " not in url
    return is_printable and parts.scheme in ("http", "https") and bool(parts.hostname)
