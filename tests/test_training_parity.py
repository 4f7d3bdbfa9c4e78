"""The training step against figures measured on slim's own trainer, tests/reference/training_parity.json, and formulas.

Where all variables train, the measured runs are chaotic: so many activations lie near the kinks of relu6 that the last
bits of the weights decide about some of them, which moves the gradients of the first step by a few per cent, and the
loss of the second likewise. Which side the original took depends on the order of its processor's additions, so these
runs can't be followed. What holds on any processor is asked in their place:

- The first step's losses, of the same weights, equal the original's; and so does what the first update adds to the
  weight decay's loss, over which the kinks average out. This binds formulas, rates and constants to slim itself.
- With tanh in place of relu6, nothing is chaotic: variables, slots, statistics and moving averages follow slim's
  formulas in float64 step by step. This finds the smallest slip in any of them. Weight decay and epsilons are larger
  than the original's there, so that a slip in them weighs as much as one in the rate. A few layers are as good as many.

Runs with a frozen trunk are not chaotic, and equal the original at every step.
"""

import functools
import json
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from reference_networks import assign_reference_weights
from slim_formulas import AVERAGE, WrittenOutTrainer

from finetune.model.model import Model, Outputs
from finetune.nets import get_spec, mobilenet_v1
from finetune.settings.stage import OptimizerSettings
from finetune.training.losses import TrainingLoss, weight_decay_loss
from finetune.training.moving_averages import MovingAverages
from finetune.training.optimizers import Optimizer
from finetune.training.step import TrainingStep

REFERENCE = json.loads((Path(__file__).parent / "reference/training_parity.json").read_text(encoding="utf-8"))
RUNS = {
    f"{run['optimizer']}-{run['learning_rate']}-{len(run['trainable_scopes'] or [])}": run for run in REFERENCE["runs"]
}
FROZEN_TRUNK = [name for name, run in RUNS.items() if run["trainable_scopes"]]
ALL_TRAINED = [name for name, run in RUNS.items() if not run["trainable_scopes"]]

TOLERANCE = 1e-4
KINKS_TOLERANCE = 0.01

NUM_STEPS = 4
FORMULAS_TOLERANCE = 1e-3
ROUNDING = 2.0**-23
# So low that it takes over from the rule for early averages within these steps.
AVERAGES_DECAY = 0.2


@pytest.fixture(scope="module")
def network():
    return Model(get_spec("mobilenet_v1_025"), 10, image_size=96, dropout_keep_prob=1.0)


@pytest.fixture(scope="module")
def forward(network):
    """The training pass, traced once for all runs."""
    return tf.function(lambda images, seed: network(images, is_training=True, seed=seed).logits, autograph=False)


