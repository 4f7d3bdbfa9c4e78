"""--recompute-activations: the steps without it, to the bit, in less memory."""

import dataclasses
import logging
import os
import subprocess
import sys

import numpy as np
import pytest
import residual_network
import tensorflow as tf

from finetune.commands import train
from finetune.errors import UserError
from finetune.model.model import Model
from finetune.model.scopes import plan_variables
from finetune.nets import get_spec
from finetune.settings.stage import OptimizerSettings
from finetune.settings.train import TrainSettings
from finetune.training.activations import Activation, find_cuts
from finetune.training.devices import choose_strategy, uses_xla
from finetune.training.loss_scaling import LossScale
from finetune.training.losses import TrainingLoss
from finetune.training.mixing import Mixing
from finetune.training.optimizers import Optimizer
from finetune.training.step import TrainingStep
from finetune.trunk.split_model import SplitModel

NUM_CLASSES = 3
NUM_STEPS = 2
LAST_BLOCKS = ["Residual/block1", "Residual/block2", "Residual/block3", "Residual/logits", "Residual/aux"]
WITHOUT_SILU = dataclasses.replace(residual_network.SPEC, arguments={"activation": tf.nn.relu})


@pytest.fixture
def no_graph_optimizer():
    """TensorFlow's optimizer fuses other operations where their results aren't kept: last bits of float32."""
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
    yield
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": False})


def make_batch(size, num_images=8):
    random = np.random.default_rng(0)
    images = random.uniform(-1, 1, [num_images, size, size, 3]).astype(np.float32)
    return images, random.integers(0, NUM_CLASSES, [num_images])


def make_model(spec, *, size=None, scopes=(), batch_norm="plan", syncs=False, dtype="float32", num_parts=1):
    model = Model(spec, NUM_CLASSES, image_size=size)
    shapes = {name: tuple(variable.shape) for name, variable in model.model_variables.items()}
    plan = plan_variables(model.network_variables(), checkpoint_shapes=shapes, trainable_scopes=scopes)
    model.freeze(plan, batch_norm)
    model.syncs_batch_norm, model.compute_dtype, model.num_batch_parts = syncs, tf.as_dtype(dtype), num_parts
    return model, plan


def make_step(model, plan, forward=None, **options):
    trained = [model.model_variables[variable.name] for variable in plan.trained]
    return TrainingStep(
        forward or (lambda images, seed: model(images, is_training=True, seed=seed)),
        TrainingLoss(weight_decay=0.01, decayed=[v for v in trained if v.name.endswith("weights:0")]),
        Optimizer(OptimizerSettings("momentum"), trained, {}),
        **options,
    )


def values_of(model):
    return {name: variable.numpy() for name, variable in model.model_variables.items()}


def train_some(spec, recompute, *, num_devices=1, of_step=(), **of_model):
    """The losses of some steps, and all variables behind them."""
    options = {name: make() for name, make in dict(of_step).items()}
    num_passes = options.get("num_passes", 1)
    strategy = choose_strategy(num_devices, on_cpu=True)
    with strategy.scope():
        model, plan = make_model(spec, num_parts=num_passes * num_devices, **of_model)
        step = make_step(model, plan, recompute_activations=recompute, **options)
        dataset = tf.data.Dataset.from_tensors(make_batch(model.image_size)).unbatch().batch(8, drop_remainder=True)
        batches = strategy.experimental_distribute_dataset(dataset.repeat(NUM_STEPS))
        losses = [step(batch, number, 0.05).numpy() for number, batch in enumerate(batches)]
        return losses, values_of(model)


def assert_same_steps(caplog, train_by):
    plain = train_by(False)
    with caplog.at_level(logging.INFO, "finetune"):
        recomputed = train_by(True)
    (line,) = [message for message in caplog.messages if message.startswith("Activations: ")]
    assert line.startswith("Activations: kept at ")
    np.testing.assert_array_equal(recomputed[0], plain[0])
    for name, value in plain[1].items():
        np.testing.assert_array_equal(recomputed[1][name], value, err_msg=name)
    return plain


@pytest.mark.usefixtures("no_graph_optimizer")
@pytest.mark.parametrize(
    "how",
    [
        {"batch_norm": "frozen", "dtype": "bfloat16", "of_step": {"mixing": lambda: Mixing(NUM_CLASSES, mixup=0.4)}},
        {"scopes": LAST_BLOCKS, "batch_norm": "slim", "dtype": "float16", "of_step": {"loss_scale": LossScale}},
        {"of_step": {"num_passes": lambda: 2, "largest_norm": lambda: 0.5}},
        {"num_devices": 2, "syncs": True},
    ],
    ids=lambda how: "-".join([*how, *how.get("of_step", ())]),
)
def test_steps_are_those_without_it(caplog, how):
    """With statistics moved once, and the same masks of dropout."""
    before = values_of(Model(residual_network.SPEC, NUM_CLASSES))
    _, after = assert_same_steps(caplog, lambda recompute: train_some(residual_network.SPEC, recompute, **how))
    moved = [name for name in before if "moving" in name and not np.array_equal(before[name], after[name])]
    assert bool(moved) == (how.get("batch_norm") != "frozen")


