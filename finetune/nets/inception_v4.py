"""Inception V4: Szegedy, Ioffe, Vanhoucke and Alemi, "Inception-v4, Inception-ResNet and the Impact of Residual
Connections on Learning", 2016, arXiv:1602.07261, figures 3 to 9.

Published checkpoint: inception_v4_2016_09_09.tar.gz.
"""

import tensorflow as tf
import tf_slim as slim

from finetune.nets.inception import (
    add_fully_connected_logits,
    auxiliary_logits,
    average,
    halve,
    inception_layers,
    tower,
)
from finetune.types import Tensor


def inception_v4(
    images: Tensor, num_classes: int | None, *, is_training: bool, dropout_keep_prob: float = 0.8
) -> tuple[Tensor, dict[str, Tensor]]:
    """Inception V4 with an auxiliary classifier.

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
    blocks = (
        ("Mixed_3a", _stem_pool),
        ("Mixed_4a", _stem_towers),
        ("Mixed_5a", _stem_halved),
        *((f"Mixed_5{letter}", _block_a) for letter in "bcde"),
        ("Mixed_6a", _reduction_a),
        *((f"Mixed_6{letter}", _block_b) for letter in "bcdefgh"),
        ("Mixed_7a", _reduction_b),
        *((f"Mixed_7{letter}", _block_c) for letter in "bcd"),
    )
    with tf.compat.v1.variable_scope("InceptionV4"), inception_layers():
        net = slim.conv2d(images, 32, [3, 3], stride=2, padding="VALID", scope="Conv2d_1a_3x3")
        end_points["Conv2d_1a_3x3"] = net
        net = end_points["Conv2d_2a_3x3"] = slim.conv2d(net, 32, [3, 3], padding="VALID", scope="Conv2d_2a_3x3")
        net = end_points["Conv2d_2b_3x3"] = slim.conv2d(net, 64, [3, 3], scope="Conv2d_2b_3x3")
        for scope, block in blocks:
            with tf.compat.v1.variable_scope(scope):
                net = end_points[scope] = tf.concat(block(net), axis=-1)
        if num_classes is None:
            return net, end_points
        end_points["AuxLogits"] = auxiliary_logits(end_points["Mixed_6h"], num_classes, "Conv2d_2a", "Aux_logits")
        logits = add_fully_connected_logits(net, num_classes, dropout_keep_prob, end_points)
    return logits, end_points


def _stem_pool(net: Tensor) -> list[Tensor]:
    return [halve(net), tower(net, 1, (96, "0a_3x3"), stride=2, padding="VALID")]


def _stem_towers(net: Tensor) -> list[Tensor]:
    return [
        tower(net, 0, (64, "0a_1x1"), (96, "1a_3x3"), padding="VALID"),
        tower(net, 1, (64, "0a_1x1"), (64, "0b_1x7"), (64, "0c_7x1"), (96, "1a_3x3"), padding="VALID"),
    ]


def _stem_halved(net: Tensor) -> list[Tensor]:
    return [tower(net, 0, (192, "1a_3x3"), stride=2, padding="VALID"), halve(net)]


def _block_a(net: Tensor) -> list[Tensor]:
    return [
        tower(net, 0, (96, "0a_1x1")),
        tower(net, 1, (64, "0a_1x1"), (96, "0b_3x3")),
        tower(net, 2, (64, "0a_1x1"), (96, "0b_3x3"), (96, "0c_3x3")),
        tower(average(net), 3, (96, "0b_1x1")),
    ]


def _reduction_a(net: Tensor) -> list[Tensor]:
    return [
        tower(net, 0, (384, "1a_3x3"), stride=2, padding="VALID"),
        tower(net, 1, (192, "0a_1x1"), (224, "0b_3x3"), (256, "1a_3x3"), stride=2, padding="VALID"),
        halve(net),
    ]


def _block_b(net: Tensor) -> list[Tensor]:
    return [
        tower(net, 0, (384, "0a_1x1")),
        tower(net, 1, (192, "0a_1x1"), (224, "0b_1x7"), (256, "0c_7x1")),
        tower(net, 2, (192, "0a_1x1"), (192, "0b_7x1"), (224, "0c_1x7"), (224, "0d_7x1"), (256, "0e_1x7")),
        tower(average(net), 3, (128, "0b_1x1")),
    ]


def _reduction_b(net: Tensor) -> list[Tensor]:
    wide = ((256, "0a_1x1"), (256, "0b_1x7"), (320, "0c_7x1"), (320, "1a_3x3"))
    return [
        tower(net, 0, (192, "0a_1x1"), (192, "1a_3x3"), stride=2, padding="VALID"),
        tower(net, 1, *wide, stride=2, padding="VALID"),
        halve(net),
    ]


def _block_c(net: Tensor) -> list[Tensor]:
    shallow = tower(net, 1, (384, "0a_1x1"))
    deep = tower(net, 2, (384, "0a_1x1"), (448, "0b_3x1"), (512, "0c_1x3"))
    return [
        tower(net, 0, (256, "0a_1x1")),
        tower(shallow, 1, (256, "0b_1x3")),
        tower(shallow, 1, (256, "0c_3x1")),
        tower(deep, 2, (256, "0d_1x3")),
        tower(deep, 2, (256, "0e_3x1")),
        tower(average(net), 3, (256, "0b_1x1")),
    ]
