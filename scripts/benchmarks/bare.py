"""The limit: images a second of a network alone, on a batch that is there already.

python scripts/benchmarks/bare.py mobilenet_v2 forward
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

from measuring import HelpFormatter

from finetune.settings.choices import BATCH_NORM_MODES, PRECISIONS

NUM_CLASSES = 12
CALLS_OF_WARMING_UP = 3


def main() -> None:
    """Prints the rate as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument("network", help="its name")
    parser.add_argument(
        "what", choices=("forward", "step"), help="an evaluation pass, or a training step of everything"
    )
    parser.add_argument("--batch-size", type=int, default=32, help="images in a step")
    parser.add_argument("--precision", choices=("auto", *PRECISIONS), default="auto", help="auto: the fastest one")
    parser.add_argument("--calls", type=int, default=10, help="that are timed")
    parser.add_argument("--batch-norm", choices=BATCH_NORM_MODES, default="plan", help="of a training step")
    arguments = parser.parse_args()

    from finetune.commands.tensorflow_start import start_tensorflow

    start_tensorflow()
    from finetune.training.precision import supported_precisions

    asked = arguments.precision
    precisions = supported_precisions(on_cpu=True) if asked == "auto" else [asked]
    print(json.dumps(max(measure(precision, arguments) for precision in precisions)))


def measure(precision: str, arguments: argparse.Namespace) -> float:
    """Images a second in one precision."""
    if arguments.what == "forward":
        call = forward_pass(arguments.network, precision, arguments.batch_size)
    else:
        call = training_step(arguments.network, precision, arguments.batch_size, arguments.batch_norm)
    return float(arguments.batch_size / median_seconds(call, arguments.calls))


def median_seconds(call: Callable[[], Any], num_calls: int) -> float:
    """Of a call, when it has warmed up."""
    seconds = []
    for _ in range(CALLS_OF_WARMING_UP + num_calls):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[CALLS_OF_WARMING_UP:])


def forward_pass(network: str, precision: str, batch_size: int) -> Callable[[], Any]:
    """The evaluation pass on one batch; its batch norm always goes by moving statistics."""
    from finetune.evaluation.scoring import inference_function

    model = make_model(network, precision)
    infer = inference_function(model)
    images = some_images(model, batch_size)
    return lambda: infer(images).numpy()


def training_step(network: str, precision: str, batch_size: int, batch_norm: str) -> Callable[[], Any]:
    """The step of finetune-train with everything trained, by slim's RMSProp, again and again on one batch."""
    step, batch = step_and_batch(network, precision, batch_size, batch_norm)
    return lambda: step(batch, 0, 0.0001).numpy()


def step_and_batch(network: str, precision: str, batch_size: int, batch_norm: str) -> tuple[Any, Any]:
    """The `TrainingStep` of everything, and what it is given."""
    import tensorflow as tf

    from finetune.model.model import variable_name
    from finetune.model.scopes import plan_variables
    from finetune.settings.stage import OptimizerSettings
    from finetune.training.losses import TrainingLoss
    from finetune.training.optimizers import Optimizer
    from finetune.training.step import TrainingStep

    model = make_model(network, precision)
    plan = plan_variables(model.network_variables(), checkpoint_shapes=None)
    model.freeze(plan, batch_norm)
    trained = [model.model_variables[variable.name] for variable in plan.trained]
    decayed = [variable for variable in trained if variable_name(variable) in model.decayed_names]
    step = TrainingStep(
        lambda images, seed: model(images, is_training=True, seed=seed),
        TrainingLoss(weight_decay=0.00004, decayed=decayed),
        Optimizer(OptimizerSettings(), trained, {}),
    )
    return step, (some_images(model, batch_size), tf.zeros([batch_size], tf.int64))


def make_model(network: str, precision: str) -> Any:
    """The network with random weights, computing in a precision."""
    import tensorflow as tf

    from finetune.model.model import Model
    from finetune.nets import get_spec

    model = Model(get_spec(network), NUM_CLASSES)
    model.compute_dtype = tf.as_dtype(precision)
    return model


def some_images(model: Any, batch_size: int) -> Any:
    """Noise, float32 [B,image_size,image_size,channels] of -1 to 1."""
    import tensorflow as tf

    shape = [batch_size, model.image_size, model.image_size, model.channels]
    return tf.random.stateless_uniform(shape, seed=[0, 0], minval=-1.0, maxval=1.0)


if __name__ == "__main__":
    main()
