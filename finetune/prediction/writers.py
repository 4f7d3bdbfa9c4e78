"""What image files show, and that as text: CSV for tables, JSON for programs, lines for people. No TensorFlow.

Predictions are written one by one as they come, so that a million of them need no more memory than one.
"""

import csv
import dataclasses
import json
from collections.abc import Callable, Iterable
from typing import NamedTuple, TextIO

from finetune.evaluation.similar_images import Neighbour
from finetune.files.csv_cells import cells_of
from finetune.notices import on_one_line
from finetune.types import Array

DONT_KNOW = "don't know"

# Of each guess, in CSV.
GUESS_COLUMNS = ("prediction", "prediction_name", "probability")
HEAT_MAP_COLUMN = "heatmap"


class Guess(NamedTuple):
    """A class that an image may be of, its probability, 0 to 1, of the softmax or of its own sigmoid, and a picture.

    Where it was asked for: the path of one of what spoke for the class.
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


@dataclasses.dataclass(frozen=True)
class Asked:
    """What predictions hold.

    Attributes:
        top_k: Up to so many guesses.
        may_reject: Whether some may be rejected.
        num_nearest: Up to so many similar images.
        is_explained: Whether guesses have pictures of what spoke for them.
    """

    top_k: int = 1
    may_reject: bool = False
    num_nearest: int = 0
    is_explained: bool = False


def write_csv(predictions: Iterable[Prediction], file: TextIO, asked: Asked) -> None:
    """A row for each file: its name, id, name and probability of each guess, and the error where there is one.

    Where guesses are explained, the path of each one's picture as well. Where files may be rejected, `rejected` says
    which are: `yes` or `no`. Of these the ids and names are empty. Behind all that come similar images: name, class and
    similarity of each.
    """
    columns = (*GUESS_COLUMNS, *((HEAT_MAP_COLUMN,) if asked.is_explained else ()))
    suffixes = ["" if rank == 1 else f"_{rank}" for rank in range(1, asked.top_k + 1)]
    writer = csv.writer(file, lineterminator="\n")
    of_guesses = [column + suffix for suffix in suffixes for column in columns]
    rejected_column = ["rejected"] if asked.may_reject else []
    ranks = range(1, asked.num_nearest + 1)
    nearest = [f"nearest_{what}{rank}" for rank in ranks for what in ("", "label_", "similarity_")]
    writer.writerow(["filename", *of_guesses, *rejected_column, "error", *nearest])
    for prediction in predictions:
        cells = [
            cell
            for guess in prediction.guesses
            for cell in _cells(guess, is_rejected=prediction.is_rejected)[: len(columns)]
        ]
        blanks = [""] * (len(of_guesses) - len(cells))
        rejected = [_rejected_cell(prediction)] if asked.may_reject else []
        near = [cell for found in prediction.neighbours for cell in (*found[:2], f"{found.similarity:.6f}")]
        near += [""] * (len(nearest) - len(near))
        writer.writerow(cells_of([prediction.filename, *cells, *blanks, *rejected, prediction.error or "", *near]))


def write_json(predictions: Iterable[Prediction], file: TextIO, asked: Asked) -> None:
    """A list with an object for each file: `filename`, and `guesses` (`class`, `name`, `probability`) or `error`.

    Where guesses are explained they have a `heatmap`, too. Where files may be rejected, `rejected` says which are: true
    or false. The guesses of these are called `candidates`. Where similar images were asked for `nearest`, too: of each
    `filename`, `label` and `similarity`.
    """
    separator = "[\n"
    for prediction in predictions:
        file.write(f"{separator} {json.dumps(_as_object(prediction, may_reject=asked.may_reject))}")
        separator = ",\n"
    file.write("[]\n" if separator == "[\n" else "\n]\n")


def write_lines(predictions: Iterable[Prediction], file: TextIO, asked: Asked) -> None:
    """A line for each file: its name and, behind tabs, class and probability of each guess, or the error.

    A name's own line breaks and tabs are written as escapes. Before the guesses of a rejected file stands `don't know`.
    Behind them each similar image: "like", similarity, class and name.
    """
    del asked  # The predictions have what is told.
    for prediction in predictions:
        guesses = [f"{guess.name} {guess.probability:.4f}" for guess in prediction.guesses]
        rejected = [DONT_KNOW] if prediction.is_rejected else []
        error = [f"error: {prediction.error}"] if prediction.error else []
        near = [
            f"like {each.similarity:.4f} {each.label} {on_one_line(each.filename)}" for each in prediction.neighbours
        ]
        cells = [on_one_line(prediction.filename), *rejected, *guesses, *error, *map(on_one_line, near)]
        file.write("\t".join(cells) + "\n")


WRITERS: dict[str, Callable[[Iterable[Prediction], TextIO, Asked], None]] = {
    "csv": write_csv,
    "json": write_json,
    "lines": write_lines,
}


def _cells(guess: Guess, *, is_rejected: bool) -> tuple[int | str, str, str, str]:
    probability, heatmap = f"{guess.probability:.9g}", guess.heatmap or ""
    return ("", "", probability, heatmap) if is_rejected else (guess.class_id, guess.name, probability, heatmap)


def _rejected_cell(prediction: Prediction) -> str:
    if prediction.error is not None:
        return ""
    return "yes" if prediction.is_rejected else "no"


def _as_object(prediction: Prediction, *, may_reject: bool) -> dict[str, object]:
    if prediction.error is not None:
        return {"filename": prediction.filename, "error": prediction.error}
    guesses = [_guess_as_object(guess) for guess in prediction.guesses]
    nearest = [
        {"filename": found.filename, "label": found.label, "similarity": round(found.similarity, 6)}
        for found in prediction.neighbours
    ]
    similar = {"nearest": nearest} if nearest else {}
    if not may_reject:
        return {"filename": prediction.filename, "guesses": guesses, **similar}
    key = "candidates" if prediction.is_rejected else "guesses"
    return {"filename": prediction.filename, "rejected": prediction.is_rejected, key: guesses, **similar}


def _guess_as_object(guess: Guess) -> dict[str, object]:
    told = {"class": guess.class_id, "name": guess.name, "probability": guess.probability}
    return told if guess.heatmap is None else {**told, HEAT_MAP_COLUMN: guess.heatmap}
