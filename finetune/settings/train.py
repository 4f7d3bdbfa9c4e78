"""Settings of `finetune-train`, in groups: each is what one part of a training needs, and a section of `--help`.

A run's config.toml holds them as resolved. Defaults are slim's, except where slim's is a trap: epsilon 1.0 for Adam,
polynomial decay that ends after two epochs, summaries ten minutes apart, evaluation on a split `test` that most data
sets lack.
"""

import dataclasses
from pathlib import Path
from typing import Any, ClassVar, Literal

from finetune.errors import UserError
from finetune.settings.choices import (
    AUGMENTATIONS,
    BATCH_NORM_MODES,
    CHANGEABLE,
    DECAY_TYPES,
    GRAYSCALE_STEMS,
    IMAGE_KEY,
    LABEL_KEY,
    LEAST_SEED,
    MATCH_LABELS_HELP,
    MOST_IMAGE_SIZE,
    MOST_SEED,
    ON_CORRUPT,
    ON_CORRUPT_HELP,
    OPTIMIZERS,
    PRECISIONS,
    WAYS_TO_MATCH,
    XLA_MODES,
)
from finetune.settings.flags import CommandSettings, dashed, flag, group
from finetune.settings.trust import TRUST_CODE_HELP

DEFAULT_MODEL = "inception_v3"
DEFAULT_RUN_DIR = Path("/tmp/tfmodel")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataSettings(CommandSettings):
    """The records, and how they are read."""

    title: ClassVar[str] = "Data"

    dataset_dir: Path = flag(help="folder of the TFRecord shards")
    dataset_name: str | None = flag(None, help="which data set, where the folder holds several")
    split: str = flag("train", slim=["dataset_split_name"], help="split to train on")
    eval_split: str | None = flag(None, help="split to validate on; not given: validation, where there is one")
    labels_offset: int = flag(0, at_least=0, help="subtracted from every label, and from the number of classes")
    image_key: str = flag(IMAGE_KEY, metavar="KEY", help="of the image in the records, a JPEG or PNG file's bytes")
    label_key: str = flag(
        LABEL_KEY, metavar="KEY", help="of the label in the records: a number, a text or a one-hot list"
    )
    match_labels: str | None = flag(None, choices=WAYS_TO_MATCH, help=MATCH_LABELS_HELP)
    on_corrupt: str = flag("fail", choices=ON_CORRUPT, help=ON_CORRUPT_HELP)
    preprocessing: str | None = flag(None, slim=["preprocessing_name"], help="not given: what fits the network")
    num_readers: int | None = flag(
        None, above=0, metavar="N", help="shards read at a time; not given: chosen while running"
    )
    num_preprocessing_threads: int | None = flag(None, above=0, metavar="N", help="not given: chosen while running")


@dataclasses.dataclass(frozen=True, kw_only=True)
class NetworkSettings(CommandSettings):
    """The network, and what it begins with."""

    title: ClassVar[str] = "Network and pretrained weights"

    model: str = flag(
        DEFAULT_MODEL,
        slim=["model_name"],
        help="network; see finetune-inspect --models, or package.module:SPEC where Python finds the package",
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
        None, slim=["checkpoint_path"], help="pretrained weights: a checkpoint's prefix, a V1 file, or a folder"
    )
    checkpoint_prefix: str = flag("", help="of the checkpoint's names, to be taken off: module of module/CifarNet/...")
    exclude_scopes: tuple[str, ...] = flag(
        (), slim=["checkpoint_exclude_scopes"], metavar="SCOPES", help="not restored from the checkpoint"
    )
    ignore_missing_vars: bool = flag(False, help="initialise what the checkpoint lacks, instead of refusing")
    ema: bool = flag(True, help="restore moving averages of weights where the checkpoint holds them")
    grayscale_stem: str = flag(
        "same", choices=GRAYSCALE_STEMS, help="sum: a colour checkpoint's first kernel is summed over its colours"
    )


