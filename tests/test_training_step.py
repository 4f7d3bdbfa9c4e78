"""The training step: what is frozen stays to the bit, several devices do what one does, optimizers' arithmetic."""

import numpy as np
import pytest
import tensorflow as tf
from slim_formulas import SLOTS, updated

from finetune.model.model import Model
from finetune.model.scopes import plan_variables
from finetune.nets import get_spec
from finetune.settings.choices import OPTIMIZERS
from finetune.settings.stage import OptimizerSettings, ScheduleSettings, StageSettings
from finetune.training.devices import choose_strategy
from finetune.training.loss_scaling import LossScale
from finetune.training.losses import TrainingLoss
from finetune.training.moving_averages import MovingAverages
from finetune.training.multipliers import rate_multipliers
from finetune.training.optimizers import Optimizer, decoupled_decays
from finetune.training.state import TrainingState
from finetune.training.step import TrainingStep

NUM_CLASSES = 3


def make_batch(image_size, channels=3, batch_size=4):
    random = np.random.default_rng(0)
    images = random.uniform(-1, 1, [batch_size, image_size, image_size, channels]).astype(np.float32)
    return tf.constant(images), tf.constant(random.integers(0, NUM_CLASSES, [batch_size]))


def plan_for(model, scopes):
    shapes = {name: tuple(variable.shape) for name, variable in model.model_variables.items()}
    return plan_variables(model.network_variables(), checkpoint_shapes=shapes, trainable_scopes=scopes)


def make_step(model, scopes, *, batch_norm="plan", optimizer="rmsprop", averages_decay=None, schedule=None, **options):
    plan = plan_for(model, scopes)
    model.freeze(plan, batch_norm)
    trained = [model.model_variables[variable.name] for variable in plan.trained]
    decayed = [model.model_variables[v.name] for v in plan.trained if v.name in model.decayed_names]
    changing = {variable.name: model.model_variables[variable.name] for variable in plan.trained}
    averages = MovingAverages(changing, averages_decay) if averages_decay else None
    multipliers = rate_multipliers(schedule, plan, model.spec.layer_groups) if schedule else {}
    step = TrainingStep(
        lambda images, seed: model(images, is_training=True, seed=seed),
        TrainingLoss(weight_decay=0.01, decayed=decayed),
        Optimizer(OptimizerSettings(optimizer), trained, multipliers),
        averages=averages,
        **options,
    )
    return step, plan, averages


def values_of(model):
    return {name: variable.numpy() for name, variable in model.model_variables.items()}


def changed_names(before, after):
    return {name for name in before if not np.array_equal(before[name], after[name])}


@pytest.mark.parametrize(
    ("name", "image_size", "scopes"),
    [
        ("mobilenet_v2", 96, ["MobilenetV2/Logits"]),
        ("mobilenet_v2", 96, ["MobilenetV2/Logits", "MobilenetV2/expanded_conv_16"]),
        pytest.param("inception_v3", 139, ["InceptionV3/Logits", "InceptionV3/AuxLogits"], marks=pytest.mark.slow),
    ],
)
def test_frozen_variables_stay_to_the_bit_and_all_others_change(name, image_size, scopes):
    model = Model(get_spec(name), NUM_CLASSES, image_size=image_size)
    step, plan, _ = make_step(model, scopes)
    before = values_of(model)
    for number in range(3):
        step(make_batch(image_size), number, 0.1)
    changed = changed_names(before, values_of(model))
    assert changed.isdisjoint(variable.name for variable in plan.frozen)
    assert changed >= {v.name for v in plan.variables if v.is_trained and not v.name.endswith("beta")}


def test_slims_batch_norm_moves_frozen_statistics_and_nothing_else_that_is_frozen():
    model = Model(get_spec("mobilenet_v1_025"), NUM_CLASSES, image_size=64)
    step, plan, _ = make_step(model, ["MobilenetV1/Logits"], batch_norm="slim")
    before = values_of(model)
    step(make_batch(64), 0, 0.1)
    frozen_and_changed = changed_names(before, values_of(model)) & {variable.name for variable in plan.frozen}
    assert frozen_and_changed == {variable.name for variable in plan.frozen if variable.is_statistic}


def test_frozen_batch_norm_keeps_statistics_of_trained_layers():
    model = Model(get_spec("mobilenet_v1_025"), NUM_CLASSES, image_size=64)
    step, plan, _ = make_step(model, [], batch_norm="frozen")
    before = values_of(model)
    step(make_batch(64), 0, 0.1)
    changed = changed_names(before, values_of(model))
    assert changed.isdisjoint(variable.name for variable in plan.variables if variable.is_statistic)
    assert "MobilenetV1/Conv2d_0/weights" in changed