@pytest.mark.usefixtures("no_graph_optimizer")
@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("mobilenet_v2", 64),
        ("keras/mobilenet", 32),
        pytest.param("keras/mobilenet_v3_small", 32, marks=pytest.mark.slow),
        pytest.param("inception_v1", 64, marks=pytest.mark.slow),
    ],
)
def test_steps_of_the_zoo_are_those_without_it(caplog, name, size):
    assert_same_steps(caplog, lambda recompute: train_some(get_spec(name), recompute, size=size))


@pytest.mark.usefixtures("no_graph_optimizer")
def test_steps_of_a_split_models_head_are_those_without_it(caplog):
    """Made several in one call, whose loop is a graph of its own."""
    images, labels = make_batch(16)

    def train_by(recompute):
        model, plan = make_model(WITHOUT_SILU, scopes=LAST_BLOCKS)
        split = SplitModel(model, plan, is_training=True)
        assert not split.starts_at_images
        features = [value.numpy() for value in tf.function(split.trunk, autograph=False)(images)]
        step = make_step(model, plan, split.head, recompute_activations=recompute)
        losses = step.several([(features, labels)] * NUM_STEPS, 0, [0.05] * NUM_STEPS)
        return losses.numpy(), values_of(model)

    assert_same_steps(caplog, train_by)


def test_with_the_graph_optimizer_they_are_the_same_to_rounding():
    plain, recomputed = (train_some(residual_network.SPEC, recompute) for recompute in (False, True))
    np.testing.assert_allclose(recomputed[0], plain[0], rtol=1e-5)


def test_a_head_alone_has_nothing_to_compute_again(caplog):
    model, plan = make_model(residual_network.SPEC, scopes=["Residual/logits", "Residual/aux"])
    step = make_step(model, plan, recompute_activations=True)
    with caplog.at_level(logging.INFO, "finetune"):
        step(make_batch(16), 0, 0.05)
    assert caplog.messages == [
        "Activations: all are kept, and --recompute-activations has nothing to do: computing some again would save no "
        "memory."
    ]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_step_takes_less_memory():
    """With TensorFlow's own optimizers, which could merge what is computed again with what was computed before.

    Each figure is beyond what came before; the first one has what TensorFlow takes once.
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    words = [sys.executable, residual_network.__file__]
    output = subprocess.run(words, env=environment, capture_output=True, text=True, check=True).stdout
    recomputed, more_without = map(int, output.split())
    assert more_without > recomputed / 2


# Where a pass is cut


def test_a_chain_of_equal_layers_is_cut_near_the_root_of_their_number():
    chain = [Activation(number, number + 1, 1, is_needed=True) for number in range(100)]
    cuts = find_cuts([Activation(-1, 0, 0, is_needed=True), *chain], 101)
    assert 9 <= len(cuts.places) <= 11
    assert cuts.num_bytes <= 20
    assert cuts.num_bytes_of_all == 100


def test_cuts_are_where_little_flows_and_frozen_layers_are_not_computed_again():
    wide = [Activation(number, number + 1, 4 if number % 4 == 3 else 100, number >= 10) for number in range(40)]
    cuts = find_cuts([Activation(-1, 0, 0, is_needed=False), *wide], 41)
    assert cuts.places[0] == 10
    assert {place % 4 for place in cuts.places[1:]} == {3}


def test_what_is_read_behind_a_cut_is_kept():
    shortcut = Activation(0, 9, 1, is_needed=True)
    cuts = find_cuts([shortcut, *(Activation(number, number + 1, 5, is_needed=True) for number in range(9))], 10)
    assert cuts.keep(shortcut.made, shortcut.last_read)


def test_no_cut_where_the_forward_pass_has_as_much_at_once():
    early = Activation(0, 1, 1000, is_needed=False)
    late = [Activation(number, number + 1, 10, is_needed=True) for number in range(2, 50)]
    assert find_cuts([early, *late], 51) is None
    assert find_cuts([early], 51) is None


# The command


def test_the_command_goes_on_with_it(records, tmp_path, capsys):
    words = [f"--dataset-dir={records}", f"--train-dir={tmp_path}", "--model=residual_network:SPEC", "--batch-size=4"]
    assert train.main([*words, "--max-steps=1", "--eval-every=0"]) == 0
    capsys.readouterr()
    assert train.main(["--resume", *words, "--max-steps=2", "--recompute-activations"]) == 0
    told = capsys.readouterr().err
    assert "Changed from here on: " in told
    assert "recompute_activations is True, was False" in told
    assert "Activations: kept at " in told


def test_it_is_refused_where_it_would_do_nothing(monkeypatch):
    with pytest.raises(UserError, match="--recompute-activations would have no effect: --max-steps 0 makes no step"):
        TrainSettings(dataset_dir="records", model="lenet", probe=True, max_steps=0, recompute_activations=True)
    with pytest.raises(UserError, match="--recompute-activations is undone by --xla on"):
        uses_xla("on", on_cpu=True, num_devices=1, recomputes=True)
    monkeypatch.setattr(tf.config, "get_visible_devices", lambda kind: ["a GPU"])
    assert uses_xla("auto", on_cpu=False, num_devices=1)
    assert not uses_xla("auto", on_cpu=False, num_devices=1, recomputes=True)
