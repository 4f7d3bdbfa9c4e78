"""Layers of ours are what they stand for: batch norm folded into a convolution, dropout as TensorFlow draws it."""

import numpy as np
import pytest
import tensorflow as tf
import tf_slim as slim

from finetune.nets.layers import batch_norm, dropout, fold_in_name, layer_modes

random = np.random.default_rng(0)
VALUES = {
    "gamma": random.uniform(0.5, 2, 8),
    "beta": random.normal(size=8),
    "moving_mean": random.normal(size=8),
    "moving_variance": random.uniform(0.1, 3, 8),
}


def convolution(images):
    return slim.conv2d(images, 8, 3, stride=2, normalizer_fn=None, biases_initializer=None, activation_fn=None)


def dilated(images):
    return slim.conv2d(images, 8, 3, rate=2, normalizer_fn=None, biases_initializer=None, activation_fn=None)


def depthwise(images):
    return tf.nn.depthwise_conv2d(images, tf.constant(random.normal(size=[3, 3, 4, 2]), tf.float32), [1] * 4, "SAME")


def no_convolution(images):
    return tf.nn.relu(tf.concat([images, images], axis=3))


@pytest.mark.parametrize("layer", [convolution, dilated, depthwise, no_convolution])
@pytest.mark.parametrize("is_training", [False, True])
def test_it_normalises_with_the_moving_statistics(layer, is_training):
    graph = tf.Graph()
    with graph.as_default(), layer_modes(is_training, lambda scope: True, None):
        images = tf.constant(random.normal(size=[2, 9, 9, 4]), tf.float32)
        inputs = layer(images)
        initializers = {name: tf.compat.v1.constant_initializer(value) for name, value in VALUES.items()}
        outputs = batch_norm(inputs, scale=True, epsilon=0.01, param_initializers=initializers, scope="norm")
        with tf.compat.v1.Session() as session:
            session.run(tf.compat.v1.global_variables_initializer())
            before, after = session.run([inputs, outputs])
    scale = VALUES["gamma"] / np.sqrt(VALUES["moving_variance"] + 0.01)
    expected = (before - VALUES["moving_mean"]) * scale + VALUES["beta"]
    np.testing.assert_allclose(after, expected, rtol=1e-4, atol=1e-4)
    # A dilated one is built as one between two changes of shape.
    assert (outputs.op.type == "BiasAdd") == (layer in (convolution, depthwise))


@pytest.mark.parametrize("noise_shape", [None, [4, 1, 1, 3]])
def test_parts_of_a_batch_have_their_parts_of_the_mask(noise_shape):
    images = tf.constant(random.normal(size=[12, 5, 5, 3]), tf.float32)

    @tf.function(autograph=False)
    def dropped(images, part, num_parts, shape):
        with layer_modes(True, lambda scope: False, tf.stack([1, 2, part]), num_parts=num_parts):
            return dropout(images, 0.4, noise_shape=shape, scope="layer")

    whole = dropped(images, tf.constant(0), 1, noise_shape and [12, *noise_shape[1:]])
    parts = [dropped(images[4 * part :][:4], tf.constant(part), 3, noise_shape) for part in range(3)]
    np.testing.assert_array_equal(tf.concat(parts, axis=0), whole)


@pytest.mark.parametrize("noise_shape", [None, [50, 1, 1, 1]])
def test_dropout_is_tensorflows_own_to_the_bit(noise_shape):
    images = tf.constant(random.normal(size=[50, 7, 7, 3]), tf.float32)

    @tf.function(autograph=False)
    def both(seed):
        with layer_modes(True, lambda scope: False, seed):
            ours = dropout(images, 0.3, noise_shape=noise_shape, scope="layer")
        layer_seed = fold_in_name(seed[:2], "layer")
        return ours, tf.nn.experimental.stateless_dropout(images, 1 - 0.3, layer_seed, "philox", noise_shape)

    for seed in ([0, 0, 0], [-5, 7, 0], [2**31 - 1, 12, 0]):
        ours, theirs = both(tf.constant(seed))
        np.testing.assert_array_equal(ours, theirs)
        assert 0 < np.count_nonzero(ours) < images.shape.num_elements()