@pytest.mark.parametrize(
    ("name", "num_devices", "options"),
    [
        ("mobilenet_v1_025", 1, {}),
        ("lenet", 1, {"largest_norm": 0.5, "loss_scale": True}),
        ("lenet", 1, {"use_xla": True}),
        ("lenet", 2, {"largest_norm": 0.5}),
    ],
)
def test_several_passes_do_what_one_large_batch_does_with_frozen_batch_norm(name, num_devices, options):
    spec = get_spec(name)
    size, channels = (64, 3) if spec.image_size == 224 else (spec.image_size, spec.channels)
    images, labels = make_batch(size, channels, batch_size=8)

    def train(num_passes, num_devices):
        strategy = choose_strategy(num_devices, on_cpu=True)
        with strategy.scope():
            model = Model(spec, NUM_CLASSES, image_size=size)
            model.num_batch_parts = num_passes * num_devices  # Dropout's masks are the large batch's.
            made = {**options, "loss_scale": LossScale() if "loss_scale" in options else None}
            step, _, _ = make_step(
                model, spec.head_scopes, batch_norm="frozen", optimizer="momentum", num_passes=num_passes, **made
            )
            dataset = tf.data.Dataset.from_tensors((images, labels)).unbatch().batch(8, drop_remainder=True).repeat(3)
            batches = strategy.experimental_distribute_dataset(dataset)
            losses = [step(batch, number, 0.05).numpy() for number, batch in enumerate(batches)]
            return losses, values_of(model)

    whole, in_passes = train(1, 1), train(2, num_devices)
    np.testing.assert_allclose(in_passes[0], whole[0], rtol=1e-5)
    for variable, value in whole[1].items():
        np.testing.assert_allclose(in_passes[1][variable], value, rtol=1e-4, atol=1e-6, err_msg=variable)


def test_each_pass_has_its_part_of_the_masks_and_what_no_gradient_reaches_stays():
    seeds, count = tf.Variable(tf.zeros([2, 3], tf.int32)), tf.Variable(0)
    weights, unreached = tf.Variable(tf.ones([6, NUM_CLASSES]), name="weights"), tf.Variable(1.0, name="unreached")

    class Head:
        auxiliary_logits = None

        def __init__(self, inputs, seed):
            seeds.scatter_nd_update([[count]], [seed])
            count.assign_add(1)
            self.logits = inputs @ weights

    optimizer = Optimizer(OptimizerSettings("momentum"), [weights, unreached], {})
    step = TrainingStep(Head, TrainingLoss(), optimizer, num_passes=2)
    step((tf.ones([4, 6]), tf.constant([0, 1, 2, 1])), 0, 0.1)
    assert count.numpy() == 2
    np.testing.assert_array_equal(seeds[0][:2], seeds[1][:2])
    assert seeds[:, 2].numpy().tolist() == [0, 1]
    assert unreached.numpy() == 1.0
    assert np.any(weights.numpy() != 1.0)


@pytest.mark.parametrize(("largest_norm", "shrinks"), [(0.01, True), (1e6, False)])
def test_gradients_are_clipped_to_their_global_norm(largest_norm, shrinks):
    def change(**options):
        model = Model(get_spec("lenet"), NUM_CLASSES, dropout_keep_prob=1.0)
        step, _, _ = make_step(model, [], optimizer="sgd", **options)
        before = values_of(model)
        step(make_batch(28, channels=1), 0, 1.0)
        changes = [value - before[name] for name, value in values_of(model).items()]
        return np.concatenate([np.ravel(each) for each in changes])

    plain, clipped = change(), change(largest_norm=largest_norm)
    norm = np.linalg.norm(plain)
    assert norm > 0.1
    factor = largest_norm / norm if shrinks else 1.0
    np.testing.assert_allclose(clipped, factor * plain, rtol=1e-3, atol=1e-6)


def test_weight_decay_and_gradients_are_of_trained_variables_alone():
    model = Model(get_spec("mobilenet_v1_025"), NUM_CLASSES, image_size=64)
    step, _, _ = make_step(model, ["MobilenetV1/Logits"])
    losses = step(make_batch(64), 0, 0.0).numpy()
    weights = model.model_variables["MobilenetV1/Logits/Conv2d_1c_1x1/weights"].numpy()
    assert losses[1] == pytest.approx(0.01 * np.sum(weights**2) / 2, rel=1e-5)


