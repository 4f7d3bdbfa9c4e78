"""Inception V2: Ioffe and Szegedy, "Batch Normalization: Accelerating Deep Network Training by Reducing Internal
Covariate Shift", 2015, arXiv:1502.03167, figure 5.

Published checkpoint: inception_v2_2016_08_28.tar.gz. The trunk is tf-slim's, the classifier is ours, for other
image sizes.
"""

import tensorflow as tf
from tf_slim.nets.inception_v2 import inception_v2_base

from finetune.nets.inception import inception_layers, pooled_logits
from finetune.types import Tensor


def inception_v2(
    images: Tensor, num_classes: int | None, *, is_training: bool, dropout_keep_prob: float = 0.8
) -> tuple[Tensor, dict[str, Tensor]]:
    """Inception V2.

    Args:
        images: [B,H,W,C] in [-1,1], published for 224×224×3.
        num_classes: Number of logits; None: the last feature map is wanted in their place.
        is_training: Changes nothing here; layers know their mode from `layer_modes`.
        dropout_keep_prob: Of the pooled features.

    Returns:
        The logits [B,num_classes], or the last feature map [B,H,W,C], and the end points by name.
    """
    with inception_layers():
        net, end_points = inception_v2_base(images, scope="InceptionV2")
        if num_classes is None:
            return net, end_points
        with tf.compat.v1.variable_scope("InceptionV2/Logits"):
            pooled, kept, logits = pooled_logits(net, num_classes, dropout_keep_prob, "Conv2d_1c_1x1")
    end_points["AvgPool_1a"] = pooled
    end_points["PreLogits"] = kept
    end_points["Logits"] = logits
    end_points["Predictions"] = tf.nn.softmax(logits)
    return logits, end_points
