"""OverFeat, the fast model: Sermanet et al., "OverFeat: Integrated Recognition, Localization and Detection using
Convolutional Networks", 2014, arXiv:1312.6229, table 1.

No checkpoint was published. tf-slim's own `overfeat` takes no other image size than its default.
"""

import tensorflow as tf
import tf_slim as slim

from finetune.nets import layers
from finetune.nets.fully_connected import add_fully_connected
from finetune.types import Tensor


def overfeat(
    images: Tensor, num_classes: int | None, *, is_training: bool, dropout_keep_prob: float = 0.5
) -> tuple[Tensor, dict[str, Tensor]]:
    """OverFeat.

    Args:
        images: [B,H,W,C], published for 231×231×3.
        num_classes: Number of logits; None: the last feature map is wanted in their place.
        is_training: Changes nothing here; layers know their mode from `layer_modes`.
        dropout_keep_prob: Of the values of `fc6` and `fc7`.

    Returns:
        The logits [B,num_classes], or the last feature map [B,H,W,C], and the end points by name.
    """
    name = "overfeat"
    end_points: dict[str, Tensor] = {}
    fully_connected = slim.arg_scope(
        [slim.conv2d],
        weights_initializer=tf.compat.v1.truncated_normal_initializer(stddev=0.005),
        biases_initializer=tf.constant_initializer(0.1),
    )
    with tf.compat.v1.variable_scope(name), slim.arg_scope([slim.conv2d], weights_regularizer=layers.decayed):
        net = end_points[f"{name}/conv1"] = slim.conv2d(images, 64, [11, 11], 4, padding="VALID", scope="conv1")
        net = end_points[f"{name}/pool1"] = slim.max_pool2d(net, [2, 2], scope="pool1")
        net = end_points[f"{name}/conv2"] = slim.conv2d(net, 256, [5, 5], padding="VALID", scope="conv2")
        net = end_points[f"{name}/pool2"] = slim.max_pool2d(net, [2, 2], scope="pool2")
        net = end_points[f"{name}/conv3"] = slim.conv2d(net, 512, [3, 3], scope="conv3")
        net = end_points[f"{name}/conv4"] = slim.conv2d(net, 1024, [3, 3], scope="conv4")
        net = end_points[f"{name}/conv5"] = slim.conv2d(net, 1024, [3, 3], scope="conv5")
        net = end_points[f"{name}/pool5"] = slim.max_pool2d(net, [2, 2], scope="pool5")
        if num_classes is None:
            return net, end_points
        with fully_connected:
            logits = add_fully_connected(
                net, num_classes, end_points, kernel_size=6, depth=3072, dropout_keep_prob=dropout_keep_prob
            )
    return logits, end_points
