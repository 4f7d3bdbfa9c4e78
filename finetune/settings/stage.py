"""What is trained and how, in groups: all that may change from one stage of a training to the next."""

import dataclasses
import math
import re
from typing import ClassVar, Literal

from finetune.errors import UserError
from finetune.settings.augmentation import AugmentationSettings
from finetune.settings.choices import BATCH_NORM_MODES, DECAY_TYPES, OPTIMIZERS, RATE_SCALINGS
from finetune.settings.flags import CommandSettings, dashed, flag, group
from finetune.settings.objective import ObjectiveSettings

# Ways to say one thing, of which settings have one: the length, and what is trained.
ALTERNATIVES = (
    {"max_steps", "epochs"},
    {"trainable_scopes", "trainable_layers", "trainable_from", "freeze_until"},
    {"batch_size", "global_batch_size"},
)
DEFAULT_BATCH_SIZE = 32  # Slim's; learning rates of slim and of the recipes are meant for it.
_LAYERS = re.compile(r"head|all|last=[1-9]\d{0,3}|last=[1-9]\d?%|from=.+")
_NO_LAYER = re.compile(r"|-[0-9]+|[0-9]{7,}")


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
    rmsprop_initial_accumulator_value: float = flag(1.0, at_least=0, help="of rmsprop; slim's is 1, Keras's 0")
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
    scale_learning_rate: str = flag(
        "none",
        choices=RATE_SCALINGS,
        help="all rates times the images in a step / --learning-rate-batch-size, or the root of that",
    )
    learning_rate_batch_size: int | None = flag(
        None,
        above=0,
        metavar="N",
        help="of --scale-learning-rate: images in a step that the rates are for; not given: --batch-size as a run "
        "begins, 32 where --global-batch-size takes its place",
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
        if self.learning_rate == "auto" and self.scale_learning_rate != "none":
            raise UserError(
                f"--learning-rate auto is found with as many images as a step has, and --scale-learning-rate "
                f"{self.scale_learning_rate} would scale it once more.",
                "Give a number, or --scale-learning-rate none.",
            )
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
    trainable_layers: str | None = flag(
        None,
        metavar="head|all|last=N|from=GROUP",
        help="instead of scopes: by the network's groups of layers; N may be 30%",
    )
    trainable_from: str | None = flag(
        None,
        metavar="INDEX|LAYER",
        help="instead of scopes: from this layer on, counted as Keras's model.layers, or by its name",
    )
    freeze_until: str | None = flag(
        None, metavar="LAYER", help="instead of scopes: frozen up to this group of layers or end point, then trained"
    )
    batch_norm: str = flag(
        "plan",
        choices=BATCH_NORM_MODES,
        help="plan: frozen layers keep their statistics; frozen: all do; slim: none does, as in old runs",
    )
    sync_batch_norm: bool = flag(
        False,
        help="batch norm that is trained: statistics of the images of all devices together, not of each, as slim's",
    )
    batch_norm_decay: float | Literal["auto"] | None = flag(
        None,
        at_least=0,
        below=1,
        metavar="auto|DECAY",
        help="of moving statistics; auto: follows within a tenth of the run; not given: the network's, such as 0.9997",
    )
    recalibrate_batch_norm: int = flag(
        0,
        at_least=0,
        metavar="BATCHES",
        help="moving statistics anew, over so many of training, before each validation and at the end; 0: never",
    )
    max_steps: int | None = flag(
        None, at_least=0, slim=["max_number_of_steps"], help="global step to stop at; not given: never"
    )
    epochs: float | None = flag(None, above=0, help="instead of --max-steps: so many times each image")
    batch_size: int | Literal["auto"] = flag(
        DEFAULT_BATCH_SIZE,
        above=0,
        metavar="N|auto",
        help="images in a step, or in a pass of it, for each device; auto: 32, halved until memory suffices",
    )
    accumulate_steps: int = flag(
        1, above=0, metavar="N", help="passes in a step: the mean gradient of so many batches makes one update"
    )
    recompute_activations: bool = flag(
        False,
        help="keep few activations, compute the others again in the backward pass: less memory, more time",
    )
    global_batch_size: int | None = flag(
        None,
        above=0,
        metavar="N",
        help="in place of --batch-size: images in a step, of all devices and passes together",
    )
    weight_decay: float = flag(
        0.00004, at_least=0, help="L2 on the trained weights; of adamw and lion no part of the loss"
    )
    head_weight_decay: float | Literal["auto"] | None = flag(
        None,
        at_least=0,
        metavar="DECAY|auto",
        help="L2 on the classification layer's kernel; auto: by cross-validation; not given: as all others",
    )
    label_smoothing: float = flag(0.0, at_least=0, below=1, help="share of the target spread over all classes")
    moving_average_decay: float | None = flag(
        None, at_least=0, below=1, metavar="DECAY", help="keep moving averages of the weights"
    )
    probe: bool = flag(
        False, help="begin with the best linear head on frozen features, by L-BFGS; enough with --max-steps 0"
    )
    objective: ObjectiveSettings = group()
    update: OptimizerSettings = group()
    schedule: ScheduleSettings = group()
    cache: CacheSettings = group()
    augment: AugmentationSettings = group()

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self._ways()) > 1:
            raise UserError(f"What is trained is said twice: {self.what_is_trained}.", "Give one of them.")
        if self.trainable_layers is not None and not _LAYERS.fullmatch(self.trainable_layers):
            raise UserError(
                f"--trainable-layers is {self.trainable_layers!r}, not one of head, all, last=N, last=N%, from=GROUP."
            )
        if self.trainable_from is not None and _NO_LAYER.fullmatch(self.trainable_from):
            raise UserError(
                f"--trainable-from is {self.trainable_from!r}, but must be a layer's index, from 0 on, or its name."
            )
        if self.epochs is not None and self.max_steps is not None:
            raise UserError(
                f"The length is said twice: --max-steps {self.max_steps} and --epochs {self.epochs:g}.",
                "Give one of them; a run that is resumed has --max-steps.",
            )
        if self.batch_size == "auto" and self.global_batch_size is not None:
            raise UserError(
                f"--batch-size auto looks for the images of a step that fit, and --global-batch-size "
                f"{self.global_batch_size} says how many they are.",
                "Give one of them.",
            )
        if self.max_steps == 0 and not self.probe:
            raise UserError("--max-steps is 0, but must be above 0.", "Give a number of steps, or --probe with it.")
        self._check_objective()

    def _check_objective(self) -> None:
        objective, mixing = self.objective, self.objective.mixing_flag
        if objective.loss == "focal" and self.label_smoothing:
            raise UserError(
                f"--loss focal lets images that are told with certainty count for little, --label-smoothing "
                f"{self.label_smoothing:g} holds back from telling any so: they work against each other.",
                "Give one of them.",
            )
        if mixing and self.batch_size == 1:
            raise UserError(f"{mixing} mixes images of a batch, and --batch-size is 1.", "Give 2 or more.")
        if mixing and self.cache.cache_features not in ("auto", "off"):
            raise UserError(
                f"{mixing} mixes images in front of the frozen layers, and --cache-features "
                f"{self.cache.cache_features} keeps what these made of single ones.",
                "Give --cache-features off.",
            )

    @property
    def what_is_trained(self) -> str:
        """The flag that says it, with its value; empty: all is."""
        return " and ".join(self._ways())

    def _ways(self) -> list[str]:
        ways = ("trainable_scopes", "trainable_layers", "trainable_from", "freeze_until")
        return [f"{dashed(name)} {_in_words(getattr(self, name))}" for name in ways if getattr(self, name)]

    @property
    def head_decay(self) -> float:
        """The head's own decay, once it is known."""
        assert isinstance(self.head_weight_decay, float), "is yet to be chosen, or not given"
        return self.head_weight_decay

    @property
    def images_per_pass(self) -> int:
        """Images in a pass of the network, for each device, once it is known."""
        assert self.batch_size != "auto", "is yet to be found"
        return self.batch_size

    @property
    def images_per_update(self) -> int:
        """Images in a step, for each device."""
        return self.images_per_pass * self.accumulate_steps

    def with_images_of_rates(self) -> "StageSettings":
        """With `learning_rate_batch_size` where rates scale and it isn't given.

        It is `batch_size` as it stands before devices have part of it: a run keeps the number, so that its rates are
        the same where its steps are parted among other devices and passes. Where `global_batch_size` is said instead,
        `batch_size` has its default: the same batch then makes the same rates on however many devices a run begins.
        """
        if self.schedule.scale_learning_rate == "none" or self.schedule.learning_rate_batch_size is not None:
            return self
        schedule = dataclasses.replace(self.schedule, learning_rate_batch_size=self.images_per_pass)
        return dataclasses.replace(self, schedule=schedule)

    def rate_scale(self, num_devices: int) -> float:
        """What all rates are multiplied by, once it is known for how many images they are."""
        if self.schedule.scale_learning_rate == "none":
            return 1.0
        assert self.schedule.learning_rate_batch_size is not None, "is yet to be set"
        ratio = self.images_per_update * num_devices / self.schedule.learning_rate_batch_size
        return ratio if self.schedule.scale_learning_rate == "linear" else math.sqrt(ratio)

    def on_devices(self, num_devices: int) -> "StageSettings":
        """With `batch_size` where it was said by `global_batch_size`.

        Raises:
            UserError: A step's images can't be shared out evenly.
        """
        if self.global_batch_size is None:
            return self
        num_parts = num_devices * self.accumulate_steps
        own, left = divmod(self.global_batch_size, num_parts)
        if left:
            nearest = " or ".join(str(number * num_parts) for number in (own, own + 1) if number)
            raise UserError(
                f"--global-batch-size {self.global_batch_size} can't be shared out evenly: --num-clones {num_devices} "
                f"with --accumulate-steps {self.accumulate_steps} makes {num_parts} parts.",
                f"Give {nearest}, or another number of parts.",
            )
        return dataclasses.replace(self, batch_size=own, global_batch_size=None)


def _in_words(value: tuple[str, ...] | str) -> str:
    return value if isinstance(value, str) else ",".join(value)


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
