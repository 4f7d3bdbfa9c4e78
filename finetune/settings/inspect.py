"""Settings of `finetune-inspect`."""

import dataclasses
from pathlib import Path
from typing import ClassVar

from finetune.errors import UserError
from finetune.settings.choices import AUGMENTATIONS, GRAYSCALE_STEMS, LEAST_SEED, MOST_IMAGE_SIZE, MOST_SEED
from finetune.settings.flags import CommandSettings, Flag, flag, flags_of
from finetune.settings.head import HeadSettings
from finetune.settings.recipes import AUTO_SCOPES, RECIPES
from finetune.settings.stages import Stage
from finetune.settings.trust import TRUST_CODE_HELP

# What a plan and a contact sheet both take.
WITH_AND_WITHOUT_SHEET = {"checkpoints", "model", "image_size", "use_grayscale"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlanSettings(HeadSettings):
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class SheetSettings(CommandSettings):
    """A contact sheet of what training makes of images; of the run that is named, but for what is given."""

    title: ClassVar[str] = "Contact sheet"

    augment: bool = flag(
        False,
        help="draw what training is given of some images; CHECKPOINT is a run's folder, or a settings file of "
        "finetune-train, or left out",
    )
    output: Path = flag(Path("augmentation.png"), metavar="FILE.png", help="the sheet to write")
    num_examples: int = flag(4, above=0, at_most=20, metavar="N", help="images, a row each")
    num_draws: int = flag(6, above=0, at_most=20, metavar="N", help="epochs, a column each")
    dataset_dir: Path | None = flag(None, help="folder of TFRecord shards; not given: the run's")
    dataset_name: str | None = flag(None, help="which data set, where the folder holds several")
    split: str | None = flag(None, help="not given: the run's, or train")
    preprocessing: str | None = flag(None, help="not given: the run's, or what fits the network")
    augmentation: str | None = flag(
        None, choices=AUGMENTATIONS, metavar="NAME", help="as finetune-train has it; not given: the run's"
    )
    crop_area: tuple[float, ...] = flag((), above=0, at_most=1, metavar="MIN,MAX", help="not given: the run's")
    randaugment: tuple[int, ...] = flag((), at_least=1, at_most=10, metavar="N,M", help="not given: the run's, or 2,9")
    random_erasing: float | None = flag(
        None, at_least=0, at_most=1, metavar="PROBABILITY", help="not given: the run's, or 0"
    )
    mixup: float | None = flag(
        None, at_least=0, metavar="ALPHA", help="with the image below; not given: the run's, or 0"
    )
    cutmix: float | None = flag(None, at_least=0, metavar="ALPHA", help="likewise")
    seed: int | None = flag(None, at_least=LEAST_SEED, at_most=MOST_SEED, help="not given: the run's, or 0")
    stage: int | None = flag(None, above=0, metavar="N", help="of the run's stages; not given: the last")
    trust_code: bool = flag(False, help=TRUST_CODE_HELP)


@dataclasses.dataclass(frozen=True)
class InspectSettings(PlanSettings, SheetSettings):
    """Settings of `finetune-inspect`."""

    title: ClassVar[str] = "What to show"

    checkpoints: tuple[str, ...] = flag(
        (), help="one: what it holds; two: how they differ", positional=True, is_path=True, metavar="CHECKPOINT"
    )
    checkpoint_prefix: str = flag("", help="of the names in the checkpoints, to be taken off")
    models: bool = flag(False, help="the table of networks")
    json: bool = flag(False, help="print JSON")

    def __post_init__(self) -> None:
        super().__post_init__()
        of_sheet = {flag.name for flag in flags_of(SheetSettings)}
        others = {flag.name for flag in flags_of(InspectSettings)}.difference(of_sheet, WITH_AND_WITHOUT_SHEET)
        names = others if self.augment else of_sheet
        idle = [flag.option for flag in flags_of(InspectSettings) if flag.name in names and self._says(flag)]
        if idle:
            where = "with --augment" if self.augment else "without --augment"
            mend = "Leave it out." if self.augment else "Give --augment, or leave it out."
            raise UserError(f"{' and '.join(idle)} would have no effect {where}.", mend)
        if self.augment and len(self.checkpoints) > 1:
            raise UserError(f"--augment takes one run, not {len(self.checkpoints)}.", "Give one of them.")

    def _says(self, flag: Flag) -> bool:
        return bool(getattr(self, flag.name) != flag.default)
