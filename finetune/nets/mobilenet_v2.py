"""MobileNet V2: Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", arXiv:1801.04381, table 2.

Published checkpoints: mobilenet_v2_{1.4,1.0,0.35}_224.tgz.
"""

from collections.abc import Iterator

import tensorflow as tf

from finetune.nets.mobilenet_blocks import Block, add_classifier, mobilenet_layers, round_depth, trunk
from finetune.types import Tensor

# Expansion factor, depth, number of blocks, stride of the first one.
_BLOCKS = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


def mobilenet_v2(
    images: Tensor,
    num_classes: int | None,
    *,
    is_training: bool,
    dropout_keep_prob: float = 0.8,
    depth_multiplier: float = 1.0,
) -> tuple[Tensor, dict[str, Tensor]]:
    """MobileNet V2.

    Args:
        images: [B,H,W,C] in [-1,1].
        num_classes: Number of logits; None: the last feature map is wanted in their place.
        is_training: Changes nothing here; layers know their mode from `layer_modes`.
        dropout_keep_prob: Probability that a pooled feature is kept in training.
        depth_multiplier: Factor of all depths, rounded to multiples of 8; the last depth never goes below 1280.

    Returns:
        Logits [B,num_classes], or the last feature map [B,H,W,C], and the end points by name.
    """
    stem_depth = round_depth(32 * depth_multiplier)
    blocks = list(_scaled_blocks(stem_depth, depth_multiplier))
    last_depth = round_depth(1280 * max(1.0, depth_multiplier))
    with tf.compat.v1.variable_scope("MobilenetV2"), mobilenet_layers(batch_norm_decay=0.997):
        net, end_points = trunk(images, stem_depth, blocks, last_depth)
        if num_classes is None:
            return net, end_points
        logits = add_classifier(net, num_classes, dropout_keep_prob, end_points)
    return logits, end_points


def _scaled_blocks(stem_depth: int, depth_multiplier: float) -> Iterator[Block]:
    input_depth = stem_depth
    for expansion, depth, num_blocks, first_stride in _BLOCKS:
        for index in range(num_blocks):
            block = Block(
                expanded_depth=expansion * input_depth,
                depth=round_depth(depth * depth_multiplier),
                stride=1 if index else first_stride,
            )
            input_depth = block.depth
            yield block
