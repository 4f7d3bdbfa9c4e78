"""What the MobileNets share: rounding of depths, layer settings, inverted residual blocks and the classifier.

Papers: MobileNet V2 (Sandler et al., arXiv:1801.04381) for the inverted residual with a linear bottleneck, MobileNet V3
(Howard et al., arXiv:1905.02244) for squeeze-and-excite inside it.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence

import tensorflow as tf
import tf_slim as slim

from finetune.nets import layers
from finetune.types import Tensor


def relu6(inputs: Tensor) -> Tensor:
    """`min(max(x, 0), 6)`, by XLA's kernels where a processor trains in bfloat16.

    TensorFlow's own are compiled for any processor, XLA's for the one that runs them, at the first step, for some two
    seconds. The marks that ask for them are attributes of the operation and its gradient, and go with copies of them.
    """
    if not _is_trained_in_bfloat16(inputs) or tf.config.get_visible_devices("GPU"):
        return tf.nn.relu6(inputs)
    with tf.xla.experimental.jit_scope(separate_compiled_gradients=True):
        return tf.nn.relu6(inputs)


def _is_trained_in_bfloat16(inputs: Tensor) -> bool:
    """Whether they come of a batch norm that is trained: one that isn't is part of a convolution, and Relu6 with it."""
    made_by = inputs.op
    return inputs.dtype == tf.bfloat16 and made_by.type == "FusedBatchNormV3" and bool(made_by.get_attr("is_training"))


@dataclasses.dataclass(frozen=True)
class Block:
    """An inverted residual: expand to many channels, filter in space, project to few.

    Attributes:
        expanded_depth: Channels inside; as many as the input has: nothing is expanded.
        depth: Channels of the output.
        kernel_size: Height and width of the spatial filter.
        stride: Of the spatial filter.
        activation_fn: Of the expansion and of the spatial filter; the projection is linear.
        has_squeeze_excite: Whether the filtered channels are gated.
        is_fused: Whether one full convolution expands and filters, in place of a pointwise and a depthwise one.
        is_residual: Whether the input is added to an output of the same shape.
    """

    expanded_depth: int
    depth: int
    kernel_size: int = 3
    stride: int = 1
    activation_fn: Callable[[Tensor], Tensor] = relu6
    has_squeeze_excite: bool = False
    is_fused: bool = False
    is_residual: bool = True


