"""tf-slim's layers as our networks use them: the one place where tf-slim 1.1.0 is adjusted to current TensorFlow.

Two of tf-slim's layers are replaced by ours, under slim's argument and variable names:

- `batch_norm`: slim's own asks for a package that no longer exists, and it can't tell a frozen layer from a trained
  one.
- `dropout`: slim's own draws from a generator whose state no checkpoint holds; ours is a function of (seed, layer,
  place of the image in the step's batch), so that a resumed run repeats an unbroken one, on any number of devices.

tf-slim's networks look both up in `tf_slim.layers.layers` when they are called, so replacing them there reaches those.
What tells these layers how to behave (`is_training`, `is_frozen`, `moved_share`, `is_synced`, `seed`, `num_parts`)
comes through slim's `arg_scope`, set by `layer_modes`. Everything else of tf-slim works as it is.
"""

import contextlib
import threading
import warnings
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf
import tf_slim as slim
from tf_slim.layers import layers as slim_layers

from finetune.nets.depthwise_gradient import fast_depthwise_gradients
from finetune.types import Tensor

DECAYED_VARIABLES = "decayed_variables"
# Layers whose random numbers are others where a batch is parted in another way.
DRAWN_BY_PART = "drawn_by_part"

# From a batch norm's full scope name and its own decay to the share of their way to the batch's statistics that its
# moving ones go in a pass.
MovedShare = Callable[[str, float], Any]

SCALABLE_CONVOLUTIONS = {"Conv2D": tf.raw_ops.Conv2D, "DepthwiseConv2dNative": tf.raw_ops.DepthwiseConv2dNative}
CONVOLUTION_ATTRIBUTES = ("strides", "padding", "explicit_paddings", "data_format", "dilations")


def decayed(variable: Tensor) -> None:
    """Marks a variable as one that weight decay applies to: for slim's `weights_regularizer`.

    The loss itself is computed by the trainer, over trained variables only; frozen ones need none.
    """
    tf.compat.v1.add_to_collection(DECAYED_VARIABLES, variable)


@slim.add_arg_scope
def batch_norm(
    inputs: Tensor,
    decay: float = 0.999,
    center: bool = True,
    scale: bool = False,
    epsilon: float = 0.001,
    activation_fn: Callable[[Tensor], Tensor] | None = None,
    param_initializers: dict[str, Any] | None = None,
    is_training: bool = True,
    is_frozen: Callable[[str], bool] = lambda scope: False,
    moved_share: MovedShare = lambda scope, decay: 1.0 - decay,
    is_synced: bool = False,
    scope: str | None = None,
) -> Tensor:
    """Batch normalisation over all but the last axis (Ioffe and Szegedy, arXiv:1502.03167) in slim's arithmetic.

    A frozen layer normalises with its moving statistics and leaves them alone, in training as in evaluation; another
    one does so in evaluation only, and in training uses the batch's statistics and moves its own towards them.

    Args:
        inputs: [B,H,W,C].
        decay: Of the moving mean and variance: `moving = decay * moving + (1 - decay) * batch`.
        center: Whether there is a `beta`.
        scale: Whether there is a `gamma`.
        epsilon: Added to the variance.
        activation_fn: Applied to the result.
        param_initializers: Initialisers by variable name (`beta`, `gamma`, `moving_mean`, `moving_variance`).
        is_training: The mode of the pass.
        is_frozen: Tells by a layer's full scope name whether it is frozen.
        moved_share: Tells how far the moving statistics go, in place of what `decay` says.
        is_synced: Whether the batch's statistics are those of all devices' images, not of each device's.
        scope: Name of the layer.

    Returns:
        [B,H,W,C], in the type of `inputs`.
    """
    initializers = {"beta": tf.zeros_initializer(), "gamma": tf.ones_initializer(), **(param_initializers or {})}
    with tf.compat.v1.variable_scope(scope, "BatchNorm", [inputs]) as layer:
        size = [inputs.shape[-1]]

        def parameter(name: str) -> Tensor:
            return slim.model_variable(name, size, tf.float32, initializers[name])

        def statistic(name: str, initializer: Any) -> Tensor:
            return slim.model_variable(
                name,
                size,
                tf.float32,
                initializers.get(name, initializer),
                trainable=False,
                synchronization=tf.VariableSynchronization.ON_READ,
                aggregation=tf.VariableAggregation.MEAN,
            )

        offset = parameter("beta") if center else tf.zeros(size)
        factor = parameter("gamma") if scale else tf.ones(size)
        mean = statistic("moving_mean", tf.zeros_initializer())
        variance = statistic("moving_variance", tf.ones_initializer())
        if is_training and not is_frozen(layer.name):
            by_batch = _normalise_by_all_batches if is_synced else _normalise_by_batch
            outputs, batch_mean, batch_variance = by_batch(inputs, factor, offset, epsilon)
            share = moved_share(layer.name, decay)
            _move_towards(mean, batch_mean, share)
            _move_towards(variance, batch_variance, share)
        else:
            outputs = _normalise(inputs, factor, offset, mean, variance, epsilon)
        return activation_fn(outputs) if activation_fn else outputs


