"""PNASNet-5, mobile and large: Liu et al., "Progressive Neural Architecture Search", arXiv:1712.00559, figure 1.

Published checkpoints: pnasnet-5_{mobile,large}_2017_12_13.tar.gz.
"""

import tensorflow as tf

from finetune.nets.nasnet_cells import (
    Cell,
    add_classifiers,
    identity,
    imagenet_tower,
    max_pool,
    nasnet_layers,
    separable,
)
from finetune.types import Tensor

_CELL = Cell(
    combinations=(
        ((separable(5), 1), (max_pool, 1)),
        ((separable(7), 0), (max_pool, 0)),
        ((separable(5), 0), (separable(3), 0)),
        ((separable(3), 4), (max_pool, 0)),
        ((separable(3), 1), (identity, 0)),
    ),
    outputs=(2, 3, 4, 5, 6),
)


def pnasnet(
    images: Tensor,
    num_classes: int | None,
    *,
    is_training: bool,
    num_cells: int,
    depth: int,
    stem_depth: int,
    auxiliary_kernel_size: int,
    dropout_keep_prob: float = 0.5,
    drop_path_keep_prob: float = 1.0,
) -> tuple[Tensor, dict[str, Tensor]]:
    """PNASNet-5.

    Args:
        images: [B,H,W,C] in [-1,1].
        num_classes: Number of logits; None: the last feature map is wanted in their place.
        is_training: Whether to build the auxiliary classifier.
        num_cells: Cells behind the stem; the first ones of the second and of the last third halve height and width.
        depth: Channels of a state in the first third; twice and four times as many in the others.
        stem_depth: Channels of the first convolution.
        auxiliary_kernel_size: Of the auxiliary classifier's convolution.
        dropout_keep_prob: Probability that a pooled feature is kept in training.
        drop_path_keep_prob: Probability that a step of the last cell is kept in training.

    Returns:
        Logits [B,num_classes], or the last feature map [B,H,W,C], and the end points by name.
    """
    with nasnet_layers():
        tower = imagenet_tower(images, _CELL, stem_depth, depth, num_cells, drop_path_keep_prob)
        end_points = {"Stem": tower.net}
        for number in range(num_cells):
            third, place = divmod(number, num_cells // 3)
            stride = 2 if third and not place else 1
            end_points[f"Cell_{number}"] = tower.add(_CELL, depth * 2**third, f"cell_{number}", stride=stride)
        if num_classes is None:
            return tf.nn.relu(tower.net), end_points
        logits = add_classifiers(
            tower.net,
            num_classes,
            end_points,
            is_training=is_training,
            auxiliary_cell=2 * num_cells // 3 - 1,
            auxiliary_kernel_size=auxiliary_kernel_size,
            dropout_keep_prob=dropout_keep_prob,
        )
    return logits, end_points
