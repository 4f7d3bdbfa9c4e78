"""Which pseudo-labels count: those of a probability above the threshold of their class."""

import dataclasses

import numpy as np

from finetune.settings.pseudo_labels import Threshold
from finetune.types import Array


@dataclasses.dataclass(frozen=True)
class Choice:
    """Pseudo-labels and which of them count.

    Attributes:
        labels: The most likely class of each image, int64 [N].
        confidences: Its probability, float64 [N].
        thresholds: Of each class, float64 [num_classes].
    """

    labels: Array
    confidences: Array
    thresholds: Array

    @property
    def is_used(self) -> Array:
        """Of each image, bool [N]."""
        return self.confidences > self.thresholds[self.labels]


def choose(probabilities: Array, threshold: Threshold) -> Choice:
    """The labels of images, and which of them count.

    Args:
        probabilities: float64 [N,num_classes].
        threshold: For all classes, or of which each class's own is made.
    """
    labels, confidences = probabilities.argmax(axis=1), probabilities.max(axis=1)
    num_classes = probabilities.shape[1]
    if threshold.is_adaptive:
        return Choice(labels, confidences, _flexible(labels, confidences, num_classes, threshold.value))
    return Choice(labels, confidences, np.full([num_classes], threshold.value))


def _flexible(labels: Array, confidences: Array, num_classes: int, highest: float) -> Array:
    """FlexMatch's curriculum thresholds (Zhang et al., arXiv:2110.08263, equations 5, 6, 11, 12), float64 [C].

    How far the model has learned a class is told by how many images it takes for one of it with a probability above the
    highest threshold. A class has the share M(x) = x / (2 - x) of that threshold, x its number over the largest of all
    classes, or, as long as that is larger, over the number of images that no class has yet.
    """
    counts = np.bincount(labels[confidences > highest], minlength=num_classes)
    most = max(counts.max(), len(labels) - counts.sum(), 1)
    learned = counts / most
    return highest * learned / (2 - learned)