def _normalise(
    inputs: Tensor, factor: Tensor, offset: Tensor, mean: Tensor, variance: Tensor, epsilon: float
) -> Tensor:
    """By given statistics: with a convolution's kernel scaled, where one gives the inputs, and its result shifted.

    So no pass over the images is spent on it: MobileNet V2 runs a third faster. The convolution that was built
    before is used by nothing then, and so never run.
    """
    convolution = inputs.op
    if convolution.type not in SCALABLE_CONVOLUTIONS:
        outputs, _, _ = tf.compat.v1.nn.fused_batch_norm(
            inputs, factor, offset, mean, variance, epsilon=epsilon, is_training=False
        )
        return outputs
    scale = factor * tf.math.rsqrt(variance + epsilon)
    images, kernel = convolution.inputs
    if kernel.op.type == "Cast":  # To the type of the images: scaled before it, the kernel is rounded once.
        kernel = kernel.op.inputs[0]
    # A depthwise kernel [H,W,C,M] has the factors of its C * M channels in its last two axes, others [H,W,C,D] in one.
    num_axes = 2 if convolution.type == "DepthwiseConv2dNative" else 1
    scaled = SCALABLE_CONVOLUTIONS[convolution.type](
        input=images,
        filter=tf.cast(kernel * tf.reshape(scale, kernel.shape[-num_axes:]), images.dtype),
        **{name: convolution.get_attr(name) for name in CONVOLUTION_ATTRIBUTES},
    )
    return tf.nn.bias_add(scaled, tf.cast(offset - mean * scale, images.dtype))


def _normalise_by_batch(inputs: Tensor, factor: Tensor, offset: Tensor, epsilon: float) -> tuple[Tensor, ...]:
    """By the statistics of the inputs; gives these, too, the variance as of a sample."""
    outputs, mean, variance = tf.compat.v1.nn.fused_batch_norm(
        inputs, factor, offset, epsilon=epsilon, is_training=True
    )
    return outputs, mean, variance


def _normalise_by_all_batches(inputs: Tensor, factor: Tensor, offset: Tensor, epsilon: float) -> tuple[Tensor, ...]:
    """As `_normalise_by_batch`, by the statistics of the inputs of all devices, of which each has as many.

    The variance is summed up around the mean of all: from the mean of squares small ones would be lost to rounding.
    """
    replica = tf.distribute.get_replica_context()  # None where a pass is traced for its shapes alone.
    num_replicas = replica.num_replicas_in_sync if replica is not None else 1

    def mean_of_all(values: Tensor) -> Tensor:
        own = tf.reduce_mean(values, axis=[0, 1, 2])
        return replica.all_reduce(tf.distribute.ReduceOp.MEAN, own) if num_replicas > 1 else own

    wide = tf.cast(inputs, tf.float32)
    mean = mean_of_all(wide)
    variance = mean_of_all(tf.math.squared_difference(wide, mean))
    outputs = tf.nn.batch_normalization(wide, mean, variance, offset, factor, epsilon)
    number = tf.cast(num_replicas * tf.reduce_prod(tf.shape(inputs)[:-1]), tf.float32)
    return tf.cast(outputs, inputs.dtype), mean, variance * number / tf.maximum(number - 1.0, 1.0)


