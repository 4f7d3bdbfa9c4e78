"""finetune-train that notes what each update was given: a line of JSON, the update's number, and those of the images.

python scripts/benchmarks/noted_training.py FILE [FLAGS of finetune-train]
"""

import argparse
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from measuring import HelpFormatter

from finetune.commands import train
from finetune.commands.command import leave


def main() -> None:
    """Trains, or goes on with it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument("seen", type=Path, metavar="FILE", help="gets a line for each update")
    arguments, words = parser.parse_known_args()
    from finetune.training.seen_records import SeenRecords

    def noting(watched: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
        def noted(seen: SeenRecords, batches: Callable[[int], Iterator[Any]], first_step: int) -> Iterator[Any]:
            def noted_batches(start: int) -> Iterator[Any]:
                for step, batch in enumerate(batches(start), start=start):
                    with arguments.seen.open("a", encoding="utf-8") as file:
                        file.write(json.dumps([step, batch[-1][:, 0].tolist()]) + "\n")
                    yield batch

            return watched(seen, noted_batches, first_step)

        return noted

    setattr(SeenRecords, "watched", noting(SeenRecords.watched))  # noqa: B010
    leave(train.main(words))


if __name__ == "__main__":
    main()
