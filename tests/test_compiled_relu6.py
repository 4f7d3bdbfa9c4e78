"""Relu6 of a training pass in bfloat16 is compiled for the processor, forth and back, and computes the same."""

import numpy as np
import tensorflow as tf
import tf_slim as slim

from finetune.model.model import Model
from finetune.model.scopes import plan_variables
from finetune.nets import get_spec, mobilenet_blocks
from finetune.nets.layers import layer_modes
from finetune.trunk.split_model import SplitModel
from finetune.trunk.traced_pass import trace_pass

MARK = "_XlaCompile"


def marked(graph):
    """Types of the operations that XLA is asked to compile."""
    return {operation.type for operation in graph.get_operations() if MARK in operation.node_def.attr}


def gradient_graph(dtype):
    """Of a convolution, its batch norm and Relu6 in training."""
    graph = tf.Graph()
    with graph.as_default(), layer_modes(True, lambda scope: False, None):
        images = tf.compat.v1.placeholder(dtype, [None, 8, 8, 4])
        with mobilenet_blocks.mobilenet_layers(batch_norm_decay=0.9):
            outputs = slim.conv2d(images, 4, 3)
        tf.gradients(outputs, [images, *tf.compat.v1.trainable_variables()])
    return graph


def small_model(scopes):
    """In bfloat16, with some scopes trained, and its plan."""
    model = Model(get_spec("mobilenet_v2_035"), 3, image_size=64)
    model.compute_dtype = tf.bfloat16
    shapes = {name: tuple(variable.shape) for name, variable in model.model_variables.items()}
    scopes = [f"MobilenetV2/{name}" for name in scopes]
    plan = plan_variables(model.network_variables(), checkpoint_shapes=shapes, trainable_scopes=scopes)
    model.freeze(plan, "plan")
    return model, plan


def test_it_is_compiled_where_bfloat16_is_trained():
    assert marked(gradient_graph(tf.bfloat16)) == {"Relu6", "Relu6Grad"}
    assert not marked(gradient_graph(tf.float32))


def test_a_frozen_layer_s_is_part_of_its_convolution():
    model, _ = small_model(["Conv_1", "Logits"])
    operations = trace_pass(model, is_training=True).graph.get_operations()
    compiled = [MARK in operation.node_def.attr for operation in operations if operation.type == "Relu6"]
    assert sum(compiled) == 1 < len(compiled)


def test_a_pass_of_evaluation_is_marked_nowhere():
    model, _ = small_model(["Conv_1", "Logits"])
    assert not marked(trace_pass(model, is_training=False).graph)


def test_a_gpu_keeps_tensorflow_s(monkeypatch):
    monkeypatch.setattr(tf.config, "get_visible_devices", lambda kind=None: ["GPU"])
    assert not marked(gradient_graph(tf.bfloat16))


def test_it_computes_what_tensorflow_does(monkeypatch):
    special = [np.nan, np.inf, -np.inf, 0.0, -0.0, 6.0, np.nextafter(6, 7), 1e-40, -1e-40]
    inputs = tf.cast(tf.concat([special, tf.random.stateless_normal([1 << 16], [1, 2]) * 4], 0), tf.bfloat16)
    weights = tf.cast(tf.random.stateless_normal(inputs.shape, [3, 4]), tf.bfloat16)

    @tf.function(autograph=False)
    def both(inputs):
        monkeypatch.setattr(mobilenet_blocks, "_is_trained_in_bfloat16", lambda inputs: True)
        ours = mobilenet_blocks.relu6(inputs)
        theirs = tf.nn.relu6(inputs)
        return [[outputs, *tf.gradients(outputs, inputs, weights)] for outputs in (ours, theirs)]

    assert marked(both.get_concrete_function(inputs).graph) == {"Relu6", "Relu6Grad"}
    for ours, theirs in zip(*both(inputs), strict=True):
        np.testing.assert_array_equal(tf.cast(ours, tf.float32), tf.cast(theirs, tf.float32))


def test_it_goes_with_the_copy_that_trains_on_features():
    model, plan = small_model(["expanded_conv_16", "Conv_1", "Logits"])
    split = SplitModel(model, plan, is_training=True)
    trained = [model.model_variables[variable.name] for variable in plan.trained]

    def gradients(*features):
        return tf.gradients(split.head(list(features), tf.zeros([3], tf.int32)).logits, trained)

    traced = tf.function(gradients, autograph=False).get_concrete_function(*split.frontier)
    assert marked(traced.graph) == {"Relu6", "Relu6Grad"}
