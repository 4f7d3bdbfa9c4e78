"""What an exact pass over a split says, as plain arrays: accuracy, top-5 accuracy, loss. TensorFlow is not needed."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


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
        logits: float32 [N,num_classes], or None where they were not kept.
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
    def accuracy(self) -> float:
        """Share of images whose prediction is right, 0 to 1."""
        return float(np.mean(self.ranks == 0))

    @property
    def top_5_accuracy(self) -> float:
        """Share of images whose true class is among the 5 highest logits, or among all where there are fewer."""
        return float(np.mean(self.ranks < min(5, self.num_classes)))

    @property
    def loss(self) -> float:
        """Mean cross-entropy."""
        return float(np.mean(self.losses))

    def summary(self) -> dict[str, float | int]:
        """The figures by their names in metrics.json."""
        return {
            "accuracy": self.accuracy,
            "top_5_accuracy": self.top_5_accuracy,
            "loss": self.loss,
            "num_examples": self.num_examples,
        }


def score_batch(logits: Array, labels: Array, filenames: Sequence[str], *, keep_logits: bool = False) -> Scores:
    """Scores of one batch.

    Args:
        logits: float [B,num_classes].
        labels: int [B].
        filenames: B names.
        keep_logits: Whether the scores hold the logits.
    """
    rows = np.arange(len(labels))
    wide = logits.astype(np.float64)
    shifted = wide - wide.max(axis=1, keepdims=True)
    log_probabilities = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
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
