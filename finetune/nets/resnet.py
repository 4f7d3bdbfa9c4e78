"""What both versions of the residual networks share: the settings of their layers, the blocks and the classifier.

As in slim, the last unit of a block halves the map, not the first unit of the next one as in the papers.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import tensorflow as tf
import tf_slim as slim
from tf_slim.layers import initializers

from finetune.nets import layers
from finetune.types import Tensor

# Depth inside the bottlenecks of each block; the blocks' outputs are four times as deep.
_BOTTLENECK_DEPTHS = (64, 128, 256, 512)


@contextlib.contextmanager
def resnet_layers() -> Iterator[None]:
    """Settings of all layers inside: normalised, activated by ReLU, decayed weights."""
    with (
        slim.arg_scope(
            [slim.conv2d],
            weights_initializer=initializers.variance_scaling_initializer(),
            weights_regularizer=layers.decayed,
            normalizer_fn=layers.batch_norm,
        ),
        slim.arg_scope([layers.batch_norm], decay=0.997, epsilon=1e-5, scale=True),
    ):
        yield


def add_blocks(
    net: Tensor,
    num_units: Sequence[int],
    unit_scope: str,
    unit: Callable[[Tensor, int, int], dict[str, Tensor]],
    end_points: dict[str, Tensor],
) -> Tensor:
    """Adds four blocks of residual units to the network whose variable scope is open.

    Args:
        net: [B,H,W,64].
        num_units: Of each block.
        unit_scope: Name of a unit's layers inside the scope of its number.
        unit: Called with a map [B,H,W,C], the depth of the bottleneck and the stride; gives the values inside the unit
            by name, `output` [B,H/stride,W/stride,4·depth] among them.
        end_points: Where the values inside all units, and the outputs of units and blocks, are added under their full
            scope names.

    Returns:
        [B,H/8,W/8,2048].
    """
    root = tf.compat.v1.get_variable_scope().name
    for block, (depth, count) in enumerate(zip(_BOTTLENECK_DEPTHS, num_units, strict=True), start=1):
        for number in range(1, count + 1):
            is_halving = number == count and block < len(num_units)
            with tf.compat.v1.variable_scope(f"block{block}/unit_{number}/{unit_scope}") as scope:
                values = unit(net, depth, 2 if is_halving else 1)
            net = end_points[scope.name] = values.pop("output")
            end_points.update({f"{scope.name}/{name}": value for name, value in values.items()})
        end_points[f"{root}/block{block}"] = net
    return net


def subsample(net: Tensor, stride: int) -> Tensor:
    """[B,H,W,C] at every `stride`th position."""
    return net if stride == 1 else slim.max_pool2d(net, [1, 1], stride=stride)


def convolve(net: Tensor, depth: int, kernel_size: int, stride: int, **settings: Any) -> Tensor:
    """A convolution padded alike on all sides, which TensorFlow's "SAME" is not at strides above 1."""
    if stride == 1:
        return slim.conv2d(net, depth, kernel_size, **settings)
    padding = [kernel_size // 2] * 2
    padded = tf.pad(net, [[0, 0], padding, padding, [0, 0]])
    return slim.conv2d(padded, depth, kernel_size, stride=stride, padding="VALID", **settings)


def add_classifier(net: Tensor, num_classes: int, end_points: dict[str, Tensor]) -> Tensor:
    """Pools [B,H,W,C] over all of the image and classifies it; adds what is met on the way to the end points.

    Returns:
        Logits [B,num_classes].
    """
    root = tf.compat.v1.get_variable_scope().name
    net = end_points["global_pool"] = tf.reduce_mean(net, [1, 2], keepdims=True)
    net = slim.conv2d(net, num_classes, [1, 1], activation_fn=None, normalizer_fn=None, scope="logits")
    end_points[f"{root}/logits"] = net
    logits = end_points[f"{root}/spatial_squeeze"] = tf.squeeze(net, [1, 2])
    end_points["predictions"] = tf.nn.softmax(logits)
    return logits
