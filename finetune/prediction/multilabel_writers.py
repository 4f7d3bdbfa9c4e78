"""The classes of image files that may have any number of them, as CSV, JSON and lines. No TensorFlow."""

import csv
import json
from collections.abc import Callable, Iterable, Sequence
from typing import TextIO

from finetune.files.csv_cells import cells_of
from finetune.prediction.writers import Asked, Prediction, write_lines

BETWEEN_NAMES = "; "


def write_label_csv(predictions: Iterable[Prediction], file: TextIO, class_names: Sequence[str]) -> None:
    """A row for each file: its classes, likeliest first, the probability of every class, and the error if there is one.

    Classes are numbers with blanks between, and once more names with semicolons.
    """
    writer = csv.writer(file, lineterminator="\n")
    columns = [f"probability_{label}" for label in range(len(class_names))]
    writer.writerow(["filename", "predictions", "prediction_names", *columns, "error"])
    for prediction in predictions:
        numbers = " ".join(str(guess.class_id) for guess in prediction.guesses)
        names = BETWEEN_NAMES.join(guess.name for guess in prediction.guesses)
        cells = [f"{guess.probability:.9g}" for guess in prediction.all_classes] or [""] * len(columns)
        writer.writerow(cells_of([prediction.filename, numbers, names, *cells, prediction.error or ""]))


def write_label_json(predictions: Iterable[Prediction], file: TextIO, class_names: Sequence[str]) -> None:
    """A list with an object for each file: `filename`, and `guesses` and `probabilities`, by class, or `error`."""
    del class_names
    separator = "[\n"
    for prediction in predictions:
        file.write(f"{separator} {json.dumps(_as_object(prediction))}")
        separator = ",\n"
    file.write("[]\n" if separator == "[\n" else "\n]\n")


def write_label_lines(predictions: Iterable[Prediction], file: TextIO, class_names: Sequence[str]) -> None:
    """A line for each file: its name and, behind tabs, its classes with their probabilities, or the error."""
    del class_names
    write_lines(predictions, file, Asked())


LABEL_WRITERS: dict[str, Callable[[Iterable[Prediction], TextIO, Sequence[str]], None]] = {
    "csv": write_label_csv,
    "json": write_label_json,
    "lines": write_label_lines,
}


def _as_object(prediction: Prediction) -> dict[str, object]:
    if prediction.error is not None:
        return {"filename": prediction.filename, "error": prediction.error}
    guesses = [
        {"class": guess.class_id, "name": guess.name, "probability": guess.probability} for guess in prediction.guesses
    ]
    probabilities = [guess.probability for guess in prediction.all_classes]
    return {"filename": prediction.filename, "guesses": guesses, "probabilities": probabilities}
