"""A network's pooled features: what its classification layer is given of an image.

Which layer that is, is found in the graph: the last product with a variable before the logits, proven to be linear as
in `finetune.trunk.linear_head`. Where it is a convolution, or its logits are averaged over positions, the features are
the mean over these: the logits are linear in that.
"""

import tensorflow as tf

from finetune.errors import UserError
from finetune.model.model import Model
from finetune.model.scopes import PlannedVariable, VariablePlan
from finetune.trunk.linear_head import linear_head_of
from finetune.trunk.split_model import SplitModel
from finetune.trunk.traced_pass import trace_pass
from finetune.types import Array, Tensor

PRODUCTS = ("MatMul", "Conv2D")


class PooledFeatures:
    """Logits and features of images, in one pass.

    Attributes:
        num_features: D.
    """

    def __init__(self, model: Model, argument: str) -> None:
        """Finds the classification layer, and traces the pass, once.

        Args:
            model: With its weights, on one device; its batch norm layers are frozen.
            argument: What needs the features, for messages.

        Raises:
            UserError: There is no layer that makes logits as a linear function of features.
        """
        names = _last_layer(model)
        plan = VariablePlan(
            tuple(
                PlannedVariable(each.name, each.shape, None, each.name in names, each.is_statistic)
                for each in model.network_variables()
            ),
            trainable_scopes=(),
        )
        model.freeze(plan, "frozen")
        head = linear_head_of(model, plan)
        if head is None:
            raise UserError(
                f"{argument}: {model.spec.name} has no last layer whose logits are a linear function of features, so "
                "there are none to give.",
                f"Leave out {argument}.",
            )
        self.num_features = head.num_features
        split = SplitModel(model, plan, is_training=False)
        shape = [None, model.image_size, model.image_size, model.channels]

        def both(images: Tensor) -> tuple[Tensor, Tensor]:
            frontier = split.trunk(images)
            positions = tf.reshape(frontier[0], [tf.shape(images)[0], -1, self.num_features])
            return split.head(frontier, tf.zeros([3], tf.int32)).logits, tf.reduce_mean(positions, axis=1)

        self._both = tf.function(both, autograph=False).get_concrete_function(tf.TensorSpec(shape, tf.float32))

    def __call__(self, images: Tensor) -> tuple[Array, Array]:
        """From images [B,H,W,C], preprocessed, to logits [B,num_classes], as of the whole pass, and features [B,D]."""
        logits, features = self._both(tf.convert_to_tensor(images))
        return logits.numpy(), features.numpy()


def _last_layer(model: Model) -> set[str]:
    """Names of the variables that the logits are computed by, from the last product on."""
    traced = trace_pass(model, is_training=False)
    captured = traced.captured_variables()
    names: set[str] = set()
    seen: set[str] = set()
    waiting = [traced.outputs.logits.op]
    while waiting:
        operation = waiting.pop()
        if operation.name in seen or operation.type == "Shape":
            continue
        seen.add(operation.name)
        if operation.name in captured:
            names.add(captured[operation.name])
        # What a product is given is the features, or what these are computed by; what it is multiplied by, the kernel.
        read = operation.inputs[1:] if operation.type in PRODUCTS else operation.inputs
        waiting += [tensor.op for tensor in read]
    return names
