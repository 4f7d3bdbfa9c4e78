"""Settings of `finetune-inspect`."""

import dataclasses
from typing import ClassVar

from finetune.errors import UserError
from finetune.settings.choices import GRAYSCALE_STEMS, MOST_IMAGE_SIZE
from finetune.settings.flags import CommandSettings, flag
from finetune.settings.recipes import AUTO_SCOPES, RECIPES
from finetune.settings.stages import Stage


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlanSettings(CommandSettings):
    """What a training would do with a checkpoint."""

    title: ClassVar[str] = "Plan"

    model: str | None = flag(None, metavar="NAME", help="the plan of training this network from the checkpoint")
    exclude_scopes: tuple[str, ...] = flag(
        (), metavar="SCOPES|auto", help="not restored; auto: a head of other classes"
    )
    trainable_scopes: tuple[str, ...] = flag((), metavar="SCOPES", help="trained, all else frozen")
    recipe: str | None = flag(None, choices=tuple(RECIPES), help="the stages of a recipe, and the plan of each")
    stages: tuple[Stage, ...] = flag((), metavar="LAYERS:STEPS[:RATE],...", help="these stages, and the plan of each")
    ignore_missing_vars: bool = flag(False, help="initialise what the checkpoint lacks")
    ema: bool = flag(True, help="restore moving averages where the checkpoint holds them")
    num_classes: int | None = flag(None, above=0, metavar="N", help="not given: the checkpoint's")
    image_size: int | None = flag(
        None, above=0, at_most=MOST_IMAGE_SIZE, metavar="PIXELS", help="not given: the network's"
    )
    use_grayscale: bool = flag(False, help="images of one channel")
    grayscale_stem: str = flag("same", choices=GRAYSCALE_STEMS, help="sum: the first kernel is summed over its colours")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.recipe is not None or self.stages:
            self._check_stages()

    def _check_stages(self) -> None:
        if self.recipe is not None and self.stages:
            raise UserError("What is trained when is said twice: --recipe and --stages.", "Give one of them.")
        flag = "--recipe" if self.recipe is not None else "--stages"
        if self.model is None:
            raise UserError(f"{flag} is of a network.", "Name it with --model.")
        if self.trainable_scopes:
            raise UserError(f"{flag} says itself what is trained.", "Leave out --trainable-scopes.")
        if self.recipe is not None and not self.exclude_scopes:
            object.__setattr__(self, "exclude_scopes", AUTO_SCOPES)  # As finetune-train does.


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