def _move_towards(statistic: Tensor, batch_statistic: Tensor, share: Any) -> None:
    statistic.assign_sub((statistic - batch_statistic) * share)


@slim.add_arg_scope
def dropout(
    inputs: Tensor,
    keep_prob: float = 0.5,
    noise_shape: Any = None,
    is_training: bool = True,
    seed: Tensor | None = None,
    num_parts: int = 1,
    scope: str | None = None,
) -> Tensor:
    """Dropout (Srivastava et al., 2014) whose mask is a function of `seed` and the layer's name alone.

    A part of a batch has its part of the mask that the whole batch would have.

    Args:
        inputs: [B,...].
        keep_prob: Probability that a value is kept; kept ones are scaled by its inverse. 1 or more: nothing is dropped.
        noise_shape: Shape of the mask, where values share their fate; None: the inputs' shape.
        is_training: Outside training nothing is dropped.
        seed: Integers [3], as of `layer_modes`; needed in training.
        num_parts: As of `layer_modes`.
        scope: Name of the layer.

    Returns:
        The shape and type of `inputs`.
    """
    with tf.compat.v1.variable_scope(scope, "Dropout", [inputs]) as layer:
        if not is_training or keep_prob >= 1.0:
            return tf.identity(inputs)
        rate = 1.0 - keep_prob
        noise = noise_of_part(tf.shape(inputs) if noise_shape is None else noise_shape, seed, layer.name, num_parts)
        # In float32, so that the mask is the same whatever the layers compute in.
        kept = tf.where(noise >= rate, tf.cast(inputs, tf.float32) * (1.0 / (1.0 - rate)), 0.0)
        kept.set_shape(inputs.shape)
        return tf.cast(kept, inputs.dtype)


@slim.add_arg_scope
def drop_path(
    inputs: Tensor,
    keep_prob: float,
    is_frozen: Callable[[str], bool] = lambda scope: False,
    scope: str = "drop_path",
) -> Tensor:
    """Dropout of all that one image has in `inputs` (Larsson et al., arXiv:1605.07648); a frozen layer drops nothing.

    Args:
        inputs: [B,H,W,C].
        keep_prob: Probability that an image is kept; kept ones are scaled by its inverse.
        is_frozen: Tells by a layer's full scope name whether it is frozen.
        scope: Name of the layer.

    Returns:
        [B,H,W,C].
    """
    with tf.compat.v1.variable_scope(scope) as layer:
        keep_prob = 1.0 if is_frozen(layer.name) else keep_prob
        return dropout(inputs, keep_prob, noise_shape=[tf.shape(inputs)[0], 1, 1, 1])


@slim.add_arg_scope
def is_frozen_scope(scope: str, is_frozen: Callable[[str], bool] = lambda scope: False) -> bool:
    """Whether layers in a scope are frozen in the pass that is made."""
    return is_frozen(scope)


@slim.add_arg_scope
def pass_seed(seed: Tensor | None = None) -> Tensor | None:
    """Integers [3] of the pass that is made, as of `layer_modes`; None outside training."""
    return seed


def fold_in_name(seed: Tensor, name: str) -> Tensor:
    """A seed [2] of its own for each name."""
    return tf.random.experimental.stateless_fold_in(seed, zlib.crc32(name.encode()) & 0x7FFFFFFF)


