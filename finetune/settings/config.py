"""Settings of `finetune-train` and `finetune-eval`: each field is a flag, slim's name of it an alias. No TensorFlow.

Defaults are slim's, except where slim's is a trap: epsilon 1.0 for Adam, polynomial decay that ends after two epochs,
summaries ten minutes apart, evaluation on a split `test` that most data sets lack.
"""

import dataclasses
from pathlib import Path
from typing import Any

from finetune.errors import UserError
from finetune.settings.choices import (
    AUGMENTATIONS,
    BATCH_NORM_MODES,
    DECAY_TYPES,
    GRAYSCALE_STEMS,
    IMAGE_KEY,
    LABEL_KEY,
    MATCH_LABELS_HELP,
    OPTIMIZERS,
    PRECISIONS,
    TEST_TIME_AUGMENTATIONS,
    WAYS_TO_MATCH,
    XLA_MODES,
)
from finetune.settings.flags import CommandSettings, flag

DEFAULT_MODEL = "inception_v3"
DEFAULT_RUN_DIR = Path("/tmp/tfmodel")


@dataclasses.dataclass(frozen=True)
class OptimizerSettings:
    """Which optimizer, and its constants; the defaults are those of `train_image_classifier.py`.

    `epsilon` None means slim's 1.0 for RMSProp and Adadelta, and 1e-8 for Adam, where 1.0 would make the steps tiny.
    """

    name: str = "rmsprop"
    epsilon: float | None = None
    momentum: float = 0.9
    rmsprop_decay: float = 0.9
    rmsprop_momentum: float = 0.9
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999
    adadelta_rho: float = 0.95
    adagrad_initial_accumulator_value: float = 0.1
    ftrl_learning_rate_power: float = -0.5
    ftrl_initial_accumulator_value: float = 0.1
    ftrl_l1: float = 0.0
    ftrl_l2: float = 0.0


def _only(default: Any, why: str) -> Any:
    """A flag of slim's that old command lines carry; its default is the only value left."""
    return flag(default, help=why, only_default=True)