def test_each_groups_change_is_its_multiplier_times_the_plain_one():
    def changes(schedule, scopes=()):
        model = Model(get_spec("lenet"), NUM_CLASSES, dropout_keep_prob=1.0)
        step, _, _ = make_step(model, scopes, optimizer="sgd", schedule=schedule)
        before = values_of(model)
        step(make_batch(28, channels=1), 0, 0.5)
        return {name: value - before[name] for name, value in values_of(model).items()}

    plain = changes(ScheduleSettings())
    slowed = changes(ScheduleSettings(layer_decay=0.5, learning_rate_multipliers=("LeNet/fc3=0.1",)))
    expected = {"LeNet/conv1": 0.125, "LeNet/conv2": 0.25, "LeNet/fc3": 0.05, "LeNet/fc4": 1.0}
    for name, change in slowed.items():
        factor = expected[name.rpartition("/")[0]]
        assert np.any(plain[name])
        np.testing.assert_allclose(change, factor * plain[name], rtol=1e-5, atol=1e-7, err_msg=name)
    head = changes(ScheduleSettings(layer_decay=0.5), ["LeNet/fc4"])  # No gradient, and no weight decay, of the others.
    assert {name for name, change in head.items() if np.any(change)} == {"LeNet/fc4/weights", "LeNet/fc4/biases"}


@pytest.mark.parametrize("batch_norm", ["plan", "frozen"])
def test_two_devices_do_what_one_does(batch_norm):
    scopes = (
        ["MobilenetV1/Logits", "MobilenetV1/Conv2d_13_pointwise"] if batch_norm == "frozen" else ["MobilenetV1/Logits"]
    )
    images, labels = make_batch(64, batch_size=8)

    def train(strategy):
        with strategy.scope():
            model = Model(get_spec("mobilenet_v1_025"), NUM_CLASSES, image_size=64)
            model.num_batch_parts = strategy.num_replicas_in_sync
            step, _, averages = make_step(model, scopes, batch_norm=batch_norm, averages_decay=0.9)
            dataset = tf.data.Dataset.from_tensors((images, labels)).unbatch().batch(8).repeat(3)
            batches = strategy.experimental_distribute_dataset(dataset)
            losses = [step(batch, number, 0.05).numpy() for number, batch in enumerate(batches)]
            return losses, values_of(model), {name: shadow.numpy() for name, shadow in averages.shadows.items()}

    one = train(tf.distribute.get_strategy())
    two = train(choose_strategy(2, on_cpu=True))
    np.testing.assert_allclose(two[0], one[0], rtol=1e-5)
    for mine, theirs in zip(two[1:], one[1:], strict=True):
        for name in theirs:
            np.testing.assert_allclose(mine[name], theirs[name], rtol=1e-3, atol=1e-5, err_msg=name)


