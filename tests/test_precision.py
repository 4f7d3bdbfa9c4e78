"""Precision: layers compute in what is asked for, variables and losses are float32, and `auto` takes what pays."""

import json
import logging

import numpy as np
import pytest
import tensorflow as tf
from test_commands import write_colour_folders

from finetune.commands import convert, train
from finetune.commands.evaluate import evaluate
from finetune.model.model import Model
from finetune.model.scopes import plan_variables
from finetune.nets import get_spec
from finetune.settings.convert import ConvertSettings
from finetune.settings.evaluate import EvalSettings
from finetune.settings.stage import OptimizerSettings
from finetune.settings.train import TrainSettings
from finetune.training import precision
from finetune.training.loss_scaling import LossScale
from finetune.training.losses import TrainingLoss
from finetune.training.optimizers import Optimizer
from finetune.training.precision import (
    StepMeasure,
    fastest_that_agrees,
    measure_step,
    supported_precisions,
    tell_of_given,
)
from finetune.training.step import TrainingStep

# Their random weights leave logits that float16 can hold. 8 or 11 bits of a value are kept: how far this may take them.
NETWORKS = ("lenet", "cifarnet", "alexnet_v2", "resnet_v1_50", "resnet_v2_50")
ROUNDING = {"bfloat16": 0.05, "float16": 0.005}


@pytest.mark.parametrize("name", NETWORKS)
def test_layers_compute_in_it_and_logits_are_float32(name):
    size = 64 if name.startswith("resnet") else None
    model = Model(get_spec(name), 5, image_size=size)
    images = tf.random.stateless_uniform([2, model.image_size, model.image_size, model.channels], [1, 2], -1, 1)
    logits = {}
    for dtype in ("float32", *ROUNDING):
        model.compute_dtype = tf.as_dtype(dtype)
        function = tf.function(lambda x: model(x, is_training=False).logits, autograph=False)
        outputs = function.get_concrete_function(images)
        convolutions = [op for op in outputs.graph.get_operations() if op.type == "Conv2D"]
        assert {op.outputs[0].dtype.name for op in convolutions} == {dtype}
        logits[dtype] = outputs(images)
        assert logits[dtype].dtype == tf.float32
    assert {variable.dtype for variable in model.model_variables.values()} == {tf.float32}
    largest = np.abs(logits["float32"]).max()
    for dtype, share in ROUNDING.items():
        difference = np.abs(logits[dtype] - logits["float32"]).max()
        assert 0 < difference <= share * largest


@pytest.mark.parametrize("name", ROUNDING)
def test_a_run_learns_and_is_evaluated_in_it(name, tmp_path):
    write_colour_folders(tmp_path / "photos")
    convert.convert(
        ConvertSettings(
            dataset_dir=tmp_path / "records", images_dir=tmp_path / "photos", validation_fraction=0.25, workers=1
        )
    )
    settings = TrainSettings(
        dataset_dir=tmp_path / "records",
        train_dir=tmp_path / "run",
        model="cifarnet",
        image_size=16,
        precision=name,
        max_steps=40,
        batch_size=8,
        optimizer="adam",
        learning_rate=0.001,
    )
    assert train.train(settings).best_accuracy >= 0.8
    evaluation = EvalSettings(dataset_dir=tmp_path / "records", checkpoint=(tmp_path / "run",), report=False)
    result = evaluate(evaluation)
    assert result.network.precision == name
    assert result.scores.accuracy >= 0.8
    resumed = TrainSettings(**{**vars(settings), "resume": True, "max_steps": 41})
    assert train.train(resumed).step == 41
    assert 'precision = "' + name in (tmp_path / "run/config.toml").read_text()
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert all(np.isfinite(line["loss"]) for line in lines)


def test_the_fastest_whose_loss_agrees_is_taken():
    reference = StepMeasure(0.4, 2.0, 1.0)
    agreeing, too_far = StepMeasure(0.1, 2.01, 1.0), StepMeasure(0.05, 7.0, 1.0)
    measures = {"float32": reference, "bfloat16": agreeing, "float16": too_far}
    assert fastest_that_agrees(measures) == "bfloat16"
    assert fastest_that_agrees({"float32": reference, "bfloat16": StepMeasure(0.5, 2.0, 1.0)}) == "float32"
    overflowing = StepMeasure(0.1, 2.0, float("nan"))
    assert fastest_that_agrees({"float32": reference, "float16": overflowing}) == "float32"


def test_of_what_is_given_a_slow_one_is_said(caplog):
    caplog.set_level(logging.INFO, "finetune")
    tell_of_given("float32", ["float32"])
    tell_of_given("bfloat16", ["float32", "bfloat16"])
    assert not caplog.text
    tell_of_given("float32", ["float32", "bfloat16"])
    assert "bfloat16 may be faster here: --precision auto" in caplog.text
    tell_of_given("float16", ["float32"])
    assert "no units" in caplog.text


def test_a_processors_units_decide(monkeypatch, tmp_path):
    flags = tmp_path / "cpuinfo"
    monkeypatch.setattr(precision, "CPU_FLAGS_FILE", flags)
    assert supported_precisions(on_cpu=True) == ["float32"]
    flags.write_text("processor : 0\nflags\t\t: fpu avx2 fma\n")
    assert supported_precisions(on_cpu=True) == ["float32"]
    flags.write_text("processor : 0\nmodel name\t: Some CPU: 2\nflags\t\t: fpu avx512f amx_tile amx_bf16\n")
    assert supported_precisions(on_cpu=True) == ["float32", "bfloat16"]
    assert precision.cpu_name() == "Some CPU: 2"


