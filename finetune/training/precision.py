"""In which type layers compute: what the device is made for, and what pays."""

import dataclasses
import logging
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import tensorflow as tf

from finetune.model.model import Model
from finetune.training.losses import ClassificationLoss, MultilabelLoss
from finetune.training.recomputation import plain_gradients, recomputing_gradients
from finetune.types import Tensor, Variable

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
    """A pass forward and back: its median time, its loss, and the sum of its gradients' absolute values."""

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


def resolve_precision(wanted: str, supported: Sequence[str], measure: Callable[[str], StepMeasure]) -> str:
    """The precision to compute in; says what was decided, and why.

    Args:
        wanted: One of them, or "auto": the fastest supported one whose loss agrees with that of float32.
        supported: What the device has units for, float32 first.
        measure: Times a step in one of them.
    """
    others = [name for name in supported if name != "float32"]
    if wanted == "auto" and not others:
        log.info("Precision: float32, the only one that this device has units for.")
        return "float32"
    if wanted == "float32" and others:
        log.info("Precision: float32. %s may be faster here: --precision auto measures it.", " or ".join(others))
    elif wanted not in ("auto", *supported):
        log.warning("Precision: %s, for which this device has no units: slower than float32.", wanted)
    if wanted != "auto":
        return wanted
    measures = {name: measure(name) for name in supported}
    agreeing = [name for name in supported if _agrees(measures[name], measures["float32"])]
    fastest = min(agreeing, key=lambda name: measures[name].seconds, default="float32")
    figures = ", ".join(
        f"{name} {1000 * figure.seconds:.0f} ms a step{'' if name in agreeing else ' (its loss differs)'}"
        for name, figure in measures.items()
    )
    log.info("Precision: %s. Measured: %s.", fastest, figures)
    return fastest


def measure_step(
    model: Model,
    trained: Sequence[Variable],
    batch: tuple[Tensor, Tensor],
    precision: str,
    *,
    recompute_activations: bool = False,
) -> StepMeasure:
    """Times passes forward and back in a precision, and leaves the model as it was.

    Args:
        model: To be called as in training.
        trained: The variables whose gradients are computed.
        batch: Images [B,H,W,C] and labels, [B] or 1 or 0 for each class [B,num_classes].
        precision: Name of the type.
        recompute_activations: As steps do it.
    """
    take_gradients = recomputing_gradients if recompute_activations else plain_gradients
    strategy = tf.distribute.get_strategy()
    kept_dtype, model.compute_dtype = model.compute_dtype, tf.as_dtype(precision)
    kept_statistics = {variable.name: variable.numpy() for variable in _statistics(model)}

    def replica_pass(images: Tensor, labels: Tensor) -> Tensor:
        outputs = model(images, is_training=True, seed=tf.zeros([3], tf.int32))
        of_logits = MultilabelLoss() if labels.shape.rank == 2 else ClassificationLoss()
        loss = of_logits(outputs.logits, outputs.auxiliary_logits, labels)
        gradients = [gradient for gradient in take_gradients(loss, trained, images)[0] if gradient is not None]
        return tf.stack([loss, tf.add_n([tf.reduce_sum(tf.abs(gradient)) for gradient in gradients])])

    step = tf.function(
        lambda: strategy.reduce(tf.distribute.ReduceOp.MEAN, strategy.run(replica_pass, args=batch), axis=None),
        autograph=False,
    )
    try:
        loss, gradient_sum = step().numpy()
        seconds = statistics.median(_timed(step) for _ in range(MEASURED_STEPS))
    finally:
        model.compute_dtype = kept_dtype
        for variable in _statistics(model):
            variable.assign(kept_statistics[variable.name])
    return StepMeasure(seconds, float(loss), float(gradient_sum))


def cpu_flags() -> set[str]:
    """What the processor can do, as Linux names it; nothing where that can't be known."""
    if not CPU_FLAGS_FILE.is_file():
        return set()
    lines = CPU_FLAGS_FILE.read_text(encoding="utf-8", errors="replace").splitlines()
    return next((set(line.partition(":")[2].split()) for line in lines if line.startswith("flags")), set())


def _agrees(measure: StepMeasure, reference: StepMeasure) -> bool:
    if not tf.math.is_finite(measure.gradient_sum):
        return False
    return abs(measure.loss - reference.loss) <= LARGEST_LOSS_DIFFERENCE * max(1.0, abs(reference.loss))


def _statistics(model: Model) -> list[Variable]:
    return [variable for variable in model.model_variables.values() if not variable.trainable]


def _timed(step: Callable[[], Tensor]) -> float:
    start = time.perf_counter()
    step().numpy()
    return time.perf_counter() - start
