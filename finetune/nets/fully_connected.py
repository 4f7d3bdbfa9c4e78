"""The three fully connected layers of AlexNet, OverFeat and VGG, as convolutions so that any image size will do.

Over a feature map larger than the one they were made for they give logits at several positions, which are averaged:
the dense evaluation of OverFeat (arXiv:1312.6229, section 3.3) and VGG (arXiv:1409.1556, section 3.2). On a smaller
map `fc6` takes all of it; then its weights have another shape than the published ones.
"""

import tensorflow as tf
import tf_slim as slim

from finetune.nets import layers
from finetune.types import Tensor


def add_fully_connected(
    net: Tensor,
    num_classes: int,
    end_points: dict[str, Tensor],
    *,
    kernel_size: int,
    depth: int = 4096,
    dropout_keep_prob: float,
) -> Tensor:
    """Adds `fc6`, `fc7` and `fc8` to the network whose variable scope is open, and to its end points.

    Args:
        net: [B,H,W,C].
        num_classes: Number of logits.
        end_points: Where the layers' outputs are added, under their full scope names.
        kernel_size: Height and width of the map that `fc6` was made for.
        depth: Of `fc6`; that of `fc7` is 4096.
        dropout_keep_prob: Of the values of `fc6` and `fc7`.

    Returns:
        Logits [B,num_classes].
    """
    root = tf.compat.v1.get_variable_scope().name
    kernel = [min(kernel_size, size) for size in net.shape[1:3]]
    net = end_points[f"{root}/fc6"] = slim.conv2d(net, depth, kernel, padding="VALID", scope="fc6")
    net = layers.dropout(net, dropout_keep_prob, scope="dropout6")
    net = end_points[f"{root}/fc7"] = slim.conv2d(net, 4096, [1, 1], scope="fc7")
    net = layers.dropout(net, dropout_keep_prob, scope="dropout7")
    zeros = tf.zeros_initializer()
    net = slim.conv2d(net, num_classes, [1, 1], activation_fn=None, biases_initializer=zeros, scope="fc8")
    logits = end_points[f"{root}/fc8"] = tf.reduce_mean(net, [1, 2])
    return logits
