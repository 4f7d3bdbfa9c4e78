"""Settings of `finetune-train`, in groups: each is what one part of a training needs, and a section of `--help`.

A run's config.toml holds them as resolved. Defaults are slim's, except where slim's is a trap: epsilon 1.0 for Adam,
polynomial decay that ends after two epochs, summaries ten minutes apart, evaluation on a split `test` that most data
sets lack.
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from finetune.errors import UserError
from finetune.settings.choices import (
    CHANGEABLE,
    GRAYSCALE_STEMS,
    IMAGE_KEY,
    LABEL_KEY,
    LEAST_SEED,
    MATCH_LABELS_HELP,
    MOST_IMAGE_SIZE,
    MOST_SEED,
    NO_TRACKER,
    ON_CORRUPT,
    ON_CORRUPT_HELP,
    PRECISIONS,
    RESIZE_HELP,
    RESIZES,
    SINGLE_LABEL,
    TASK_HELP,
    TASKS,
    TRACKERS,
    WAYS_TO_MATCH,
    XLA_MODES,
)
from finetune.settings.flags import CommandSettings, dashed, flag, flat_values, group
from finetune.settings.gpus import GpuSettings
from finetune.settings.head import LINEAR, HeadSettings
from finetune.settings.photographs import PhotographSettings
from finetune.settings.pseudo_labels import PseudoLabelSettings
from finetune.settings.recipes import DEFAULT_RECIPE, NO_RECIPE, RECIPES, with_recipe
from finetune.settings.stage import StageSettings
from finetune.settings.stages import Stage, names_everywhere
from finetune.settings.stopping import StoppingSettings
from finetune.settings.sweep import SweepSettings
from finetune.settings.task import refuse_of_other_task, refuse_stage_of_other_task, with_task
from finetune.settings.trust import TRUST_CODE_HELP
from finetune.settings.workers import WorkerSettings

DEFAULT_MODEL = "inception_v3"
DEFAULT_RUN_DIR = Path("/tmp/tfmodel")
_STEPS = re.compile(r"([1-9]\d{0,9}):([1-9]\d{0,9})", re.ASCII)
# A fold's number takes two bytes.
MOST_FOLDS = 65535


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataSettings(CommandSettings):
    """The records, and how they are read."""

    title: ClassVar[str] = "Data"

    dataset_dir: Path | None = flag(None, access="read", help="folder of TFRecord shards, in place of PHOTOS")
    dataset_name: str | None = flag(None, help="which data set, where the folder holds several")
    task: str = flag(SINGLE_LABEL, choices=TASKS, help=f"{TASK_HELP}, each told by a sigmoid of its own")
    split: str = flag("train", slim=["dataset_split_name"], help="split to train on")
    eval_split: str | None = flag(None, help="split to validate on; not given: validation, where there is one")
    folds: int | None = flag(
        None,
        at_least=2,
        at_most=MOST_FOLDS,
        metavar="K",
        help="cross-validation: K runs, each on all but one of K parts of --split, which then scores it",
    )
    fold: int | None = flag(
        None, at_least=1, at_most=MOST_FOLDS, metavar="N", help="with --folds: one run alone, on all parts but this one"
    )
    labels_offset: int = flag(0, at_least=0, help="subtracted from every label, and from the number of classes")
    image_key: str = flag(IMAGE_KEY, metavar="KEY", help="of the image in the records, a JPEG or PNG file's bytes")
    label_key: str = flag(
        LABEL_KEY, metavar="KEY", help="of the label in the records: a number, a text or a one-hot list"
    )
    match_labels: str | None = flag(None, choices=WAYS_TO_MATCH, help=MATCH_LABELS_HELP)
    on_corrupt: str = flag("fail", choices=ON_CORRUPT, help=f"{ON_CORRUPT_HELP}; of PHOTOS likewise")
    preprocessing: str | None = flag(None, slim=["preprocessing_name"], help="not given: what fits the network")
    resize: str | None = flag(None, choices=RESIZES, help=f"{RESIZE_HELP}; not given: as the preprocessing does it")
    num_readers: int | None = flag(
        None, above=0, metavar="N", help="shards read at a time; not given: chosen while running"
    )
    num_preprocessing_threads: int | None = flag(None, above=0, metavar="N", help="not given: chosen while running")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.fold is not None and self.folds is None:
            raise UserError(f"--fold {self.fold}: of how many, isn't said.", "Give --folds, too, or leave it out.")
        if self.fold is not None and self.folds is not None and self.fold > self.folds:
            raise UserError(f"--fold {self.fold}: there are {self.folds}.", f"Give a number from 1 to {self.folds}.")

    @property
    def is_cross_validation(self) -> bool:
        """Whether there are several runs to make, one for each fold."""
        return self.folds is not None and self.fold is None

    @property
    def records(self) -> Path:
        """Folder of the records, `dataset_dir`, where there are such: after PHOTOS were converted."""
        assert self.dataset_dir is not None
        return self.dataset_dir


@dataclasses.dataclass(frozen=True, kw_only=True)
class NetworkSettings(HeadSettings):
    """The network, and what it begins with."""

    title: ClassVar[str] = "Network and pretrained weights"

    model: str = flag(
        DEFAULT_MODEL,
        slim=["model_name"],
        help="network; see finetune-inspect --models, or my.keras, or package.module:SPEC if Python finds it",
    )
    trust_code: bool = flag(False, help=TRUST_CODE_HELP, is_recorded=False)
    image_size: int | None = flag(
        None,
        above=0,
        at_most=MOST_IMAGE_SIZE,
        slim=["train_image_size"],
        metavar="PIXELS",
        help="not given: the network's",
    )
    use_grayscale: bool = flag(False, help="images of one channel")
    checkpoint: Path | None = flag(
        None,
        slim=["checkpoint_path"],
        access="restore",
        metavar="PATH|NAME|none",
        help="pretrained weights: a checkpoint's prefix, a V1 file, a folder, or a network's name: those published, as "
        "finetune-download gets them; none: from scratch; not given: --model's published ones with PHOTOS or a recipe, "
        "else none",
    )
    checkpoint_prefix: str = flag("", help="of the checkpoint's names, to be taken off: module of module/CifarNet/...")
    exclude_scopes: tuple[str, ...] = flag(
        (),
        slim=["checkpoint_exclude_scopes"],
        metavar="SCOPES|auto",
        help="not restored from the checkpoint; auto: the head where the checkpoint's is of other classes",
    )
    ignore_missing_vars: bool = flag(False, help="initialise what the checkpoint lacks, instead of refusing")
    ema: bool = flag(True, help="restore moving averages of weights where the checkpoint holds them")
    grayscale_stem: str = flag(
        "same", choices=GRAYSCALE_STEMS, help="sum: a colour checkpoint's first kernel is summed over its colours"
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunSettings(CommandSettings):
    """The run's folder, and what is written to it when."""

    title: ClassVar[str] = "Run"

    train_dir: Path | None = flag(
        None,
        access="write",
        help="folder of the run: checkpoints, logs, settings; not given: the first runs/PHOTOS-N that there isn't yet, "
        f"or {DEFAULT_RUN_DIR} with --dataset-dir",
    )
    resume: bool = flag(False, help="go on with the run in --train-dir, with its own settings", is_recorded=False)
    verify: bool = flag(
        False,
        help="with --resume: make the steps between the last two checkpoints again, and compare; nothing is written",
        is_recorded=False,
    )
    find_learning_rate: bool = flag(
        False,
        help="before the first step: some 100 steps at rising rates, then undone; curve and suggestion in --train-dir",
        is_recorded=False,
    )
    allow_changed: tuple[str, ...] = flag(
        (),
        choices=CHANGEABLE,
        metavar="WHAT,...",
        help="with --resume: go on although this isn't what it was: data, seed, precision, tensorflow, ...",
        is_recorded=False,
    )
    seed: int = flag(
        0, at_least=LEAST_SEED, at_most=MOST_SEED, help="of initial values, data order, augmentation and dropout"
    )
    eval_every: int | None = flag(
        None,
        at_least=0,
        metavar="STEPS",
        help="validate so often; 0: at the end only; not given: ten times, once an epoch at most",
    )
    log_every: int = flag(
        10,
        above=0,
        slim=["log_every_n_steps"],
        metavar="STEPS",
        help="figures in metrics.jsonl and TensorBoard so often; log lines come every 5 seconds, into files every 10",
    )
    save_interval_seconds: float = flag(600.0, at_least=0, slim=["save_interval_secs"], help="a checkpoint so often")
    save_summaries_seconds: float = flag(
        0.0,
        at_least=0,
        slim=["save_summaries_secs"],
        help="TensorBoard scalars at most so often; 0: every --log-every steps",
    )
    max_to_keep: int = flag(5, above=0, metavar="N", help="newest checkpoints kept, beside the best")
    profile: str | None = flag(
        None,
        metavar="FIRST:LAST",
        help="a trace of these steps for TensorBoard's profiler, in --train-dir; 100:120",
        is_recorded=False,
    )
    track: str = flag(
        NO_TRACKER, choices=TRACKERS, help="keep settings, curves and results in MLflow or Weights & Biases, too"
    )
    report: bool | None = flag(
        None,
        help="at the end, evaluate the best checkpoint as finetune-eval does, with its report; not given: with PHOTOS",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("verify", "allow_changed"):
            if getattr(self, name) and not self.resume:
                raise UserError(f"{dashed(name)} is of a run that there is already.", "Give --resume with it.")

        if self.find_learning_rate and self.resume:
            raise UserError("--find-learning-rate is of a run that begins, not of one that goes on.", "Leave it out.")
        if self.profile is not None and not self.profiled_steps:
            raise UserError(f"--profile is {self.profile!r}, but must be two steps FIRST:LAST, such as 100:120.")
        if self.profile is not None and self.verify:
            raise UserError("--profile is of a training, and --verify makes none.", "Leave one of them out.")

    @property
    def profiled_steps(self) -> range:
        """The steps to trace, counted from 1; empty: none, or the text names none."""
        match = _STEPS.fullmatch(self.profile or "")
        return range(int(match[1]), int(match[2]) + 1) if match else range(0)

    @property
    def folder(self) -> Path:
        """Folder of the run, where it has no number to come."""
        return DEFAULT_RUN_DIR if self.train_dir is None else self.train_dir

    @property
    def resumed(self) -> Path | None:
        """Folder of the run that goes on; None: a new one begins."""
        return self.folder if self.resume else None


@dataclasses.dataclass(frozen=True, kw_only=True)
class DeviceSettings(CommandSettings):
    """What computes, and in which type."""

    title: ClassVar[str] = "Devices and precision"

    num_clones: int = flag(
        1,
        above=0,
        metavar="N",
        help="devices to train on, each with a batch of its own; of each worker, if several",
    )
    clone_on_cpu: bool = flag(
        False, help="train on the CPU even where there is a GPU, resumed likewise; --gpu none: this time"
    )
    precision: str = flag(
        "float32",
        choices=("auto", *PRECISIONS),
        help="type that layers compute in, variables and losses being float32; auto: the fastest, measured once, and "
        "the default of recipes",
    )
    deterministic: bool = flag(
        False, help="on a GPU: only operations that give the same bits each time, slower; on a CPU all do"
    )
    xla: str = flag("auto", choices=XLA_MODES, help="compile steps by XLA; auto: on a GPU that works alone")


def only(default: Any, why: str) -> Any:
    """A flag of slim's that old command lines carry; its default is the only value left."""
    return flag(default, help=why, only_default=True)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SlimTrainSettings(CommandSettings):
    """What slim's trainer was told and this one needn't be."""

    title: ClassVar[str] = "slim's"

    master: str = only("", "workers find each other by --workers or by their launcher")
    num_ps_tasks: int = flag(
        0,
        at_least=0,
        metavar="N",
        help="slim's parameter servers; there are none: every worker keeps all variables",
        is_recorded=False,
    )
    sync_replicas: bool = flag(False, help="slim's; workers are always in step", is_recorded=False)
    replicas_to_aggregate: int = flag(
        1,
        above=0,
        metavar="N",
        help="slim's, with --sync-replicas: the number of workers, all of which are in each step",
        is_recorded=False,
    )
    quantize_delay: int = only(-1, "quantised training left TensorFlow with version 1")


@dataclasses.dataclass(frozen=True, kw_only=True)
class CourseSettings(CommandSettings):
    """A training in stages."""

    title: ClassVar[str] = "Recipe and stages"

    recipe: str | None = flag(
        None,
        choices=(*RECIPES, NO_RECIPE),
        help=f"defaults that were measured; of photographs {DEFAULT_RECIPE}, else none: slim's defaults",
        is_recorded=False,
    )
    stages: tuple[Stage, ...] = flag(
        (),
        metavar="LAYERS:STEPS[:RATE],...",
        help="one after the other, head:600:0.003,all:5e:1e-4; STEPS may be epochs, 5e; in files [[stages]]",
    )


@dataclasses.dataclass(frozen=True, init=False)
class TrainSettings(CommandSettings):
    """Settings of `finetune-train`."""

    source: PhotographSettings = group()
    data: DataSettings = group()
    pseudo: PseudoLabelSettings = group()
    network: NetworkSettings = group()
    course: CourseSettings = group()
    search: SweepSettings = group()
    stage: StageSettings = group()
    stopping: StoppingSettings = group()
    run: RunSettings = group()
    devices: DeviceSettings = group()
    cluster: WorkerSettings = group()
    gpus: GpuSettings = group()
    slim: SlimTrainSettings = group()

    def __init__(self, **values: Any) -> None:
        values.pop("_given", None)  # Which is among the `vars` of other settings.
        object.__setattr__(self, "_given", values)
        super().__init__(**with_task(with_recipe(values)))

    @property
    def num_devices(self) -> int:
        """That train in step, of all workers together."""
        return self.devices.num_clones * self.cluster.worker_replicas

    @property
    def given(self) -> Mapping[str, Any]:
        """What they were made of, before a recipe's defaults."""
        values: Mapping[str, Any] = vars(self)["_given"]
        return values

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_source()
        # Those of a stage refuse by themselves what doesn't go together.
        stages = [stage.settings(self.stage) for stage in self.course.stages] or [self.stage]
        for stage in stages:
            _refuse_of_steps(stage)
            _refuse_of_hidden_layers(self.network, stage)
            refuse_stage_of_other_task(self.data.task, stage)
            if stage.batch_size == "auto" and self.run.resume:
                raise UserError("--batch-size auto is of a run that begins, not of one that goes on.", "Give a number.")
        if any(stage.recompute_activations for stage in stages) and all(stage.max_steps == 0 for stage in stages):
            raise UserError(
                "--recompute-activations would have no effect: --max-steps 0 makes no step.",
                "Leave it out, or give more --max-steps.",
            )
        refuse_of_other_task(
            self.data.task,
            best_by=self.stopping.best_by,
            only_single_label={
                "--folds": self.data.folds is not None,
                "--unlabeled-dir": self.pseudo.unlabeled_dir is not None,
                "training on several workers": self.cluster.worker_replicas > 1,
            },
        )
        if self.course.stages:
            _refuse_without_effect(self.stage, self.course.stages)
        if self.devices.clone_on_cpu and self.gpus.gpu not in (None, "none"):
            raise UserError(
                "--clone-on-cpu trains on the CPU, and --gpu names GPUs to use.",
                "Leave --gpu out, or give --clone-on-cpu=false.",
            )
        if self.search.sweep and self.data.is_cross_validation:
            raise UserError(
                "--sweep and --folds are both given, but each trial of a sweep is one run.",
                "Give one of them, or say with --fold which part all trials leave out.",
            )
        if self.run.profile is not None and (self.search.sweep or self.data.is_cross_validation):
            raise UserError("--profile is of one run, and --sweep and --folds make several.", "Leave one of them out.")
        if self.stopping.early_stopping_patience is not None and self.run.eval_every == 0:
            raise UserError(
                "--early-stopping-patience counts validations, and --eval-every 0 makes none before the last step.",
                "Give another --eval-every, or leave one of the two out.",
            )

    def _check_source(self) -> None:
        """Photographs or records, one of them; a run that goes on knows its own records."""
        photographs, records = self.source.photographs_path, self.data.dataset_dir
        if self.run.resume and self.run.train_dir is None and (photographs is not None or records is None):
            raise UserError("--resume: it isn't known which run is to go on.", "Give its folder with --train-dir.")
        if photographs is None and records is None:
            raise UserError(
                "There is nothing to train on.",
                "Give the folder of photographs, as a word or by --images-dir, or that of records by --dataset-dir.",
            )
        if photographs is not None and records is not None and not self.run.resume:
            raise UserError(
                f"Photographs, {photographs}, and records, --dataset-dir {records}, are both given.",
                "Give one of them; a --config file may name the records, too (dataset_dir).",
            )


def _refuse_without_effect(around: StageSettings, stages: Sequence[Stage]) -> None:
    """Refuses settings around the stages that each of them has of its own."""
    values, defaults = flat_values(around), flat_values(StageSettings())
    idle = [dashed(name) for name in sorted(names_everywhere(stages)) if values[name] != defaults[name]]
    if idle:
        raise UserError(
            f"{' and '.join(idle)} would have no effect: each of the {len(stages)} stages has its own.",
            "Leave it out, or take it out of a stage.",
        )


def _refuse_of_steps(stage: StageSettings) -> None:
    """Refuses what changes steps alone, where there are none."""
    focal = "--loss focal" if stage.objective.loss == "focal" else ""
    idle = [option for option in (focal, stage.objective.mixing_flag) if option]
    if idle and stage.max_steps == 0:
        raise UserError(
            f"{' and '.join(idle)} would have no effect: --max-steps 0 makes no step, and --probe finds the optimum of "
            "cross-entropy on single images.",
            "Leave it out, or give more --max-steps.",
        )


def _refuse_of_hidden_layers(network: NetworkSettings, stage: StageSettings) -> None:
    """Refuses what looks for the best head there is, where several layers have no single best."""
    needed_by = "--probe" if stage.probe else "--head-weight-decay auto" if stage.head_weight_decay == "auto" else ""
    if needed_by and network.head != LINEAR:
        mend = "Train it by steps: --recipe head, or no --probe" if stage.probe else "Give a number in place of auto"
        raise UserError(
            f"{needed_by} finds the optimum of a linear head, of which there is one; --head {network.head} has many.",
            f"{mend}; or give --head {LINEAR}.",
        )
