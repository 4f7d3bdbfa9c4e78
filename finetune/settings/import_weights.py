"""Settings of `finetune-import`."""

import dataclasses
from pathlib import Path
from typing import ClassVar

from finetune.settings.flags import flag
from finetune.settings.gpus import GpuSettings
from finetune.settings.head import HeadSettings


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImportSettings(HeadSettings, GpuSettings):
    """Settings of `finetune-import`."""

    title: ClassVar[str] = "Weights"

    file: tuple[str, ...] = flag(
        (),
        help="frozen graph, Keras or TensorFlow Lite file, .npz, or checkpoint",
        positional=True,
        is_path=True,
        access="restore",
        metavar="FILE",
    )
    model: str = flag(help="the network whose weights these are", metavar="NAME")
    output: Path = flag(access="save", help="checkpoint to write: its path without .index", metavar="PREFIX")
    num_classes: int | None = flag(
        None, above=0, metavar="N", help="outputs of the head; not given: as many as the file has"
    )
    overwrite: bool = flag(False, help="replace a checkpoint that is there already")
