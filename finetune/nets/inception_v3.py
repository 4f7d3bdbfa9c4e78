"""Inception V3: Szegedy et al., "Rethinking the Inception Architecture for Computer Vision", 2015, arXiv:1512.00567.

Published checkpoint: inception_v3_2016_08_28.tar.gz. The trunk is tf-slim's, the classifiers are ours, for other
image sizes.
"""

import tensorflow as tf
import tf_slim as slim
from tf_slim.nets.inception_v3 import inception_v3_base

from finetune.nets.inception import inception_layers, kernel_at_most, pooled_logits
from finetune.types import Tensor


def inception_v3(
    images: Tensor, num_classes: int | None, *, is_training: bool, dropout_keep_prob: float = 0.8
) -> tuple[Tensor, dict[str, Tensor]]:
    """Inception V3 with its auxiliary classifier.

    Args:
        images: [B,H,W,C] in [-1,1], published for 299×299×3.
        num_classes: Number of logits; None: the last feature map is wanted in their place.
        is_training: Changes nothing here; layers know their mode from `layer_modes`.
        dropout_keep_prob: Of the pooled features.

    Returns:
        The logits [B,num_classes] and the end points by name, `AuxLogits` [B,num_classes] among them; or the last
        feature map [B,H,W,C], and those up to it.
    """
    with inception_layers():
        net, end_points = inception_v3_base(images, scope="InceptionV3")
        if num_classes is None:
            return net, end_points
        with tf.compat.v1.variable_scope("InceptionV3/AuxLogits"):
            end_points["AuxLogits"] = _auxiliary_logits(end_points["Mixed_6e"], num_classes)
        with tf.compat.v1.variable_scope("InceptionV3/Logits"):
            pooled, kept, logits = pooled_logits(net, num_classes, dropout_keep_prob, "Conv2d_1c_1x1")
    end_points["AvgPool_1a"] = pooled
    end_points["PreLogits"] = kept
    end_points["Logits"] = logits
    end_points["Predictions"] = tf.nn.softmax(logits)
    return logits, end_points


def _auxiliary_logits(net: Tensor, num_classes: int) -> Tensor:
    """Figure 8 of the paper over [B,H,W,768]; on small maps the kernels, and the layer's name with them, shrink."""
    net = slim.avg_pool2d(net, kernel_at_most(net, 5), stride=3, scope="AvgPool_1a_5x5")
    net = slim.conv2d(net, 128, [1, 1], scope="Conv2d_1b_1x1")
    height, width = kernel_at_most(net, 5)
    net = slim.conv2d(
        net,
        768,
        [height, width],
        padding="VALID",
        weights_initializer=tf.compat.v1.truncated_normal_initializer(stddev=0.01),
        scope=f"Conv2d_2a_{height}x{width}",
    )
    net = slim.conv2d(
        net,
        num_classes,
        [1, 1],
        activation_fn=None,
        normalizer_fn=None,
        weights_initializer=tf.compat.v1.truncated_normal_initializer(stddev=0.001),
        scope="Conv2d_2b_1x1",
    )
    return tf.reduce_mean(net, [1, 2])
