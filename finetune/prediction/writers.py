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

# Of each guess, in CSV.
GUESS_COLUMNS = ("prediction", "prediction_name", "probability")
HEAT_MAP_COLUMN = "heatmap"


class Guess(NamedTuple):
    """A class that an image may be of, its softmax probability, 0 to 1, and the path of a picture of what spoke for it.

    There is a picture where it was asked for.
    """

    class_id: int
    name: str
    probability: float
    heatmap: str | None = None


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What a file shows.

    Attributes:
        filename: As it was given.
        guesses: The likeliest classes, likeliest first, the lower id where two are equal; none if it can't be read.
        error: Why it can't be read, or None.
        changes: What was left out or changed of the image, in words.
    """

    filename: str
    guesses: tuple[Guess, ...]
    error: str | None = None
    changes: tuple[str, ...] = ()


def write_csv(predictions: Iterable[Prediction], file: TextIO, top_k: int, is_explained: bool = False) -> None:
    """A row for each file: its name, id, name and probability of each guess, and the error where there is one.

    Where guesses are explained, the path of each one's picture as well.
    """
    columns = (*GUESS_COLUMNS, *((HEAT_MAP_COLUMN,) if is_explained else ()))
    suffixes = ["" if rank == 1 else f"_{rank}" for rank in range(1, top_k + 1)]
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["filename", *(column + suffix for suffix in suffixes for column in columns), "error"])
    for prediction in predictions:
        cells = [cell for guess in prediction.guesses for cell in _cells(guess)[: len(columns)]]
        blanks = [""] * (len(columns) * top_k - len(cells))
        writer.writerow(cells_of([prediction.filename, *cells, *blanks, prediction.error or ""]))


def write_json(predictions: Iterable[Prediction], file: TextIO, top_k: int, is_explained: bool = False) -> None:
    """A list with an object for each file: `filename`, and `guesses` (`class`, `name`, `probability`) or `error`.

    Where guesses are explained they have a `heatmap`, too.
    """
    del top_k, is_explained  # The guesses say how many they are, and what they have.
    separator = "[\n"
    for prediction in predictions:
        file.write(f"{separator} {json.dumps(_as_object(prediction))}")
        separator = ",\n"
    file.write("[]\n" if separator == "[\n" else "\n]\n")


def write_lines(predictions: Iterable[Prediction], file: TextIO, top_k: int, is_explained: bool = False) -> None:
    """A line for each file: its name and, behind tabs, class and probability of each guess, or the error.

    A name's own line breaks and tabs are written as escapes.
    """
    del top_k, is_explained
    for prediction in predictions:
        guesses = [f"{guess.name} {guess.probability:.4f}" for guess in prediction.guesses]
        error = [f"error: {prediction.error}"] if prediction.error else []
        file.write("\t".join([on_one_line(prediction.filename), *guesses, *error]) + "\n")


WRITERS: dict[str, Callable[[Iterable[Prediction], TextIO, int, bool], None]] = {
    "csv": write_csv,
    "json": write_json,
    "lines": write_lines,
}


def _cells(guess: Guess) -> tuple[int, str, str, str]:
    return guess.class_id, guess.name, f"{guess.probability:.9g}", guess.heatmap or ""


def _as_object(prediction: Prediction) -> dict[str, object]:
    if prediction.error is not None:
        return {"filename": prediction.filename, "error": prediction.error}
    return {"filename": prediction.filename, "guesses": [_guess_as_object(guess) for guess in prediction.guesses]}


def _guess_as_object(guess: Guess) -> dict[str, object]:
    told = {"class": guess.class_id, "name": guess.name, "probability": guess.probability}
    return told if guess.heatmap is None else {**told, HEAT_MAP_COLUMN: guess.heatmap}
