"""One pass of a model as a graph."""

import dataclasses

import tensorflow as tf

from finetune.model.model import Model, Outputs
from finetune.types import FuncGraph, Operation, Tensor


@dataclasses.dataclass(frozen=True)
class TracedPass:
    """What a pass is made of.

    Attributes:
        model: Whose pass it is.
        graph: Where it was traced; it captures the variables.
        images: Placeholder [B,image_size,image_size,channels], float32.
        seed: Placeholder [3], int32.
        outputs: What it gives.
        operations: The graph's, each after those that it reads.
    """

    model: Model
    graph: FuncGraph
    images: Tensor
    seed: Tensor
    outputs: Outputs
    operations: list[Operation]

    @property
    def wanted(self) -> list[Tensor]:
        """What the pass is made for: the logits, and those of an auxiliary head where there is one."""
        both = (self.outputs.logits, self.outputs.auxiliary_logits)
        return [tensor for tensor in both if tensor is not None]

    def captured_variables(self) -> dict[str, str]:
        """Names of the variables, by those of the operations that stand for them."""
        by_handle = {id(variable.handle): name for name, variable in self.model.model_variables.items()}
        return {inner.op.name: by_handle[id(outer)] for outer, inner in self.graph.captures if id(outer) in by_handle}


def trace_pass(model: Model, *, is_training: bool) -> TracedPass:
    """Traces one pass; the model must have been frozen as it is to be trained before.

    Args:
        model: Its variables may be those of a `tf.Graph`, where they take no memory.
        is_training: The mode of the pass.
    """
    graph = tf.__internal__.FuncGraph("pass")
    with graph.as_default():
        size = [None, model.image_size, model.image_size, model.channels]
        images = tf.compat.v1.placeholder(tf.float32, size)
        seed = tf.compat.v1.placeholder(tf.int32, [3])
        outputs = model(images, is_training=is_training, seed=seed)
    return TracedPass(model, graph, images, seed, outputs, graph.get_operations())
