"""Slim's network for CIFAR-10, after the two-layer network of cuda-convnet (Krizhevsky, 2012).

No checkpoint was published.
"""

from typing import Any

import tensorflow as tf
import tf_slim as slim

from finetune.nets import layers
from finetune.types import Tensor


def cifarnet(
    images: Tensor, num_classes: int | None, *, is_training: bool, dropout_keep_prob: float = 0.5
) -> tuple[Tensor, dict[str, Tensor]]:
    """CifarNet; the shape of `fc3` follows the image size. Weight decay applies to `fc3` and `fc4` alone.

    Args:
        images: [B,H,W,C], published for 32×32×3.
        num_classes: Number of logits; None: the last feature map is wanted in their place.
        is_training: Changes nothing here; layers know their mode from `layer_modes`.
        dropout_keep_prob: Of the values of `fc3`.

    Returns:
        The logits [B,num_classes], or the last feature map [B,H,W,C], and the end points by name.
    """
    end_points: dict[str, Tensor] = {}
    convolutions = slim.arg_scope([slim.conv2d], weights_initializer=_normal(0.05))
    fully_connected = slim.arg_scope(
        [slim.fully_connected],
        weights_initializer=_normal(0.04),
        weights_regularizer=layers.decayed,
        biases_initializer=tf.constant_initializer(0.1),
    )
    with tf.compat.v1.variable_scope("CifarNet"), convolutions, fully_connected:
        net = end_points["conv1"] = slim.conv2d(images, 64, [5, 5], scope="conv1")
        net = end_points["pool1"] = slim.max_pool2d(net, [2, 2], 2, scope="pool1")
        net = end_points["conv2"] = slim.conv2d(_normalised(net), 64, [5, 5], scope="conv2")
        net = end_points["pool2"] = slim.max_pool2d(_normalised(net), [2, 2], 2, scope="pool2")
        if num_classes is None:
            return net, end_points
        net = end_points["Flatten"] = slim.flatten(net)
        net = end_points["fc3"] = slim.fully_connected(net, 384, scope="fc3")
        net = layers.dropout(net, dropout_keep_prob, scope="dropout3")
        net = end_points["fc4"] = slim.fully_connected(net, 192, scope="fc4")
        logits = slim.fully_connected(
            net,
            num_classes,
            activation_fn=None,
            weights_initializer=_normal(1 / 192),
            weights_regularizer=None,
            biases_initializer=tf.zeros_initializer(),
            scope="logits",
        )
    end_points["Logits"] = logits
    end_points["Predictions"] = tf.nn.softmax(logits)
    return logits, end_points


def _normal(stddev: float) -> Any:
    return tf.compat.v1.truncated_normal_initializer(stddev=stddev)


def _normalised(net: Tensor) -> Tensor:
    """Local response normalisation over nine neighbouring channels (Krizhevsky et al., 2012, section 3.3)."""
    # In float32, as TensorFlow has no kernel of it for bfloat16.
    normalised = tf.nn.local_response_normalization(
        tf.cast(net, tf.float32), depth_radius=4, bias=1.0, alpha=0.001 / 9, beta=0.75
    )
    return tf.cast(normalised, net.dtype)
