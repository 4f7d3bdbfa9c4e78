"""Which labels are probably wrong, by probabilities of networks that hadn't seen the images.

In doubt are the images that the network takes for another class than their label. They are ranked by the probability of
the label, the lowest first: self-confidence, the score that cleanlab ranks by unless told otherwise (Kuan and Mueller,
"Model-agnostic label quality scoring to detect real-world label errors", 2022).

Of these the rule of confident learning tells those that are errors (Northcutt, Jiang and Chuang, arXiv:1911.00068,
section 3.1): an image is counted to the class that it most probably is of among those whose probability reaches the
class's threshold, the mean probability of the class over the images labelled so; an error is what is counted to another
class than its label, a cell off the diagonal of the confident joint. It estimates how many there are, and is strict: of
labels that were flipped on purpose it named seven in ten, while the first of the ranking held nearly all.
"""

import csv
import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from finetune.files.csv_cells import cells_of
from finetune.files.whole_files import whole_file
from finetune.types import Array

LABEL_ERRORS_FILE = "label_errors.csv"
NO_CLASS = -1


@dataclasses.dataclass(frozen=True)
class LabelErrors:
    """Images whose labels are in doubt, the most doubtful first; all arrays are [M].

    Attributes:
        positions: Of the images among all, int64.
        labels: As given, int64.
        suggestions: What they probably are, int64.
        label_probabilities: Of the label, float64, 0 to 1.
        suggestion_probabilities: Of the suggestion, float64, 0 to 1.
        are_errors: Whether confident learning counts them as errors, bool.
    """

    positions: Array
    labels: Array
    suggestions: Array
    label_probabilities: Array
    suggestion_probabilities: Array
    are_errors: Array

    @property
    def num_errors(self) -> int:
        """How many labels confident learning counts as errors."""
        return int(self.are_errors.sum())


def find_label_errors(probabilities: Array, labels: Array) -> LabelErrors:
    """Finds the labels that are in doubt, and among them those that are probably wrong.

    Args:
        probabilities: float64 [N,C], each row's sum is 1; of networks that weren't trained on the row's image.
        labels: int64 [N], as given.
    """
    predictions = probabilities.argmax(axis=1)
    found = np.flatnonzero(predictions != labels)
    of_labels = probabilities[found, labels[found]]
    order = np.argsort(of_labels, kind="stable")
    found, of_labels = found[order], of_labels[order]
    counted_to = _counted_to(probabilities[found], _thresholds(probabilities, labels))
    are_errors = (counted_to != NO_CLASS) & (counted_to != labels[found])
    suggestions = np.where(are_errors, counted_to, predictions[found])
    return LabelErrors(
        positions=found,
        labels=labels[found],
        suggestions=suggestions,
        label_probabilities=of_labels,
        suggestion_probabilities=probabilities[found, suggestions],
        are_errors=are_errors,
    )


def write_label_errors(folder: Path, errors: LabelErrors, filenames: Sequence[str], class_names: Sequence[str]) -> None:
    """Writes label_errors.csv: a line for each image in doubt, the most doubtful first.

    Args:
        folder: Where it goes.
        errors: What was found.
        filenames: Of all images.
        class_names: By class.
    """
    with whole_file(folder / LABEL_ERRORS_FILE, newline="") as file:
        writer = csv.writer(file)
        header = ["rank", "filename", "label", "suggestion", "label_name", "suggestion_name"]
        writer.writerow([*header, "label_probability", "suggestion_probability", "is_error"])
        for index, position in enumerate(errors.positions.tolist()):
            label, suggestion = int(errors.labels[index]), int(errors.suggestions[index])
            row = [index + 1, filenames[position], label, suggestion, class_names[label], class_names[suggestion]]
            row += [float(errors.label_probabilities[index]), float(errors.suggestion_probabilities[index])]
            writer.writerow(cells_of([*row, "yes" if errors.are_errors[index] else "no"]))


def _counted_to(probabilities: Array, thresholds: Array) -> Array:
    """The class that each image is counted to, int64 [N]; `NO_CLASS` where no probability reaches its threshold."""
    is_confident = probabilities >= thresholds
    return np.where(is_confident.any(axis=1), np.where(is_confident, probabilities, -1.0).argmax(axis=1), NO_CLASS)


def _thresholds(probabilities: Array, labels: Array) -> Array:
    """Of each class its mean probability over the images labelled so, float64 [C]; above 1 where there are none."""
    num_classes = probabilities.shape[1]
    totals = np.bincount(labels, weights=probabilities[np.arange(len(labels)), labels], minlength=num_classes)
    counts = np.bincount(labels, minlength=num_classes)
    return np.where(counts > 0, totals / np.maximum(counts, 1), np.inf)
