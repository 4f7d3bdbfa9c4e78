"""What an evaluation of several labels an image came to, and its files for programs: metrics.json, predictions.csv."""

import csv
import dataclasses
from collections.abc import Iterable
from typing import Any

import numpy as np

from finetune.evaluation.evaluated import Evaluated
from finetune.evaluation.multilabel_metrics import Decisions, MultilabelScores, decide
from finetune.evaluation.result_files import METRICS_FILE, PREDICTIONS_FILE
from finetune.files.csv_cells import cells_of
from finetune.files.whole_files import whole_file, write_json
from finetune.types import Array

BETWEEN_NAMES = "; "


@dataclasses.dataclass(frozen=True, kw_only=True)
class MultilabelResult(Evaluated):
    """What an evaluation came to.

    Attributes:
        scores: One entry for each image, in the order of the records.
        thresholds: Probabilities from which on an image has a class, by class.
        thresholds_by: What chose them, in words.
    """

    scores: MultilabelScores
    thresholds: tuple[float, ...]
    thresholds_by: str

    @property
    def decisions(self) -> Decisions:
        """The classes of each image by the thresholds."""
        return decide(self.scores, self.thresholds)

    @property
    def without_average(self) -> list[str]:
        """Names of the classes that all images have, or none, of which there is no average precision."""
        averages = zip(self.class_names, self.scores.average_precisions, strict=True)
        return [name for name, average in averages if average is None]


def metrics(result: MultilabelResult) -> dict[str, Any]:
    """All figures by their names in metrics.json; shares lie in 0 to 1."""
    scores, decisions = result.scores, result.decisions
    classes = decisions.classes
    return {
        "task": result.network.task,
        "mean_average_precision": scores.mean_average_precision,
        "classes_without_average_precision": result.without_average,
        "micro_f1": decisions.micro_f1,
        "macro_f1": classes.macro("f1") if decisions.occur else 0.0,
        "exact_match": decisions.exact_match,
        "hamming_loss": decisions.hamming_loss,
        "loss": scores.loss,
        "num_examples": scores.num_examples,
        "num_without_labels": int((~scores.labels.any(axis=1)).sum()),
        "thresholds_by": result.thresholds_by,
        "caution": result.caution,
        **result.facts(),
        "classes": [
            {
                "label": label,
                "name": name,
                "average_precision": scores.average_precisions[label],
                "threshold": result.thresholds[label],
                "precision": float(classes.precision[label]),
                "recall": float(classes.recall[label]),
                "f1": float(classes.f1[label]),
                "support": int(classes.support[label]),
            }
            for label, name in enumerate(result.class_names)
        ],
    }


def write_label_metrics(result: MultilabelResult) -> None:
    """Writes metrics.json."""
    write_json(result.output_dir / METRICS_FILE, metrics(result))


def write_label_predictions(result: MultilabelResult) -> None:
    """Writes predictions.csv: a line for each image: its classes, those it was taken for, and all probabilities.

    Classes are numbers with blanks between, and once more names with semicolons; probabilities have all their digits.
    """
    scores, predictions = result.scores, result.decisions.predictions
    header = ["filename", "labels", "predictions", "label_names", "prediction_names"]
    with whole_file(result.output_dir / PREDICTIONS_FILE, newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*header, *(f"probability_{label}" for label in range(scores.num_classes))])
        for index, filename in enumerate(scores.filenames):
            of_image = [np.flatnonzero(classes[index]) for classes in (scores.labels, predictions)]
            row = [filename, *map(_numbers, of_image), *(_names(result, each) for each in of_image)]
            writer.writerow(cells_of([*row, *scores.probabilities[index].tolist()]))


def _numbers(classes: Array) -> str:
    return " ".join(map(str, classes.tolist()))


def _names(result: MultilabelResult, classes: Iterable[int]) -> str:
    return BETWEEN_NAMES.join(result.class_names[label] for label in classes)
