"""What NASNet-A and PNASNet-5 share: the operations inside a cell, the cell, the stem and the heads.

Papers: Zoph et al., "Learning Transferable Architectures for Scalable Image Recognition", arXiv:1707.07012, and Liu et
al., "Progressive Neural Architecture Search", arXiv:1712.00559.

Drop path (the first paper's ScheduledDropPath) grows from cell to cell. In slim it also grows with the training step,
over so many steps that fine-tuning ends before it is felt. Here it has its full strength at every step, as it had when
the published weights were finished.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator

import tensorflow as tf
import tf_slim as slim

from finetune.nets import layers
from finetune.types import Tensor

# (inputs [B,H,W,C], depth, stride) -> [B,H/stride,W/stride,depth]
Operation = Callable[[Tensor, int, int], Tensor]
# An operation and the number of the state that it is applied to: 0 is the cell's input, 1 that of the cell before, the
# others are the sums made in this cell, in their order.
Step = tuple[Operation, int]


@dataclasses.dataclass(frozen=True)
class Cell:
    """A cell that was found by search.

    Attributes:
        combinations: Two steps each, whose results are added to make the next state.
        outputs: Numbers of the states that are concatenated.
    """

    combinations: tuple[tuple[Step, Step], ...]
    outputs: tuple[int, ...]


@contextlib.contextmanager
def nasnet_layers(batch_norm_decay: float = 0.9997, batch_norm_epsilon: float = 0.001) -> Iterator[None]:
    """Settings of all layers inside: linear, without biases, all weights decayed."""
    with (
        slim.arg_scope(
            [slim.conv2d, slim.separable_conv2d, slim.fully_connected],
            activation_fn=None,
            weights_regularizer=layers.decayed,
            weights_initializer=slim.variance_scaling_initializer(mode="FAN_OUT"),
        ),
        slim.arg_scope([slim.conv2d, slim.separable_conv2d], biases_initializer=None),
        slim.arg_scope([layers.batch_norm], decay=batch_norm_decay, epsilon=batch_norm_epsilon, scale=True),
    ):
        yield


def separable(kernel_size: int) -> Operation:
    """Two depthwise separable convolutions, each behind a ReLU and before a batch norm."""

    def apply(net: Tensor, depth: int, stride: int) -> Tensor:
        size = f"{kernel_size}x{kernel_size}"
        for number, layer_stride in ((1, stride), (2, 1)):
            scope = f"separable_{size}_{number}"
            net = slim.separable_conv2d(tf.nn.relu(net), depth, kernel_size, 1, layer_stride, scope=scope)
            net = layers.batch_norm(net, scope=f"bn_sep_{size}_{number}")
        return net

    return apply


def average_pool(net: Tensor, depth: int, stride: int) -> Tensor:
    """3×3 average, projected if the depth changes."""
    return _fit_depth(slim.avg_pool2d(net, 3, stride, padding="SAME"), depth)


def max_pool(net: Tensor, depth: int, stride: int) -> Tensor:
    """3×3 maximum, projected if the depth changes."""
    return _fit_depth(slim.max_pool2d(net, 3, stride, padding="SAME"), depth)


def identity(net: Tensor, depth: int, stride: int) -> Tensor:
    """The input itself, or a strided projection of it where the shape changes."""
    if stride == 1 and net.shape[-1] == depth:
        return net
    return _project(tf.nn.relu(net), depth, stride)


def _fit_depth(net: Tensor, depth: int) -> Tensor:
    return net if net.shape[-1] == depth else _project(net, depth)


def _project(net: Tensor, depth: int, stride: int = 1, scope: str = "1x1", norm_scope: str = "bn_1") -> Tensor:
    net = slim.conv2d(net, depth, 1, stride, scope=scope)
    return layers.batch_norm(net, scope=norm_scope)


class Tower:
    """Cells upon each other, each fed by the outputs of the two before it.

    Attributes:
        net: [B,H,W,C], the output of the last cell.
    """

    def __init__(self, net: Tensor, num_cells: int, last_keep_prob: float) -> None:
        """Starts without a cell.

        Args:
            net: [B,H,W,C], the input of the first cell.
            num_cells: How many there will be.
            last_keep_prob: Probability that the last cell keeps a step's result for an image in training; the first
                cells lose less, in proportion to their number.
        """
        self.net = net
        self._outputs = [net]
        self._num_cells = num_cells
        self._last_keep_prob = last_keep_prob

    def add(self, cell: Cell, depth: int, scope: str, *, stride: int = 1, skips_last: bool = False) -> Tensor:
        """Puts a cell on top.

        Args:
            cell: What it is made of.
            depth: Channels of each of its states.
            scope: Name of the cell.
            stride: Of the steps that are applied to the cell's two inputs.
            skips_last: Whether the second input is the output of the third cell below and not of the second one.

        Returns:
            [B,H/stride,W/stride,depth * len(cell.outputs)], the new `net`.
        """
        keep_prob = 1.0 - (1.0 - self._last_keep_prob) * len(self._outputs) / self._num_cells
        below = 3 if skips_last else 2
        previous = self._outputs[-below] if len(self._outputs) >= below else None
        self.net = _apply_cell(cell, self.net, previous, depth, stride, keep_prob, scope)
        self._outputs.append(self.net)
        return self.net


def _apply_cell(
    cell: Cell, net: Tensor, previous: Tensor | None, depth: int, stride: int, keep_prob: float, scope: str
) -> Tensor:
    def apply(step: Step, side: str) -> Tensor:
        operation, number = step
        with tf.compat.v1.variable_scope(side):
            result = operation(states[number], depth, stride if number < 2 else 1)
            return result if operation is identity else layers.drop_path(result, keep_prob)

    with tf.compat.v1.variable_scope(scope):
        previous = net if previous is None else _fit_previous(previous, net, depth)
        states = [_project(tf.nn.relu(net), depth, norm_scope="beginning_bn"), previous]
        for number, (left, right) in enumerate(cell.combinations):
            with tf.compat.v1.variable_scope(f"comb_iter_{number}"):
                states.append(apply(left, "left") + apply(right, "right"))
        with tf.compat.v1.variable_scope("cell_output"):
            return tf.concat([_fit_output(states[number], depth, number) for number in cell.outputs], axis=-1)


def _fit_previous(previous: Tensor, net: Tensor, depth: int) -> Tensor:
    """`previous` in the height and width of `net` and in `depth` channels."""
    if previous.shape[2] != net.shape[2]:
        return _halve(tf.nn.relu(previous), depth)
    if previous.shape[-1] != depth:
        return _project(tf.nn.relu(previous), depth, scope="prev_1x1", norm_scope="prev_bn")
    return previous


def _halve(net: Tensor, depth: int) -> Tensor:
    """Halves height and width by two projections of every other pixel; the second one starts a pixel further on."""
    shifted = tf.pad(net, [[0, 0], [0, 1], [0, 1], [0, 0]])[:, 1:, 1:, :]
    paths = [
        slim.conv2d(net[:, ::2, ::2, :], depth // 2, 1, scope="path1_conv"),
        slim.conv2d(shifted[:, ::2, ::2, :], depth - depth // 2, 1, scope="path2_conv"),
    ]
    return layers.batch_norm(tf.concat(paths, axis=-1), scope="final_path_bn")


def _fit_output(state: Tensor, depth: int, number: int) -> Tensor:
    """A state in `depth` channels: only the raw image features in the first cell of the CIFAR network have others."""
    if state.shape[-1] == depth:
        return state
    with tf.compat.v1.variable_scope(f"reduction_{number}"):
        return _project(state, depth, scope="path_conv", norm_scope="path_bn")


def imagenet_tower(
    images: Tensor, cell: Cell, stem_depth: int, depth: int, num_cells: int, last_keep_prob: float
) -> Tower:
    """A tower whose stem, a convolution and two cells of stride 2, brings [B,H,W,C] to an eighth of its size.

    Args:
        images: [B,H,W,C].
        cell: Of the stem.
        stem_depth: Channels of the convolution.
        depth: Channels of a state behind the stem; the stem's cells have a quarter and a half as many.
        num_cells: How many there will be behind the stem.
        last_keep_prob: As `Tower` takes it.
    """
    net = slim.conv2d(images, stem_depth, 3, stride=2, padding="VALID", scope="conv0")
    net = layers.batch_norm(net, scope="conv0_bn")
    tower = Tower(net, num_cells + 2, last_keep_prob)
    tower.add(cell, depth // 4, "cell_stem_0", stride=2)
    tower.add(cell, depth // 2, "cell_stem_1", stride=2)
    return tower


def add_classifiers(
    net: Tensor,
    num_classes: int,
    end_points: dict[str, Tensor],
    *,
    is_training: bool,
    auxiliary_cell: int,
    auxiliary_kernel_size: int,
    dropout_keep_prob: float,
) -> Tensor:
    """Adds `global_pool`, `Logits`, `Predictions` and, in training, `AuxLogits`.

    Args:
        net: [B,H,W,C], the output of the last cell.
        num_classes: Number of logits.
        end_points: `Cell_N` among them.
        is_training: Whether to build the auxiliary classifier.
        auxiliary_cell: Number of the cell whose output that one classifies.
        auxiliary_kernel_size: Height and width of its convolution.
        dropout_keep_prob: Probability that a pooled feature is kept in training.

    Returns:
        Logits [B,num_classes].
    """
    if is_training:
        with tf.compat.v1.variable_scope(f"aux_{auxiliary_cell}"), tf.compat.v1.variable_scope("aux_logits"):
            end_points["AuxLogits"] = _auxiliary_logits(
                end_points[f"Cell_{auxiliary_cell}"], num_classes, auxiliary_kernel_size
            )
    with tf.compat.v1.variable_scope("final_layer"):
        net = end_points["global_pool"] = tf.reduce_mean(tf.nn.relu(net), [1, 2])
        net = slim.dropout(net, dropout_keep_prob, scope="dropout")
        logits = end_points["Logits"] = slim.fully_connected(net, num_classes, scope="FC")
    end_points["Predictions"] = tf.nn.softmax(logits)
    return logits


def _auxiliary_logits(net: Tensor, num_classes: int, kernel_size: int) -> Tensor:
    # The convolution spans all that is pooled from an image of the published size. Its variables fit every size: the
    # results of a larger image are averaged, a smaller one is padded.
    net = tf.nn.relu(net)
    net = slim.avg_pool2d(net, 5, stride=3, padding=_padding(net, 5))
    net = tf.nn.relu(_project(net, 128, scope="proj", norm_scope="aux_bn0"))
    net = slim.conv2d(net, 768, kernel_size, padding=_padding(net, kernel_size), scope="Conv")
    net = tf.nn.relu(layers.batch_norm(net, scope="aux_bn1"))
    return slim.fully_connected(tf.reduce_mean(net, [1, 2]), num_classes, scope="FC")


def _padding(net: Tensor, kernel_size: int) -> str:
    return "VALID" if min(net.shape[1:3]) >= kernel_size else "SAME"
