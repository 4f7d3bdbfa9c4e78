"""VGG: Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition", 2015,
arXiv:1409.1556, table 1, columns A, D (16 layers) and E (19 layers).

Published checkpoints: vgg_16_2016_08_28.tar.gz and vgg_19_2016_08_28.tar.gz. tf-slim's own networks take no other image
size than their default.
"""

from collections.abc import Sequence

import tensorflow as tf
import tf_slim as slim

from finetune.nets import layers
from finetune.nets.fully_connected import add_fully_connected
from finetune.types import Tensor

_DEPTHS = (64, 128, 256, 512, 512)


def vgg(
    images: Tensor,
    num_classes: int | None,
    *,
    is_training: bool,
    name: str,
    num_convolutions: Sequence[int],
    dropout_keep_prob: float = 0.5,
) -> tuple[Tensor, dict[str, Tensor]]:
    """A VGG network.

    Args:
        images: [B,H,W,C], published for 224×224×3, the mean colour subtracted.
        num_classes: Number of logits; None: the last feature map is wanted in their place.
        is_training: Changes nothing here; layers know their mode from `layer_modes`.
        name: Root scope of the variables.
        num_convolutions: Number of convolutions before each of the five poolings.
        dropout_keep_prob: Of the values of `fc6` and `fc7`.

    Returns:
        The logits [B,num_classes], or the last feature map [B,H,W,C], and the end points by name.
    """
    end_points: dict[str, Tensor] = {}
    net = images
    with tf.compat.v1.variable_scope(name), slim.arg_scope([slim.conv2d], weights_regularizer=layers.decayed):
        for block, (depth, count) in enumerate(zip(_DEPTHS, num_convolutions, strict=True), start=1):
            for index in range(1, count + 1):
                scope = f"conv{block}/conv{block}_{index}"
                net = end_points[f"{name}/{scope}"] = slim.conv2d(net, depth, [3, 3], scope=scope)
            net = end_points[f"{name}/pool{block}"] = slim.max_pool2d(net, [2, 2], scope=f"pool{block}")
        if num_classes is None:
            return net, end_points
        logits = add_fully_connected(net, num_classes, end_points, kernel_size=7, dropout_keep_prob=dropout_keep_prob)
    return logits, end_points
