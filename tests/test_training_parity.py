"""The training step against figures measured on slim's own trainer: tests/reference/training_parity.json.

Where all variables train, these runs are chaotic: activations lie on the kinks of relu6, so that a last bit of one
weight decides on which side, and moves the loss of the next step by some per cent. Which side the original took depends
on the order of its processor's additions. So two things are asked of those runs: the first step's losses equal the
original's, and the second step's do for some weights within float32's rounding of the given ones; a wrong formula, rate
or constant is far from all of them. Runs with a frozen trunk are not chaotic, and equal the original at every step.
"""

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
RUNS = {
    f"{run['optimizer']}-{run['learning_rate']}-{len(run['trainable_scopes'] or [])}": run for run in REFERENCE["runs"]
}
SMOOTH = [name for name, run in RUNS.items() if run["trainable_scopes"]]
CHAOTIC = [name for name, run in RUNS.items() if not run["trainable_scopes"]]

TOLERANCE = 1e-4
ROUNDING = 3e-7
NUM_TRIES = 60


class Parity:
    """A run of the reference; its batch norm is slim's in every layer, which is a model's way until it is frozen."""

    def __init__(self, run):
        self.model = Model(get_spec("mobilenet_v1_025"), 10, image_size=96, dropout_keep_prob=1.0)
        for name, variable in self.model.model_variables.items():
            variable.assign(reference_weight(name, tuple(variable.shape)))
        prefixes = tuple(run["trainable_scopes"] or [""])
        self.trained = [v for v in self.model.trainable_variables if v.name.startswith(prefixes)]
        trained_names = {variable.name for variable in self.trained}
        decayed = [self.model.model_variables[name] for name in self.model.decayed_names]
        # slim's defaults: epsilon is 1.0 for Adam, too.
        optimizer = Optimizer(OptimizerSettings(run["optimizer"], epsilon=1.0), self.trained, {})
        optimizer.make_slots()
        self._state = {**self.model.model_variables, **optimizer.state()}
        self._learning_rate = run["learning_rate"]
        self._step = TrainingStep(
            lambda images, seed: self.model(images, is_training=True, seed=seed),
            optimizer,
            self.trained,
            decayed=[variable for variable in decayed if variable.name in trained_names],
            weight_decay=run["weight_decay"],
            label_smoothing=run["label_smoothing"],
        )
        # slim adds the weight decay of frozen variables to the loss, a constant; ours has no term for them.
        frozen = [variable for variable in decayed if variable.name not in trained_names]
        self._frozen_decay = weight_decay_loss(frozen, run["weight_decay"]).numpy()
        random = np.random.RandomState(1)
        self._images = random.uniform(-1, 1, [5, 8, 96, 96, 3]).astype(np.float32)
        self._labels = random.randint(0, 10, [5, 8])

    def step(self, number):
        """Makes a step; its cross-entropy and weight decay."""
        batch = tf.constant(self._images[number]), tf.constant(self._labels[number])
        return self._step(batch, number, self._learning_rate).numpy() + np.array([0, self._frozen_decay])

    def snapshot(self):
        return {name: variable.numpy() for name, variable in self._state.items()}

    def restore(self, snapshot, noise, random):
        for name, variable in self._state.items():
            variable.assign(snapshot[name])
        for variable in self.trained:
            value = snapshot[variable.name.removesuffix(":0")]
            variable.assign((value * (1 + noise * random.standard_normal(value.shape))).astype(np.float32))


@pytest.mark.parametrize("name", SMOOTH)
def test_five_steps_with_a_frozen_trunk_equal_slims(name):
    run = RUNS[name]
    parity = Parity(run)
    losses = [parity.step(number) for number in range(5)]
    np.testing.assert_allclose(losses, run["losses_cross_entropy_and_regularization"], rtol=TOLERANCE)
    for variable, figures in run["after"].items():
        value = parity.model.model_variables[variable].numpy().astype(np.float64)
        scale = np.sqrt(figures["sum_of_squares"] * value.size)
        assert value.sum() == pytest.approx(figures["sum"], abs=TOLERANCE * scale), variable
        assert np.square(value).sum() == pytest.approx(figures["sum_of_squares"], rel=TOLERANCE), variable
        np.testing.assert_allclose(value.ravel()[:4], figures["first"], rtol=1e-3, atol=1e-5, err_msg=variable)


@pytest.mark.slow
@pytest.mark.parametrize("name", CHAOTIC)
def test_a_step_of_all_variables_equals_slims_within_rounding(name):
    run = RUNS[name]
    first, second = np.array(run["losses_cross_entropy_and_regularization"])[:2]
    parity = Parity(run)
    start = parity.snapshot()
    random = np.random.RandomState(0)
    errors = []
    for attempt in range(NUM_TRIES):
        parity.restore(start, ROUNDING if attempt else 0.0, random)
        np.testing.assert_allclose(parity.step(0), first, rtol=TOLERANCE)
        errors.append(np.max(np.abs(parity.step(1) / second - 1)))
        if errors[-1] < TOLERANCE:
            return
    pytest.fail(f"The nearest of {NUM_TRIES} second steps is {min(errors):.1e} off.")
