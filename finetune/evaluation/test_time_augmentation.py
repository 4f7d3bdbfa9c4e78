"""Test-time augmentation: a network's word on an image and on its mirror image, taken together."""

from collections.abc import Callable

import tensorflow as tf

from finetune.types import Tensor


def with_mirror_images(infer: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Averages the probabilities of each image and of its mirror image (left for right).

    Args:
        infer: From images [B,H,W,C] to logits [B,num_classes].

    Returns:
        A function like it; its logits are the logarithms of the mean probabilities.
    """

    def infer_both(images: Tensor) -> Tensor:
        both = [tf.nn.log_softmax(infer(images)), tf.nn.log_softmax(infer(tf.reverse(images, axis=[2])))]
        return tf.reduce_logsumexp(tf.stack(both), axis=0) - tf.math.log(2.0)

    return infer_both
