"""Settings of `finetune-inspect`."""

import dataclasses
from typing import ClassVar

from finetune.settings.choices import GRAYSCALE_STEMS, MOST_IMAGE_SIZE
from finetune.settings.flags import CommandSettings, flag


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlanSettings(CommandSettings):
    """What a training would do with a checkpoint."""

    title: ClassVar[str] = "Plan"

    model: str | None = flag(None, metavar="NAME", help="the plan of training this network from the checkpoint")
    exclude_scopes: tuple[str, ...] = flag((), metavar="SCOPES", help="not restored")
    trainable_scopes: tuple[str, ...] = flag((), metavar="SCOPES", help="trained, all else frozen")
    ignore_missing_vars: bool = flag(False, help="initialise what the checkpoint lacks")
    ema: bool = flag(True, help="restore moving averages where the checkpoint holds them")
    num_classes: int | None = flag(None, above=0, metavar="N", help="not given: the checkpoint's")
    image_size: int | None = flag(
        None, above=0, at_most=MOST_IMAGE_SIZE, metavar="PIXELS", help="not given: the network's"
    )
    use_grayscale: bool = flag(False, help="images of one channel")
    grayscale_stem: str = flag("same", choices=GRAYSCALE_STEMS, help="sum: the first kernel is summed over its colours")


@dataclasses.dataclass(frozen=True)
class InspectSettings(PlanSettings):
    """Settings of `finetune-inspect`."""

    title: ClassVar[str] = "What to show"

    checkpoints: tuple[str, ...] = flag(
        (), help="one: what it holds; two: how they differ", positional=True, is_path=True, metavar="CHECKPOINT"
    )
    checkpoint_prefix: str = flag("", help="of the names in the checkpoints, to be taken off")
    models: bool = flag(False, help="the table of networks")
    json: bool = flag(False, help="print JSON")