@dataclasses.dataclass(frozen=True)
class OptimizerSettings(CommandSettings):
    """Which optimizer, and its constants."""

    title: ClassVar[str] = "Optimizer"

    optimizer: str = flag("rmsprop", choices=OPTIMIZERS, help="with slim's arithmetic; adamw and lion are not slim's")
    opt_epsilon: float | None = flag(
        None, at_least=0, help="of adadelta, adam, adamw, rmsprop; not given: 1.0 as in slim, 1e-8 for adam and adamw"
    )
    momentum: float = flag(0.9, at_least=0, at_most=1, help="of momentum")
    rmsprop_decay: float = flag(0.9, at_least=0, at_most=1, help="of rmsprop")
    rmsprop_momentum: float = flag(0.9, at_least=0, at_most=1, help="of rmsprop")
    adam_beta1: float = flag(0.9, at_least=0, below=1, help="of adam and adamw")
    adam_beta2: float = flag(0.999, at_least=0, below=1, help="of adam and adamw")
    lion_beta1: float = flag(0.9, at_least=0, below=1, help="of lion")
    lion_beta2: float = flag(0.99, at_least=0, below=1, help="of lion")
    adadelta_rho: float = flag(0.95, at_least=0, at_most=1, help="of adadelta")
    adagrad_initial_accumulator_value: float = flag(0.1, above=0, help="of adagrad")
    ftrl_learning_rate_power: float = flag(-0.5, at_most=0, help="of ftrl")
    ftrl_initial_accumulator_value: float = flag(0.1, at_least=0, help="of ftrl")
    ftrl_l1: float = flag(0.0, at_least=0, help="of ftrl")
    ftrl_l2: float = flag(0.0, at_least=0, help="of ftrl")
    clip_gradients: float | None = flag(
        None, above=0, metavar="NORM", help="scale the gradients of all variables down to this global norm"
    )

    @property
    def epsilon(self) -> float:
        """As given, else slim's 1.0, but for Adam, where 1.0 would make the steps tiny."""
        if self.opt_epsilon is not None:
            return self.opt_epsilon
        return 1e-8 if self.optimizer in ("adam", "adamw") else 1.0

    @property
    def decouples_decay(self) -> bool:
        """Whether weight decay shrinks the weights beside the update, and is no part of the loss."""
        return self.optimizer in ("adamw", "lion")