def noise_of_part(shape: Any, seed: Tensor, name: str, num_parts: int) -> Tensor:
    """A part of the numbers in [0,1) that a layer draws for a whole batch.

    All are drawn, and all but the part's left out: how a generator would be set on to a row is TensorFlow's secret, and
    a mask takes little time beside the layer that it follows.

    Args:
        shape: Of the part's.
        seed: Integers [3], as of `layer_modes`.
        name: Of the layer.
        num_parts: As of `layer_modes`.
    """
    own = fold_in_name(seed[:2], name)
    if num_parts == 1:
        return uniform_noise(shape, own)
    num_images, *others = tf.unstack(shape)
    first = tf.stack([seed[2] * num_images, *([0] * len(others))])
    return tf.slice(uniform_noise(tf.stack([num_parts * num_images, *others]), own), first, shape)


def uniform_noise(shape: Any, seed: Tensor) -> Tensor:
    """Numbers in [0,1): those of `tf.random.stateless_uniform(shape, seed, alg="philox")`.

    That takes forty operations from the seed to Philox's key and counter, where TensorFlow has one: of NASNet's
    training pass, with dropout in every branch, they were two fifths, and nearly half of the time to trace it. Compiled
    by XLA the one gives another key for a negative seed, and so another mask than without.

    Args:
        shape: Of the numbers.
        seed: Integers [2].
    """
    key, counter = tf.raw_ops.StatelessRandomGetKeyCounter(seed=seed)
    algorithm = int(tf.random.Algorithm.PHILOX.value)
    return tf.raw_ops.StatelessRandomUniformV2(shape=shape, key=key, counter=counter, alg=algorithm)


class _WithoutAdviceOnKeras:
    """Within it nobody is advised to call Keras layers otherwise than slim does, which calls their `apply`.

    Python's own way to hold a warning back is of the whole process, and devices that wait for each other in a pass, for
    synced batch norm, build theirs in threads that take turns: the last to leave puts back what the first one found.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._num_within = 0
        self._held_back = warnings.catch_warnings()

    def __enter__(self) -> None:
        with self._lock:
            if not self._num_within:
                self._held_back = warnings.catch_warnings()
                self._held_back.__enter__()
                warnings.filterwarnings("ignore", category=UserWarning, module="tensorflow.python.keras")
            self._num_within += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._num_within -= 1
            if not self._num_within:
                self._held_back.__exit__(None, None, None)


_without_advice_on_keras = _WithoutAdviceOnKeras()

slim_layers.batch_norm = slim.layers.batch_norm = slim.batch_norm = batch_norm
slim_layers.dropout = slim.layers.dropout = slim.dropout = dropout


@contextlib.contextmanager
def layer_modes(
    is_training: bool,
    is_frozen: Callable[[str], bool],
    seed: Tensor | None,
    moved_share: MovedShare = lambda scope, decay: 1.0 - decay,
    num_parts: int = 1,
    is_synced: bool = False,
) -> Iterator[None]:
    """Sets the mode of every layer of the networks called inside.

    Args:
        is_training: The mode of the pass.
        is_frozen: Tells by a layer's full scope name whether it is frozen; batch norm and drop path ask.
        seed: Integers [3] for dropout, needed in training: two that are others at each step, and the number of the part
            of the step's batch that the pass has.
        moved_share: Tells how far the moving statistics of a batch norm that isn't frozen go in a training pass.
        num_parts: Equal ones, of which the step's batch has so many.
        is_synced: Whether batch norm that is trained takes the statistics of all devices' images.
    """
    modes = (
        slim.arg_scope([batch_norm], is_training=is_training, is_frozen=is_frozen, moved_share=moved_share),
        slim.arg_scope([batch_norm], is_synced=is_synced),
        slim.arg_scope([dropout], is_training=is_training),
        slim.arg_scope([dropout, pass_seed], seed=seed),
        slim.arg_scope([dropout], num_parts=num_parts),
        slim.arg_scope([drop_path, is_frozen_scope], is_frozen=is_frozen),
    )
    with contextlib.ExitStack() as stack:
        stack.enter_context(_without_advice_on_keras)
        if is_training:  # Elsewhere exported graphs would name a gradient that only this program knows.
            stack.enter_context(fast_depthwise_gradients())
        for mode in modes:
            stack.enter_context(mode)
        yield
