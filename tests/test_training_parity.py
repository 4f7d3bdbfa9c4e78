"""The training step against figures measured on slim's own optimizers: tests/reference/training_parity.json."""

import json
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from reference_networks import reference_weight

from finetune.config import OptimizerSettings
from finetune.losses import weight_decay_loss
from finetune.model import Model
from finetune.nets import get_spec
from finetune.optimizers import Optimizer
from finetune.training_step import TrainingStep

REFERENCE = json.loads((Path(__file__).parent / "reference/training_parity.json").read_text(encoding="utf-8"))


def make_batches():
    random = np.random.RandomState(1)
    images = random.uniform(-1, 1, [5, 8, 96, 96, 3]).astype(np.float32)
    return images, random.randint(0, 10, [5, 8])


def make_model():
    """The network of the reference: slim's batch norm in every layer, which is a model's way until it is frozen."""
    model = Model(get_spec("mobilenet_v1_025"), 10, image_size=96, dropout_keep_prob=1.0)
    for name, variable in model.model_variables.items():
        variable.assign(reference_weight(name, tuple(variable.shape)))
    return model


@pytest.mark.parametrize("run", REFERENCE["runs"], ids=lambda run: f"{run['optimizer']}-{run['learning_rate']}")
def test_five_steps_give_slims_losses_and_variables(run):
    model = make_model()
    prefixes = run["trainable_scopes"] or [""]
    trained = [
        variable
        for name, variable in model.model_variables.items()
        if variable.trainable and any(name.startswith(prefix) for prefix in prefixes)
    ]
    decayed = [model.model_variables[name] for name in model.decayed_names]
    trained_names = {variable.name for variable in trained}
    # slim's defaults: epsilon is 1.0 for Adam, too.
    optimizer = Optimizer(OptimizerSettings(run["optimizer"], epsilon=1.0), trained, {})
    step = TrainingStep(
        lambda images, seed: model(images, is_training=True, seed=seed),
        optimizer,
        trained,
        decayed=[variable for variable in decayed if variable.name in trained_names],
        weight_decay=run["weight_decay"],
        label_smoothing=run["label_smoothing"],
    )
    # slim adds the weight decay of frozen variables to the loss, a constant; ours has no term for them.
    frozen_decay = weight_decay_loss([v for v in decayed if v.name not in trained_names], run["weight_decay"])
    losses = [
        step((tf.constant(images), tf.constant(labels)), number, run["learning_rate"]).numpy() + [0, frozen_decay]
        for number, (images, labels) in enumerate(zip(*make_batches(), strict=True))
    ]
    np.testing.assert_allclose(losses, run["losses_cross_entropy_and_regularization"], rtol=1e-4)
    for name, figures in run["after"].items():
        value = model.model_variables[name].numpy().astype(np.float64)
        scale = np.sqrt(figures["sum_of_squares"] * value.size)
        assert value.sum() == pytest.approx(figures["sum"], abs=1e-4 * scale), name
        assert np.square(value).sum() == pytest.approx(figures["sum_of_squares"], rel=1e-3), name
        np.testing.assert_allclose(value.ravel()[:4], figures["first"], rtol=1e-3, atol=1e-4 * np.abs(value).max())