def test_gpus_are_told_by_their_compute_capability(monkeypatch):
    capabilities = {"old": (6, 1), "volta": (7, 0), "ampere": (8, 6)}
    gpus = []
    monkeypatch.setattr(tf.config, "get_visible_devices", lambda kind: gpus)
    monkeypatch.setattr(
        tf.config.experimental, "get_device_details", lambda gpu: {"compute_capability": capabilities[gpu]}
    )
    for present, expected in [
        (["old"], ["float32"]),
        (["volta"], ["float32", "float16"]),
        (["ampere"], ["float32", "bfloat16", "float16"]),
        (["ampere", "volta"], ["float32", "float16"]),
    ]:
        gpus[:] = present
        assert supported_precisions(on_cpu=False) == expected


def test_measuring_leaves_the_model_as_it_was():
    model = Model(get_spec("mobilenet_v1_025"), 3, image_size=64)
    trained = [variable for variable in model.model_variables.values() if variable.trainable]
    before = {name: variable.numpy() for name, variable in model.model_variables.items()}
    batch = tf.random.stateless_uniform([4, 64, 64, 3], [1, 2], -1, 1), tf.constant([0, 1, 2, 0])
    measure = measure_step(model, trained, batch, "bfloat16")
    assert measure.seconds > 0
    assert measure.gradient_sum > 0
    assert model.compute_dtype == tf.float32
    for name, variable in model.model_variables.items():
        np.testing.assert_array_equal(variable.numpy(), before[name], err_msg=name)


def test_steps_on_features_are_measured_without_what_is_frozen():
    model = Model(get_spec("mobilenet_v1_025"), 3, image_size=64)
    scopes = ("MobilenetV1/Logits", "MobilenetV1/Conv2d_13_pointwise")
    variables = model.network_variables()
    shapes = {variable.name: variable.shape for variable in variables}
    plan = plan_variables(variables, checkpoint_shapes=shapes, trainable_scopes=scopes)
    model.freeze(plan)
    trained = [model.model_variables[variable.name] for variable in plan.trained]
    batch = tf.random.stateless_uniform([4, 64, 64, 3], [1, 2], -1, 1), tf.constant([0, 1, 2, 0])
    whole = measure_step(model, trained, batch, "float32")
    on_features = measure_step(model, trained, batch, "float32", frozen_by=plan)
    assert on_features.loss == pytest.approx(whole.loss, rel=1e-5)
    assert on_features.gradient_sum == pytest.approx(whole.gradient_sum, rel=1e-4)
    in_half = measure_step(model, trained, batch, "bfloat16", frozen_by=plan)
    assert in_half.gradient_sum != on_features.gradient_sum
    assert in_half.gradient_sum == pytest.approx(on_features.gradient_sum, rel=0.05)
    assert model.compute_dtype == tf.float32


def test_the_loss_scale_halves_on_overflow_without_an_update_and_doubles_after_good_steps(monkeypatch):
    monkeypatch.setattr(LossScale, "STEPS_BEFORE_DOUBLING", 2)
    weight = tf.Variable(1.0, name="weight")
    scale = LossScale(8.0)
    optimizer = Optimizer(OptimizerSettings("sgd"), [weight], {})

    class Logits:
        auxiliary_logits = None

        def __init__(self, images):
            self.logits = tf.stack([weight * images[:, 0], 0.0 * images[:, 0]], axis=1)

    step = TrainingStep(lambda images, seed: Logits(images), TrainingLoss(), optimizer, loss_scale=scale)

    def make(value, number):
        step((tf.constant([[value]]), tf.constant([0])), number, 0.5)
        return weight.numpy(), [variable.numpy() for variable in scale.state().values()]

    after_one, state = make(1.0, 0)
    # The gradient of softmax cross-entropy: probability less target.
    assert after_one == pytest.approx(1.0 + 0.5 * (1.0 - 1.0 / (1.0 + np.exp(-1.0))), rel=1e-6)
    assert state == [8.0, 1]
    assert make(float("inf"), 1) == (after_one, [4.0, 0])
    for number in (2, 3):
        _, state = make(1.0, number)
    assert state == [8.0, 0]


def test_two_devices_scale_losses_as_one_does():
    from finetune.training.devices import choose_strategy

    images = tf.random.stateless_uniform([8, 28, 28, 1], [1, 2], -1, 1)
    labels = tf.constant([0, 1, 2, 0, 1, 2, 0, 1])

    def train_on(strategy):
        with strategy.scope():
            model = Model(get_spec("lenet"), 3, dropout_keep_prob=1.0)
            trained = list(model.model_variables.values())
            optimizer = Optimizer(OptimizerSettings("momentum"), trained, {})
            step = TrainingStep(
                lambda x, seed: model(x, is_training=True, seed=seed),
                TrainingLoss(),
                optimizer,
                loss_scale=LossScale(),
            )
            dataset = tf.data.Dataset.from_tensors((images, labels)).unbatch().batch(8).repeat(3)
            batches = strategy.experimental_distribute_dataset(dataset)
            return [step(batch, number, 0.05).numpy() for number, batch in enumerate(batches)]

    np.testing.assert_allclose(
        train_on(choose_strategy(2, on_cpu=True)), train_on(tf.distribute.get_strategy()), rtol=1e-4
    )
