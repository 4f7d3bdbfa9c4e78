"""finetune-convert on photographs of the size of those given: images a second, memory, and slim's way beside it.

    python scripts/benchmarks/convert.py --images-dir PHOTOGRAPHS

The photographs are copies, each shifted by another number of pixels and encoded anew (JPEG, quality 90). slim's way is
what its converters do, a loop of ours: each image decoded by TensorFlow to know that it is whole, put into a
tf.train.Example, and written, in one process with two threads.
"""

import argparse
import dataclasses
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from history import Figure, record
from measuring import (
    add_repeats,
    command,
    in_turn,
    make_parser,
    median_run,
    number,
    parse,
    print_machine,
    print_table,
    script,
    temporary_folder,
    times,
)
from memory import MIB, Watched, run_watched
from photographs import link_first_copies, write_shifted_copies

# How many times as many images are converted to see whether memory grows with them.
FACTOR = 4
SLIM_THREADS = 2


def main() -> None:
    """Measures, and prints the table; or, as a process of its own, converts in slim's way."""
    arguments = parse_arguments()
    if arguments.slim_output is not None:
        convert_as_slim(arguments.images_dir, arguments.slim_output)
        return
    print_machine()
    rows, figures = [], []
    with temporary_folder(arguments.work_dir) as folder:
        many, few = folder / "many", folder / "few"
        num_many = write_shifted_copies(arguments.images_dir, many, FACTOR * arguments.copies)
        num_few = link_first_copies(many, few, arguments.copies)
        for images_dir, num_images in ((few, num_few), (many, num_many)):
            measured = measure(images_dir, num_images, arguments, folder / "records")
            own_seconds = measured["finetune-convert"].seconds
            for name, run in measured.items():
                rate = num_images / run.seconds
                rows.append(
                    [
                        name,
                        f"{num_images:,}",
                        number(run.seconds),
                        number(rate),
                        number(run.peak_bytes / MIB),
                        times(run.seconds, own_seconds),
                    ]
                )
                figures.append(Figure(f"{name}, {num_images:,} images", rate, "images/s"))
    print_table(
        f"Photographs to records, {arguments.workers} workers",
        ["program", "images", "seconds", "images/s", "MiB", "finetune is"],
        rows,
        "Seconds and memory are of the whole command, with all its processes.",
    )
    record(arguments, figures)


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = make_parser(__doc__)
    add_repeats(parser)
    parser.add_argument("--copies", type=int, default=20, help=f"of each photograph; then {FACTOR} times as many")
    parser.add_argument("--workers", type=int, default=2, help="processes of finetune-convert")
    parser.add_argument("--slim-output", type=Path, help=argparse.SUPPRESS)
    return parse(parser)


def measure(images_dir: Path, num_images: int, arguments: argparse.Namespace, records: Path) -> dict[str, Watched]:
    """The run of median length in each of the two ways, with the most memory that any of its runs had."""

    def finetune() -> Watched:
        shutil.rmtree(records, ignore_errors=True)
        words = ["--images-dir", images_dir, "--dataset-dir", records, "--workers", str(arguments.workers)]
        return run_watched(command("finetune-convert", *words))

    def slim() -> Watched:
        shutil.rmtree(records, ignore_errors=True)
        records.mkdir()
        return run_watched(script("convert.py", "--images-dir", images_dir, "--slim-output", records))

    results = in_turn({"finetune-convert": finetune, "slim's way": slim}, arguments.repeats)
    return {
        name: dataclasses.replace(median_run(runs), peak_bytes=max(run.peak_bytes for run in runs))
        for name, runs in results.items()
    }


def convert_as_slim(images_dir: Path, output_dir: Path) -> None:
    """Writes a file of records in each thread."""
    classes = sorted(folder.name for folder in images_dir.iterdir())
    files = sorted(images_dir.glob("*/*.jpg"))
    with ThreadPoolExecutor(SLIM_THREADS) as executor:
        shards = [
            executor.submit(write_as_slim, files[thread::SLIM_THREADS], classes, output_dir / f"slim_{thread}.tfrecord")
            for thread in range(SLIM_THREADS)
        ]
        for shard in shards:
            shard.result()


def write_as_slim(files: list[Path], classes: list[str], path: Path) -> None:
    """Decodes each file, and writes its bytes, size and label."""
    import tensorflow as tf

    def integer(value: int) -> tf.train.Feature:
        return tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))

    def content(value: bytes) -> tf.train.Feature:
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))

    with tf.io.TFRecordWriter(str(path)) as writer:
        for file in files:
            encoded = file.read_bytes()
            height, width, _ = tf.io.decode_jpeg(encoded, channels=3).shape
            features = {
                "image/encoded": content(encoded),
                "image/format": content(b"jpg"),
                "image/class/label": integer(classes.index(file.parent.name)),
                "image/height": integer(height),
                "image/width": integer(width),
            }
            writer.write(tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString())


if __name__ == "__main__":
    main()
