"""In which type layers compute: what the device is made for, and what pays."""

import dataclasses
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf

from finetune.model.model import Model, Outputs
from finetune.model.scopes import VariablePlan
from finetune.training.losses import ClassificationLoss, MultilabelLoss
from finetune.training.recomputation import plain_gradients, recomputing_gradients
from finetune.trunk.split_model import SplitModel
from finetune.types import Tensor, Variable

Forward = Callable[[Any, Tensor], Outputs]

log = logging.getLogger("finetune")

# Units that make bfloat16 faster than float32; elsewhere oneDNN and TensorFlow compute it by way of float32.
CPU_BFLOAT16_FLAGS = frozenset({"amx_bf16", "avx512_bf16"})
CPU_FLAGS_FILE = Path("/proc/cpuinfo")
# NVIDIA's tensor cores: float16 since Volta, bfloat16 since Ampere.
FLOAT16_COMPUTE_CAPABILITY = (7, 0)
BFLOAT16_COMPUTE_CAPABILITY = (8, 0)

MEASURED_STEPS = 3
# bfloat16 keeps 8 bits of a value; a loss that is further off is not the same network's.
LARGEST_LOSS_DIFFERENCE = 0.02


@dataclasses.dataclass(frozen=True)
class StepMeasure:
    """A pass forward and back: its shortest time, its loss, and the sum of its gradients' absolute values."""

    seconds: float
    loss: float
    gradient_sum: float


def supported_precisions(*, on_cpu: bool) -> list[str]:
    """The precisions that the training device has units for, float32 first.

    Args:
        on_cpu: Whether training is kept off the GPUs.
    """
    gpus = [] if on_cpu else tf.config.get_visible_devices("GPU")
    if not gpus:
        return ["float32", "bfloat16"] if cpu_flags() & CPU_BFLOAT16_FLAGS else ["float32"]
    capability = min(tf.config.experimental.get_device_details(gpu).get("compute_capability", (0, 0)) for gpu in gpus)
    of_gpus = {"bfloat16": BFLOAT16_COMPUTE_CAPABILITY, "float16": FLOAT16_COMPUTE_CAPABILITY}
    return ["float32", *(name for name, least in of_gpus.items() if capability >= least)]


def tell_of_given(precision: str, supported: Sequence[str]) -> None:
    """Says where a precision that was given, or is the default, may be slower than another.

    Args:
        precision: Its name.
        supported: What the device has units for, float32 first.
    """
    others = [name for name in supported if name != "float32"]
    if precision == "float32" and others:
        log.info("Precision: float32. %s may be faster here: --precision auto measures it.", " or ".join(others))
    elif precision not in supported:
        log.warning("Precision: %s, for which this device has no units: slower than float32.", precision)


def fastest_that_agrees(measures: Mapping[str, StepMeasure]) -> str:
    """The precision of the shortest step among those whose loss agrees with that of float32.

    Args:
        measures: By precision, float32 among them.
    """
    agreeing = [name for name, measure in measures.items() if agrees(measure, measures["float32"])]
    return min(agreeing, key=lambda name: measures[name].seconds, default="float32")


def agrees(measure: StepMeasure, reference: StepMeasure) -> bool:
    """Whether a precision computes the same network as another, up to rounding."""
    if not tf.math.is_finite(measure.gradient_sum):
        return False
    return abs(measure.loss - reference.loss) <= LARGEST_LOSS_DIFFERENCE * max(1.0, abs(reference.loss))


def measure_step(
    model: Model,
    trained: Sequence[Variable],
    batch: tuple[Tensor, Tensor],
    precision: str,
    frozen_by: VariablePlan | None = None,
    *,
    recompute_activations: bool = False,
) -> StepMeasure:
    """Times passes forward and back in a precision, and leaves the model as it was.

    Args:
        model: To be called as in training.
        trained: The variables whose gradients are computed.
        batch: Images [B,H,W,C] and labels, [B] or 1 or 0 for each class [B,num_classes].
        precision: Name of the type.
        frozen_by: Where steps are given features, which on one device they can be: the plan that says which variables
            training changes. None: they are given images.
        recompute_activations: As steps do it.
    """
    take_gradients = recomputing_gradients if recompute_activations else plain_gradients
    strategy = tf.distribute.get_strategy()
    kept_dtype, model.compute_dtype = model.compute_dtype, tf.as_dtype(precision)
    kept_statistics = {variable.name: variable.numpy() for variable in _statistics(model)}

    def replica_pass(inputs: Any, labels: Tensor) -> Tensor:
        outputs = forward(inputs, tf.zeros([3], tf.int32))
        of_logits = MultilabelLoss() if labels.shape.rank == 2 else ClassificationLoss()
        loss = of_logits(outputs.logits, outputs.auxiliary_logits, labels)
        gradients = [gradient for gradient in take_gradients(loss, trained, inputs)[0] if gradient is not None]
        return tf.stack([loss, tf.add_n([tf.reduce_sum(tf.abs(gradient)) for gradient in gradients])])

    try:
        forward, inputs = _pass_of_steps(model, batch[0], frozen_by)
        step = tf.function(
            lambda: strategy.reduce(
                tf.distribute.ReduceOp.MEAN, strategy.run(replica_pass, args=(inputs, batch[1])), axis=None
            ),
            autograph=False,
        )
        loss, gradient_sum = step().numpy()
        # What else the machine does only adds to it.
        seconds = min(_timed(step) for _ in range(MEASURED_STEPS))
    finally:
        model.compute_dtype = kept_dtype
        for variable in _statistics(model):
            variable.assign(kept_statistics[variable.name])
    return StepMeasure(seconds, float(loss), float(gradient_sum))


def _pass_of_steps(model: Model, images: Tensor, frozen_by: VariablePlan | None) -> tuple[Forward, Any]:
    """What a step computes its outputs by, and what of; in the type that the model computes in now."""
    if frozen_by is not None:
        split = SplitModel(model, frozen_by, is_training=True)
        if not split.starts_at_images:
            return split.head, tf.function(split.trunk, autograph=False)(images)
    return lambda inputs, seed: model(inputs, is_training=True, seed=seed), images


def cpu_flags() -> set[str]:
    """What the processor can do, as Linux names it; nothing where that can't be known."""
    return set(_of_cpu("flags").split())


def cpu_name() -> str:
    """The processor's name; empty where it can't be known."""
    return _of_cpu("model name")


def _of_cpu(what: str) -> str:
    """What Linux says of the first processor under a name."""
    if not CPU_FLAGS_FILE.is_file():
        return ""
    lines = CPU_FLAGS_FILE.read_text(encoding="utf-8", errors="replace").splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.partition(":")[0].strip() == what), "")


def _statistics(model: Model) -> list[Variable]:
    return [variable for variable in model.model_variables.values() if not variable.trainable]


def _timed(step: Callable[[], Tensor]) -> float:
    start = time.perf_counter()
    step().numpy()
    return time.perf_counter() - start
