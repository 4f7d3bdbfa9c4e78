"""Inception-ResNet V2: Szegedy, Ioffe, Vanhoucke and Alemi, "Inception-v4, Inception-ResNet and the Impact of Residual
Connections on Learning", 2016, arXiv:1602.07261, section 3.2 and figures 16 to 19, with the stem of Inception V3.

Published checkpoint: inception_resnet_v2_2016_08_30.tar.gz.
"""

from collections.abc import Callable

import tensorflow as tf
import tf_slim as slim
from tf_slim.layers import initializers

from finetune.nets import layers
from finetune.nets.inception import (
    add_fully_connected_logits,
    auxiliary_logits,
    average,
    halve,
    inception_layers,
    tower,
)
from finetune.types import Tensor


def inception_resnet_v2(
    images: Tensor, num_classes: int | None, *, is_training: bool, dropout_keep_prob: float = 0.8
) -> tuple[Tensor, dict[str, Tensor]]:
    """Inception-ResNet V2 with an auxiliary classifier. Weight decay applies to biases, too.

    Args:
        images: [B,H,W,C] in [-1,1], published for 299×299×3.
        num_classes: Number of logits; None: the last feature map is wanted in their place.
        is_training: Changes nothing here; layers know their mode from `layer_modes`.
        dropout_keep_prob: Of the pooled features.

    Returns:
        The logits [B,num_classes] and the end points by name, `AuxLogits` [B,num_classes] among them; or the last
        feature map [B,H,W,C], and those up to it.
    """
    end_points: dict[str, Tensor] = {}
    decayed_biases = slim.arg_scope([slim.conv2d, slim.fully_connected], biases_regularizer=layers.decayed)
    initial_weights = slim.arg_scope([slim.conv2d], weights_initializer=initializers.xavier_initializer())
    with tf.compat.v1.variable_scope("InceptionResnetV2"), inception_layers(), decayed_biases, initial_weights:
        net = _add_stem(images, end_points)
        net = end_points["Mixed_5b"] = _concatenated("Mixed_5b", _mixed_5b, net)
        for index in range(1, 11):
            net = _residual(f"Repeat/block35_{index}", _block35, net, scale=0.17)
        net = end_points["Mixed_6a"] = _concatenated("Mixed_6a", _reduction_a, net)
        for index in range(1, 21):
            net = _residual(f"Repeat_1/block17_{index}", _block17, net, scale=0.10)
        end_points["PreAuxLogits"] = net
        net = end_points["Mixed_7a"] = _concatenated("Mixed_7a", _reduction_b, net)
        for index in range(1, 10):
            net = _residual(f"Repeat_2/block8_{index}", _block8, net, scale=0.20)
        net = _residual("Block8", _block8, net, scale=1.0, activation_fn=tf.identity)
        net = end_points["Conv2d_7b_1x1"] = slim.conv2d(net, 1536, [1, 1], scope="Conv2d_7b_1x1")
        if num_classes is None:
            return net, end_points
        middle = end_points["PreAuxLogits"]
        end_points["AuxLogits"] = auxiliary_logits(middle, num_classes, "Conv2d_2a_5x5", "Logits")
        logits = add_fully_connected_logits(net, num_classes, dropout_keep_prob, end_points)
    return logits, end_points


def _add_stem(images: Tensor, end_points: dict[str, Tensor]) -> Tensor:
    net = slim.conv2d(images, 32, [3, 3], stride=2, padding="VALID", scope="Conv2d_1a_3x3")
    end_points["Conv2d_1a_3x3"] = net
    net = end_points["Conv2d_2a_3x3"] = slim.conv2d(net, 32, [3, 3], padding="VALID", scope="Conv2d_2a_3x3")
    net = end_points["Conv2d_2b_3x3"] = slim.conv2d(net, 64, [3, 3], scope="Conv2d_2b_3x3")
    net = end_points["MaxPool_3a_3x3"] = halve(net)
    net = end_points["Conv2d_3b_1x1"] = slim.conv2d(net, 80, [1, 1], scope="Conv2d_3b_1x1")
    net = end_points["Conv2d_4a_3x3"] = slim.conv2d(net, 192, [3, 3], padding="VALID", scope="Conv2d_4a_3x3")
    net = end_points["MaxPool_5a_3x3"] = halve(net)
    return net


def _concatenated(scope: str, block: Callable[[Tensor], list[Tensor]], net: Tensor) -> Tensor:
    with tf.compat.v1.variable_scope(scope):
        return tf.concat(block(net), axis=-1)


def _residual(
    scope: str,
    block: Callable[[Tensor], list[Tensor]],
    net: Tensor,
    scale: float,
    activation_fn: Callable[[Tensor], Tensor] = tf.nn.relu,
) -> Tensor:
    """Adds a block's towers, brought to the depth of the input and scaled (section 3.3), to the input."""
    with tf.compat.v1.variable_scope(scope):
        towers = tf.concat(block(net), axis=-1)
        residual = slim.conv2d(
            towers, net.shape[-1], [1, 1], normalizer_fn=None, activation_fn=None, scope="Conv2d_1x1"
        )
    return activation_fn(net + scale * residual)


def _mixed_5b(net: Tensor) -> list[Tensor]:
    return [
        tower(net, 0, (96, "1x1")),
        tower(net, 1, (48, "0a_1x1"), (64, "0b_5x5")),
        tower(net, 2, (64, "0a_1x1"), (96, "0b_3x3"), (96, "0c_3x3")),
        tower(average(net), 3, (64, "0b_1x1")),
    ]


def _block35(net: Tensor) -> list[Tensor]:
    return [
        tower(net, 0, (32, "1x1")),
        tower(net, 1, (32, "0a_1x1"), (32, "0b_3x3")),
        tower(net, 2, (32, "0a_1x1"), (48, "0b_3x3"), (64, "0c_3x3")),
    ]


def _reduction_a(net: Tensor) -> list[Tensor]:
    return [
        tower(net, 0, (384, "1a_3x3"), stride=2, padding="VALID"),
        tower(net, 1, (256, "0a_1x1"), (256, "0b_3x3"), (384, "1a_3x3"), stride=2, padding="VALID"),
        halve(net),
    ]


def _block17(net: Tensor) -> list[Tensor]:
    return [
        tower(net, 0, (192, "1x1")),
        tower(net, 1, (128, "0a_1x1"), (160, "0b_1x7"), (192, "0c_7x1")),
    ]


def _reduction_b(net: Tensor) -> list[Tensor]:
    return [
        tower(net, 0, (256, "0a_1x1"), (384, "1a_3x3"), stride=2, padding="VALID"),
        tower(net, 1, (256, "0a_1x1"), (288, "1a_3x3"), stride=2, padding="VALID"),
        tower(net, 2, (256, "0a_1x1"), (288, "0b_3x3"), (320, "1a_3x3"), stride=2, padding="VALID"),
        halve(net),
    ]


def _block8(net: Tensor) -> list[Tensor]:
    return [
        tower(net, 0, (192, "1x1")),
        tower(net, 1, (192, "0a_1x1"), (224, "0b_1x3"), (256, "0c_3x1")),
    ]
