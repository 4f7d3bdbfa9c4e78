"""From the start of a training to its first step, and its memory, with ten thousand records and with ten million.

python scripts/benchmarks/many_records.py

The records are pictures of 8 pixels, written here, in files of 100,000: links to one file, so that ten million of them
take little room on the disk and lie in memory; what is measured is what has to be done for each record.
"""

import argparse
import os
import statistics
import subprocess
import time
from pathlib import Path

from history import Figure, record
from measuring import (
    HISTORY,
    HelpFormatter,
    add_repeats,
    command,
    number,
    parse,
    print_machine,
    print_table,
    say,
    temporary_folder,
)

RECORDS_OF_A_FILE = 100_000
NETWORK = ["--model", "lenet", "--image-size", "8", "--batch-size", "32", "--max-steps", "1", "--log-every", "1"]


def main() -> None:
    """The command."""
    arguments = parse_arguments()
    print_machine()
    rows, figures = [], []
    with temporary_folder(arguments.work_dir) as folder:
        say("writing records")
        for num_records in arguments.records:
            write_records(folder / str(num_records), num_records)
        found: dict[int, list[tuple[float, float]]] = {num_records: [] for num_records in arguments.records}
        for repeat in range(arguments.repeats):
            for num_records, runs in found.items():
                say(f"{num_records:,} records")
                runs.append(first_step(folder / str(num_records), folder / f"run_{num_records}_{repeat}"))
        for num_records, runs in found.items():
            seconds, mib = (statistics.median(of_runs) for of_runs in zip(*runs, strict=True))
            rows.append([f"{num_records:,}", number(seconds), f"{mib:,.0f}"])
            figures += [
                Figure(f"{num_records} records: first step", seconds, "seconds"),
                Figure(f"{num_records} records: memory", mib, "MiB"),
            ]
    print_table("The first step", ["records", "after seconds", "most memory, MiB"], rows)
    record(arguments, figures)


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument("--records", nargs="+", type=int, default=[10_000, 10_000_000], help="of a training")
    parser.add_argument("--work-dir", type=Path, help="where temporary files go, instead of the system's place")
    parser.add_argument("--history", type=Path, default=HISTORY, help="file that the figures are appended to")
    add_repeats(parser)
    return parse(parser)


def write_records(folder: Path, num_records: int) -> None:
    """A data set of so many small pictures of ten classes."""
    import io

    from PIL import Image

    from finetune.datasets.records import Record, encode_record
    from finetune.datasets.tfrecord import RecordWriter

    folder.mkdir()
    of_a_file = min(num_records, RECORDS_OF_A_FILE)
    num_files = num_records // of_a_file
    first = folder / f"many_train_00000-of-{num_files:05d}.tfrecord"
    with RecordWriter(first) as writer:
        for place in range(of_a_file):
            content = io.BytesIO()
            Image.new("L", (8, 8), place % 256).save(content, "PNG")
            writer.write(encode_record(Record(content.getvalue(), "png", place % 10, 8, 8, f"{place}.png")))
    for place in range(1, num_files):
        os.link(first, folder / f"many_train_{place:05d}-of-{num_files:05d}.tfrecord")
    (folder / "labels.txt").write_text("".join(f"{label}:class {label}\n" for label in range(10)), encoding="utf-8")


def first_step(data: Path, run: Path) -> tuple[float, float]:
    """Seconds from the start of the command to its first step, and the most memory that it took, MiB."""
    words = command("finetune-train", "--dataset-dir", data, "--train-dir", run, *NETWORK)
    start = time.monotonic()
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    seconds, lines = None, []
    for line in process.stderr:
        lines.append(line)
        if seconds is None and line.startswith("step 1"):
            seconds = time.monotonic() - start
    _, status, usage = os.wait4(process.pid, 0)
    if status or seconds is None:
        raise SystemExit("".join(lines))
    return seconds, usage.ru_maxrss / 1024


if __name__ == "__main__":
    main()
