"""The loss of slim's trainer: cross-entropy, 0.4 of the auxiliary head's, and weight decay; beside it focal loss, and
that of several labels an image.

Where images count for more or less than others, the loss of each is multiplied by its weight, and the sum divided by
the number of images, as Keras does it, not by the sum of the weights, as PyTorch does. So the gradient of a batch is
in expectation that of the whole weighted training set; it is the same whether a batch is computed at once, in passes
or by several devices; and a batch of one class alone keeps its weight, where a division by the sum would cancel it.
`balanced` weights have a mean of 1 over the training images, so that learning rates and weight decay mean what they
mean without.
"""

import dataclasses
from collections.abc import Iterable, Sequence

import tensorflow as tf

from finetune.model.model import Outputs
from finetune.types import Tensor, Variable

# Szegedy et al. (arXiv:1409.4842) weigh auxiliary classifiers by 0.3; slim's trainer by 0.4.
AUXILIARY_WEIGHT = 0.4
# Float32's smallest normal number: in place of 0, whose power has no derivative.
TINY = 1.1754944e-38


@dataclasses.dataclass(frozen=True)
class ClassificationLoss:
    """The loss of logits, without weight decay.

    Attributes:
        label_smoothing: Share of the target that is spread evenly over all classes (Szegedy et al., arXiv:1512.00567).
        focal_gamma: Of focal loss (Lin et al., arXiv:1708.02002, here of softmax): cross-entropy times
            (1 - p) ** gamma, p being the probability of the image's class; None: plain cross-entropy.
    """

    label_smoothing: float = 0.0
    focal_gamma: float | None = None

    def __call__(
        self, logits: Tensor, auxiliary_logits: Tensor | None, labels: Tensor, weights: Tensor | None = None
    ) -> Tensor:
        """The loss of the logits plus 0.4 of that of the auxiliary logits, where there are any; a float32 scalar.

        Args:
            logits: [B,num_classes], of any float type: computed in is float32.
            auxiliary_logits: Likewise.
            labels: Class ids [B]; of mixed images shares of classes [B,num_classes] that sum to 1.
            weights: How much each image counts [B]; None: all alike.
        """
        loss = self._mean(logits, labels, weights)
        if auxiliary_logits is not None:
            loss += AUXILIARY_WEIGHT * self._mean(auxiliary_logits, labels, weights)
        return loss

    def _mean(self, logits: Tensor, labels: Tensor, weights: Tensor | None) -> Tensor:
        num_classes = logits.shape[-1]
        shares = labels if labels.shape.rank == 2 else tf.one_hot(labels, num_classes)
        targets = shares * (1.0 - self.label_smoothing) + self.label_smoothing / num_classes
        losses = self._of_images(tf.cast(logits, tf.float32), targets)
        return tf.reduce_mean(losses if weights is None else weights * losses)

    def _of_images(self, logits: Tensor, targets: Tensor) -> Tensor:
        if self.focal_gamma is None:
            return tf.nn.softmax_cross_entropy_with_logits(targets, logits)
        # Of a mixed image the focal losses of its classes, by their shares.
        log_probabilities = tf.nn.log_softmax(logits)
        others = tf.maximum(-tf.math.expm1(log_probabilities), TINY)  # 1 - p, exact where p is all but 1.
        return -tf.reduce_sum(targets * tf.pow(others, self.focal_gamma) * log_probabilities, axis=-1)


@dataclasses.dataclass(frozen=True)
class MultilabelLoss:
    """The loss of logits where an image has any number of labels: sigmoid cross-entropy, the mean over the classes.

    Attributes:
        label_smoothing: Targets are moved by half of it from 1 and from 0, as Keras's BinaryCrossentropy has it.
        positive_weights: How much an image that has a class counts for it, by class; empty: as much as one that
            hasn't (`pos_weight` of PyTorch's BCEWithLogitsLoss).
    """

    label_smoothing: float = 0.0
    positive_weights: Sequence[float] = ()

    def __call__(
        self, logits: Tensor, auxiliary_logits: Tensor | None, labels: Tensor, weights: Tensor | None = None
    ) -> Tensor:
        """As that of `ClassificationLoss`; `labels` are 1 or 0 for each class, or of mixed images shares of such,
        [B,num_classes].
        """
        loss = self._mean(logits, labels, weights)
        if auxiliary_logits is not None:
            loss += AUXILIARY_WEIGHT * self._mean(auxiliary_logits, labels, weights)
        return loss

    def _mean(self, logits: Tensor, labels: Tensor, weights: Tensor | None) -> Tensor:
        targets = tf.cast(labels, tf.float32) * (1.0 - self.label_smoothing) + self.label_smoothing / 2
        of_positives = tf.constant(self.positive_weights or [1.0], tf.float32)
        losses = tf.nn.weighted_cross_entropy_with_logits(targets, tf.cast(logits, tf.float32), of_positives)
        of_images = tf.reduce_mean(losses, axis=-1)
        return tf.reduce_mean(of_images if weights is None else weights * of_images)


@dataclasses.dataclass(frozen=True)
class TrainingLoss:
    """What a step lessens.

    Attributes:
        label_smoothing: Share of the target that is spread evenly over all classes.
        weight_decay: Factor of the decayed variables' loss.
        decayed: The variables that weight decay applies to: trained ones.
        head_weight_decay: Factor of the loss of kernels that have a decay of their own.
        head: These kernels.
        focal_gamma: Of focal loss; None: cross-entropy.
        class_weights: How much images of each class count, by label; empty: all alike.
        of_labels: The loss where an image has any number of labels; None: it has one.
    """

    label_smoothing: float = 0.0
    weight_decay: float = 0.0
    decayed: Sequence[Variable] = ()
    head_weight_decay: float = 0.0
    head: Sequence[Variable] = ()
    focal_gamma: float | None = None
    class_weights: Sequence[float] = ()
    of_labels: MultilabelLoss | None = None

    def __call__(self, outputs: Outputs, labels: Tensor, weights: Tensor | None = None) -> Tensor:
        """A tensor [2]: the loss of labels, with the auxiliary head's part, and weight decay.

        Args:
            outputs: Of the network.
            labels: Class ids [B]; of mixed images shares of classes [B,num_classes] that sum to 1; of several labels an
                image as `MultilabelLoss` takes them.
            weights: How much each image counts [B], as `weights_of` gives it; None: all alike.
        """
        of_logits = self.of_labels or ClassificationLoss(self.label_smoothing, self.focal_gamma)
        loss = of_logits(outputs.logits, outputs.auxiliary_logits, labels, weights)
        decay = weight_decay_loss(self.decayed, self.weight_decay)
        if self.head:
            decay += weight_decay_loss(self.head, self.head_weight_decay)
        return tf.stack([loss, decay])

    def weights_of(self, labels: Tensor, own: Tensor | None = None) -> Tensor | None:
        """How much each image counts [B]: its own weight [B] times its class's; None where all count alike."""
        if not self.class_weights:
            return own
        of_classes = tf.gather(tf.constant(self.class_weights, tf.float32), labels)
        return of_classes if own is None else of_classes * own


def weight_decay_loss(variables: Iterable[Variable], weight_decay: float) -> Tensor:
    """`weight_decay` times half the sum of squares of the variables: slim's `l2_regularizer`. A float32 scalar."""
    return weight_decay * tf.add_n([tf.constant(0.0), *(tf.nn.l2_loss(variable) for variable in variables)])
