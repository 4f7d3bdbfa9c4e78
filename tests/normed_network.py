"""The smallest network with batch norm that training can be shown on: two layers of it."""

import tensorflow as tf
import tf_slim as slim

from finetune.nets import layers
from finetune.nets.spec import NetSpec

MODEL = "normed_network:SPEC"
DECAY = 0.9997


def normed_network(images, num_classes, *, is_training):
    with slim.arg_scope(
        [slim.conv2d], normalizer_fn=layers.batch_norm, normalizer_params={"decay": DECAY, "scale": True}
    ):
        net = slim.conv2d(images, 4, 3, stride=2, scope="Normed/conv1")
        net = slim.conv2d(net, 6, 3, stride=2, scope="Normed/conv2")
    logits = slim.fully_connected(tf.reduce_mean(net, [1, 2]), num_classes, activation_fn=None, scope="Normed/logits")
    return logits, {}


SPEC = NetSpec(
    name=MODEL,
    function="normed_network:normed_network",
    root_scope="Normed",
    image_size=16,
    head_scopes=("Normed/logits",),
    layer_groups=(("Normed/conv1",), ("Normed/conv2",), ("Normed/logits",)),
    preprocessing="inception",
    paper="none",
)
