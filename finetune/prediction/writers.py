"""What image files show, and that as text: CSV for tables, JSON for programs, lines for people. No TensorFlow.

Predictions are written one by one as they come, so that a million of them need no more memory than one.
"""

import csv
import dataclasses
import json
from collections.abc import Callable, Iterable
from typing import NamedTuple, TextIO

from finetune.files.csv_cells import cells_of
from finetune.notices import on_one_line


class Guess(NamedTuple):
    """A class that an image may be of, with its probability, 0 to 1, of the softmax or its own sigmoid."""

    class_id: int
    name: str
    probability: float


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What a file shows.

    Attributes:
        filename: As it was given.
        guesses: The likeliest classes, likeliest first, the lower id where two are equal; none if it can't be read.
            Where an image has any number of labels, those that reach their thresholds.
        error: Why it can't be read, or None.
        changes: What was left out or changed of the image, in words.
        all_classes: Where an image has any number of labels, all of them in the order of the outputs; else empty.
    """

    filename: str
    guesses: tuple[Guess, ...]
    error: str | None = None
    changes: tuple[str, ...] = ()
    all_classes: tuple[Guess, ...] = ()


def write_csv(predictions: Iterable[Prediction], file: TextIO, top_k: int) -> None:
    """A row for each file: its name, id, name and probability of each guess, and the error where there is one."""
    columns = ("prediction", "prediction_name", "probability")
    suffixes = ["" if rank == 1 else f"_{rank}" for rank in range(1, top_k + 1)]
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["filename", *(column + suffix for suffix in suffixes for column in columns), "error"])
    for prediction in predictions:
        cells = [cell for guess in prediction.guesses for cell in _cells(guess)]
        blanks = [""] * (len(columns) * top_k - len(cells))
        writer.writerow(cells_of([prediction.filename, *cells, *blanks, prediction.error or ""]))


def write_json(predictions: Iterable[Prediction], file: TextIO, top_k: int) -> None:
    """A list with an object for each file: `filename`, and `guesses` (`class`, `name`, `probability`) or `error`."""
    del top_k  # The guesses say how many they are.
    separator = "[\n"
    for prediction in predictions:
        file.write(f"{separator} {json.dumps(_as_object(prediction))}")
        separator = ",\n"
    file.write("[]\n" if separator == "[\n" else "\n]\n")


def write_lines(predictions: Iterable[Prediction], file: TextIO, top_k: int) -> None:
    """A line for each file: its name and, behind tabs, class and probability of each guess, or the error.

    A name's own line breaks and tabs are written as escapes.
    """
    del top_k
    for prediction in predictions:
        guesses = [f"{guess.name} {guess.probability:.4f}" for guess in prediction.guesses]
        error = [f"error: {prediction.error}"] if prediction.error else []
        file.write("\t".join([on_one_line(prediction.filename), *guesses, *error]) + "\n")


WRITERS: dict[str, Callable[[Iterable[Prediction], TextIO, int], None]] = {
    "csv": write_csv,
    "json": write_json,
    "lines": write_lines,
}


def _cells(guess: Guess) -> tuple[int, str, str]:
    return guess.class_id, guess.name, f"{guess.probability:.9g}"


def _as_object(prediction: Prediction) -> dict[str, object]:
    if prediction.error is not None:
        return {"filename": prediction.filename, "error": prediction.error}
    guesses = [
        {"class": guess.class_id, "name": guess.name, "probability": guess.probability} for guess in prediction.guesses
    ]
    return {"filename": prediction.filename, "guesses": guesses}
