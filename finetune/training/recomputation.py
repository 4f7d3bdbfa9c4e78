"""Gradients with few activations kept, and the others computed again in the backward pass.

Gradient checkpointing (Chen et al., arXiv:1604.06174), in the graph of a pass: gradients are taken as always, and then
what they read of the forward pass is replaced by copies of its operations, which wait until the gradients have come so
far. So every network is treated alike, blocks with several outputs and auxiliary heads, too; the gradients are the same
operations in the same order; and what changes something, such as the update of a moving statistic, or waits for other
devices, is never copied: what it made is small, and read where it is. A wrong cut would cost memory, not a result.

`tf.recompute_grad` is made of `tf.custom_gradient`, which would have to be written around the blocks of each network,
and can't be copied with the head of a split model.
"""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import tensorflow as tf

from finetune.training.activations import Activation, Cuts, find_cuts
from finetune.types import Operation, Tensor, Variable

# Part that an operation waits for which waits for nothing that is computed again.
_NONE = 1 << 30
_NO_NUMBERS = ("resource", "variant", "string")


def plain_gradients(loss: Tensor, variables: Sequence[Variable], inputs: Any) -> tuple[list[Tensor | None], None]:
    """What `tf.gradients` gives, as `recomputing_gradients` does it, with all activations kept."""
    return tf.gradients(loss, variables), None


def recomputing_gradients(
    loss: Tensor, variables: Sequence[Variable], inputs: Any
) -> tuple[list[Tensor | None], Cuts | None]:
    """What `tf.gradients` gives, with activations computed again where that takes less memory.

    To be called where the loss was built, in a `tf.function` that XLA doesn't compile: it would merge what is computed
    again with what was computed before.

    Args:
        loss: A scalar.
        variables: That gradients are taken of.
        inputs: Images [B,...], or features of them, which the loss is computed from; they are kept in any case.

    Returns:
        A gradient for each variable, None where there is none; and where the pass is cut, None where it isn't.
    """
    of_network = loss.graph.get_operations()
    start = tf.ones([], loss.dtype)
    gradients = tf.gradients(loss, variables, grad_ys=[start])
    of_gradients = loss.graph.get_operations()[len(of_network) :]
    given = tf.nest.flatten(inputs)
    backward = _Backward(start, of_gradients, given[0].shape[0])
    forward = _Forward(given, of_network, [each for each in of_gradients if each.name not in backward.names])
    cuts = find_cuts(forward.activations(backward.needed), forward.length)
    if cuts is not None:
        _compute_again(forward, backward, cuts, [gradient.op for gradient in gradients if gradient is not None])
    return gradients, cuts


class _Backward:
    """What waits for the gradient of the loss.

    Attributes:
        operations: All that does, each after those that it reads; of synced devices some of others', too.
        names: Theirs.
        own: Names of those that gradients of this device's images flow through.
        needed: Names of the tensors that are read.
    """

    def __init__(self, start: Tensor, operations: Iterable[Operation], num_images: int | None) -> None:
        """Follows the gradients.

        Args:
            start: The gradient of the loss, a constant.
            operations: Each after those that it reads.
            num_images: Of the pass; None: that isn't known.
        """
        self.operations: list[Operation] = []
        self.names = {start.op.name}
        self.own = {start.op.name}
        of_images, of_loss = set[str](), {start.name}
        for operation in operations:
            if not any(each.name in self.names for each in _before(operation)):
                continue
            self.operations.append(operation)
            self.names.add(operation.name)
            read = {tensor.name for tensor in operation.inputs}
            if not (read & of_images or read & of_loss):
                continue
            self.own.add(operation.name)
            of_images |= {each.name for each in operation.outputs if _is_of_images(each, num_images)}
            if not read & of_images:  # Gradients of a batch's statistics may go to other devices.
                of_loss |= {each.name for each in operation.outputs}
        self.needed = {tensor.name for operation in self.operations for tensor in operation.inputs}


