"""Trunk and head: together the network to the bit, and the cut between them the smallest behind frozen variables."""

import collections
import math

import normed_network
import numpy as np
import pytest
import tensorflow as tf
import tf_slim as slim
from reference_networks import ONE_OF_EACH_FUNCTION

from finetune.errors import UserError
from finetune.foreign_weights.keras_layer_order import scopes_from_layer
from finetune.model.model import Model, variable_name
from finetune.model.scopes import plan_variables
from finetune.nets import get_spec
from finetune.trunk.linear_head import find_linear_head
from finetune.trunk.split_model import SplitModel

NUM_CLASSES = 3


@pytest.fixture(autouse=True)
def no_graph_optimizer():
    """TensorFlow's optimizer moves factors across the place of the cut, and with them the last bit of float32."""
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
    yield
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": False})


def scopes_by_depth(spec):
    """The head, and the last half of the layer groups."""
    groups = spec.layer_groups
    deep = [scope for group in groups[-(len(groups) // 2) :] for scope in group]
    return [list(spec.head_scopes), {*spec.head_scopes, *deep}]


def values_of(model):
    """Snapshots: a variable that changes leaves them the memory that they share with it."""
    return {name: variable.read_value() for name, variable in model.model_variables.items()}


def are_equal(ours, theirs):
    return bool(tf.reduce_all(tf.equal(ours, theirs)))


def run(function, *arguments):
    return tf.function(function, autograph=False)(*arguments)


@pytest.mark.parametrize("published_network", ONE_OF_EACH_FUNCTION, indirect=True)
def test_trunk_and_head_are_the_network(small_network):
    before = values_of(small_network)
    for depth, scopes in enumerate(scopes_by_depth(small_network.spec)):
        changed = check_split(small_network, sorted(scopes), before)
        within = {name for name in before if any(name == scope or name.startswith(f"{scope}/") for scope in scopes)}
        # A step moves all of the head and nothing else; deeper, a unit may be silent for both images.
        assert changed == within if depth == 0 else changed <= within


@pytest.mark.parametrize(
    ("name", "image_size", "first"),
    [
        ("keras/mobilenet", 32, "conv_preds"),
        pytest.param("keras/inception_v3", 75, "predictions", marks=pytest.mark.slow),
        pytest.param("keras/inception_v3", 75, "249", marks=pytest.mark.slow),
        # Here whole blocks are dropped at random, but not frozen ones; and TensorFlow's silu can't be copied.
        ("keras/efficientnet_b0", 32, "block7a_expand_conv"),
    ],
)
def test_trunk_and_head_are_a_network_of_keras(name, image_size, first):
    model = Model(get_spec(name), NUM_CLASSES, image_size=image_size)
    scopes = scopes_from_layer(model.spec, name, first)
    before = values_of(model)
    changed = check_split(model, sorted(scopes), before)
    assert set(model.spec.head_scopes) <= {variable.partition("/")[0] for variable in changed}
    assert {variable.partition("/")[0] for variable in changed} <= set(scopes)


def test_a_gradient_that_cannot_be_copied_is_told(monkeypatch):
    def network(images, num_classes, *, is_training):
        hidden = tf.nn.silu(slim.fully_connected(tf.reduce_mean(images, [1, 2]), 4, None, scope="Normed/conv2"))
        return slim.fully_connected(hidden, num_classes, None, scope="Normed/logits"), {}

    monkeypatch.setattr(normed_network, "normed_network", network)
    model = Model(normed_network.SPEC, NUM_CLASSES)
    shapes = {name: tuple(variable.shape) for name, variable in model.model_variables.items()}

    def split(scopes):
        plan = plan_variables(model.network_variables(), checkpoint_shapes=shapes, trainable_scopes=scopes)
        model.freeze(plan)
        return SplitModel(model, plan, is_training=True)

    split(["Normed/logits"])  # It lies before the frontier.
    with pytest.raises(UserError, match=r"tf.nn.silu has one.*\n.*--cache-features off"):
        split(["Normed/conv2", "Normed/logits"])


def test_the_head_is_found_and_left_as_it_was(small_network):
    """Whatever it is called: of all networks."""
    model, before = small_network, values_of(small_network)
    shapes = {name: tuple(variable.shape) for name, variable in model.model_variables.items()}
    scopes = model.spec.head_scopes
    plan = plan_variables(model.network_variables(), checkpoint_shapes=shapes, trainable_scopes=scopes)
    model.freeze(plan)
    head = find_linear_head(model, plan, "--probe")
    found = {variable_name(variable) for variable in (head.kernel, head.bias, *head.others)}
    assert found == {variable.name for variable in plan.trained}
    assert bool(head.others) == model.spec.has_auxiliary_logits
    assert head.kernel.shape[-1] == model.num_classes
    for name, value in values_of(model).items():
        assert are_equal(value, before[name]), name


def test_a_layer_in_front_of_the_head_is_none():
    spec = get_spec("lenet")
    model = Model(spec, NUM_CLASSES)
    shapes = {name: tuple(variable.shape) for name, variable in model.model_variables.items()}
    for scopes in (["LeNet/fc3"], ["LeNet/fc3", "LeNet/fc4"], ["LeNet"]):
        plan = plan_variables(model.network_variables(), checkpoint_shapes=shapes, trainable_scopes=scopes)
        model.freeze(plan)
        with pytest.raises(UserError, match="Give --trainable-scopes LeNet/fc4"):
            find_linear_head(model, plan, "--probe")


def check_split(model, scopes, before):
    """The pass in two against the whole one, both from the values `before`, which are given back at the end.

    Returns the names of the variables that change, by the pass itself or by a step along the gradient.
    """
    shapes = {name: tuple(variable.shape) for name, variable in model.model_variables.items()}
    plan = plan_variables(model.network_variables(), checkpoint_shapes=shapes, trainable_scopes=scopes)
    model.freeze(plan)
    split = SplitModel(model, plan, is_training=True)
    size = [model.image_size, model.image_size, model.channels]
    images = tf.constant(np.random.default_rng(0).uniform(-1, 1, [2, *size]).astype(np.float32))
    trained = [model.model_variables[variable.name] for variable in plan.trained]

    def results(outputs):
        logits = [tensor for tensor in (outputs.logits, outputs.auxiliary_logits) if tensor is not None]
        loss = tf.add_n([tf.reduce_sum(tensor**2) for tensor in logits])
        gradients = tf.gradients(loss, trained)
        assert all(gradient is not None for gradient in gradients)
        return logits, gradients

    @tf.function(autograph=False, input_signature=[tf.TensorSpec([None, *size]), tf.TensorSpec([3], tf.int32)])
    def whole_pass(images, seed):
        outputs = model(images, is_training=True, seed=seed)
        check_cut(model, plan, split, images, seed, outputs)
        return results(outputs)

    seed = tf.constant([3, 4, 0])
    logits, gradients = whole_pass(images, seed)
    after = values_of(model)
    moved = {name for name, value in after.items() if not are_equal(value, before[name])}
    for name in moved:
        model.model_variables[name].assign(before[name])
    features = run(split.trunk, images)
    logits_in_two, gradients_in_two = run(lambda values: results(split.head(values, seed)), features)
    assert all(map(are_equal, logits_in_two, logits))
    assert all(map(are_equal, gradients_in_two, gradients))
    for name, value in values_of(model).items():
        assert are_equal(value, after[name]), name
    for name in moved:
        model.model_variables[name].assign(before[name])
    with_gradient = (variable.name for variable, value in zip(plan.trained, gradients, strict=True) if np.any(value))
    return moved | set(with_gradient)


def check_cut(model, plan, split, images, seed, outputs):
    """Compares the cut's size with that of the largest flow, found here by plain breadth-first search.

    To be called where a pass from `images` to `outputs` is all that has been traced.
    """
    graph = images.graph
    changing = {id(model.model_variables[v.name].handle) for v in plan.variables if v.is_trained}
    varies = {inner.op.name for outer, inner in graph.captures if id(outer) in changing} | {seed.op.name}
    weights, of_images = set(), {images.op.name}
    capacity = collections.defaultdict(lambda: collections.defaultdict(float))

    def size(tensor):
        dimensions = tensor.shape.as_list() if tensor.shape.rank is not None else [1]
        if not dimensions or dimensions[0] is not None or None in dimensions[1:]:
            return math.inf
        return math.prod(dimensions[1:]) * tensor.dtype.size

    capacity["images"][images.name, 0] = math.inf
    capacity[images.name, 0][images.name, 1] = size(images)
    for op in graph.get_operations():
        inputs = [tensor for tensor in op.inputs if tensor.op.name in of_images]
        reads_weights = any(tensor.op.name in weights for tensor in op.inputs)
        if op.name in varies or any(tensor.op.name in varies for tensor in op.inputs):
            varies.add(op.name)
            for tensor in inputs:
                capacity[tensor.name, 1]["rest"] = math.inf
        elif inputs:
            of_images.add(op.name)
            for output in op.outputs:
                capacity[output.name, 0][output.name, 1] = size(output)
                for tensor in inputs:
                    capacity[tensor.name, 1][output.name, 0] = math.inf
                if reads_weights:
                    capacity["images"][output.name, 0] = math.inf
        elif op.type == "ReadVariableOp" or reads_weights:
            weights.add(op.name)
    for tensor in (outputs.logits, outputs.auxiliary_logits):
        if tensor is not None and tensor.op.name in of_images:
            capacity[tensor.name, 1]["rest"] = math.inf
    assert split.num_bytes == largest_flow(capacity, "images", "rest")


def largest_flow(capacity, source, sink):
    total = 0
    while True:
        came_from = {source: None}
        queue = collections.deque([source])
        while queue and sink not in came_from:
            node = queue.popleft()
            for other, free in list(capacity[node].items()):
                if free > 0 and other not in came_from:
                    came_from[other] = node
                    queue.append(other)
        if sink not in came_from:
            return total
        path = []
        node = sink
        while came_from[node] is not None:
            path.append((came_from[node], node))
            node = came_from[node]
        step = min(capacity[start][end] for start, end in path)
        for start, end in path:
            capacity[start][end] -= step
            capacity[end][start] += step
        total += step


def test_the_two_pooled_maps_of_inception_v3():
    spec = get_spec("inception_v3")
    model = Model(spec, NUM_CLASSES)
    shapes = {name: tuple(variable.shape) for name, variable in model.model_variables.items()}
    plan = plan_variables(model.network_variables(), checkpoint_shapes=shapes, trainable_scopes=list(spec.head_scopes))
    model.freeze(plan)
    split = SplitModel(model, plan, is_training=True)
    assert sorted(spec.shape.as_list() for spec in split.frontier) == [[None, 1, 1, 2048], [None, 5, 5, 768]]


def test_without_frozen_layers_there_is_no_trunk():
    model = Model(get_spec("mobilenet_v1_025"), NUM_CLASSES, image_size=64)
    plan = plan_variables(model.network_variables(), checkpoint_shapes=None)
    model.freeze(plan)
    assert SplitModel(model, plan, is_training=True).starts_at_images


def test_batch_statistics_end_the_trunk_for_they_mix_images():
    model = Model(get_spec("mobilenet_v1_025"), NUM_CLASSES, image_size=64)
    shapes = {name: tuple(variable.shape) for name, variable in model.model_variables.items()}
    plan = plan_variables(model.network_variables(), checkpoint_shapes=shapes, trainable_scopes=["MobilenetV1/Logits"])
    model.freeze(plan, "slim")
    split = SplitModel(model, plan, is_training=True)
    # The first convolution is the last operation that keeps images apart; its input is the smaller tensor, but behind
    # the cut no frozen variable may be read: what slim's batch norm makes of it varies all the same.
    assert [spec.shape.as_list() for spec in split.frontier] == [[None, 32, 32, 8]]
