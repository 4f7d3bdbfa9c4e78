"""Keras's layers that are replaced by ours, since they can't be told apart as frozen and trained, or keep a state.

A replaced layer asks slim's `arg_scope` how to behave, as the layers of `finetune.nets.layers` do.
"""

from typing import Any

import keras
import tensorflow as tf
from keras.src.applications.convnext import StochasticDepth

from finetune.nets import layers
from finetune.types import Tensor

KerasLayer = Any


def replacement(layer: KerasLayer, scope: str, scope_beside: str) -> KerasLayer:
    """A layer that does what this one does, with ours in place of batch norm, normalization, silu and what is random.

    Args:
        layer: Of Keras; or one of its operations, of which all but silu stay as they are.
        scope: Of its variables.
        scope_beside: Of the layer with variables that it belongs to, where it is random.
    """
    if not isinstance(layer, keras.layers.Layer):
        return Silu(name=layer.name) if type(layer).__name__ == "Silu" else layer
    ours = _replacement(layer, scope, scope_beside)
    if getattr(layer, "activation", None) is keras.activations.silu:
        ours.activation = silu
    return ours


def _replacement(layer: KerasLayer, scope: str, scope_beside: str) -> KerasLayer:
    config = layer.get_config()
    if isinstance(layer, keras.layers.BatchNormalization):
        return BatchNorm.from_config(config).in_scope(scope)
    if isinstance(layer, keras.layers.Normalization) and layer.weights:
        return Normalization.from_config(config)
    if isinstance(layer, StochasticDepth):
        return DropPath.from_config(config).in_scope(scope_beside)
    if type(layer) is keras.layers.Dropout:
        return Dropout.from_config(config).in_scope(scope_beside)
    if seeds_of(layer):
        return _random(type(layer)).from_config(config).in_scope(scope_beside)
    return type(layer).from_config(config)


def silu(inputs: Tensor) -> Tensor:
    """Silu or swish (Ramachandran et al., arXiv:1710.05941), x * sigmoid(x).

    TensorFlow's own, which Keras calls, has a gradient in Python, bound to the graph that it was traced in: a copy of a
    part of that graph, by which what is behind cached features is trained, can't have it.
    """
    return inputs * tf.sigmoid(inputs)


class Silu(keras.Operation):
    """`silu` as an operation between layers."""

    def call(self, inputs: Tensor) -> Tensor:
        """Of the shape and type of `inputs`."""
        return silu(inputs)

    def compute_output_spec(self, inputs: Any) -> Any:
        """The same as that of the inputs."""
        return keras.KerasTensor(inputs.shape, dtype=inputs.dtype)


class BatchNorm(keras.layers.BatchNormalization):
    """Batch norm in the arithmetic and with the modes of `finetune.nets.layers.batch_norm`, whose variables it uses."""

    def in_scope(self, scope: str) -> "BatchNorm":
        """The layer, its variables in this scope."""
        self._variables_scope = scope
        return self

    def build(self, input_shape: Any) -> None:
        """Makes no variables: the function has them."""
        self.built = True

    def call(self, inputs: Tensor, training: bool | None = None, mask: None = None) -> Tensor:
        """Normalises [B,...,C]; how, the modes say."""
        del training, mask
        shape = tf.shape(inputs)
        as_images = inputs if inputs.shape.rank == 4 else tf.reshape(inputs, [-1, 1, 1, inputs.shape[-1]])
        outputs = layers.batch_norm(
            as_images,
            decay=self.momentum,
            center=self.center,
            scale=self.scale,
            epsilon=self.epsilon,
            scope=self._variables_scope,
        )
        return outputs if inputs.shape.rank == 4 else tf.reshape(outputs, shape)


class Normalization(keras.layers.Normalization):
    """Normalization by its variables as they are now; Keras's own keeps what they were when it was built.

    Attributes:
        factor: By which the result is multiplied, one for each channel.
    """

    factor: tuple[float, ...] = ()

    def call(self, inputs: Tensor) -> Tensor:
        """(inputs - mean) / sqrt(variance), [B,H,W,C]."""
        mean, variance = (
            tf.cast(tf.reshape(value, self._broadcast_shape), inputs.dtype)
            for value in (self.adapt_mean.value, self.adapt_variance.value)
        )
        normalised = (inputs - mean) / tf.maximum(tf.sqrt(variance), keras.config.epsilon())
        return normalised * tf.constant(self.factor, inputs.dtype) if self.factor else normalised


def seeds_of(layer: KerasLayer) -> list[Any]:
    """The states of a layer's random generators."""
    return [variable for variable in layer.variables if variable.name == "seed_generator_state"]


class _InScope:
    """A random layer that is random in training while the layers that it belongs to are not frozen, as `drop_path`."""

    def in_scope(self, scope: str) -> Any:
        self._scope_beside = scope
        return self

    def is_random(self, training: bool | None) -> bool:
        return bool(training) and not layers.is_frozen_scope(self._scope_beside)


class Dropout(_InScope, keras.layers.Dropout):
    """Dropout whose mask is that of `finetune.nets.layers.dropout`."""

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        """[B,...], the same shape."""
        shape = self.noise_shape and [length or tf.shape(inputs)[axis] for axis, length in enumerate(self.noise_shape)]
        random = self.is_random(training)
        return layers.dropout(inputs, 1.0 - self.rate, noise_shape=shape, is_training=random, scope=self.name)


class DropPath(_InScope, StochasticDepth):
    """ConvNeXt's, which Keras draws from a generator of the whole process: by `finetune.nets.layers.dropout`."""

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        """[B,...], the same shape; all of an image is kept, or nothing."""
        shape = [tf.shape(inputs)[0], *[1] * (inputs.shape.rank - 1)]
        random = self.is_random(training)
        return layers.dropout(inputs, 1.0 - self.drop_path_rate, noise_shape=shape, is_training=random, scope=self.name)


class _OfKeras(_InScope):
    """A random layer of another kind, by its own generator."""

    def call(self, inputs: Tensor, training: bool | None = None, **arguments: Any) -> Tensor:
        tf.compat.v1.add_to_collection(layers.DRAWN_BY_PART, self._scope_beside)
        return super().call(inputs, training=self.is_random(training), **arguments)  # type: ignore[misc]


def _random(layer_class: type) -> Any:
    return type(layer_class.__name__, (_OfKeras, layer_class), {})
