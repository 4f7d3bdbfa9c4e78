"""Inception V1 (GoogLeNet): Szegedy et al., "Going deeper with convolutions", 2014, arXiv:1409.4842; with batch norm.

Published checkpoint: inception_v1_2016_08_28.tar.gz. The trunk is tf-slim's, the classifier is ours, for other
image sizes.
"""

import tensorflow as tf
from tf_slim.nets.inception_v1 import inception_v1_base

from finetune.nets.inception import inception_layers, pooled_logits
from finetune.types import Tensor


def inception_v1(
    images: Tensor, num_classes: int | None, *, is_training: bool, dropout_keep_prob: float = 0.8
) -> tuple[Tensor, dict[str, Tensor]]:
    """Inception V1, without the paper's auxiliary classifiers.

    Args:
        images: [B,H,W,C] in [-1,1], published for 224×224×3.
        num_classes: Number of logits; None: the last feature map is wanted in their place.
        is_training: Changes nothing here; layers know their mode from `layer_modes`.
        dropout_keep_prob: Of the pooled features.

    Returns:
        The logits [B,num_classes], or the last feature map [B,H,W,C], and the end points by name.
    """
    with inception_layers():
        net, end_points = inception_v1_base(images, scope="InceptionV1")
        if num_classes is None:
            return net, end_points
        with tf.compat.v1.variable_scope("InceptionV1/Logits"):
            pooled, _, logits = pooled_logits(net, num_classes, dropout_keep_prob, "Conv2d_0c_1x1")
    end_points["AvgPool_0a_7x7"] = pooled
    end_points["Logits"] = logits
    end_points["Predictions"] = tf.nn.softmax(logits)
    return logits, end_points
