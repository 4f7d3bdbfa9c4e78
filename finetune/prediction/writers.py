"""What image files show, and that as text: CSV for tables, JSON for programs, lines for people. No TensorFlow.

Predictions are written one by one as they come, so that a million of them need no more memory than one.
"""

import csv
import dataclasses
import json
from collections.abc import Iterable
from typing import NamedTuple, Protocol, TextIO

from finetune.evaluation.similar_images import Neighbour
from finetune.files.csv_cells import cells_of
from finetune.notices import on_one_line
from finetune.types import Array

DONT_KNOW = "don't know"


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
            With a threshold the class that it decides for comes before them. Where an image has any number of labels,
            those that reach their thresholds.
        error: Why it can't be read, or None.
        changes: What was left out or changed of the image, in words.
        is_rejected: Whether the guesses are too unsure to be an answer.
        features: What the classification layer was given, float32 [D]; None: they weren't asked for.
        neighbours: The most similar images, most similar first, where these were asked for.
        all_classes: Where an image has any number of labels, all of them in the order of the outputs; else empty.
    """

    filename: str
    guesses: tuple[Guess, ...]
    error: str | None = None
    changes: tuple[str, ...] = ()
    is_rejected: bool = False
    features: Array | None = dataclasses.field(default=None, compare=False)
    neighbours: tuple[Neighbour, ...] = ()
    all_classes: tuple[Guess, ...] = ()


def write_csv(
    predictions: Iterable[Prediction], file: TextIO, top_k: int, *, may_reject: bool = False, num_nearest: int = 0
) -> None:
    """A row for each file: its name, id, name and probability of each guess, and the error where there is one.

    Where files may be rejected, `rejected` says which are: `yes` or `no`. Of these the ids and names are empty. Behind
    all that name, class and similarity of so many similar images.
    """
    columns = ("prediction", "prediction_name", "probability")
    suffixes = ["" if rank == 1 else f"_{rank}" for rank in range(1, top_k + 1)]
    writer = csv.writer(file, lineterminator="\n")
    rejected_column = ["rejected"] if may_reject else []
    nearest = [f"nearest_{what}{rank}" for rank in range(1, num_nearest + 1) for what in ("", "label_", "similarity_")]
    of_guesses = [column + suffix for suffix in suffixes for column in columns]
    writer.writerow(["filename", *of_guesses, *rejected_column, "error", *nearest])
    for prediction in predictions:
        cells = [cell for guess in prediction.guesses for cell in _cells(guess, is_rejected=prediction.is_rejected)]
        blanks = [""] * (len(columns) * top_k - len(cells))
        rejected = [_rejected_cell(prediction)] if may_reject else []
        near = [cell for found in prediction.neighbours for cell in (*found[:2], f"{found.similarity:.6f}")]
        near += [""] * (len(nearest) - len(near))
        writer.writerow(cells_of([prediction.filename, *cells, *blanks, *rejected, prediction.error or "", *near]))


def write_json(
    predictions: Iterable[Prediction], file: TextIO, top_k: int, *, may_reject: bool = False, num_nearest: int = 0
) -> None:
    """A list with an object for each file: `filename`, and `guesses` (`class`, `name`, `probability`) or `error`.

    Where files may be rejected, `rejected` says which are: true or false. The guesses of these are called `candidates`.
    Where similar images were asked for `nearest`, too: of each `filename`, `label` and `similarity`.
    """
    del top_k, num_nearest  # The predictions say how many they are.
    separator = "[\n"
    for prediction in predictions:
        file.write(f"{separator} {json.dumps(_as_object(prediction, may_reject=may_reject))}")
        separator = ",\n"
    file.write("[]\n" if separator == "[\n" else "\n]\n")


def write_lines(
    predictions: Iterable[Prediction], file: TextIO, top_k: int, *, may_reject: bool = False, num_nearest: int = 0
) -> None:
    """A line for each file: its name and, behind tabs, class and probability of each guess, or the error.

    A name's own line breaks and tabs are written as escapes. Before the guesses of a rejected file stands `don't know`.
    Behind them each similar image: "like", similarity, class and name.
    """
    del top_k, may_reject, num_nearest
    for prediction in predictions:
        guesses = [f"{guess.name} {guess.probability:.4f}" for guess in prediction.guesses]
        rejected = [DONT_KNOW] if prediction.is_rejected else []
        error = [f"error: {prediction.error}"] if prediction.error else []
        near = [
            f"like {each.similarity:.4f} {each.label} {on_one_line(each.filename)}" for each in prediction.neighbours
        ]
        cells = [on_one_line(prediction.filename), *rejected, *guesses, *error, *map(on_one_line, near)]
        file.write("\t".join(cells) + "\n")


class Writer(Protocol):
    """Writes predictions with up to `top_k` guesses, some of which may be rejected, and so many similar images."""

    def __call__(
        self,
        predictions: Iterable[Prediction],
        file: TextIO,
        top_k: int,
        *,
        may_reject: bool = False,
        num_nearest: int = 0,
    ) -> None: ...


WRITERS: dict[str, Writer] = {
    "csv": write_csv,
    "json": write_json,
    "lines": write_lines,
}


def _cells(guess: Guess, *, is_rejected: bool) -> tuple[int | str, str, str]:
    probability = f"{guess.probability:.9g}"
    return ("", "", probability) if is_rejected else (guess.class_id, guess.name, probability)


def _rejected_cell(prediction: Prediction) -> str:
    if prediction.error is not None:
        return ""
    return "yes" if prediction.is_rejected else "no"


def _as_object(prediction: Prediction, *, may_reject: bool) -> dict[str, object]:
    if prediction.error is not None:
        return {"filename": prediction.filename, "error": prediction.error}
    guesses = [
        {"class": guess.class_id, "name": guess.name, "probability": guess.probability} for guess in prediction.guesses
    ]
    nearest = [
        {"filename": found.filename, "label": found.label, "similarity": round(found.similarity, 6)}
        for found in prediction.neighbours
    ]
    similar = {"nearest": nearest} if nearest else {}
    if not may_reject:
        return {"filename": prediction.filename, "guesses": guesses, **similar}
    key = "candidates" if prediction.is_rejected else "guesses"
    return {"filename": prediction.filename, "rejected": prediction.is_rejected, key: guesses, **similar}