def reference_updates(name, gradients, rate, decay=0.0):
    """One weight's way from 1.0 by the formulas, in float64, with the defaults of the flags (Adam: epsilon 1e-8)."""
    weight, slots = 1.0, list(SLOTS[name].values())
    epsilon = 1e-8 if name in ("adam", "adamw") else 1.0
    way = []
    for number, gradient in enumerate(gradients, start=1):
        weight, slots = updated(name, weight, slots, gradient, rate=rate, number=number, epsilon=epsilon, decay=decay)
        way.append(weight)
    return way


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers_follow_their_formulas(name):
    gradients = [0.5, -1.5, 2.0, 0.1, -0.3]
    plain, halved = tf.Variable(1.0, name="a/plain"), tf.Variable(1.0, name="a/halved")
    optimizer = Optimizer(OptimizerSettings(name), [plain, halved], {"a/halved": 0.5})
    apply = tf.function(lambda g: optimizer.apply_gradients({"a/plain": g, "a/halved": g}), autograph=False)
    ways = {"plain": [], "halved": []}
    for gradient in gradients:
        optimizer.set_learning_rate(0.1)
        apply(tf.constant(gradient))
        ways["plain"].append(plain.numpy())
        ways["halved"].append(halved.numpy())
    np.testing.assert_allclose(ways["plain"], reference_updates(name, gradients, 0.1), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(ways["halved"], reference_updates(name, gradients, 0.05), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("num_devices", [1, 2])
@pytest.mark.parametrize("name", ["adamw", "lion"])
def test_decoupled_decay_is_of_its_variables_alone_and_goes_with_their_rates(name, num_devices):
    gradients = [0.5, -1.5, 2.0, 0.1, -0.3]
    strategy = choose_strategy(num_devices, on_cpu=True)
    with strategy.scope():
        both = {each: tf.Variable(1.0, name=f"a/{each}") for each in ("kernel", "slow_kernel", "bias")}
        decays = {"a/kernel": 0.5, "a/slow_kernel": 0.5}
        optimizer = Optimizer(OptimizerSettings(name), list(both.values()), {"a/slow_kernel": 0.1}, decays)
        optimizer.make_slots()

        @tf.function(autograph=False)
        def apply(gradient):
            given = dict.fromkeys(("a/kernel", "a/slow_kernel", "a/bias"), gradient / num_devices)
            strategy.run(lambda: optimizer.apply_gradients(given))

        ways = []
        for gradient in gradients:
            optimizer.set_learning_rate(0.1)
            apply(tf.constant(gradient))
            ways.append([variable.numpy() for variable in both.values()])
    expected = [
        reference_updates(name, gradients, rate, decay) for rate, decay in ((0.1, 0.5), (0.01, 0.5), (0.1, 0.0))
    ]
    np.testing.assert_allclose(np.transpose(ways), expected, rtol=1e-5, atol=1e-6)


def test_decoupled_decay_is_of_kernels_and_none_where_the_loss_has_it():
    variables = [tf.Variable(tf.ones(shape), name=name) for name, shape in (("kernel", [2, 3]), ("biases", [3]))]
    stage = StageSettings(optimizer="adamw", weight_decay=0.3)
    assert decoupled_decays(stage, variables) == {"kernel": 0.3}
    assert decoupled_decays(StageSettings(optimizer="adam", weight_decay=0.3), variables) == {}


@pytest.mark.parametrize(
    ("name", "slots"),
    [
        ("rmsprop", {"w/RMSProp", "w/RMSProp_1"}),
        ("momentum", {"w/Momentum"}),
        ("adam", {"w/Adam", "w/Adam_1", "beta1_power", "beta2_power"}),
        ("adamw", {"w/AdamW", "w/AdamW_1", "beta1_power", "beta2_power"}),
        ("lion", {"w/Lion"}),
        ("adagrad", {"w/Adagrad"}),
        ("adadelta", {"w/Adadelta", "w/Adadelta_1"}),
        ("ftrl", {"w/Ftrl", "w/Ftrl_1"}),
        ("sgd", set()),
    ],
)
def test_slots_bear_the_names_of_their_optimizers(name, slots):
    optimizer = Optimizer(OptimizerSettings(name), [tf.Variable(1.0, name="w")], {})
    optimizer.make_slots()
    assert set(optimizer.state()) == slots


def test_rmsprop_with_mean_squares_of_0_is_kerass():
    import keras

    start = np.array([1.0, -2.0, 3.0], np.float32)
    ours, kerass = tf.Variable(start, name="w"), keras.Variable(start)
    optimizer = Optimizer(
        OptimizerSettings("rmsprop", rmsprop_momentum=0.0, rmsprop_initial_accumulator_value=0.0, opt_epsilon=1e-7),
        [ours],
        {},
    )
    optimizer.make_slots()
    optimizer.set_learning_rate(0.01)
    reference = keras.optimizers.RMSprop(learning_rate=0.01)
    for gradient in np.random.default_rng(0).standard_normal([5, 3]).astype(np.float32):
        optimizer.apply_gradients({"w": tf.constant(gradient)})
        reference.apply([tf.constant(gradient)], [kerass])
        np.testing.assert_allclose(ours.numpy(), np.asarray(kerass), rtol=1e-6, atol=1e-7)


def test_rmsprop_begins_likewise_on_several_devices():
    strategy = choose_strategy(2, on_cpu=True)
    with strategy.scope():
        variable = tf.Variable([1.0, 2.0], name="w")
        optimizer = Optimizer(OptimizerSettings("rmsprop", rmsprop_initial_accumulator_value=0.25), [variable], {})
        optimizer.make_slots()
    mean_squares = strategy.experimental_local_results(optimizer.state()["w/RMSProp"])
    assert [value.numpy().tolist() for value in mean_squares] == [[0.25, 0.25]] * 2


def test_moving_averages_follow_slims_formula_and_can_stand_in():
    variable = tf.Variable(1.0, name="w")
    averages = MovingAverages({"w": variable}, 0.9)
    update = tf.function(averages.update, autograph=False)
    expected = 1.0
    for step, value in enumerate([2.0, 4.0, 8.0]):
        variable.assign(value)
        update(tf.constant(step))
        kept = min(0.9, (1 + step) / (10 + step))
        expected = kept * expected + (1 - kept) * value
    assert averages.shadows["w"].numpy() == pytest.approx(expected)
    with averages.in_place():
        assert variable.numpy() == pytest.approx(expected)
    assert variable.numpy() == 8.0


@pytest.mark.parametrize(("optimizer", "layer_decay"), [("adam", 1.0), ("adam", 0.7), ("adamw", 0.7), ("lion", 1.0)])
def test_a_state_is_restored_to_the_bit(optimizer, layer_decay):
    def make():
        model = Model(get_spec("lenet"), NUM_CLASSES, seed=5)
        schedule = ScheduleSettings(layer_decay=layer_decay)
        step, _, averages = make_step(model, [], optimizer=optimizer, averages_decay=0.9, schedule=schedule)
        return step, TrainingState(model, step._optimizer, averages)

    batch = make_batch(28, channels=1)
    step, state = make()
    for number in range(2):
        step(batch, number, 0.01)
    snapshot = state.values()
    expected = step(batch, 2, 0.01).numpy(), state.values()
    other_step, other_state = make()
    other_state.restore(snapshot, "snapshot")
    losses = other_step(batch, 2, 0.01).numpy()
    np.testing.assert_array_equal(losses, expected[0])
    for name, value in other_state.values().items():
        np.testing.assert_array_equal(value, expected[1][name], err_msg=name)


def test_several_steps_in_one_call_are_the_same_to_the_bit():
    random = np.random.default_rng(0)
    batches = [(random.normal(size=[4, 6]).astype(np.float32), np.array([0, 1, 2, 1])) for _ in range(7)]
    rates = [0.1 / (1 + number) for number in range(7)]
    multipliers = {"weights": 0.3}

    class Head:
        auxiliary_logits = None

        def __init__(self, inputs, weights):
            self.logits = inputs @ weights

    def train(calls):
        weights = tf.Variable(tf.zeros([6, NUM_CLASSES]), name="weights")
        step = TrainingStep(
            lambda inputs, seed: Head(tf.nn.experimental.stateless_dropout(inputs, 0.3, seed, "philox"), weights),
            TrainingLoss(weight_decay=0.01, decayed=[weights]),
            Optimizer(OptimizerSettings("rmsprop", opt_epsilon=0.1), [weights], multipliers),
        )
        losses, first = [], 0
        for count in calls:
            part = slice(first, first + count)
            if count == 1:
                losses.append(step(batches[first], first, rates[first]).numpy())
            else:
                losses.extend(step.several(batches[part], first, rates[part]).numpy())
            first += count
        return np.array(losses), weights.numpy()

    one_by_one = train([1] * 7)
    for calls in ([7], [2, 4, 1], [3, 1, 3]):
        for ours, expected in zip(train(calls), one_by_one, strict=True):
            np.testing.assert_array_equal(ours, expected)


def test_compiled_steps_do_what_others_do():
    images, labels = make_batch(28, channels=1, batch_size=8)

    def train(use_xla):
        model = Model(get_spec("lenet"), NUM_CLASSES, dropout_keep_prob=1.0)
        trained = list(model.model_variables.values())
        step = TrainingStep(
            lambda x, seed: model(x, is_training=True, seed=seed),
            TrainingLoss(),
            Optimizer(OptimizerSettings("momentum"), trained, {}),
            use_xla=use_xla,
        )
        return [step((images, labels), number, 0.05).numpy() for number in range(3)]

    np.testing.assert_allclose(train(True), train(False), rtol=1e-4)


@pytest.mark.parametrize("optimizer", ["rmsprop", "adam", "momentum"])
def test_slots_are_named_by_their_variable_alone(optimizer):
    """Whatever was trained before in this process: of a Keras network no scope is opened in between."""
    names = []
    for _ in range(2):
        variable = tf.Variable(1.0, name="dense/kernel")
        first = Optimizer(OptimizerSettings(optimizer), [variable], {})
        first.make_slots()
        names.append(sorted(first.state()))
    assert names[0] == names[1]
    assert {"rmsprop": "dense/kernel/RMSProp_1", "adam": "dense/kernel/Adam_1", "momentum": "dense/kernel/Momentum"}[
        optimizer
    ] in names[1]
