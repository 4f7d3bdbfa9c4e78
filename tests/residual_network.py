"""A small network with all that activations can be hard to compute again for, and the most memory that its steps take.

Residual blocks with batch norm, dropout and a gradient that is written in Python; and an auxiliary head.
"""

import logging
import sys
from pathlib import Path

import numpy as np
import tensorflow as tf
import tf_slim as slim

from finetune.model.model import Model
from finetune.nets import layers
from finetune.nets.spec import NetSpec
from finetune.settings.stage import OptimizerSettings
from finetune.training.losses import TrainingLoss
from finetune.training.optimizers import Optimizer
from finetune.training.step import TrainingStep

NUM_BLOCKS = 4


def residual_network(images, num_classes, *, is_training, activation=tf.nn.silu, width=8):
    end_points = {}
    with slim.arg_scope([slim.conv2d], normalizer_fn=layers.batch_norm, normalizer_params={"decay": 0.9}):
        net = slim.conv2d(images, width, 3, scope="Residual/stem")
        for number in range(NUM_BLOCKS):
            with tf.compat.v1.variable_scope(f"Residual/block{number}"):
                branch = slim.dropout(slim.conv2d(net, width, 3, scope="conv1"), 0.8, scope="dropout")
                net += activation(slim.conv2d(branch, width, 3, activation_fn=None, scope="conv2"))
            if number == NUM_BLOCKS // 2:
                end_points["AuxLogits"] = logits_of(net, num_classes, "Residual/aux")
    return logits_of(net, num_classes, "Residual/logits"), end_points


def logits_of(net, num_classes, scope):
    return slim.fully_connected(tf.reduce_mean(net, [1, 2]), num_classes, activation_fn=None, scope=scope)


SPEC = NetSpec(
    name="residual_network:SPEC",
    function="residual_network:residual_network",
    root_scope="Residual",
    image_size=16,
    head_scopes=("Residual/logits", "Residual/aux"),
    layer_groups=(
        ("Residual/stem",),
        *((f"Residual/block{number}",) for number in range(NUM_BLOCKS)),
        ("Residual/logits", "Residual/aux"),
    ),
    preprocessing="inception",
    paper="none",
)


def peaks() -> None:
    """Writes how much more memory a step takes than what came before: one that computes again, and one that doesn't."""
    logging.disable()
    model = Model(SPEC, 3, image_size=128, activation=tf.nn.relu)
    trained = [variable for variable in model.model_variables.values() if variable.trainable]
    batch = tf.zeros([24, 128, 128, 3]), tf.zeros([24], tf.int64)
    for recompute in (True, False):
        step = TrainingStep(
            lambda images, seed: model(images, is_training=True, seed=seed),
            TrainingLoss(),
            Optimizer(OptimizerSettings("sgd"), trained, {}),
            recompute_activations=recompute,
        )
        before = _peak_bytes()
        losses = [step(batch, number, 0.0).numpy() for number in range(2)]
        assert np.isfinite(losses).all()
        print(_peak_bytes() - before)


def _peak_bytes() -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) << 10


if __name__ == "__main__":
    sys.exit(peaks())
