"""MobileNet EdgeTPU: Gupta and Akin, "Accelerator-aware Neural Network Design using AutoML", arXiv:2003.02838.

Published checkpoints: mobilenet_edgetpu_224_{1.0,0.75}.tgz.
"""

from collections.abc import Iterator

import tensorflow as tf

from finetune.nets.mobilenet_blocks import Block, add_classifier, mobilenet_layers, round_depth, trunk
from finetune.types import Tensor

# Depth, kernel size, number of blocks, stride of the first one, whether they are fused.
_STAGES = (
    (32, 3, 4, 2, True),
    (48, 3, 4, 2, True),
    (96, 3, 4, 2, False),
    (96, 3, 4, 1, False),
    (160, 5, 4, 2, False),
    (192, 3, 1, 1, False),
)


def mobilenet_edgetpu(
    images: Tensor,
    num_classes: int | None,
    *,
    is_training: bool,
    dropout_keep_prob: float = 0.8,
    depth_multiplier: float = 1.0,
) -> tuple[Tensor, dict[str, Tensor]]:
    """MobileNet EdgeTPU.

    Args:
        images: [B,H,W,C] in [-1,1].
        num_classes: Number of logits; None: the last feature map is wanted in their place.
        is_training: Changes nothing here; layers know their mode from `layer_modes`.
        dropout_keep_prob: Probability that a pooled feature is kept in training.
        depth_multiplier: Factor of all depths but the last, rounded to multiples of 8.

    Returns:
        Logits [B,num_classes], or the last feature map [B,H,W,C], and the end points by name.
    """
    stem_depth = round_depth(32 * depth_multiplier)
    blocks = list(_scaled_blocks(stem_depth, depth_multiplier))
    with (
        tf.compat.v1.variable_scope("MobilenetEdgeTPU"),
        mobilenet_layers(batch_norm_decay=0.997, activation_fn=tf.nn.relu),
    ):
        net, end_points = trunk(images, stem_depth, blocks, last_depth=1280)
        if num_classes is None:
            return net, end_points
        logits = add_classifier(net, num_classes, dropout_keep_prob, end_points)
    return logits, end_points


def _scaled_blocks(stem_depth: int, depth_multiplier: float) -> Iterator[Block]:
    """A projection, then the stages: the first block of each expands by 8 and is not residual, others expand by 4."""
    projection = Block(stem_depth, round_depth(16 * depth_multiplier), is_fused=True)
    yield projection
    input_depth = projection.depth
    for depth, kernel_size, num_blocks, first_stride, is_fused in _STAGES:
        for index in range(num_blocks):
            is_first = index == 0
            block = Block(
                expanded_depth=(8 if is_first else 4) * input_depth,
                depth=round_depth(depth * depth_multiplier),
                kernel_size=kernel_size,
                stride=first_stride if is_first else 1,
                activation_fn=tf.nn.relu,
                is_fused=is_fused,
                is_residual=not is_first,
            )
            input_depth = block.depth
            yield block
