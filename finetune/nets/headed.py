"""A network of the table under a head in the place of its own."""

import tensorflow as tf
import tf_slim as slim

from finetune.errors import UserError
from finetune.nets import layers
from finetune.nets.heads import HEAD_SCOPE, Head
from finetune.nets.spec import NetSpec
from finetune.types import Tensor


def headed(
    images: Tensor, num_classes: int, *, is_training: bool, body: NetSpec, head: Head
) -> tuple[Tensor, dict[str, Tensor]]:
    """The network up to its last feature map, pooled over all of the image, then dense layers.

    Weight decay applies to the kernels of the dense layers.

    Args:
        images: As the network takes them.
        num_classes: Number of logits.
        is_training: The mode of the pass.
        body: Record of the network with its own head.
        head: What takes the own head's place.

    Returns:
        The logits [B,num_classes] and the end points by name: the network's up to the map, then `head/pooled` [B,D],
        `head/hidden_N` [B,size], `head/logits` and `Predictions` [B,num_classes].

    Raises:
        UserError: The network's function returned no feature map.
    """
    net, end_points = body.load_function()(images, None, is_training=is_training, **body.arguments)
    if net.shape.rank != 4:
        raise UserError(
            f"--head: the function of {body.name} returned a tensor {net.shape} as its last feature map.",
            "Where num_classes is None it must return the map [B,H,W,C] in front of its own head.",
        )
    dense = slim.arg_scope([slim.fully_connected], weights_regularizer=layers.decayed)
    with tf.compat.v1.variable_scope(HEAD_SCOPE), dense:
        net = end_points[f"{HEAD_SCOPE}/pooled"] = _pooled(net, head.pooling)
        for number, size in enumerate(head.hidden_sizes, start=1):
            net = _dropped(net, head, f"dropout_{number}")
            net = end_points[f"{HEAD_SCOPE}/hidden_{number}"] = slim.fully_connected(
                net, size, weights_initializer=slim.variance_scaling_initializer(), scope=f"hidden_{number}"
            )
        net = _dropped(net, head, "dropout")
        logits = slim.fully_connected(net, num_classes, activation_fn=None, scope="logits")
    end_points[f"{HEAD_SCOPE}/logits"] = logits
    end_points["Predictions"] = tf.nn.softmax(logits)
    return logits, end_points


def _pooled(net: Tensor, pooling: str) -> Tensor:
    """[B,H,W,C] over all of the image, [B,C]; of "concat" [B,2C], the mean values before the greatest."""
    poolings = {"avg": [tf.reduce_mean], "max": [tf.reduce_max], "concat": [tf.reduce_mean, tf.reduce_max]}
    parts = [pool(net, [1, 2]) for pool in poolings[pooling]]
    return tf.concat(parts, axis=-1) if len(parts) > 1 else parts[0]


def _dropped(net: Tensor, head: Head, scope: str) -> Tensor:
    return layers.dropout(net, 1.0 - head.dropout, scope=scope) if head.dropout else net
