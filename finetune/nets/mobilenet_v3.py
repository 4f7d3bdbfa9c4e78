"""MobileNet V3, large and small: Howard et al., "Searching for MobileNetV3", arXiv:1905.02244, tables 1 and 2.

The minimalistic ones are the same without what is slow on some hardware: only 3×3 filters, no squeeze-and-excite, and
ReLU in place of the hard swish.

Published checkpoints: v3-{large,small,large-minimalistic,small-minimalistic}_224_1.0_float.tgz.
"""

import dataclasses

import tensorflow as tf
import tf_slim as slim

from finetune.nets.mobilenet_blocks import Block, add_classifier, hard_swish, mobilenet_layers, trunk
from finetune.types import Tensor

_RE, _HS = tf.nn.relu, hard_swish
_SE = True

# The paper's columns: expanded size, output channels, kernel size, stride, activation, squeeze-and-excite.
_LARGE_BLOCKS = (
    Block(16, 16, 3, 1, _RE),
    Block(64, 24, 3, 2, _RE),
    Block(72, 24, 3, 1, _RE),
    Block(72, 40, 5, 2, _RE, _SE),
    Block(120, 40, 5, 1, _RE, _SE),
    Block(120, 40, 5, 1, _RE, _SE),
    Block(240, 80, 3, 2, _HS),
    Block(200, 80, 3, 1, _HS),
    Block(184, 80, 3, 1, _HS),
    Block(184, 80, 3, 1, _HS),
    Block(480, 112, 3, 1, _HS, _SE),
    Block(672, 112, 3, 1, _HS, _SE),
    Block(672, 160, 5, 2, _HS, _SE),
    Block(960, 160, 5, 1, _HS, _SE),
    Block(960, 160, 5, 1, _HS, _SE),
)
_SMALL_BLOCKS = (
    Block(16, 16, 3, 2, _RE, _SE),
    Block(72, 24, 3, 2, _RE),
    Block(88, 24, 3, 1, _RE),
    Block(96, 40, 5, 2, _HS, _SE),
    Block(240, 40, 5, 1, _HS, _SE),
    Block(240, 40, 5, 1, _HS, _SE),
    Block(120, 48, 5, 1, _HS, _SE),
    Block(144, 48, 5, 1, _HS, _SE),
    Block(288, 96, 5, 2, _HS, _SE),
    Block(576, 96, 5, 1, _HS, _SE),
    Block(576, 96, 5, 1, _HS, _SE),
)
# By size: the blocks, channels of the last feature map, channels of the layer behind the pooling.
_SIZES = {"large": (_LARGE_BLOCKS, 960, 1280), "small": (_SMALL_BLOCKS, 576, 1024)}


def mobilenet_v3(
    images: Tensor,
    num_classes: int | None,
    *,
    is_training: bool,
    size: str,
    is_minimalistic: bool = False,
    dropout_keep_prob: float = 0.8,
) -> tuple[Tensor, dict[str, Tensor]]:
    """MobileNet V3.

    Args:
        images: [B,H,W,C] in [-1,1].
        num_classes: Number of logits; None: the last feature map is wanted in their place.
        is_training: Changes nothing here; layers know their mode from `layer_modes`.
        size: "large" or "small".
        is_minimalistic: Whether to leave out what is slow on some hardware.
        dropout_keep_prob: Probability that a feature is kept in training.

    Returns:
        Logits [B,num_classes], or the last feature map [B,H,W,C], and the end points by name.
    """
    blocks, last_depth, feature_depth = _SIZES[size]
    activation_fn = hard_swish
    if is_minimalistic:
        blocks = tuple(_minimalistic(block) for block in blocks)
        activation_fn = tf.nn.relu
    with (
        tf.compat.v1.variable_scope("MobilenetV3"),
        mobilenet_layers(batch_norm_decay=0.997, activation_fn=activation_fn),
    ):
        net, end_points = trunk(images, 16, blocks, last_depth)
        if num_classes is None:
            return net, end_points
        pooled = tf.reduce_mean(net, [1, 2], keepdims=True)
        features = slim.conv2d(pooled, feature_depth, 1, normalizer_fn=None, scope="Conv_2")
        end_points[f"layer_{len(blocks) + 3}"] = pooled
        end_points[f"layer_{len(blocks) + 4}"] = features
        logits = add_classifier(features, num_classes, dropout_keep_prob, end_points)
    return logits, end_points


def _minimalistic(block: Block) -> Block:
    return dataclasses.replace(block, kernel_size=3, activation_fn=tf.nn.relu, has_squeeze_excite=False)
