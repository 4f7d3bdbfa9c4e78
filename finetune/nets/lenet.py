"""LeNet, as slim varies it: LeCun, Bottou, Bengio and Haffner, "Gradient-based learning applied to document
recognition", 1998.

No checkpoint was published.
"""

import tensorflow as tf
import tf_slim as slim

from finetune.nets import layers
from finetune.types import Tensor


def lenet(
    images: Tensor, num_classes: int | None, *, is_training: bool, dropout_keep_prob: float = 0.5
) -> tuple[Tensor, dict[str, Tensor]]:
    """LeNet; the shape of `fc3` follows the image size.

    Args:
        images: [B,H,W,C], published for 28×28×1.
        num_classes: Number of logits; None: the last feature map is wanted in their place.
        is_training: Changes nothing here; layers know their mode from `layer_modes`.
        dropout_keep_prob: Of the values of `fc3`.

    Returns:
        The logits [B,num_classes], or the last feature map [B,H,W,C], and the end points by name.
    """
    end_points: dict[str, Tensor] = {}
    weights = slim.arg_scope(
        [slim.conv2d, slim.fully_connected],
        weights_initializer=tf.compat.v1.truncated_normal_initializer(stddev=0.1),
        weights_regularizer=layers.decayed,
    )
    with tf.compat.v1.variable_scope("LeNet"), weights:
        net = end_points["conv1"] = slim.conv2d(images, 32, [5, 5], scope="conv1")
        net = end_points["pool1"] = slim.max_pool2d(net, [2, 2], 2, scope="pool1")
        net = end_points["conv2"] = slim.conv2d(net, 64, [5, 5], scope="conv2")
        net = end_points["pool2"] = slim.max_pool2d(net, [2, 2], 2, scope="pool2")
        if num_classes is None:
            return net, end_points
        net = end_points["Flatten"] = slim.flatten(net)
        net = end_points["fc3"] = slim.fully_connected(net, 1024, scope="fc3")
        net = end_points["dropout3"] = layers.dropout(net, dropout_keep_prob, scope="dropout3")
        logits = slim.fully_connected(net, num_classes, activation_fn=None, scope="fc4")
    end_points["Logits"] = logits
    end_points["Predictions"] = tf.nn.softmax(logits)
    return logits, end_points
