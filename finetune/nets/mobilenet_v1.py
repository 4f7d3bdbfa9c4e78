"""MobileNet V1: Howard et al., "MobileNets: Efficient Convolutional Neural Networks for Mobile Vision Applications",
arXiv:1704.04861, table 1.

Published checkpoints: mobilenet_v1_2018_02_22/mobilenet_v1_{1.0,0.75,0.5,0.25}_224.tgz.
"""

import tensorflow as tf
import tf_slim as slim

from finetune.nets.mobilenet_blocks import add_classifier, mobilenet_layers
from finetune.types import Tensor

# Depth and stride of each depthwise separable convolution.
_SEPARABLE_CONVOLUTIONS = (
    (64, 1),
    (128, 2),
    (128, 1),
    (256, 2),
    (256, 1),
    (512, 2),
    *5 * ((512, 1),),
    (1024, 2),
    (1024, 1),
)


def mobilenet_v1(
    images: Tensor,
    num_classes: int | None,
    *,
    is_training: bool,
    dropout_keep_prob: float = 0.999,
    depth_multiplier: float = 1.0,
) -> tuple[Tensor, dict[str, Tensor]]:
    """MobileNet V1.

    Args:
        images: [B,H,W,C] in [-1,1].
        num_classes: Number of logits; None: the last feature map is wanted in their place.
        is_training: Changes nothing here; layers know their mode from `layer_modes`.
        dropout_keep_prob: Probability that a pooled feature is kept in training.
        depth_multiplier: Factor of all depths, of which each is at least 8.

    Returns:
        Logits [B,num_classes], or the last feature map [B,H,W,C], and the end points by name.
    """
    end_points: dict[str, Tensor] = {}

    def scaled(depth: int) -> int:
        return max(8, int(depth * depth_multiplier))

    with tf.compat.v1.variable_scope("MobilenetV1"), mobilenet_layers(batch_norm_decay=0.9997):
        net = end_points["Conv2d_0"] = slim.conv2d(images, scaled(32), 3, stride=2, scope="Conv2d_0")
        for number, (depth, stride) in enumerate(_SEPARABLE_CONVOLUTIONS, start=1):
            scope = f"Conv2d_{number}_depthwise"
            net = end_points[scope] = slim.separable_conv2d(net, None, 3, 1, stride, scope=scope)
            scope = f"Conv2d_{number}_pointwise"
            net = end_points[scope] = slim.conv2d(net, scaled(depth), 1, scope=scope)
        if num_classes is None:
            return net, end_points
        logits = add_classifier(net, num_classes, dropout_keep_prob, end_points, pool_name="AvgPool_1a")
    return logits, end_points
