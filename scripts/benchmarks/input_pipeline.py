"""Training input alone, without a network: images a second, our program against Keras 3.

    python scripts/benchmarks/input_pipeline.py --images-dir PHOTOGRAPHS

On photographs of 500×400, enlarged from those given (JPEG, quality 90): decoded, cut at random, resized, flipped, in
batches of 32 at 224 pixels. Keras decodes and resizes in image_dataset_from_directory, to 256 pixels where RandomCrop
follows and to 224 where RandomZoom does, on single images or on batches; its fastest way counts. The limit is decoding
alone.
"""

import argparse
import functools
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from history import Figure, record
from measuring import (
    add_repeats,
    command,
    in_turn,
    make_parser,
    medians,
    number,
    parse,
    print_machine,
    print_table,
    run,
    script,
    temporary_folder,
    times,
)
from photographs import LARGE_SIZE, write_enlarged

from finetune.settings.choices import AUGMENTATIONS

IMAGE_SIZE = 224
# What Keras resizes to before a random crop.
SIZE_BEFORE_CROP = 256
BATCH_SIZE = 32
OURS = {f"finetune, {name}": f"finetune:{name}" for name in ("crop", "default") if name in AUGMENTATIONS}
PEERS = {
    f"Keras, Random{layer} on {unit}": f"keras:{layer}:{unit}"
    for layer in ("Crop", "Zoom")
    for unit in ("images", "batches")
}
LIMIT = {"decoding alone": "decode"}


def main() -> None:
    """Measures, and prints the table; or, as a process of its own, measures one contender."""
    arguments = parse_arguments()
    if arguments.child:
        print(json.dumps(measure_here(arguments.child, arguments.images_dir, arguments.passes)))
        return
    print_machine()
    with temporary_folder(arguments.work_dir) as folder:
        photographs, records = folder / "photographs", folder / "records"
        write_enlarged(arguments.images_dir, photographs, arguments.num_images)
        run(
            command("finetune-convert", "--images-dir", photographs, "--dataset-dir", records, "--validation-size", "0")
        )
        rates = medians(
            in_turn(
                {
                    name: functools.partial(measure_in_child, child, folder, arguments.passes)
                    for name, child in {**OURS, **PEERS, **LIMIT}.items()
                },
                arguments.repeats,
            )
        )
    print_rates(rates, arguments.num_images)
    record(arguments, [Figure(name, rate, "images/s") for name, rate in rates.items()])


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = make_parser(__doc__)
    add_repeats(parser)
    parser.add_argument("--num-images", type=int, default=1000, help="photographs")
    parser.add_argument(
        "--passes", type=int, default=3, help="over all photographs in each repeat, after one to warm up"
    )
    parser.add_argument("--child", choices=[*OURS.values(), *PEERS.values(), *LIMIT.values()], help=argparse.SUPPRESS)
    return parse(parser)


def measure_in_child(child: str, folder: Path, passes: int) -> float:
    """The rate that a process of its own measures."""
    words = ["--images-dir", str(folder), "--passes", str(passes), "--child", child]
    return float(run(script("input_pipeline.py", *words)).result)


def measure_here(child: str, folder: Path, passes: int) -> float:
    """Images a second of one contender, median over passes."""
    kind, *details = child.split(":")
    make: dict[str, Callable[..., tuple[Any, int]]] = {
        "finetune": finetune_batches,
        "keras": keras_batches,
        "decode": decoded_batches,
    }
    batches, num_batches = make[kind](folder, *details)
    iterator = iter(batches)
    rates = []
    for _ in range(passes + 1):
        start = time.perf_counter()
        num_images = sum(int(next(iterator)[0].shape[0]) for _ in range(num_batches))
        rates.append(num_images / (time.perf_counter() - start))
    return statistics.median(rates[1:])


def finetune_batches(folder: Path, augmentation: str) -> tuple[Any, int]:
    """Our training batches, endless, and the number of them in a pass."""
    from finetune.commands.tensorflow_start import start_tensorflow

    start_tensorflow()
    from finetune.datasets.dataset_search import find_dataset
    from finetune.datasets.decoding import ReadOptions
    from finetune.datasets.pipeline import training_batches
    from finetune.preprocessing import get_preprocessing
    from finetune.settings.augmentation import AugmentationSettings

    dataset = find_dataset(folder / "records", None, "train")
    options = ReadOptions(
        get_preprocessing("inception", AugmentationSettings(augmentation=augmentation)),
        image_size=IMAGE_SIZE,
        channels=3,
    )
    batches = training_batches(dataset, options, batch_size=BATCH_SIZE, seed=0)
    return batches, -(-dataset.num_examples // BATCH_SIZE)


def keras_batches(folder: Path, layer: str, unit: str) -> tuple[Any, int]:
    """Keras's batches, repeated, and the number of them in a pass."""
    import keras
    from tensorflow import data as tf_data

    size = SIZE_BEFORE_CROP if layer == "Crop" else IMAGE_SIZE
    images = keras.utils.image_dataset_from_directory(
        folder / "photographs",
        image_size=(size, size),
        batch_size=BATCH_SIZE if unit == "batches" else None,
        seed=0,
        verbose=False,
    )
    cut = keras.layers.RandomCrop(IMAGE_SIZE, IMAGE_SIZE) if layer == "Crop" else keras.layers.RandomZoom((-0.5, 0.0))
    flip = keras.layers.RandomFlip("horizontal")

    def augment(pixels: Any, labels: Any) -> tuple[Any, Any]:
        return flip(cut(pixels, training=True), training=True), labels

    batches = images.map(augment, num_parallel_calls=tf_data.AUTOTUNE)
    if unit == "images":
        batches = batches.batch(BATCH_SIZE)
    return batches.repeat().prefetch(tf_data.AUTOTUNE), int(batches.cardinality())


def decoded_batches(folder: Path) -> tuple[Any, int]:
    """Heights of all photographs, decoded at full size by all cores from bytes in memory, with nothing else done."""
    import tensorflow as tf

    def height(content: Any) -> tuple[Any]:
        return (tf.shape(tf.io.decode_jpeg(content, channels=3))[0],)

    encoded = [path.read_bytes() for path in sorted((folder / "photographs").glob("*/*.jpg"))]
    batches = (
        tf.data.Dataset.from_tensor_slices(encoded).map(height, num_parallel_calls=tf.data.AUTOTUNE).batch(BATCH_SIZE)
    )
    return batches.repeat().prefetch(tf.data.AUTOTUNE), int(batches.cardinality())


def print_rates(rates: dict[str, float], num_images: int) -> None:
    """Each of ours against the fastest peer."""
    fastest = max(rates[name] for name in PEERS)
    rows = [[name, number(rate), times(rate, fastest)] for name, rate in rates.items()]
    width, height = LARGE_SIZE
    print_table(
        f"Training input alone, {num_images} photographs of {width}×{height}, batches of {BATCH_SIZE} at {IMAGE_SIZE}",
        ["input", "images/s", "fastest Keras = 1"],
        rows,
        "default: finetune's inception preprocessing, which changes colours as well.",
    )


if __name__ == "__main__":
    main()
