"""AlexNet without local response normalisation: Krizhevsky, "One weird trick for parallelizing convolutional neural
networks", 2014, arXiv:1404.5997.

No checkpoint was published. tf-slim's own `alexnet_v2` takes no other image size than its default.
"""

import tensorflow as tf
import tf_slim as slim

from finetune.nets import layers
from finetune.nets.fully_connected import add_fully_connected
from finetune.types import Tensor


def alexnet_v2(
    images: Tensor, num_classes: int | None, *, is_training: bool, dropout_keep_prob: float = 0.5
) -> tuple[Tensor, dict[str, Tensor]]:
    """AlexNet's second version.

    Args:
        images: [B,H,W,C], published for 224×224×3.
        num_classes: Number of logits; None: the last feature map is wanted in their place.
        is_training: Changes nothing here; layers know their mode from `layer_modes`.
        dropout_keep_prob: Of the values of `fc6` and `fc7`.

    Returns:
        The logits [B,num_classes], or the last feature map [B,H,W,C], and the end points by name.
    """
    name = "alexnet_v2"
    end_points: dict[str, Tensor] = {}
    convolutions = slim.arg_scope(
        [slim.conv2d], weights_regularizer=layers.decayed, biases_initializer=tf.constant_initializer(0.1)
    )
    with tf.compat.v1.variable_scope(name), convolutions:
        net = end_points[f"{name}/conv1"] = slim.conv2d(images, 64, [11, 11], 4, padding="VALID", scope="conv1")
        net = end_points[f"{name}/pool1"] = slim.max_pool2d(net, [3, 3], 2, scope="pool1")
        net = end_points[f"{name}/conv2"] = slim.conv2d(net, 192, [5, 5], scope="conv2")
        net = end_points[f"{name}/pool2"] = slim.max_pool2d(net, [3, 3], 2, scope="pool2")
        net = end_points[f"{name}/conv3"] = slim.conv2d(net, 384, [3, 3], scope="conv3")
        net = end_points[f"{name}/conv4"] = slim.conv2d(net, 384, [3, 3], scope="conv4")
        net = end_points[f"{name}/conv5"] = slim.conv2d(net, 256, [3, 3], scope="conv5")
        net = end_points[f"{name}/pool5"] = slim.max_pool2d(net, [3, 3], 2, scope="pool5")
        if num_classes is None:
            return net, end_points
        with slim.arg_scope([slim.conv2d], weights_initializer=tf.compat.v1.truncated_normal_initializer(stddev=0.005)):
            logits = add_fully_connected(
                net, num_classes, end_points, kernel_size=5, dropout_keep_prob=dropout_keep_prob
            )
    return logits, end_points
