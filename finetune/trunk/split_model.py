"""A model in two: a trunk whose values never change in training, and a head that is all the rest."""

import dataclasses

import tensorflow as tf

from finetune.errors import UserError
from finetune.model.model import Model, Outputs
from finetune.model.scopes import VariablePlan
from finetune.notices import few
from finetune.trunk.frontier import find_frontier, frontier_bytes, varying_operations
from finetune.trunk.subgraph import Subgraph, operations_between
from finetune.trunk.traced_pass import TracedPass, trace_pass
from finetune.types import Operation, Tensor


class SplitModel:
    """One pass of a model, split at the frontier of what training changes.

    `head(trunk(images), seed)` equals the model's own pass to the bit.

    Attributes:
        model: The model.
        plan: Which of its variables training changes.
        frontier: Specifications of the tensors between the two, each float32 [B,...] whatever the layers compute in:
            NumPy's files know no bfloat16, and float32 holds all its values.
        num_bytes: Of the frontier for one image.
        starts_at_images: Whether nothing lies before the frontier.
    """

    def __init__(self, model: Model, plan: VariablePlan, *, is_training: bool) -> None:
        """Traces the pass and finds the frontier; the model must have been frozen by the plan before.

        Args:
            model: On one device; variables spread over several can't be bound anew.
            plan: Which variables training changes.
            is_training: The mode of the pass.

        Raises:
            UserError: What is behind the frontier has a gradient that can't be copied.
        """
        self.model = model
        self.plan = plan
        self._evaluation: SplitModel | None = None
        traced = trace_pass(model, is_training=is_training)
        cut = find_cut(traced, plan)
        frontier = cut.frontier
        self.frontier = [tf.TensorSpec(tensor.shape, tf.float32) for tensor in frontier]
        self._dtypes = [tensor.dtype for tensor in frontier]
        self.num_bytes = frontier_bytes(self.frontier)
        self.starts_at_images = any(tensor is traced.images for tensor in frontier)
        self._has_auxiliary_logits = traced.outputs.auxiliary_logits is not None
        variables = model.model_variables
        self._trunk = Subgraph(traced.graph, [traced.images], frontier, variables)
        self._head = Subgraph(traced.graph, [*frontier, traced.seed], traced.wanted, variables, cut.updates)
        if bound := self._head.gradients_in_python():
            raise UserError(
                f"{model.spec.name} computes {few(bound)} with a gradient written in Python (tf.custom_gradient; "
                "tf.nn.silu has one), which can't be copied to train on cached features.",
                "Give --cache-features off, or write it without: x * tf.sigmoid(x) in place of tf.nn.silu(x).",
            )

    def of_evaluation(self) -> "SplitModel":
        """The same model's pass in evaluation, in two; traced once."""
        if self._evaluation is None:
            self._evaluation = SplitModel(self.model, self.plan, is_training=False)
        return self._evaluation

    def trunk(self, images: Tensor) -> list[Tensor]:
        """The frontier's values for images [B,H,W,C], float32; to be called inside a `tf.function`."""
        return [tf.cast(value, tf.float32) for value in self._trunk(images)]

    def head(self, features: list[Tensor], seed: Tensor) -> Outputs:
        """The outputs from the frontier's values; updates batch norm's statistics as the whole pass would.

        To be called inside a `tf.function`. Gradients of it are to be had by `tf.gradients`: a copied graph leaves no
        record on a tape.

        Args:
            features: Values of the frontier, each [B,...].
            seed: Integers [3] for dropout, as the model takes them.
        """
        values = [tf.cast(value, dtype) for value, dtype in zip(features, self._dtypes, strict=True)]
        outputs = self._head(*values, seed)
        return Outputs(outputs[0], outputs[1] if self._has_auxiliary_logits else None, {})


@dataclasses.dataclass(frozen=True)
class Cut:
    """Where a pass is cut in two.

    Attributes:
        frontier: Tensors of its graph that all the rest is computed from; the images themselves where nothing lies
            before them.
        updates: Operations that move the statistics of batch norm, behind the frontier.
    """

    frontier: list[Tensor]
    updates: list[Operation]


def find_cut(traced: TracedPass, plan: VariablePlan) -> Cut:
    """Where a pass is cut in two, by which variables training changes."""
    operations, wanted = traced.operations, traced.wanted
    changing = _changing_inputs(traced, plan) | {traced.seed.op.name}
    varying = varying_operations(operations, lambda operation: operation.name in changing or _mixes_images(operation))
    updates = [operation for operation in operations if _is_update(operation) and operation.name in varying]
    # What comes to nothing, such as an auxiliary head in evaluation, needs nothing.
    varying &= operations_between([], [*(tensor.op for tensor in wanted), *updates])
    return Cut(find_frontier(operations, traced.images, varying, wanted), updates)


def _changing_inputs(traced: TracedPass, plan: VariablePlan) -> set[str]:
    """Names of the operations that stand for variables that a training step changes."""
    is_frozen = traced.model.is_frozen
    changing = {
        variable.name
        for variable in plan.variables
        if variable.is_trained or (variable.is_statistic and not is_frozen(variable.name.rpartition("/")[0]))
    }
    return {operation for operation, name in traced.captured_variables().items() if name in changing}


def _mixes_images(operation: Operation) -> bool:
    """Whether an image's values depend on the batch that it is in."""
    return operation.type.startswith("FusedBatchNorm") and operation.get_attr("is_training")


def _is_update(operation: Operation) -> bool:
    return operation.type in ("AssignVariableOp", "AssignAddVariableOp", "AssignSubVariableOp")
