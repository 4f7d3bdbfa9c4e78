"""Test-time augmentation: a network's word on an image and on its mirror image, taken together."""

from collections.abc import Callable

import tensorflow as tf

from finetune.settings.choices import MULTILABEL, SINGLE_LABEL
from finetune.types import Tensor


def with_mirror_images(infer: Callable[[Tensor], Tensor], task: str = SINGLE_LABEL) -> Callable[[Tensor], Tensor]:
    """Averages the probabilities of each image and of its mirror image (left for right).

    Args:
        infer: From images [B,H,W,C] to logits [B,num_classes].
        task: Whether these are of a softmax or of a sigmoid each, a word of `TASKS`.

    Returns:
        A function like it; its logits are the logarithms of the mean probabilities, and of sigmoids their log-odds.
    """

    def infer_both(images: Tensor) -> Tensor:
        both = tf.stack([infer(images), infer(tf.reverse(images, axis=[2]))])
        if task == MULTILABEL:
            return _log_mean(tf.math.log_sigmoid(both)) - _log_mean(tf.math.log_sigmoid(-both))
        return _log_mean(tf.nn.log_softmax(both))

    return infer_both


def _log_mean(logarithms: Tensor) -> Tensor:
    """The logarithm of the mean of two numbers, of logarithms [2,...]."""
    return tf.reduce_logsumexp(logarithms, axis=0) - tf.math.log(2.0)
