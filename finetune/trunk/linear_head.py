"""The classification layer, found by what it computes: logits that are a linear function of features of the trunk.

Whether it is called `fc8`, `Logits/Conv2d_1c_1x1` or `final_layer/FC`, is a convolution or a matrix, and whether its
logits are averaged over positions, is not asked. What is trained is taken for such a layer if the network in
evaluation, run from where its steady part ends, gives `mean over positions of features @ kernel + bias`, for values of
features, kernel and bias that were drawn at random: no other function does.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import tensorflow as tf

from finetune.errors import UserError
from finetune.model.model import Model, variable_name
from finetune.model.scopes import VariablePlan
from finetune.notices import few
from finetune.trunk.split_model import SplitModel
from finetune.types import Array, Tensor, Variable

NUM_IMAGES = 3
NUM_DRAWS = 2
# Of float32's sums, relative to the largest logit.
TOLERANCE = 1e-3


@dataclasses.dataclass(frozen=True)
class LinearHead:
    """A classification layer.

    Attributes:
        kernel: [D,K] or [1,1,D,K]: a row for each feature, a column for each class.
        bias: [K]; None where the layer has none.
        others: What is trained beside it, and reaches no logit in evaluation: an auxiliary head.
    """

    kernel: Variable
    bias: Variable | None
    others: tuple[Variable, ...]

    @property
    def num_features(self) -> int:
        """D."""
        return int(self.kernel.shape[-2])

    def features(self, frontier: Array) -> Array:
        """Of images [B,D], from values of the evaluation's frontier [B,...,D]."""
        positions = np.asarray(frontier, np.float32).reshape(len(frontier), -1, self.num_features)
        return positions[:, 0] if positions.shape[1] == 1 else positions.mean(axis=1)

    def assign(self, kernel: Array, bias: Array) -> None:
        """Sets the layer.

        Args:
            kernel: [D,K].
            bias: [K]; not used where there is none.
        """
        self.kernel.assign(kernel.reshape(self.kernel.shape).astype(np.float32))
        if self.bias is not None:
            self.bias.assign(bias.astype(np.float32))


def find_linear_head(model: Model, plan: VariablePlan, argument: str) -> LinearHead:
    """The layer that is trained, proven to be linear in the trunk's features.

    Args:
        model: Frozen by the plan, on one device.
        plan: Which variables are trained.
        argument: What needs it, for messages.

    Raises:
        UserError: What is trained is no such layer, or more than it.
    """
    head = linear_head_of(model, plan)
    if head is None:
        raise UserError(
            f"{argument} needs the classification layer alone to be trained, whose logits are a linear function of "
            f"features that don't change; trained are {few([variable.name for variable in plan.trained])}.",
            f"Give --trainable-scopes {','.join(model.spec.head_scopes)}",
        )
    return head


def linear_head_of(model: Model, plan: VariablePlan) -> LinearHead | None:
    """As `find_linear_head`; None where what is trained is no such layer, or more than it."""
    with _in_float32(model):
        split = SplitModel(model, plan, is_training=False)
    trained = [model.model_variables[variable.name] for variable in plan.trained]
    if split.starts_at_images or len(split.frontier) != 1:
        return None
    reached = _reaching(split, trained)
    kernels = [variable for variable in reached if variable.shape.rank > 1]
    biases = [variable for variable in reached if variable.shape.rank == 1]
    if len(kernels) != 1 or len(biases) > 1 or len(kernels) + len(biases) != len(reached):
        return None
    names = {variable_name(variable) for variable in reached}
    others = tuple(variable for variable in trained if variable_name(variable) not in names)
    head = LinearHead(kernels[0], biases[0] if biases else None, others)
    return head if _has_shapes(head, split, model.num_classes) and _is_linear(head, split) else None


@contextlib.contextmanager
def _in_float32(model: Model) -> Iterator[None]:
    """For passes that are traced within the context: sums of another type would tell less."""
    dtype, model.compute_dtype = model.compute_dtype, tf.float32
    try:
        yield
    finally:
        model.compute_dtype = dtype


def _reaching(split: SplitModel, trained: Sequence[Variable]) -> list[Variable]:
    """Those that the logits of an evaluation hang on."""
    graph = tf.__internal__.FuncGraph("head")
    with graph.as_default():
        logits = split.head(
            [tf.compat.v1.placeholder(spec.dtype, spec.shape) for spec in split.frontier], [0, 0]
        ).logits
        gradients = tf.gradients(logits, [variable.handle for variable in trained])
    return [variable for variable, gradient in zip(trained, gradients, strict=True) if gradient is not None]


def _has_shapes(head: LinearHead, split: SplitModel, num_classes: int) -> bool:
    kernel = head.kernel.shape.as_list()
    return (
        set(kernel[:-2]) <= {1}
        and kernel[-1] == num_classes
        and (head.bias is None or head.bias.shape.as_list() == [num_classes])
        and split.frontier[0].shape[-1] == head.num_features
    )


def _is_linear(head: LinearHead, split: SplitModel) -> bool:
    """Whether the logits are those of the formula, for values drawn at random; the layer is left as it was."""
    generator = np.random.default_rng(0)
    shape = [NUM_IMAGES, *split.frontier[0].shape[1:]]
    logits_of = _evaluation_of(split, shape)
    kernel_shape = [head.num_features, int(head.kernel.shape[-1])]
    kept = head.kernel.numpy().copy(), head.bias.numpy().copy() if head.bias is not None else np.zeros(0)
    try:
        for _ in range(NUM_DRAWS):
            # Large ones of both signs: no bend of an activation is passed over.
            frontier = 10 * generator.standard_normal(shape).astype(np.float32)
            kernel, bias = generator.standard_normal(kernel_shape), 10 * generator.standard_normal(kernel_shape[1])
            head.assign(kernel, bias)
            expected = head.features(frontier) @ kernel + (bias if head.bias is not None else 0.0)
            found = logits_of(tf.constant(frontier)).numpy()
            if found.shape != expected.shape or np.abs(found - expected).max() > TOLERANCE * np.abs(expected).max():
                return False
    finally:
        head.assign(kept[0].reshape(kernel_shape), kept[1])
    return True


def _evaluation_of(split: SplitModel, shape: Sequence[int]) -> Callable[[Tensor], Tensor]:
    function = tf.function(lambda frontier: split.head([frontier], tf.zeros([3], tf.int32)).logits, autograph=False)
    # Traced here: TensorFlow warns of functions that are made anew for each of several runs when they are called.
    traced: Callable[[Tensor], Tensor] = function.get_concrete_function(tf.TensorSpec(shape, tf.float32))
    return traced