class _Forward:
    """What a pass computes of its images.

    Attributes:
        length: Number of the network's operations on them.
        places: Of the operations on them among these, by name. What gradients compute of them alone, such as masks,
            has the place of what it is computed from.
        tensors: What can be computed again, by name.
    """

    def __init__(
        self, inputs: Sequence[Tensor], of_network: Iterable[Operation], of_gradients: Iterable[Operation]
    ) -> None:
        """Follows the images.

        Args:
            inputs: What the pass is given, [B,...].
            of_network: Operations, each after those that it reads; those of other devices may be among them.
            of_gradients: Likewise, behind them.
        """
        self.length = 0
        self.places: dict[str, int] = {}
        self.tensors: dict[str, Tensor] = {}
        self._made = {tensor.name: -1 for tensor in inputs}
        self._last_read = dict(self._made)
        num_images = inputs[0].shape[0]
        for operation in of_network:
            if read := self._images_read(operation):
                self._add(operation, self.length, read, num_images)
                self.length += 1
        for operation in of_gradients:
            if read := self._images_read(operation):
                self._add(operation, max(0, *(self._made[name] for name in read)), read, num_images)

    def _images_read(self, operation: Operation) -> list[str]:
        return [tensor.name for tensor in operation.inputs if tensor.name in self._made]

    def _add(self, operation: Operation, place: int, read: Iterable[str], num_images: int | None) -> None:
        self.places[operation.name] = place
        for name in read:
            self._last_read[name] = max(self._last_read[name], place)
        for tensor in operation.outputs:
            if _is_of_images(tensor, num_images):
                self._made[tensor.name] = self._last_read[tensor.name] = place
                if _can_be_repeated(operation):
                    self.tensors[tensor.name] = tensor

    def knows(self, tensor: Tensor) -> bool:
        """Whether it is computed of the images, or is what the pass is given."""
        return tensor.op.name in self.places or tensor.name in self._made

    def activations(self, needed: Collection[str]) -> list[Activation]:
        """What is given, and what can be computed again.

        Args:
            needed: Names of the tensors that the backward pass reads.
        """
        sizes = {name: 0 for name, made in self._made.items() if made < 0}
        sizes |= {name: _num_bytes(tensor) for name, tensor in self.tensors.items()}
        return [
            Activation(self._made[name], self._last_read[name], size, name in needed) for name, size in sizes.items()
        ]

    def computed_again(self, cuts: Cuts) -> dict[str, int]:
        """The parts between cuts of the tensors that aren't kept, by name; behind the last cut all are."""
        parts = {name: cuts.part_of(self._made[name]) for name in self.tensors}
        return {
            name: part
            for name, part in parts.items()
            if part < len(cuts.places) and not cuts.keep(self._made[name], self._last_read[name])
        }


def _compute_again(forward: _Forward, backward: _Backward, cuts: Cuts, gradients: Iterable[Operation]) -> None:
    """Lets the backward pass read copies, which are computed part by part."""
    again = forward.computed_again(cuts)
    wanted: dict[int, list[str]] = {}
    for name in sorted(backward.needed.intersection(again)):
        wanted.setdefault(again[name], []).append(name)
    copies: dict[str, Tensor] = {}
    for part, waited_for in _waited_for(backward, again, list(wanted), gradients).items():
        of_part = {name for name in again if again[name] == part}
        copies |= _copied(forward, wanted[part], of_part, waited_for)
    for operation in backward.operations:
        for index, tensor in enumerate(operation.inputs):
            if tensor.name in copies:
                # Not public, but a graph has no other way to give an operation another input.
                operation._update_input(index, copies[tensor.name])