class Parity:
    """A run of the reference; its batch norm is slim's in every layer, which is a model's way until it is frozen."""

    def __init__(self, network, forward, run):
        assign_reference_weights(network.model_variables)
        prefixes = tuple(run["trainable_scopes"] or [""])
        trained = [v for v in network.trainable_variables if v.name.startswith(prefixes)]
        trained_names = {variable.name for variable in trained}
        decayed = [network.model_variables[name] for name in network.decayed_names]
        # slim's defaults: epsilon is 1.0 for Adam, too.
        optimizer = Optimizer(OptimizerSettings(run["optimizer"], opt_epsilon=1.0), trained, {})
        optimizer.make_slots()
        self._learning_rate = run["learning_rate"]
        self._step = TrainingStep(
            lambda images, seed: Outputs(forward(images, seed), None, {}),
            TrainingLoss(
                label_smoothing=run["label_smoothing"],
                weight_decay=run["weight_decay"],
                decayed=[variable for variable in decayed if variable.name in trained_names],
            ),
            optimizer,
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


@pytest.mark.parametrize("name", FROZEN_TRUNK)
def test_five_steps_with_a_frozen_trunk_equal_slims(name, network, forward):
    run = RUNS[name]
    parity = Parity(network, forward, run)
    losses = [parity.step(number) for number in range(5)]
    np.testing.assert_allclose(losses, run["losses_cross_entropy_and_regularization"], rtol=TOLERANCE)
    for variable, figures in run["after"].items():
        value = network.model_variables[variable].numpy().astype(np.float64)
        scale = np.sqrt(figures["sum_of_squares"] * value.size)
        assert value.sum() == pytest.approx(figures["sum"], abs=TOLERANCE * scale), variable
        assert np.square(value).sum() == pytest.approx(figures["sum_of_squares"], rel=TOLERANCE), variable
        np.testing.assert_allclose(value.ravel()[:4], figures["first"], rtol=1e-3, atol=1e-5, err_msg=variable)


@pytest.mark.parametrize("name", ALL_TRAINED)
def test_the_first_step_of_all_variables_equals_slims(name, network, forward):
    run = RUNS[name]
    (cross_entropy, decay), (_, next_decay) = run["losses_cross_entropy_and_regularization"][:2]
    parity = Parity(network, forward, run)
    before = half_squares(network)
    np.testing.assert_allclose(parity.step(0), [cross_entropy, decay], rtol=TOLERANCE)
    added = run["weight_decay"] * (half_squares(network) - before)
    # slim's own sum is of float32.
    rounding = 4 * float(np.spacing(np.float32(decay)))
    assert added == pytest.approx(next_decay - decay, rel=KINKS_TOLERANCE, abs=rounding)


def half_squares(network):
    """The sum over all weights that decay, without float32's rounding."""
    return (
        sum(np.sum(np.square(network.model_variables[name].numpy(), dtype=float)) for name in network.decayed_names) / 2
    )


# Depth and stride of the separable convolutions of a short MobileNet V1.
SHORT = ((64, 1), (128, 2))


@pytest.fixture
def smooth_network(monkeypatch):
    """A short MobileNet V1 with tanh, and at its end so few pixels in a batch that a variance's bias would show."""
    layers = functools.partial(mobilenet_v1.mobilenet_layers, activation_fn=tf.nn.tanh)
    monkeypatch.setattr(mobilenet_v1, "mobilenet_layers", layers)
    monkeypatch.setattr(mobilenet_v1, "_SEPARABLE_CONVOLUTIONS", SHORT)
    model = Model(get_spec("mobilenet_v1_025"), 10, image_size=12, dropout_keep_prob=1.0)
    assign_reference_weights(model.model_variables)
    return model


@pytest.mark.parametrize("run_name", ALL_TRAINED)
def test_variables_slots_statistics_and_averages_follow_slims_formulas(run_name, smooth_network):
    run = RUNS[run_name]
    rate, terms = run["learning_rate"], {"weight_decay": 0.01, "label_smoothing": run["label_smoothing"]}
    variables, trained = smooth_network.model_variables, smooth_network.trainable_variables
    optimizer = Optimizer(OptimizerSettings(run["optimizer"], opt_epsilon=0.01), trained, {})
    optimizer.make_slots()
    averages = MovingAverages(variables, AVERAGES_DECAY)
    step = TrainingStep(
        lambda images, seed: smooth_network(images, is_training=True, seed=seed),
        TrainingLoss(decayed=[variables[name] for name in smooth_network.decayed_names], **terms),
        optimizer,
        averages=averages,
    )
    state = {**variables, **optimizer.state()}
    state |= {f"{name}/{AVERAGE}": shadow for name, shadow in averages.shadows.items()}
    formulas = WrittenOutTrainer(
        {name: variable.numpy() for name, variable in variables.items()},
        tuple(stride for _, stride in SHORT),
        optimizer=run["optimizer"],
        rate=rate,
        epsilon=0.01,
        statistics_decay=0.9997,
        averages_decay=AVERAGES_DECAY,
        **terms,
    )
    start = dict(formulas.state)
    assert state.keys() == start.keys()
    for name, value in start.items():
        np.testing.assert_array_equal(state[name].numpy(), value.astype(np.float32), err_msg=name)
    random = np.random.RandomState(1)
    for number in range(NUM_STEPS):
        images = random.uniform(-1, 1, [8, 12, 12, 3]).astype(np.float32)
        labels = random.randint(0, 10, 8)
        losses = step((tf.constant(images), tf.constant(labels)), number, rate)
        np.testing.assert_allclose(losses, formulas.step(images, labels), rtol=1e-5)
        for name, expected in formulas.state.items():
            error, change = norm(state[name].numpy() - expected), norm(expected - start[name])
            rounding = ROUNDING * max(norm(expected), norm(start[name]))
            assert change > 100 * rounding, f"{name} hardly changes: the test is blind"
            assert error < FORMULAS_TOLERANCE * change + rounding, f"{name} after {number + 1} steps"


def norm(value):
    return np.linalg.norm(np.asarray(value, np.float64))