def round_depth(depth: float) -> int:
    """The multiple of 8 nearest to `depth`, at least 8 and never more than a tenth below it."""
    rounded = max(8, int(depth + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * depth else rounded + 8


@contextlib.contextmanager
def mobilenet_layers(batch_norm_decay: float, activation_fn: Callable[[Tensor], Tensor] = relu6) -> Iterator[None]:
    """Settings of all convolutions inside: normalised, not biased; weight decay spares the depthwise ones."""
    with (
        slim.arg_scope(
            [slim.conv2d, slim.separable_conv2d],
            activation_fn=activation_fn,
            normalizer_fn=layers.batch_norm,
            normalizer_params={"decay": batch_norm_decay, "epsilon": 0.001, "scale": True},
            weights_initializer=tf.compat.v1.truncated_normal_initializer(stddev=0.09),
        ),
        slim.arg_scope([slim.conv2d], weights_regularizer=layers.decayed),
    ):
        yield


def trunk(
    images: Tensor, stem_depth: int, blocks: Sequence[Block], last_depth: int
) -> tuple[Tensor, dict[str, Tensor]]:
    """The layers of MobileNet V2 and its successors up to the last feature map.

    Args:
        images: [B,H,W,C].
        stem_depth: Channels of the first convolution, of stride 2.
        blocks: From input to output.
        last_depth: Channels of the pointwise convolution behind the blocks.

    Returns:
        [B,H/32,W/32,last_depth] and the end points: `layer_N` for the first convolution (1), each block and the last
        convolution, `layer_N/expansion_output`, `layer_N/depthwise_output` and `layer_N/output` inside the blocks.
    """
    end_points: dict[str, Tensor] = {}
    net = end_points["layer_1"] = slim.conv2d(images, stem_depth, 3, stride=2, scope="Conv")
    for index, block in enumerate(blocks):
        layer = f"layer_{index + 2}"
        with tf.compat.v1.variable_scope(f"expanded_conv_{index}" if index else "expanded_conv"):
            inside = inverted_residual(net, block)
        end_points.update({f"{layer}/{name}": value for name, value in inside.items()})
        net = end_points[layer] = inside["output"]
    net = end_points[f"layer_{len(blocks) + 2}"] = slim.conv2d(net, last_depth, 1, scope="Conv_1")
    return net, end_points


def inverted_residual(inputs: Tensor, block: Block) -> dict[str, Tensor]:
    """One block over [B,H,W,C].

    Returns:
        `output` [B,H/stride,W/stride,depth] and, where the block has them, `expansion_output` and `depthwise_output`.
    """
    values = {}
    net = inputs
    if block.expanded_depth != inputs.shape[-1]:
        kernel_size, stride = (block.kernel_size, block.stride) if block.is_fused else (1, 1)
        net = values["expansion_output"] = slim.conv2d(
            net, block.expanded_depth, kernel_size, stride, activation_fn=block.activation_fn, scope="expand"
        )
    if not block.is_fused:
        net = values["depthwise_output"] = slim.separable_conv2d(
            net, None, block.kernel_size, 1, block.stride, activation_fn=block.activation_fn, scope="depthwise"
        )
    if block.has_squeeze_excite:
        net = squeeze_excite(net)
    net = slim.conv2d(net, block.depth, 1, activation_fn=None, scope="project")
    if block.is_residual and block.stride == 1 and inputs.shape[-1] == block.depth:
        net = net + inputs
    values["output"] = net
    return values


def squeeze_excite(inputs: Tensor) -> Tensor:
    """Gates the channels of [B,H,W,C] by what all of the image says (Hu et al., arXiv:1709.01507)."""
    depth = inputs.shape[-1]
    with tf.compat.v1.variable_scope("squeeze_excite"), slim.arg_scope([slim.conv2d], normalizer_fn=None):
        squeezed = tf.reduce_mean(inputs, [1, 2], keepdims=True)
        squeezed = slim.conv2d(squeezed, round_depth(depth / 4), 1, activation_fn=tf.nn.relu, scope="Conv")
        gates = slim.conv2d(squeezed, depth, 1, activation_fn=_gate, scope="Conv_1")
    return inputs * gates


def _gate(inputs: Tensor) -> Tensor:
    # A piecewise linear sigmoid. slim rounds a sixth to this; the published weights were trained with it.
    return tf.nn.relu6(inputs + 3.0) * 0.16667


def hard_swish(inputs: Tensor) -> Tensor:
    """`x * relu6(x + 3) / 6` (MobileNet V3, section 5.2)."""
    return inputs * tf.nn.relu6(inputs + 3.0) * (1.0 / 6.0)


def add_classifier(
    net: Tensor,
    num_classes: int,
    dropout_keep_prob: float,
    end_points: dict[str, Tensor],
    pool_name: str = "global_pool",
) -> Tensor:
    """Pools [B,H,W,C] over all of the image and classifies it; adds `pool_name`, `Logits` and `Predictions`.

    Returns:
        Logits [B,num_classes].
    """
    with tf.compat.v1.variable_scope("Logits"):
        net = end_points[pool_name] = tf.reduce_mean(net, [1, 2], keepdims=True)
        net = slim.dropout(net, dropout_keep_prob, scope="Dropout")
        net = slim.conv2d(net, num_classes, 1, activation_fn=None, normalizer_fn=None, scope="Conv2d_1c_1x1")
        logits = end_points["Logits"] = tf.squeeze(net, [1, 2])
    end_points["Predictions"] = tf.nn.softmax(logits)
    return logits
