"""Depthwise convolutions with a stride have the gradient that TensorFlow gives them, in bfloat16 by another way."""

import itertools

import numpy as np
import pytest
import tensorflow as tf
import tf_slim as slim

from finetune.model.model import Model
from finetune.model.scopes import plan_variables
from finetune.nets import depthwise_gradient, get_spec
from finetune.nets.layers import layer_modes
from finetune.trunk.split_model import SplitModel
from finetune.trunk.traced_pass import trace_pass

KERNEL_SIZES = ((1, 1), (2, 2), (3, 3), (5, 5), (3, 7))
INPUT_SIZES = ((7, 8), (9, 12))


def gradients_of(inputs, kernel, stride, padding):
    """Of inputs and kernel, with this module's gradient and with TensorFlow's."""

    def both(inputs, kernel):
        with depthwise_gradient.fast_depthwise_gradients():
            ours = tf.nn.depthwise_conv2d(inputs, kernel, [1, stride, stride, 1], padding)
        theirs = tf.nn.depthwise_conv2d(inputs, kernel, [1, stride, stride, 1], padding)
        weights = tf.cast(tf.random.stateless_normal(ours.shape, [1, 2]), ours.dtype)
        return [tf.gradients(outputs, [inputs, kernel], weights) for outputs in (ours, theirs)]

    return tf.function(both, autograph=False).get_concrete_function(inputs, kernel)(inputs, kernel)


@pytest.mark.parametrize("padding", ["SAME", "VALID"])
@pytest.mark.parametrize("stride", [2, 3])
@pytest.mark.parametrize("multiplier", [1, 2])
def test_the_other_way_gives_the_same(monkeypatch, padding, stride, multiplier):
    monkeypatch.setattr(depthwise_gradient, "has_slow_gradient", lambda operation: True)
    for kernel_size, input_size in itertools.product(KERNEL_SIZES, INPUT_SIZES):
        inputs = tf.random.stateless_normal([2, *input_size, 3], [3, 4])
        kernel = tf.random.stateless_normal([*kernel_size, 3, multiplier], [5, 6])
        for ours, theirs in zip(*gradients_of(inputs, kernel, stride, padding), strict=True):
            difference = np.abs(ours - theirs).max() / np.abs(theirs).max()
            assert difference < 1e-6, (kernel_size, input_size)


def test_in_bfloat16_it_is_as_near_to_the_exact_one_as_tensorflow_s():
    inputs = tf.cast(tf.random.stateless_normal([4, 28, 28, 16], [3, 4]), tf.bfloat16)
    kernel = tf.cast(tf.random.stateless_normal([3, 3, 16, 1], [5, 6]), tf.bfloat16)
    ours, theirs = gradients_of(inputs, kernel, 2, "SAME")
    _, exact = gradients_of(tf.cast(inputs, tf.float32), tf.cast(kernel, tf.float32), 2, "SAME")
    for own, other, right in zip(ours, theirs, exact, strict=True):
        errors = [np.abs(tf.cast(value, tf.float32) - right).max() / np.abs(right).max() for value in (own, other)]
        # The weights of the sum are rounded to bfloat16 themselves, and results have 8 bits.
        assert errors[0] < max(0.02, 1.5 * errors[1])


def strided_gradients(graph, of="Input"):
    """Names of the operations that compute the gradient of the inputs, or of the kernel (`Filter`), with a stride."""
    kind = f"DepthwiseConv2dNativeBackprop{of}"
    backward = [operation for operation in graph.get_operations() if operation.type == kind]
    assert backward
    return [operation.name for operation in backward if max(operation.get_attr("strides")) > 1]


def gradient_graph(dtype):
    """Of such a layer in training."""
    graph = tf.Graph()
    with graph.as_default(), layer_modes(True, lambda scope: False, None):
        images = tf.compat.v1.placeholder(dtype, [None, 8, 8, 4])
        outputs = slim.separable_conv2d(images, None, 3, 1, stride=2)
        tf.gradients(outputs, [images, *tf.compat.v1.trainable_variables()])
    return graph


def test_it_is_taken_in_bfloat16_alone():
    assert not strided_gradients(gradient_graph(tf.bfloat16))
    assert strided_gradients(gradient_graph(tf.float32))


@pytest.mark.parametrize("dtype", [tf.bfloat16, tf.float32])
def test_the_kernel_s_keeps_its_stride(dtype):
    assert strided_gradients(gradient_graph(dtype), of="Filter")


def test_a_gpu_keeps_tensorflow_s(monkeypatch):
    monkeypatch.setattr(tf.config, "get_visible_devices", lambda kind=None: ["GPU"])
    assert strided_gradients(gradient_graph(tf.bfloat16))


@pytest.mark.parametrize("batch_norm", ["plan", "frozen"])
def test_it_goes_with_the_copy_that_trains_on_features(batch_norm):
    model = Model(get_spec("mobilenet_v2_035"), 3, image_size=64)
    model.compute_dtype = tf.bfloat16
    shapes = {name: tuple(variable.shape) for name, variable in model.model_variables.items()}
    scopes = [f"MobilenetV2/{name}" for name in ("expanded_conv_12", "expanded_conv_13", "Conv_1", "Logits")]
    plan = plan_variables(model.network_variables(), checkpoint_shapes=shapes, trainable_scopes=scopes)
    model.freeze(plan, batch_norm)
    split = SplitModel(model, plan, is_training=True)
    trained = [model.model_variables[variable.name] for variable in plan.trained]

    def gradients(*features):
        return tf.gradients(split.head(list(features), tf.zeros([3], tf.int32)).logits, trained)

    traced = tf.function(gradients, autograph=False).get_concrete_function(*split.frontier)
    assert not strided_gradients(traced.graph)


def test_a_pass_of_evaluation_names_no_gradient_of_ours():
    graph = trace_pass(Model(get_spec("mobilenet_v2_035"), 3, image_size=64), is_training=False).graph
    assert not [node.name for node in graph.as_graph_def().node if "_gradient_op_type" in node.attr]
