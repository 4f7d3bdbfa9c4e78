"""Which labels are probably wrong, by probabilities of networks that hadn't seen the images: confident learning.

The rule is that of Northcutt, Jiang and Chuang, "Confident Learning: Estimating Uncertainty in Dataset Labels"
(arXiv:1911.00068, section 3.1): an image is counted to the class that it most probably is of among those whose
probability reaches the class's threshold, the mean probability of the class over the images labelled so. Those counted
to another class than their label are in doubt: the cells off the diagonal of the confident joint, the paper's method
"C_confusion with the confident joint". Where the network's first choice is the label all the same, which thresholds of
rare classes make possible, there is no doubt to look into; the authors' package cleanlab leaves them out, too.

The order is that of the margin that the paper ranks by (section 3.2), as cleanlab scales it to 0 to 1.
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


@dataclasses.dataclass(frozen=True)
class LabelErrors:
    """Images whose labels are in doubt, the most doubtful first; all arrays are [M].

    Attributes:
        positions: Of the images among all, int64.
        labels: As given, int64.
        suggestions: What they probably are, int64.
        label_probabilities: Of the label, float64, 0 to 1.
        suggestion_probabilities: Of the suggestion, float64, 0 to 1.
        scores: 0, surely wrong, to 1: half of one more than the label's probability less the highest other one.
    """

    positions: Array
    labels: Array
    suggestions: Array
    label_probabilities: Array
    suggestion_probabilities: Array
    scores: Array

    def __len__(self) -> int:
        return len(self.positions)


def find_label_errors(probabilities: Array, labels: Array) -> LabelErrors:
    """Finds the labels that are probably wrong.

    Args:
        probabilities: float64 [N,C], each row's sum is 1; of networks that weren't trained on the row's image.
        labels: int64 [N], as given.
    """
    rows = np.arange(len(labels))
    is_confident = probabilities >= _thresholds(probabilities, labels)
    counted_to = np.where(is_confident, probabilities, -1.0).argmax(axis=1)
    of_labels = probabilities[rows, labels]
    others = probabilities.copy()
    others[rows, labels] = -1.0
    margins = of_labels - others.max(axis=1)
    is_doubtful = is_confident.any(axis=1) & (counted_to != labels) & (probabilities.argmax(axis=1) != labels)
    found = np.flatnonzero(is_doubtful)
    found = found[np.argsort(margins[found], kind="stable")]
    suggestions = counted_to[found]
    return LabelErrors(
        positions=found,
        labels=labels[found],
        suggestions=suggestions,
        label_probabilities=of_labels[found],
        suggestion_probabilities=probabilities[found, suggestions],
        scores=(margins[found] + 1) / 2,
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
        header = ["rank", "filename", "label", "suggestion", "label_name", "suggestion_name", "score"]
        writer.writerow([*header, "label_probability", "suggestion_probability"])
        for index, position in enumerate(errors.positions.tolist()):
            label, suggestion = int(errors.labels[index]), int(errors.suggestions[index])
            row = [index + 1, filenames[position], label, suggestion, class_names[label], class_names[suggestion]]
            row += [float(errors.scores[index]), float(errors.label_probabilities[index])]
            writer.writerow(cells_of([*row, float(errors.suggestion_probabilities[index])]))


def _thresholds(probabilities: Array, labels: Array) -> Array:
    """Of each class its mean probability over the images labelled so, float64 [C]; above 1 where there are none."""
    num_classes = probabilities.shape[1]
    totals = np.bincount(labels, weights=probabilities[np.arange(len(labels)), labels], minlength=num_classes)
    counts = np.bincount(labels, minlength=num_classes)
    return np.where(counts > 0, totals / np.maximum(counts, 1), np.inf)