@dataclasses.dataclass(frozen=True)
class TrainSettings(CommandSettings):
    """Settings of `finetune-train`; `config.toml` in a run's folder holds them as resolved."""

    dataset_dir: Path = flag(help="folder of the TFRecord shards")
    train_dir: Path = flag(DEFAULT_RUN_DIR, help="folder of the run: checkpoints, logs, settings")
    model: str = flag(
        DEFAULT_MODEL,
        slim=["model_name"],
        help="network; see finetune-inspect --models, or package.module:SPEC where Python finds the package",
    )
    checkpoint: Path | None = flag(
        None, slim=["checkpoint_path"], help="pretrained weights: a checkpoint's prefix, a V1 file, or a folder"
    )
    checkpoint_prefix: str = flag("", help="of the checkpoint's names, to be taken off: module of module/CifarNet/...")
    exclude_scopes: tuple[str, ...] = flag(
        (), slim=["checkpoint_exclude_scopes"], metavar="SCOPES", help="not restored from the checkpoint"
    )
    trainable_scopes: tuple[str, ...] = flag((), metavar="SCOPES", help="trained, all else frozen; none given: all")
    ignore_missing_vars: bool = flag(False, help="initialise what the checkpoint lacks, instead of refusing")
    ema: bool = flag(True, help="restore moving averages of weights where the checkpoint holds them")
    resume: bool = flag(False, help="go on with the run in --train-dir, with its own settings", is_recorded=False)

    dataset_name: str | None = flag(None, help="which data set, where the folder holds several")
    split: str = flag("train", slim=["dataset_split_name"], help="split to train on")
    eval_split: str | None = flag(None, help="split to validate on; not given: validation, where there is one")
    labels_offset: int = flag(0, help="subtracted from every label, and from the number of classes")
    image_key: str = flag(IMAGE_KEY, metavar="KEY", help="of the image in the records, a JPEG or PNG file's bytes")
    label_key: str = flag(
        LABEL_KEY, metavar="KEY", help="of the label in the records: a number, a text or a one-hot list"
    )
    match_labels: str | None = flag(None, choices=WAYS_TO_MATCH, help=MATCH_LABELS_HELP)
    preprocessing: str | None = flag(None, slim=["preprocessing_name"], help="not given: what fits the network")
    augmentation: str = flag("default", choices=AUGMENTATIONS, help="of training images")
    image_size: int | None = flag(None, slim=["train_image_size"], metavar="PIXELS", help="not given: the network's")
    use_grayscale: bool = flag(False, help="images of one channel")
    grayscale_stem: str = flag(
        "same", choices=GRAYSCALE_STEMS, help="sum: a colour checkpoint's first kernel is summed over its colours"
    )

    max_steps: int | None = flag(None, slim=["max_number_of_steps"], help="global step to stop at; not given: never")
    batch_size: int = flag(32, help="images in a step, for each device")
    seed: int = flag(0, help="of initial values, data order, augmentation and dropout")
    optimizer: str = flag("rmsprop", choices=OPTIMIZERS, help="with slim's arithmetic")
    learning_rate: float = flag(0.01, help="before decay")
    learning_rate_decay_type: str = flag("exponential", choices=DECAY_TYPES, help="schedule")
    end_learning_rate: float = flag(0.0001, help="where polynomial and cosine decay end")
    learning_rate_decay_factor: float = flag(0.94, help="of exponential decay, in stairs")
    num_epochs_per_decay: float | None = flag(
        None, metavar="EPOCHS", help="a stair, or the whole decay; not given: 2 for exponential, the run for the others"
    )
    warmup_epochs: float = flag(0.0, help="linear rise of the rate from 0")
    learning_rate_multipliers: tuple[str, ...] = flag(
        (), metavar="SCOPE=FACTOR,...", help="other rates for some scopes; the longest matching scope counts"
    )
    weight_decay: float = flag(0.00004, help="L2 on the trained weights")
    label_smoothing: float = flag(0.0, help="share of the target spread over all classes")
    batch_norm: str = flag(
        "plan",
        choices=BATCH_NORM_MODES,
        help="plan: frozen layers keep their statistics; frozen: all do; slim: none does, as in old runs",
    )
    moving_average_decay: float | None = flag(None, metavar="DECAY", help="keep moving averages of the weights")
    opt_epsilon: float | None = flag(None, help="of adadelta, adam, rmsprop; not given: 1.0 as in slim, 1e-8 for adam")
    momentum: float = flag(0.9, help="of momentum")
    rmsprop_decay: float = flag(0.9, help="of rmsprop")
    rmsprop_momentum: float = flag(0.9, help="of rmsprop")
    adam_beta1: float = flag(0.9, help="of adam")
    adam_beta2: float = flag(0.999, help="of adam")
    adadelta_rho: float = flag(0.95, help="of adadelta")
    adagrad_initial_accumulator_value: float = flag(0.1, help="of adagrad")
    ftrl_learning_rate_power: float = flag(-0.5, help="of ftrl")
    ftrl_initial_accumulator_value: float = flag(0.1, help="of ftrl")
    ftrl_l1: float = flag(0.0, help="of ftrl")
    ftrl_l2: float = flag(0.0, help="of ftrl")

    precision: str = flag(
        "float32",
        choices=("auto", *PRECISIONS),
        help="type that layers compute in, variables and losses being float32; auto: measured",
    )
    xla: str = flag("auto", choices=XLA_MODES, help="compile steps by XLA; auto: on a GPU that works alone")
    cache_features: str = flag(
        "auto",
        metavar="auto|off|N",
        help="compute frozen layers once: for N augmented views of each image; auto: where it pays",
    )
    cache_memory: int = flag(1024, metavar="MIB", help="larger features go to files in the run's folder")

    eval_every: int | None = flag(
        None, metavar="STEPS", help="validate so often; 0: at the end only; not given: ten times, once an epoch at most"
    )
    log_every: int = flag(
        10,
        slim=["log_every_n_steps"],
        metavar="STEPS",
        help="figures in metrics.jsonl and TensorBoard so often; log lines come every 5 seconds, into files every 10",
    )
    save_interval_seconds: float = flag(600.0, slim=["save_interval_secs"], help="a checkpoint so often")
    save_summaries_seconds: float = flag(
        0.0, slim=["save_summaries_secs"], help="TensorBoard scalars at most so often; 0: every --log-every steps"
    )
    max_to_keep: int = flag(5, metavar="N", help="newest checkpoints kept, beside the best")
    num_clones: int = flag(1, metavar="N", help="devices to train on, each with a batch of its own")
    clone_on_cpu: bool = flag(False, help="train on the CPU even where there is a GPU")
    num_preprocessing_threads: int | None = flag(None, metavar="N", help="not given: chosen while running")

    num_readers: int = _only(4, "readers are chosen while running")
    master: str = _only("", "one process drives all devices")
    worker_replicas: int = _only(1, "one machine trains")
    num_ps_tasks: int = _only(0, "one machine trains")
    task: int = _only(0, "one machine trains")
    sync_replicas: bool = _only(False, "devices are always in step")
    replicas_to_aggregate: int = _only(1, "devices are always in step")
    quantize_delay: int = _only(-1, "quantised training left TensorFlow with version 1")

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_positive(self, "batch_size", "max_steps", "image_size", "log_every", "max_to_keep", "num_clones")
        _require_positive(self, "learning_rate", "num_epochs_per_decay")
        _require_share(self, "label_smoothing", "moving_average_decay")
        if self.cache_features not in ("auto", "off") and not (
            self.cache_features.isdecimal() and int(self.cache_features) > 0
        ):
            raise UserError(f"--cache-features is {self.cache_features!r}, but must be auto, off or a number of views.")

    @property
    def optimizer_settings(self) -> OptimizerSettings:
        """The optimizer's part."""
        constants = {
            f.name: getattr(self, f.name) for f in dataclasses.fields(OptimizerSettings) if hasattr(self, f.name)
        }
        return OptimizerSettings(name=self.optimizer, epsilon=self.opt_epsilon, **constants)


