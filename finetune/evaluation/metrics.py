"""What an exact pass over a split says, as plain arrays: accuracy, loss, and each class's figures. No TensorFlow."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from finetune.errors import UserError
from finetune.types import Array

# Of the standard normal distribution: 95 % of it lie between minus and plus this.
NORMAL_95 = 1.959963984540054


class NotFiniteError(UserError):
    """A network whose logits are not finite."""


@dataclasses.dataclass(frozen=True)
class Scores:
    """One entry for each image of a split, in the order of its records.

    Attributes:
        filenames: As the records name them; empty where they do not.
        labels: int64 [N], the true classes.
        predictions: int64 [N], the classes of the highest logits, the lower id where two are equal.
        probabilities: float64 [N], softmax probability of the prediction, 0 to 1.
        ranks: int64 [N], how many classes come before the true one by logit; 0: the prediction is right.
        losses: float64 [N], cross-entropy.
        num_classes: Number of logits.
        logits: float32 [N,num_classes], before any temperature, or None where they were not kept.
    """

    filenames: list[str]
    labels: Array
    predictions: Array
    probabilities: Array
    ranks: Array
    losses: Array
    num_classes: int
    logits: Array | None = None

    @property
    def num_examples(self) -> int:
        """Number of images."""
        return len(self.labels)

    @property
    def is_right(self) -> Array:
        """Whether the prediction is the true class: bool [N]."""
        return self.ranks == 0

    @property
    def num_right(self) -> int:
        """Number of images whose prediction is right."""
        return int(np.count_nonzero(self.is_right))

    @property
    def label_probabilities(self) -> Array:
        """float64 [N], softmax probability of the true class, 0 to 1."""
        return np.exp(-self.losses)

    @property
    def accuracy(self) -> float:
        """Share of images whose prediction is right, 0 to 1."""
        return float(np.mean(self.is_right))

    @property
    def top_5_accuracy(self) -> float:
        """Share of images whose true class is among the 5 highest logits, or among all where there are fewer."""
        return float(np.mean(self.ranks < min(5, self.num_classes)))

    @property
    def loss(self) -> float:
        """Mean cross-entropy."""
        return float(np.mean(self.losses))

    def in_words(self) -> str:
        """The figures of a validation in a line."""
        return f"accuracy {self.accuracy:.4f}  top-{min(5, self.num_classes)} {self.top_5_accuracy:.4f}"

    def order(self) -> tuple[float, ...]:
        """By which one pass is better than another one of the same images: the higher the better."""
        return self.accuracy, -self.loss

    def summary(self) -> dict[str, float | int]:
        """The figures by their names in metrics.json."""
        return {
            "accuracy": self.accuracy,
            "top_5_accuracy": self.top_5_accuracy,
            "loss": self.loss,
            "num_examples": self.num_examples,
        }

    def measures(self) -> dict[str, float]:
        """What one checkpoint can be better than another by, by the names in metrics.json."""
        classes = class_figures(self)
        return {
            "accuracy": self.accuracy,
            "balanced_accuracy": classes.balanced_accuracy,
            "macro_f1": classes.macro("f1"),
            "loss": self.loss,
        }


def log_softmax(logits: Array, temperature: float = 1.0) -> Array:
    """Logarithms of the softmax probabilities, float64 [B,num_classes], of logits of any float type.

    Args:
        logits: float [B,num_classes].
        temperature: What they are divided by.

    Raises:
        NotFiniteError: A logit is not finite.
    """
    check_finite(logits)
    wide = logits.astype(np.float64) / temperature
    shifted = wide - wide.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def check_finite(outputs: Array) -> None:
    """Makes sure that a network's logits, or their probabilities, are finite.

    Raises:
        NotFiniteError: One is not.
    """
    if not np.isfinite(outputs).all():
        raise NotFiniteError("The network's logits are not finite: its weights are damaged, or of a failed training.")


def score_batch(
    logits: Array, labels: Array, filenames: Sequence[str], *, keep_logits: bool = False, temperature: float = 1.0
) -> Scores:
    """Scores of one batch.

    Args:
        logits: float [B,num_classes].
        labels: int [B].
        filenames: B names.
        keep_logits: Whether the scores hold the logits, as they are here.
        temperature: What they are divided by for probabilities and losses.

    Raises:
        NotFiniteError: A logit is not finite.
    """
    rows = np.arange(len(labels))
    log_probabilities = log_softmax(logits, temperature)
    predictions = logits.argmax(axis=1)
    true_logits = logits[rows, labels][:, np.newaxis]
    is_before = np.arange(logits.shape[1]) < labels[:, np.newaxis]
    ranks = (logits > true_logits).sum(axis=1) + ((logits == true_logits) & is_before).sum(axis=1)
    return Scores(
        filenames=list(filenames),
        labels=labels.astype(np.int64),
        predictions=predictions,
        probabilities=np.exp(log_probabilities[rows, predictions]),
        ranks=ranks,
        losses=-log_probabilities[rows, labels],
        num_classes=logits.shape[1],
        logits=logits if keep_logits else None,
    )


def join_scores(parts: Sequence[Scores]) -> Scores:
    """The scores of several batches as one; at least one is needed."""

    def joined(name: str) -> Array:
        return np.concatenate([getattr(part, name) for part in parts])

    return Scores(
        filenames=[name for part in parts for name in part.filenames],
        labels=joined("labels"),
        predictions=joined("predictions"),
        probabilities=joined("probabilities"),
        ranks=joined("ranks"),
        losses=joined("losses"),
        num_classes=parts[0].num_classes,
        logits=None if parts[0].logits is None else joined("logits"),
    )


@dataclasses.dataclass(frozen=True)
class ClassFigures:
    """How each class fares; a quotient by zero counts as 0, as scikit-learn has it.

    Attributes:
        support: int64 [num_classes], images of the class.
        num_predicted: int64 [num_classes], images that were taken for the class.
        num_right: int64 [num_classes], images of the class that were taken for it.
    """

    support: Array
    num_predicted: Array
    num_right: Array

    @property
    def precision(self) -> Array:
        """float64 [num_classes], 0 to 1: the share that is right of what was taken for the class."""
        return _share(self.num_right, self.num_predicted)

    @property
    def recall(self) -> Array:
        """float64 [num_classes], 0 to 1: the share of the class that was taken for it."""
        return _share(self.num_right, self.support)

    @property
    def f1(self) -> Array:
        """float64 [num_classes], 0 to 1: the harmonic mean of precision and recall."""
        return _share(2 * self.num_right, self.support + self.num_predicted)

    @property
    def balanced_accuracy(self) -> float:
        """Mean recall of the classes that the split has images of."""
        return float(self.recall[self.support > 0].mean())

    def macro(self, name: str) -> float:
        """The mean of "precision", "recall" or "f1" over the classes that occur, as labels or as predictions."""
        occurs = (self.support > 0) | (self.num_predicted > 0)
        return float(getattr(self, name)[occurs].mean())


@dataclasses.dataclass(frozen=True)
class Confusion:
    """Images of one class that were taken for another: their classes and their number."""

    label: int
    prediction: int
    count: int


def class_figures(scores: Scores) -> ClassFigures:
    """The figures of each class."""

    def count(classes: Array) -> Array:
        return np.bincount(classes, minlength=scores.num_classes)

    return ClassFigures(count(scores.labels), count(scores.predictions), count(scores.labels[scores.is_right]))


def confusion_matrix(scores: Scores) -> Array:
    """int64 [num_classes,num_classes]: images by true class (row) and predicted class (column)."""
    cells = scores.labels * scores.num_classes + scores.predictions
    return np.bincount(cells, minlength=scores.num_classes**2).reshape(scores.num_classes, scores.num_classes)


def most_confused(scores: Scores, most: int) -> list[Confusion]:
    """The pairs of classes with the most mistakes, most first; ties in the order of the classes."""
    is_wrong = ~scores.is_right
    pairs = np.stack([scores.labels[is_wrong], scores.predictions[is_wrong]], axis=1)
    found, counts = np.unique(pairs, axis=0, return_counts=True)
    order = np.argsort(-counts, kind="stable")[:most]
    return [Confusion(int(found[index, 0]), int(found[index, 1]), int(counts[index])) for index in order]


def wilson_interval(num_right: int, num_examples: int) -> tuple[float, float]:
    """The 95 % score interval of a share (Wilson 1927), 0 to 1: sound for few images and for shares near 0 or 1."""
    share, z2 = num_right / num_examples, NORMAL_95**2
    centre = share + z2 / (2 * num_examples)
    spread = NORMAL_95 * math.sqrt(share * (1 - share) / num_examples + z2 / (4 * num_examples**2))
    scale = 1 + z2 / num_examples
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)


def _share(part: Array, whole: Array) -> Array:
    return np.divide(part, whole, out=np.zeros(len(whole)), where=whole > 0)
