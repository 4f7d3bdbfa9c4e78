"""Residual networks with pre-activation: He, Zhang, Ren and Sun, "Identity Mappings in Deep Residual Networks", 2016,
arXiv:1603.05027, figure 1b.

Published checkpoints: resnet_v2_{50,101,152}_2017_04_14.tar.gz, trained at 299×299 in [-1,1].
"""

from collections.abc import Sequence

import tensorflow as tf
import tf_slim as slim

from finetune.nets import layers
from finetune.nets.resnet import add_blocks, add_classifier, convolve, resnet_layers, subsample
from finetune.types import Tensor

_LINEAR = {"activation_fn": None, "normalizer_fn": None}


def resnet_v2(
    images: Tensor, num_classes: int | None, *, is_training: bool, name: str, num_units: Sequence[int]
) -> tuple[Tensor, dict[str, Tensor]]:
    """A residual network whose units normalise and activate their input, and leave their sum alone.

    Args:
        images: [B,H,W,C] in [-1,1], published for 299×299×3.
        num_classes: Number of logits; None: the last feature map is wanted in their place.
        is_training: Changes nothing here; layers know their mode from `layer_modes`.
        name: Root scope of the variables.
        num_units: Of each of the four blocks.

    Returns:
        The logits [B,num_classes], or the last feature map [B,H,W,C], and the end points by name.
    """
    end_points: dict[str, Tensor] = {}
    with tf.compat.v1.variable_scope(name), resnet_layers():
        net = end_points[f"{name}/conv1"] = convolve(images, 64, 7, stride=2, scope="conv1", **_LINEAR)
        net = slim.max_pool2d(net, [3, 3], stride=2, padding="SAME", scope="pool1")
        net = add_blocks(net, num_units, "bottleneck_v2", _bottleneck, end_points)
        net = layers.batch_norm(net, activation_fn=tf.nn.relu, scope="postnorm")
        if num_classes is None:
            return net, end_points
        logits = add_classifier(net, num_classes, end_points)
    return logits, end_points


def _bottleneck(inputs: Tensor, depth: int, stride: int) -> dict[str, Tensor]:
    """A unit of three convolutions, each normalised before."""
    values: dict[str, Tensor] = {}
    activated = layers.batch_norm(inputs, activation_fn=tf.nn.relu, scope="preact")
    if inputs.shape[-1] == 4 * depth:
        shortcut = subsample(inputs, stride)
    else:
        shortcut = slim.conv2d(activated, 4 * depth, [1, 1], stride=stride, scope="shortcut", **_LINEAR)
        values["shortcut"] = shortcut
    net = values["conv1"] = slim.conv2d(activated, depth, [1, 1], scope="conv1")
    net = values["conv2"] = convolve(net, depth, 3, stride, scope="conv2")
    net = values["conv3"] = slim.conv2d(net, 4 * depth, [1, 1], scope="conv3", **_LINEAR)
    values["output"] = shortcut + net
    return values