@dataclasses.dataclass(frozen=True)
class EvalSettings(CommandSettings):
    """Settings of `finetune-eval`; what is not given is known from the run, where the checkpoint is a run's."""

    dataset_dir: Path = flag(help="folder of the TFRecord shards")
    checkpoint: tuple[Path, ...] = flag(
        (DEFAULT_RUN_DIR,),
        slim=["checkpoint_path"],
        help="a run's folder (its best checkpoint, else its newest), a checkpoint's prefix, or a V1 file; "
        "given several times: the mean of their weights",
    )
    checkpoint_prefix: str = flag("", help="of the checkpoint's names, to be taken off: module of module/CifarNet/...")
    average: int | None = flag(None, metavar="N", help="the mean of the weights of the run's last N checkpoints")
    moving_average: bool | None = flag(None, help="the moving averages of the weights; not given: as the run")
    moving_average_decay: float | None = flag(None, metavar="DECAY", help="any value: the same as --moving-average")
    compare: tuple[Path, ...] = flag(
        (), metavar="RUN", num_values=2, help="is one of two runs better? McNemar's test, and where they differ"
    )
    output_dir: Path | None = flag(
        None, slim=["eval_dir"], help="where the files go; not given: eval_SPLIT beside the checkpoint"
    )
    report: bool = flag(True, help="draw the plots and write report.html")
    assert_accuracy_at_least: float | None = flag(None, metavar="SHARE", help="exit with status 3 below this accuracy")
    watch: bool = flag(False, help="evaluate each new checkpoint of a run as it appears")
    timeout: float = flag(1800.0, metavar="SECONDS", help="with --watch: stop when none has appeared for so long")

    dataset_name: str | None = flag(None, help="which data set, where the folder holds several")
    split: str = flag("validation", slim=["dataset_split_name"], help="split to evaluate on")
    model: str | None = flag(None, slim=["model_name"], help="not given: the run's")
    batch_size: int = flag(100, help="images at a time; the result doesn't depend on it")
    max_num_batches: int | None = flag(None, metavar="N", help="only so many batches; not given: all")
    preprocessing: str | None = flag(None, slim=["preprocessing_name"], help="not given: the run's")
    precision: str | None = flag(None, choices=PRECISIONS, help="type that layers compute in; not given: the run's")
    tta: str = flag(
        "none", choices=TEST_TIME_AUGMENTATIONS, help="flip: mean probabilities of an image and its mirror image"
    )
    image_size: int | None = flag(None, slim=["eval_image_size"], metavar="PIXELS", help="not given: the run's")
    use_grayscale: bool | None = flag(None, help="images of one channel; not given: as the run")
    labels_offset: int | None = flag(None, help="subtracted from every label; not given: the run's")
    image_key: str | None = flag(None, metavar="KEY", help="of the image in the records; not given: the run's")
    label_key: str | None = flag(None, metavar="KEY", help="of the label in the records; not given: the run's")
    match_labels: str | None = flag(None, choices=WAYS_TO_MATCH, help=MATCH_LABELS_HELP)
    write_logits: bool = flag(False, help="put every logit into predictions.csv")
    num_preprocessing_threads: int | None = flag(None, metavar="N", help="not given: chosen while running")

    master: str = _only("", "one process drives all devices")
    quantize: bool = _only(False, "quantised training left TensorFlow with version 1")

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_positive(self, "batch_size", "max_num_batches", "image_size", "average", "timeout")
        if self.assert_accuracy_at_least is not None and not 0 <= self.assert_accuracy_at_least <= 1:
            raise UserError(f"--assert-accuracy-at-least is {self.assert_accuracy_at_least}, but must lie in 0 to 1.")
        if self.compare and len(self.compare) != 2:
            raise UserError(f"--compare takes two runs, not {len(self.compare)}.")
        self._refuse_contradictions()

    def _refuse_contradictions(self) -> None:
        """Each of these says what is evaluated; two of them would say it twice."""
        wanted = {
            "--checkpoint, given several times,": len(self.checkpoint) > 1,
            "--average": self.average is not None,
            "--watch": self.watch,
            "--compare": bool(self.compare),
        }
        given = [name for name, is_given in wanted.items() if is_given]
        if len(given) > 1:
            raise UserError(f"{given[0]} and {given[1]} don't go together.", "Leave one of them out.")
        if self.compare and self.checkpoint != (DEFAULT_RUN_DIR,):
            raise UserError("--compare and --checkpoint don't go together.", "Give both runs after --compare.")
        if self.compare and (self.assert_accuracy_at_least is not None or self.write_logits):
            raise UserError(
                "--compare goes neither with --assert-accuracy-at-least nor with --write-logits.",
                "Evaluate the runs one by one for these.",
            )


def parse_multipliers(texts: tuple[str, ...]) -> dict[str, float]:
    """Learning-rate multipliers by scope from `SCOPE=FACTOR` texts.

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
        if not scope or multipliers[scope.strip("/")] < 0:
            raise UserError(f"--learning-rate-multipliers: {text!r} is not SCOPE=FACTOR with a factor of 0 or more.")
    return multipliers


def _require_positive(settings: Any, *names: str) -> None:
    for name in names:
        value = getattr(settings, name)
        if value is not None and value <= 0:
            raise UserError(f"--{name.replace('_', '-')} is {value}, but must be above 0.")


def _require_share(settings: Any, *names: str) -> None:
    for name in names:
        value = getattr(settings, name)
        if value is not None and not 0 <= value < 1:
            raise UserError(f"--{name.replace('_', '-')} is {value}, but must lie in 0 to 1, 1 excluded.")
