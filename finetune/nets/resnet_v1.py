"""Residual networks: He, Zhang, Ren and Sun, "Deep Residual Learning for Image Recognition", 2015, arXiv:1512.03385,
table 1, the bottleneck ones.

Published checkpoints: resnet_v1_{50,101,152}_2016_08_28.tar.gz.
"""

from collections.abc import Sequence

import tensorflow as tf
import tf_slim as slim

from finetune.nets.resnet import add_blocks, add_classifier, convolve, resnet_layers, subsample
from finetune.types import Tensor


def resnet_v1(
    images: Tensor, num_classes: int | None, *, is_training: bool, name: str, num_units: Sequence[int]
) -> tuple[Tensor, dict[str, Tensor]]:
    """A residual network whose units activate their sum.

    Args:
        images: [B,H,W,C], published for 224×224×3, the mean colour subtracted.
        num_classes: Number of logits; None: the last feature map is wanted in their place.
        is_training: Changes nothing here; layers know their mode from `layer_modes`.
        name: Root scope of the variables.
        num_units: Of each of the four blocks.

    Returns:
        The logits [B,num_classes], or the last feature map [B,H,W,C], and the end points by name.
    """
    end_points: dict[str, Tensor] = {}
    with tf.compat.v1.variable_scope(name), resnet_layers():
        net = end_points[f"{name}/conv1"] = convolve(images, 64, 7, stride=2, scope="conv1")
        net = slim.max_pool2d(net, [3, 3], stride=2, padding="SAME", scope="pool1")
        net = add_blocks(net, num_units, "bottleneck_v1", _bottleneck, end_points)
        if num_classes is None:
            return net, end_points
        logits = add_classifier(net, num_classes, end_points)
    return logits, end_points


def _bottleneck(inputs: Tensor, depth: int, stride: int) -> dict[str, Tensor]:
    """A unit of three convolutions, each normalised behind (figure 5 of the paper, right)."""
    values: dict[str, Tensor] = {}
    if inputs.shape[-1] == 4 * depth:
        shortcut = subsample(inputs, stride)
    else:
        shortcut = slim.conv2d(inputs, 4 * depth, [1, 1], stride=stride, activation_fn=None, scope="shortcut")
        values["shortcut"] = shortcut
    net = values["conv1"] = slim.conv2d(inputs, depth, [1, 1], scope="conv1")
    net = values["conv2"] = convolve(net, depth, 3, stride, scope="conv2")
    net = values["conv3"] = slim.conv2d(net, 4 * depth, [1, 1], activation_fn=None, scope="conv3")
    values["output"] = tf.nn.relu(shortcut + net)
    return values
