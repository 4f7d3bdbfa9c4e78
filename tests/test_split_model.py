"""Trunk and head: together the network to the bit, and the cut between them the smallest behind frozen variables."""

import collections
import math

import numpy as np
import pytest
import tensorflow as tf

from finetune.model.model import Model
from finetune.model.scopes import plan_variables
from finetune.nets import MODELS, get_spec
from finetune.trunk.split_model import SplitModel

# A size that each family takes, small where it may be.
SMALL_SIZES = {"mobilenet": 64, "inception": 139, "resnet": 64, "nasnet": 96, "pnasnet": 96}
QUICK = ("lenet", "cifarnet", "mobilenet_v1_025", "mobilenet_v2_035")
NUM_CLASSES = 3


@pytest.fixture(autouse=True)
def no_graph_optimizer():
    """TensorFlow's optimizer moves factors across the place of the cut, and with them the last bit of float32."""
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
    yield
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": False})


def small_size(name):
    return next((size for family, size in SMALL_SIZES.items() if name.startswith(family)), None)


def scopes_by_depth(spec):
    """The head, and two deeper sets: the last quarter and the last half of the layer groups."""
    groups = spec.layer_groups
    deep = [[scope for group in groups[-(len(groups) // share) :] for scope in group] for share in (4, 2)]
    return [list(spec.head_scopes), *({*spec.head_scopes, *scopes} for scopes in deep)]


def values_of(model):
    return {name: variable.numpy() for name, variable in model.model_variables.items()}


def run(function, *arguments):
    return [value.numpy() for value in tf.function(function, autograph=False)(*arguments)]


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in MODELS]
)
def test_trunk_and_head_are_the_network(name):
    spec = get_spec(name)
    model = Model(spec, NUM_CLASSES, image_size=small_size(name))
    for scopes in scopes_by_depth(spec):
        check_split(model, sorted(scopes))


def check_split(model, scopes):
    shapes = {name: tuple(variable.shape) for name, variable in model.model_variables.items()}
    plan = plan_variables(model.network_variables(), checkpoint_shapes=shapes, trainable_scopes=scopes)
    model.freeze(plan)
    split = SplitModel(model, plan, is_training=True)
    size = [2, model.image_size, model.image_size, model.channels]
    images = tf.constant(np.random.default_rng(0).uniform(-1, 1, size).astype(np.float32))
    seed = tf.constant([3, 4])
    trained = [model.model_variables[variable.name] for variable in plan.trained]

    def results(outputs):
        logits = [tensor for tensor in (outputs.logits, outputs.auxiliary_logits) if tensor is not None]
        loss = tf.add_n([tf.reduce_sum(tensor**2) for tensor in logits])
        gradients = tf.gradients(loss, trained)
        return logits + [gradient for gradient in gradients if gradient is not None]

    before = values_of(model)
    whole = run(lambda x: results(model(x, is_training=True, seed=seed)), images)
    whole_after = values_of(model)
    for name, value in before.items():
        model.model_variables[name].assign(value)
    features = run(split.trunk, images)
    parts = run(lambda values: results(split.head(values, seed)), features)
    assert len(parts) == len(whole) > 1
    for ours, theirs in zip(parts, whole, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    for name, value in values_of(model).items():
        np.testing.assert_array_equal(value, whole_after[name], err_msg=name)
        model.model_variables[name].assign(before[name])
    check_cut(model, plan, split, images.shape)


def check_cut(model, plan, split, shape):
    """Compares the cut's size with that of the largest flow, found here by plain breadth-first search."""
    graph = tf.__internal__.FuncGraph("walk")
    with graph.as_default():
        images = tf.compat.v1.placeholder(tf.float32, [None, *shape[1:]])
        seed = tf.compat.v1.placeholder(tf.int32, [2])
        outputs = model(images, is_training=True, seed=seed)
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
