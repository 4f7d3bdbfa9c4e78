"""NASNet-A, for CIFAR-10 and for ImageNet, mobile and large: Zoph et al., "Learning Transferable Architectures for
Scalable Image Recognition", arXiv:1707.07012, figure 4.

Published checkpoints: nasnet-a_{mobile,large}_04_10_2017.tar.gz.
"""

import tensorflow as tf
import tf_slim as slim

from finetune.nets import layers
from finetune.nets.nasnet_cells import (
    Cell,
    Tower,
    add_classifiers,
    average_pool,
    identity,
    imagenet_tower,
    max_pool,
    nasnet_layers,
    separable,
)
from finetune.types import Tensor

_NORMAL_CELL = Cell(
    combinations=(
        ((separable(5), 0), (separable(3), 1)),
        ((separable(5), 1), (separable(3), 1)),
        ((average_pool, 0), (identity, 1)),
        ((average_pool, 1), (average_pool, 1)),
        ((separable(3), 0), (identity, 0)),
    ),
    outputs=(1, 2, 3, 4, 5, 6),
)
_REDUCTION_CELL = Cell(
    combinations=(
        ((separable(5), 0), (separable(7), 1)),
        ((max_pool, 0), (separable(7), 1)),
        ((average_pool, 0), (separable(5), 1)),
        ((identity, 3), (average_pool, 2)),
        ((separable(3), 2), (max_pool, 0)),
    ),
    outputs=(3, 4, 5, 6),
)


def nasnet(
    images: Tensor,
    num_classes: int | None,
    *,
    is_training: bool,
    num_cells: int,
    depth: int,
    stem_depth: int,
    auxiliary_kernel_size: int,
    skips_reduction_input: bool,
    dropout_keep_prob: float = 0.5,
    drop_path_keep_prob: float = 1.0,
) -> tuple[Tensor, dict[str, Tensor]]:
    """NASNet-A for ImageNet.

    Args:
        images: [B,H,W,C] in [-1,1].
        num_classes: Number of logits; None: the last feature map is wanted in their place.
        is_training: Whether to build the auxiliary classifier.
        num_cells: Normal cells; a reduction cell stands before the second and before the last third of them.
        depth: Channels of a state in the first third; twice and four times as many in the others.
        stem_depth: Channels of the first convolution.
        auxiliary_kernel_size: Of the auxiliary classifier's convolution.
        skips_reduction_input: Whether the second input of the cell behind a reduction cell is that cell's second input,
            not its first one.
        dropout_keep_prob: Probability that a pooled feature is kept in training.
        drop_path_keep_prob: Probability that a step of the last cell is kept in training.

    Returns:
        Logits [B,num_classes], or the last feature map [B,H,W,C], and the end points by name.
    """
    with nasnet_layers():
        tower = imagenet_tower(images, _REDUCTION_CELL, stem_depth, depth, num_cells + 2, drop_path_keep_prob)
        end_points = _add_cells(tower, num_cells, depth, skips_reduction_input)
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


def nasnet_cifar(
    images: Tensor,
    num_classes: int | None,
    *,
    is_training: bool,
    num_cells: int,
    depth: int,
    dropout_keep_prob: float = 1.0,
    drop_path_keep_prob: float = 0.6,
) -> tuple[Tensor, dict[str, Tensor]]:
    """NASNet-A for CIFAR-10.

    Args:
        images: [B,H,W,C], standardised.
        num_classes: Number of logits; None: the last feature map is wanted in their place.
        is_training: Whether to build the auxiliary classifier.
        num_cells: As in `nasnet`.
        depth: As in `nasnet`.
        dropout_keep_prob: As in `nasnet`.
        drop_path_keep_prob: As in `nasnet`.

    Returns:
        Logits [B,num_classes], or the last feature map [B,H,W,C], and the end points by name.
    """
    with nasnet_layers(batch_norm_decay=0.9, batch_norm_epsilon=1e-5):
        net = slim.conv2d(images, 3 * depth, 3, scope="l1_stem_3x3")
        net = layers.batch_norm(net, scope="l1_stem_bn")
        tower = Tower(net, num_cells + 2, drop_path_keep_prob)
        end_points = _add_cells(tower, num_cells, depth, skips_reduction_input=False)
        if num_classes is None:
            return tf.nn.relu(tower.net), end_points
        logits = add_classifiers(
            tower.net,
            num_classes,
            end_points,
            is_training=is_training,
            auxiliary_cell=2 * num_cells // 3 - 1,
            auxiliary_kernel_size=4,
            dropout_keep_prob=dropout_keep_prob,
        )
    return logits, end_points


def _add_cells(tower: Tower, num_cells: int, depth: int, skips_reduction_input: bool) -> dict[str, Tensor]:
    """The cells behind the stem; returns the end points `Stem`, `Cell_N` and `Reduction_Cell_N`."""
    end_points = {"Stem": tower.net}
    for number in range(num_cells):
        third, place = divmod(number, num_cells // 3)
        is_behind_reduction = third > 0 and place == 0
        if is_behind_reduction:
            depth *= 2
            end_points[f"Reduction_Cell_{third - 1}"] = tower.add(
                _REDUCTION_CELL, depth, f"reduction_cell_{third - 1}", stride=2
            )
        end_points[f"Cell_{number}"] = tower.add(
            _NORMAL_CELL, depth, f"cell_{number}", skips_last=is_behind_reduction and skips_reduction_input
        )
    return end_points
