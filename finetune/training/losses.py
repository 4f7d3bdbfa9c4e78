"""The loss of slim's trainer: cross-entropy, 0.4 of the auxiliary head's, and weight decay."""

import dataclasses
from collections.abc import Iterable, Sequence

import tensorflow as tf

from finetune.model.model import Outputs
from finetune.types import Tensor, Variable

# Szegedy et al. (arXiv:1409.4842) weigh auxiliary classifiers by 0.3; slim's trainer by 0.4.
AUXILIARY_WEIGHT = 0.4


def cross_entropy(logits: Tensor, labels: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Mean softmax cross-entropy.

    Args:
        logits: [B,num_classes].
        labels: Class ids [B].
        label_smoothing: Share of the target that is spread evenly over all classes (Szegedy et al., arXiv:1512.00567).

    Returns:
        A float32 scalar.
    """
    num_classes = logits.shape[-1]
    targets = tf.one_hot(labels, num_classes) * (1.0 - label_smoothing) + label_smoothing / num_classes
    return tf.reduce_mean(tf.nn.softmax_cross_entropy_with_logits(targets, tf.cast(logits, tf.float32)))


def classification_loss(
    logits: Tensor, auxiliary_logits: Tensor | None, labels: Tensor, label_smoothing: float = 0.0
) -> Tensor:
    """Cross-entropy of the logits plus 0.4 of that of the auxiliary logits, where there are any; a float32 scalar."""
    loss = cross_entropy(logits, labels, label_smoothing)
    if auxiliary_logits is not None:
        loss += AUXILIARY_WEIGHT * cross_entropy(auxiliary_logits, labels, label_smoothing)
    return loss


@dataclasses.dataclass(frozen=True)
class TrainingLoss:
    """What a step lessens.

    Attributes:
        label_smoothing: Share of the target that is spread evenly over all classes.
        weight_decay: Factor of the decayed variables' loss.
        decayed: The variables that weight decay applies to: trained ones.
        head_weight_decay: Factor of the loss of kernels that have a decay of their own.
        head: These kernels.
    """

    label_smoothing: float = 0.0
    weight_decay: float = 0.0
    decayed: Sequence[Variable] = ()
    head_weight_decay: float = 0.0
    head: Sequence[Variable] = ()

    def __call__(self, outputs: Outputs, labels: Tensor) -> Tensor:
        """A tensor [2]: cross-entropy, with the auxiliary head's part, of labels [B], and weight decay."""
        loss = classification_loss(outputs.logits, outputs.auxiliary_logits, labels, self.label_smoothing)
        decay = weight_decay_loss(self.decayed, self.weight_decay)
        if self.head:
            decay += weight_decay_loss(self.head, self.head_weight_decay)
        return tf.stack([loss, decay])


def weight_decay_loss(variables: Iterable[Variable], weight_decay: float) -> Tensor:
    """`weight_decay` times half the sum of squares of the variables: slim's `l2_regularizer`. A float32 scalar."""
    return weight_decay * tf.add_n([tf.constant(0.0), *(tf.nn.l2_loss(variable) for variable in variables)])
