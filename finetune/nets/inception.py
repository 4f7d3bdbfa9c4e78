"""What the Inception networks share: the settings of their layers, towers of convolutions and classifiers."""

import contextlib
from collections.abc import Iterator

import tensorflow as tf
import tf_slim as slim
from tf_slim.layers import initializers

from finetune.nets import layers
from finetune.types import Tensor


@contextlib.contextmanager
def inception_layers() -> Iterator[None]:
    """Settings of all layers inside: normalised without a factor (gamma), activated by ReLU, decayed weights."""
    with (
        slim.arg_scope([slim.conv2d, slim.fully_connected], weights_regularizer=layers.decayed),
        slim.arg_scope(
            [slim.conv2d],
            weights_initializer=initializers.variance_scaling_initializer(),
            normalizer_fn=layers.batch_norm,
            normalizer_params={"decay": 0.9997, "epsilon": 0.001},
        ),
    ):
        yield


def tower(net: Tensor, branch: int, *convolutions: tuple[int, str], stride: int = 1, padding: str = "SAME") -> Tensor:
    """A branch of a block: convolutions, one after the other.

    Args:
        net: [B,H,W,C].
        branch: Its number in the block.
        convolutions: Depth and published name of each; the end of the name tells the kernel: `0b_1x7`.
        stride: Of the last convolution; 1 for the others.
        padding: Of the last convolution; "SAME" for the others.
    """
    with tf.compat.v1.variable_scope(f"Branch_{branch}"):
        for index, (depth, name) in enumerate(convolutions, start=1):
            kernel = [int(size) for size in name.split("_")[-1].split("x")]
            place = {"stride": stride, "padding": padding} if index == len(convolutions) else {}
            net = slim.conv2d(net, depth, kernel, scope=f"Conv2d_{name}", **place)
    return net


def average(net: Tensor) -> Tensor:
    """Each value's mean with its neighbours."""
    return slim.avg_pool2d(net, [3, 3], stride=1, padding="SAME")


def halve(net: Tensor) -> Tensor:
    """The greatest of 3×3 values, at every second position."""
    return slim.max_pool2d(net, [3, 3], stride=2, padding="VALID")


def kernel_at_most(net: Tensor, size: int) -> list[int]:
    """Height and width of a kernel of `size`×`size`, or of the map [B,H,W,C] where that is smaller."""
    return [min(size, extent) for extent in net.shape[1:3]]


def pooled_logits(net: Tensor, num_classes: int, dropout_keep_prob: float, scope: str) -> tuple[Tensor, Tensor, Tensor]:
    """Pools [B,H,W,C] over all of the image and classifies it by a pointwise convolution.

    Args:
        net: [B,H,W,C].
        num_classes: Number of logits.
        dropout_keep_prob: Of the pooled features.
        scope: Of the convolution.

    Returns:
        Pooled features [B,1,1,C], the same after dropout, and logits [B,num_classes].
    """
    pooled = tf.reduce_mean(net, [1, 2], keepdims=True)
    kept = layers.dropout(pooled, dropout_keep_prob)
    logits = slim.conv2d(kept, num_classes, [1, 1], activation_fn=None, normalizer_fn=None, scope=scope)
    return pooled, kept, tf.squeeze(logits, [1, 2])


def add_fully_connected_logits(
    net: Tensor, num_classes: int, dropout_keep_prob: float, end_points: dict[str, Tensor]
) -> Tensor:
    """Pools [B,H,W,C] over all of the image and classifies it by a fully connected layer; adds what is met on the way.

    Returns:
        Logits [B,num_classes].
    """
    with tf.compat.v1.variable_scope("Logits"):
        net = end_points["global_pool"] = tf.reduce_mean(net, [1, 2], keepdims=True)
        net = end_points["PreLogitsFlatten"] = slim.flatten(layers.dropout(net, dropout_keep_prob))
        logits = end_points["Logits"] = slim.fully_connected(net, num_classes, activation_fn=None, scope="Logits")
    end_points["Predictions"] = tf.nn.softmax(logits)
    return logits


def auxiliary_logits(net: Tensor, num_classes: int, convolution_scope: str, logits_scope: str) -> Tensor:
    """Classifies [B,H,W,C] in the middle of the network; what larger images give at several positions is averaged.

    Returns:
        Logits [B,num_classes].
    """
    with tf.compat.v1.variable_scope("AuxLogits"):
        net = slim.avg_pool2d(net, kernel_at_most(net, 5), stride=3, padding="VALID")
        net = slim.conv2d(net, 128, [1, 1], scope="Conv2d_1b_1x1")
        net = slim.conv2d(net, 768, kernel_at_most(net, 5), padding="VALID", scope=convolution_scope)
        net = tf.reduce_mean(net, [1, 2])
        return slim.fully_connected(net, num_classes, activation_fn=None, scope=logits_scope)