@dataclasses.dataclass(frozen=True)
class ScheduleSettings(CommandSettings):
    """The learning rate over the steps, and over the scopes."""

    title: ClassVar[str] = "Learning rate"

    learning_rate: float | Literal["auto"] = flag(
        0.01, above=0, metavar="RATE|auto", help="before decay; auto: what --find-learning-rate suggests"
    )
    learning_rate_decay_type: str = flag("exponential", choices=DECAY_TYPES, help="schedule")
    end_learning_rate: float = flag(0.0001, at_least=0, help="where polynomial, cosine and one-cycle end")
    learning_rate_decay_factor: float = flag(0.94, above=0, help="of exponential decay, in stairs")
    num_epochs_per_decay: float | None = flag(
        None,
        above=0,
        metavar="EPOCHS",
        help="a stair, or the whole decay; not given: 2 for exponential, the run for the others",
    )
    warmup_epochs: float = flag(
        0.0, at_least=0, help="linear rise of the rate from 0; of one-cycle the length of its own rise, 0: 30 percent"
    )
    learning_rate_boundaries: tuple[int, ...] = flag(
        (), above=0, metavar="STEP,...", help="of piecewise: after so many steps the rate is the next of the values"
    )
    learning_rate_values: tuple[float, ...] = flag(
        (), above=0, metavar="RATE,...", help="of piecewise: the rate after each boundary; before: --learning-rate"
    )
    learning_rate_multipliers: tuple[str, ...] = flag(
        (), metavar="SCOPE=FACTOR,...", help="other rates for some scopes; the longest matching scope counts"
    )
    layer_decay: float = flag(
        1.0,
        above=0,
        at_most=1,
        metavar="FACTOR",
        help="each group of layers has the rate of the next one times this, the head the whole",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        parse_multipliers(self.learning_rate_multipliers)
        if self.learning_rate_decay_type == "piecewise":
            self._check_pieces()
        elif self.learning_rate_boundaries or self.learning_rate_values:
            raise UserError(
                "--learning-rate-boundaries and --learning-rate-values are of another schedule than "
                f"{self.learning_rate_decay_type}.",
                "Give --learning-rate-decay-type piecewise with them, or neither: --learning-rate-boundaries= "
                "--learning-rate-values=",
            )
        is_cycle = self.learning_rate_decay_type == "one-cycle"
        if is_cycle and self.learning_rate != "auto" and self.end_learning_rate >= self.learning_rate:
            raise UserError(
                f"one-cycle would end at --end-learning-rate {self.end_learning_rate:g}, above --learning-rate "
                f"{self.learning_rate:g}.",
                "Give a lower --end-learning-rate, such as 0.",
            )

    @property
    def rate(self) -> float:
        """The rate before decay, once it is known."""
        assert self.learning_rate != "auto", "is yet to be found"
        return self.learning_rate

    def _check_pieces(self) -> None:
        boundaries, values = self.learning_rate_boundaries, self.learning_rate_values
        if not boundaries or len(boundaries) != len(values):
            raise UserError(
                f"piecewise has {len(boundaries)} --learning-rate-boundaries and {len(values)} --learning-rate-values.",
                "Give one value for each boundary, the rate after it; before the first it is --learning-rate.",
            )
        if list(boundaries) != sorted(set(boundaries)):
            raise UserError(f"--learning-rate-boundaries are {','.join(map(str, boundaries))}, but must rise.")


@dataclasses.dataclass(frozen=True)
class CacheSettings(CommandSettings):
    """Whether frozen layers run once, and where what they made of the images is kept."""

    title: ClassVar[str] = "Features of frozen layers"

    cache_features: str = flag(
        "auto",
        metavar="auto|off|N",
        help="compute frozen layers once: for N augmented views of each image; auto: where it pays",
    )
    cache_memory: int = flag(1024, at_least=0, metavar="MIB", help="larger features go to files in the run's folder")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.cache_features in ("auto", "off"):
            return
        if not (self.cache_features.isdecimal() and int(self.cache_features) > 0):
            raise UserError(f"--cache-features is {self.cache_features!r}, but must be auto, off or a number of views.")


@dataclasses.dataclass(frozen=True, init=False)
class StageSettings(CommandSettings):
    """What is trained, and how: all that may change from one stage of a training to the next."""

    title: ClassVar[str] = "Training"

    trainable_scopes: tuple[str, ...] = flag((), metavar="SCOPES", help="trained, all else frozen; none given: all")
    batch_norm: str = flag(
        "plan",
        choices=BATCH_NORM_MODES,
        help="plan: frozen layers keep their statistics; frozen: all do; slim: none does, as in old runs",
    )
    max_steps: int | None = flag(
        None, above=0, slim=["max_number_of_steps"], help="global step to stop at; not given: never"
    )
    batch_size: int = flag(32, above=0, help="images in a step, or in a pass of it, for each device")
    accumulate_steps: int = flag(
        1, above=0, metavar="N", help="passes in a step: the mean gradient of so many batches makes one update"
    )
    augmentation: str = flag("default", choices=AUGMENTATIONS, help="of training images")
    weight_decay: float = flag(
        0.00004, at_least=0, help="L2 on the trained weights; of adamw and lion no part of the loss"
    )
    label_smoothing: float = flag(0.0, at_least=0, below=1, help="share of the target spread over all classes")
    moving_average_decay: float | None = flag(
        None, at_least=0, below=1, metavar="DECAY", help="keep moving averages of the weights"
    )
    update: OptimizerSettings = group()
    schedule: ScheduleSettings = group()
    cache: CacheSettings = group()

    @property
    def images_per_update(self) -> int:
        """Images in a step, for each device."""
        return self.batch_size * self.accumulate_steps


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunSettings(CommandSettings):
    """The run's folder, and what is written to it when."""

    title: ClassVar[str] = "Run"

    train_dir: Path = flag(DEFAULT_RUN_DIR, help="folder of the run: checkpoints, logs, settings")
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

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("verify", "allow_changed"):
            if getattr(self, name) and not self.resume:
                raise UserError(f"{dashed(name)} is of a run that there is already.", "Give --resume with it.")

        if self.find_learning_rate and self.resume:
            raise UserError("--find-learning-rate is of a run that begins, not of one that goes on.", "Leave it out.")

    @property
    def resumed(self) -> Path | None:
        """Folder of the run that goes on; None: a new one begins."""
        return self.train_dir if self.resume else None


@dataclasses.dataclass(frozen=True, kw_only=True)
class DeviceSettings(CommandSettings):
    """What computes, and in which type."""

    title: ClassVar[str] = "Devices and precision"

    num_clones: int = flag(1, above=0, metavar="N", help="devices to train on, each with a batch of its own")
    clone_on_cpu: bool = flag(False, help="train on the CPU even where there is a GPU")
    precision: str = flag(
        "float32",
        choices=("auto", *PRECISIONS),
        help="type that layers compute in, variables and losses being float32; auto: measured",
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

    master: str = only("", "one process drives all devices")
    worker_replicas: int = only(1, "one machine trains")
    num_ps_tasks: int = only(0, "one machine trains")
    task: int = only(0, "one machine trains")
    sync_replicas: bool = only(False, "devices are always in step")
    replicas_to_aggregate: int = only(1, "devices are always in step")
    quantize_delay: int = only(-1, "quantised training left TensorFlow with version 1")


@dataclasses.dataclass(frozen=True, init=False)
class TrainSettings(CommandSettings):
    """Settings of `finetune-train`."""

    data: DataSettings = group()
    network: NetworkSettings = group()
    stage: StageSettings = group()
    run: RunSettings = group()
    devices: DeviceSettings = group()
    slim: SlimTrainSettings = group()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.run.resume and self.stage.schedule.learning_rate == "auto":
            raise UserError("--learning-rate auto is of a run that begins, not of one that goes on.", "Give a number.")


def parse_multipliers(texts: tuple[str, ...]) -> dict[str, float]:
    """Learning-rate multipliers by scope from `SCOPE=FACTOR` texts; 0 passes, for older runs have it in config.toml.

    Raises:
        UserError: A text is none, or its factor is negative.
    """
    multipliers = {}
    for text in texts:
        scope, _, factor = text.rpartition("=")
        try:
            multipliers[scope.strip("/")] = float(factor)
        except ValueError as error:
            raise UserError(f"--learning-rate-multipliers: {text!r} is not SCOPE=FACTOR.") from error
        if not scope or not 0 <= multipliers[scope.strip("/")] < float("inf"):
            raise UserError(f"--learning-rate-multipliers: {text!r} is not SCOPE=FACTOR with a factor above 0.")
    return multipliers
