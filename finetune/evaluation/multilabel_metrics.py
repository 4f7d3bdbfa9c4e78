"""What an exact pass over a split says where an image has any number of labels, as plain arrays. No TensorFlow.

Each class is a question of its own: the average precision of a class is that of its probabilities over all images, and
the mean average precision (mAP) the mean over the classes that some images have and some haven't; of others there is
no average precision.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np

from finetune.evaluation.curves import areas_of, mean_areas
from finetune.evaluation.metrics import ClassFigures, Scores, check_finite
from finetune.runs.label_thresholds import DEFAULT_THRESHOLD
from finetune.types import Array


@dataclasses.dataclass(frozen=True)
class MultilabelScores:
    """One entry for each image of a split, in the order of its records.

    Attributes:
        filenames: As the records name them; empty where they do not.
        labels: bool [N,num_classes], the classes that images have.
        logits: float32 [N,num_classes].
    """

    filenames: list[str]
    labels: Array
    logits: Array

    @property
    def num_examples(self) -> int:
        """Number of images."""
        return len(self.labels)

    @property
    def num_classes(self) -> int:
        """Number of logits."""
        return int(self.logits.shape[1])

    @functools.cached_property
    def probabilities(self) -> Array:
        """float64 [N,num_classes], sigmoid of the logits, 0 to 1."""
        return sigmoid(self.logits)

    @property
    def loss(self) -> float:
        """Mean sigmoid cross-entropy of all classes and images, no class weighing more than another."""
        logits = self.logits.astype(np.float64)
        return float(np.mean(np.logaddexp(0.0, logits) - logits * self.labels))

    @functools.cached_property
    def average_precisions(self) -> tuple[float | None, ...]:
        """Of each class, 0 to 1; None where all images have it, or none has."""
        columns = zip(self.probabilities.T, self.labels.T, strict=True)
        return tuple(areas_of(column, is_positive).average_precision for column, is_positive in columns)

    @property
    def mean_average_precision(self) -> float | None:
        """The mean over the classes that have one, 0 to 1; None where no class has."""
        columns = zip(self.probabilities.T, self.labels.T, strict=True)
        return mean_areas([areas_of(column, is_positive) for column, is_positive in columns]).average_precision

    def summary(self) -> dict[str, float | int]:
        """The figures by their names in metrics.json, of decisions at probabilities of one half."""
        decisions = decide(self, (DEFAULT_THRESHOLD,) * self.num_classes)
        return {
            **self.measures(),
            "micro_f1": decisions.micro_f1,
            "exact_match": decisions.exact_match,
            "num_examples": self.num_examples,
        }

    def measures(self) -> dict[str, float]:
        """What one checkpoint can be better than another by, by the names in metrics.json."""
        average = self.mean_average_precision
        decisions = decide(self, (DEFAULT_THRESHOLD,) * self.num_classes)
        return {
            **({"mean_average_precision": average} if average is not None else {}),
            "macro_f1": decisions.classes.macro("f1") if decisions.occur else 0.0,
            "loss": self.loss,
        }

    def in_words(self) -> str:
        """The figures of a validation in a line."""
        average, decisions = self.mean_average_precision, decide(self, (DEFAULT_THRESHOLD,) * self.num_classes)
        return (
            f"mean average precision {'unknown' if average is None else f'{average:.4f}'}  micro F1 "
            f"{decisions.micro_f1:.4f}  all labels right {decisions.exact_match:.4f}"
        )

    def order(self) -> tuple[float, ...]:
        """By which one pass is better than another one of the same images: the higher the better."""
        return self.mean_average_precision or 0.0, -self.loss


# Of images with one label, or with any number of them.
AnyScores: TypeAlias = Scores | MultilabelScores


@dataclasses.dataclass(frozen=True)
class Decisions:
    """What thresholds come to.

    Attributes:
        thresholds: float64 [num_classes]; probabilities of at least these are of the class.
        predictions: bool [N,num_classes].
        classes: How each class fares.
        exact_match: Share of images all of whose classes are told rightly, 0 to 1.
        hamming_loss: Share of wrong answers among those on all classes of all images, 0 to 1.
    """

    thresholds: Array
    predictions: Array
    classes: ClassFigures
    exact_match: float
    hamming_loss: float

    @property
    def micro_f1(self) -> float:
        """The F1 of all answers together, 0 to 1."""
        whole = int(self.classes.support.sum() + self.classes.num_predicted.sum())
        return 2 * int(self.classes.num_right.sum()) / whole if whole else 0.0

    @property
    def occur(self) -> bool:
        """Whether any class occurs, as label or as prediction."""
        return bool(self.classes.support.any() or self.classes.num_predicted.any())


def sigmoid(logits: Array) -> Array:
    """Probabilities, float64, of logits of any float type and shape.

    Raises:
        NotFiniteError: A logit is not finite.
    """
    check_finite(logits)
    return np.exp(-np.logaddexp(0.0, -logits.astype(np.float64)))


def decide(scores: MultilabelScores, thresholds: Sequence[float]) -> Decisions:
    """The classes of each image, by a threshold for each class."""
    predictions, labels = scores.probabilities >= np.array(thresholds), scores.labels
    classes = ClassFigures(labels.sum(axis=0), predictions.sum(axis=0), (labels & predictions).sum(axis=0))
    return Decisions(
        np.array(thresholds),
        predictions,
        classes,
        exact_match=float((predictions == labels).all(axis=1).mean()),
        hamming_loss=float((predictions != labels).mean()),
    )


def score_label_batch(logits: Array, labels: Array, filenames: Sequence[str]) -> MultilabelScores:
    """Scores of one batch.

    Args:
        logits: float [B,num_classes].
        labels: [B,num_classes], 1 where an image has the class, else 0.
        filenames: B names.

    Raises:
        NotFiniteError: A logit is not finite.
    """
    check_finite(logits)
    return MultilabelScores(list(filenames), labels.astype(bool), logits.astype(np.float32))


def join_label_scores(parts: Sequence[MultilabelScores]) -> MultilabelScores:
    """The scores of several batches as one; at least one is needed."""
    return MultilabelScores(
        [name for part in parts for name in part.filenames],
        np.concatenate([part.labels for part in parts]),
        np.concatenate([part.logits for part in parts]),
    )
