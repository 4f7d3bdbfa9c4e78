"""What --recompute-activations saves in memory, and what it costs in time.

    python scripts/benchmarks/recomputation.py mobilenet_v2 --batch-size 32

Steps that train all of a network, from random weights, batch norm by the batch's statistics, on one batch that is there
already. Memory is the most that a process had which made two steps of one kind. Time is of another process, which makes
a step of each kind in turn, so that a slow minute of the machine hits both: the median of each.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

from measuring import HelpFormatter, number, print_machine, print_table, run, script, times
from memory import MIB, run_watched

NUM_CLASSES = 12
KINDS = ("without", "with")


def main() -> None:
    """Measures, and prints the table; in a process of its own, makes steps."""
    arguments = parse_arguments()
    if arguments.kind is None:
        compare(arguments)
    else:
        kinds = KINDS if arguments.kind == "both" else (arguments.kind,)
        print(json.dumps(seconds_in_turn(arguments, kinds)))


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument("network", help="its name")
    parser.add_argument("--batch-size", type=int, default=32, help="images in a step")
    parser.add_argument("--image-size", type=int, help="in pixels; not given: the network's own")
    parser.add_argument("--steps", type=int, default=10, help="of each kind that are timed")
    parser.add_argument(
        "--kind", choices=(*KINDS, "both"), help="only make steps of this kind, and print their medians"
    )
    return parser.parse_args()


def compare(arguments: argparse.Namespace) -> None:
    """The table."""
    print_machine()
    words = [arguments.network, "--batch-size", str(arguments.batch_size), "--steps"]
    size = [] if arguments.image_size is None else ["--image-size", str(arguments.image_size)]
    peaks = [run_watched(script("recomputation.py", *words, "1", *size, "--kind", kind)).peak_bytes for kind in KINDS]
    seconds = run(script("recomputation.py", *words, str(arguments.steps), *size, "--kind", "both")).result
    print_table(
        f"All of {arguments.network} trained, {arguments.batch_size} images a step",
        ["--recompute-activations", "most memory, MiB", "seconds a step"],
        [[kind, number(peak / MIB), number(seconds[kind])] for kind, peak in zip(KINDS, peaks, strict=True)],
        f"With it {1 - peaks[1] / peaks[0]:.0%} less memory, and steps of {times(seconds['with'], seconds['without'])} "
        "the time.",
    )


def seconds_in_turn(arguments: argparse.Namespace, kinds: tuple[str, ...]) -> dict[str, float]:
    """Median seconds of a step of each kind, but for the first, which builds the graph."""
    from finetune.commands.tensorflow_start import start_tensorflow

    start_tensorflow()
    steps = {kind: make_step(arguments, recompute_activations=kind == "with") for kind in kinds}
    seconds: dict[str, list[float]] = {kind: [] for kind in kinds}
    for count in range(arguments.steps + 1):
        for kind, step in steps.items():
            start = time.perf_counter()
            step(count)
            seconds[kind].append(time.perf_counter() - start)
    return {kind: statistics.median(found[1:]) for kind, found in seconds.items()}


def make_step(arguments: argparse.Namespace, *, recompute_activations: bool) -> Callable[[int], Any]:
    """The step of finetune-train with everything trained, by momentum; of the number of those before."""
    import tensorflow as tf

    from finetune.model.model import Model
    from finetune.nets import get_spec
    from finetune.settings.stage import OptimizerSettings
    from finetune.training.losses import TrainingLoss
    from finetune.training.optimizers import Optimizer
    from finetune.training.step import TrainingStep

    model = Model(get_spec(arguments.network), NUM_CLASSES, image_size=arguments.image_size)
    trained = [variable for variable in model.model_variables.values() if variable.trainable]
    step = TrainingStep(
        lambda images, seed: model(images, is_training=True, seed=seed),
        TrainingLoss(),
        Optimizer(OptimizerSettings("momentum"), trained, {}),
        recompute_activations=recompute_activations,
    )
    size = [arguments.batch_size, model.image_size, model.image_size, model.channels]
    batch = tf.random.stateless_uniform(size, [0, 0], -1.0, 1.0), tf.range(arguments.batch_size) % NUM_CLASSES
    return lambda count: step(batch, count, 0.0001).numpy()


if __name__ == "__main__":
    main()
