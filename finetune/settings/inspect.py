"""Settings of `finetune-inspect`."""

import dataclasses
from collections.abc import Collection
from pathlib import Path
from typing import ClassVar

from finetune.errors import UserError
from finetune.settings.choices import AUGMENTATIONS, GRAYSCALE_STEMS, LEAST_SEED, MOST_IMAGE_SIZE, MOST_SEED
from finetune.settings.flags import CommandSettings, Flag, flag, flags_of
from finetune.settings.head import HeadSettings
from finetune.settings.recipes import AUTO_SCOPES, RECIPES
from finetune.settings.stage import StageSettings
from finetune.settings.stages import Stage
from finetune.settings.trust import TRUST_CODE_HELP

# What a plan and a contact sheet both take; and of the sheet's flags, what a summary and a drawing take, too.
WITH_AND_WITHOUT_SHEET = {"checkpoints", "model", "image_size", "use_grayscale"}
OF_SHEET_AND_NETWORK = {"stage", "trust_code"}
PLOT_SUFFIXES = (".png", ".svg")


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlanSettings(HeadSettings):
    """What a training would do with a checkpoint."""

    title: ClassVar[str] = "Plan"

    model: str | None = flag(None, metavar="NAME", help="the plan of training this network from the checkpoint")
    exclude_scopes: tuple[str, ...] = flag(
        (), metavar="SCOPES|auto", help="not restored; auto: a head of other classes"
    )
    trainable_scopes: tuple[str, ...] = flag((), metavar="SCOPES", help="trained, all else frozen")
    trainable_layers: str | None = flag(
        None, metavar="head|all|last=N|from=GROUP", help="instead of scopes: by the network's groups of layers"
    )
    trainable_from: str | None = flag(
        None, metavar="INDEX|LAYER", help="instead of scopes: from this layer on, counted as Keras's model.layers"
    )
    freeze_until: str | None = flag(
        None, metavar="LAYER", help="instead of scopes: frozen up to this group of layers or end point"
    )
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
        trained = self.trained  # Which refuses what is said twice.
        if self.recipe is not None or self.stages:
            self._check_stages(trained)

    @property
    def trained(self) -> StageSettings:
        """What is trained, where it is not said by stages."""
        return StageSettings(
            trainable_scopes=self.trainable_scopes,
            trainable_layers=self.trainable_layers,
            trainable_from=self.trainable_from,
            freeze_until=self.freeze_until,
        )

    def _check_stages(self, trained: StageSettings) -> None:
        if self.recipe is not None and self.stages:
            raise UserError("What is trained when is said twice: --recipe and --stages.", "Give one of them.")
        flag = "--recipe" if self.recipe is not None else "--stages"
        if self.model is None:
            raise UserError(f"{flag} is of a network.", "Name it with --model.")
        if trained.what_is_trained:
            raise UserError(f"{flag} says itself what is trained.", f"Leave out {trained.what_is_trained}.")
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
    output: Path = flag(Path("augmentation.png"), access="write", metavar="FILE.png", help="the sheet to write")
    num_examples: int = flag(4, above=0, at_most=20, metavar="N", help="images, a row each")
    num_draws: int = flag(6, above=0, at_most=20, metavar="N", help="epochs, a column each")
    dataset_dir: Path | None = flag(None, access="read", help="folder of TFRecord shards; not given: the run's")
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
    stage: int | None = flag(
        None, above=0, metavar="N", help="of the run's stages, or of the recipe's; not given: the last"
    )
    trust_code: bool = flag(False, help=TRUST_CODE_HELP)


@dataclasses.dataclass(frozen=True)
class InspectSettings(PlanSettings, SheetSettings):
    """Settings of `finetune-inspect`."""

    title: ClassVar[str] = "What to show"

    checkpoints: tuple[str, ...] = flag(
        (),
        help="one: what it holds; two: how they differ",
        positional=True,
        is_path=True,
        access="restore",
        metavar="CHECKPOINT",
    )
    checkpoint_prefix: str = flag("", help="of the names in the checkpoints, to be taken off")
    models: bool = flag(False, help="the table of networks")
    summary: bool = flag(
        False,
        help="layers, shapes, parameters, trained or frozen: of --model by the flags of a plan, or of a run's "
        "CHECKPOINT as it was trained",
    )
    plot: Path | None = flag(
        None,
        access="write",
        metavar="FILE.png|.svg",
        help="draw its groups of layers, what is trained, and where the frontier lies",
    )
    json: bool = flag(False, help="print JSON")

    def __post_init__(self) -> None:
        super().__post_init__()
        of_sheet = {flag.name for flag in flags_of(SheetSettings)}
        others = {flag.name for flag in flags_of(InspectSettings)}.difference(of_sheet, WITH_AND_WITHOUT_SHEET)
        if self.augment:
            self._refuse_idle(others, "with --augment", "Leave it out.")
        elif self.shows_network:
            mend = "Give --augment, or leave it out."
            self._refuse_idle(of_sheet - OF_SHEET_AND_NETWORK, "without --augment", mend)
            self._check_network()
        else:
            self._refuse_idle(of_sheet, "without --augment", "Give --augment, or leave it out.")
        if self.augment and len(self.checkpoints) > 1:
            raise UserError(f"--augment takes one run, not {len(self.checkpoints)}.", "Give one of them.")

    @property
    def shows_network(self) -> bool:
        """Whether a network is shown by its layers, in a table or in a drawing."""
        return self.summary or self.plot is not None

    def _check_network(self) -> None:
        flag = "--summary" if self.summary else "--plot"
        if self.plot is not None and self.plot.suffix.lower() not in PLOT_SUFFIXES:
            raise UserError(f"--plot: {self.plot} ends neither in .png nor in .svg.", "Give it one of these endings.")
        if self.models:
            raise UserError(f"--models and {flag} show different things.", "Give one of them.")
        if len(self.checkpoints) > 1:
            raise UserError(f"{flag} is of one network, not of {len(self.checkpoints)}.", "Give one checkpoint.")
        if self.model is None and not self.checkpoints:
            raise UserError(f"{flag} is of a network.", "Name it with --model, or give a run or a checkpoint.")

    def _refuse_idle(self, names: Collection[str], where: str, mend: str) -> None:
        idle = [flag.option for flag in flags_of(InspectSettings) if flag.name in names and self._says(flag)]
        if idle:
            raise UserError(f"{' and '.join(idle)} would have no effect {where}.", mend)

    def _says(self, flag: Flag) -> bool:
        return bool(getattr(self, flag.name) != flag.default)