def _waited_for(
    backward: _Backward, again: Mapping[str, int], parts: Sequence[int], gradients: Iterable[Operation]
) -> dict[int, list[Operation]]:
    """Operations that each part's copies wait for: those that hand it its gradients, and wait for later parts alone.

    Not those of other devices: they wait for copies of theirs, which would wait for those here.
    """
    earliest: dict[str, int] = {}  # The part that an operation waits for, by name.
    found: dict[int, dict[str, Operation]] = {part: {} for part in parts}
    for operation in backward.operations:
        read = [again[tensor.name] for tensor in operation.inputs if tensor.name in again]
        before = [each for each in _before(operation) if each.name in backward.names]
        part = min([*read, *(earliest.get(each.name, _NONE) for each in before)])
        earliest[operation.name] = part
        if part in found and operation.name in backward.own:
            later = [each for each in before if earliest.get(each.name, _NONE) > part]
            found[part] |= {each.name: each for each in later if each.name in backward.own}
    for gradient in gradients:  # The later part is done with then, and its memory free.
        earlier = [part for part in parts if part < earliest.get(gradient.name, _NONE)]
        if earlier:
            found[max(earlier)][gradient.name] = gradient
    return {part: list(operations.values()) for part, operations in found.items()}


def _copied(
    forward: _Forward, wanted: Sequence[str], of_part: Collection[str], waited_for: Sequence[Operation]
) -> dict[str, Tensor]:
    """Copies of tensors, by name, that are computed when what they wait for is done.

    Args:
        forward: The pass.
        wanted: Names of the tensors.
        of_part: Names of those in their part of the pass that aren't kept.
        waited_for: What they wait for.
    """
    operations: dict[str, Operation] = {}
    given: dict[str, Tensor] = {}
    pending = [forward.tensors[name].op for name in wanted]
    while pending:
        operation = pending.pop()
        if operation.name not in operations:
            operations[operation.name] = operation
            pending += [tensor.op for tensor in operation.inputs if tensor.name in of_part]
            given |= {tensor.name: tensor for tensor in operation.inputs if tensor.name not in of_part}
    with tf.control_dependencies(waited_for):
        waiting = tf.no_op()
    with tf.control_dependencies([waiting]):
        # What isn't of the images, such as weights, needn't wait.
        given = {name: tf.identity(each) if forward.knows(each) else each for name, each in given.items()}
    definition = tf.compat.v1.GraphDef(node=[_definition(each, operations) for each in operations.values()])
    copies = tf.graph_util.import_graph_def(definition, input_map=given, return_elements=wanted, name="computed_again")
    return dict(zip(wanted, copies, strict=True))


def _definition(operation: Operation, copied: Collection[str]) -> Any:
    """Of a copy, which is ordered among the others alone."""
    node = operation.node_def
    inputs = [name for name in node.input if not name.startswith("^") or name[1:] in copied]
    del node.input[:]
    node.input.extend(inputs)
    node.attr.pop("_class", None)  # Beside which operations it is to be.
    return node


def _before(operation: Operation) -> list[Operation]:
    return [*(tensor.op for tensor in operation.inputs), *operation.control_inputs]


def _can_be_repeated(operation: Operation) -> bool:
    """Whether it computes the same each time, and nothing else; what calls functions isn't looked into."""
    has_functions = any(value.HasField("func") or value.list.func for value in operation.node_def.attr.values())
    has_numbers = all(each.dtype.name not in _NO_NUMBERS for each in operation.inputs)
    return has_numbers and not has_functions and not operation.op_def.is_stateful


def _is_of_images(tensor: Tensor, num_images: int | None) -> bool:
    """Whether a tensor that is computed of images has values for each, by its shape; statistics are vectors."""
    shape = tensor.shape
    if shape.rank is None or shape.rank < 2 or tensor.dtype.name in _NO_NUMBERS:
        return False
    # Windows of images, or their places, may be rows.
    return shape[0] is None or (num_images is not None and shape[0] >= num_images and shape[0] % num_images == 0)


def _num_bytes(tensor: Tensor) -> int:
    """Of a tensor; of one image where their number isn't known."""
    return math.prod(size or 1 for size in tensor.shape.as_list()) * int(tensor.dtype.size)
