"""A network's groups of layers, as its record has them, and what flows between them: found in a traced pass."""

import dataclasses
from collections.abc import Collection, Mapping, Sequence

from finetune.errors import UserError
from finetune.model.scopes import in_scope
from finetune.nets.spec import NetSpec
from finetune.summaries.image_operations import ImageOperation, Shape
from finetune.trunk.split_model import Cut
from finetune.trunk.subgraph import operations_between
from finetune.trunk.traced_pass import TracedPass
from finetune.types import Tensor

# The number of the images, where others are those of groups.
IMAGES = -1
MOST_SCOPES_IN_NAME = 2


@dataclasses.dataclass(frozen=True)
class Flow:
    """What flows between groups: from one to another, by their numbers, and the first tensor's shape for an image."""

    source: int
    target: int
    shape: Shape


@dataclasses.dataclass(frozen=True)
class Kept:
    """A tensor of the frontier.

    Attributes:
        group: The number of the group that gives it.
        shape: For an image.
        flows: Those that it is cut out of, as pairs of source and target; none where the cut lies within its group.
    """

    group: int
    shape: Shape
    flows: frozenset[tuple[int, int]]


class GroupGraph:
    """Which operation of a pass belongs to which group.

    One that computes with variables is of their group. Others, such as pooling or the sum of a residual block, go to
    the last of the groups that they read from.

    Attributes:
        flows: What flows between groups, in the order of the pass.
        kept: The tensors of the frontier, and where they lie.
        output_shapes: By the number of a group what it gives to the next for an image.
    """

    def __init__(self, traced: TracedPass, operations: Mapping[str, ImageOperation], cut: Cut) -> None:
        """Looks at what a step of training needs.

        Args:
            traced: The pass.
            operations: Those of the pass that the images reach.
            cut: Where it is cut in two.
        """
        needed = operations_between([], [*(tensor.op for tensor in traced.wanted), *cut.updates])
        self._operations = {name: operation for name, operation in operations.items() if name in needed}
        self._groups = _groups_of_operations(traced, self._operations)
        flows: dict[tuple[int, int], Flow] = {}
        self._readers: dict[str, list[str]] = {name: [] for name in self._operations}
        for name, operation in self._operations.items():
            for source in operation.sources:
                self._readers[source].append(name)
                ends = self._groups[source], self._groups[name]
                shape = self._operations[source].output_shape
                if ends[0] != ends[1] and shape is not None:
                    flows.setdefault(ends, Flow(*ends, shape))
        self.flows = list(flows.values())
        behind = operations_between(cut.frontier, [*(tensor.op for tensor in traced.wanted), *cut.updates])
        self.kept = [self._kept(tensor, behind) for tensor in cut.frontier]
        logits = {self._groups[tensor.op.name]: _shape_for_an_image(tensor) for tensor in reversed(traced.wanted)}
        self.output_shapes = {**logits, **{flow.source: flow.shape for flow in reversed(self.flows)}}

    def _kept(self, tensor: Tensor, behind: Collection[str]) -> Kept:
        group = self._groups[tensor.op.name]
        flows: set[tuple[int, int]] = set()
        is_within, waiting, met = False, [tensor.op.name], {tensor.op.name}
        while waiting:
            for reader in self._readers[waiting.pop()]:
                if reader not in behind:
                    continue
                if self._groups[reader] != group:
                    flows.add((group, self._groups[reader]))
                elif reader not in met:
                    is_within |= bool(self._operations[reader].variables)
                    met.add(reader)
                    waiting.append(reader)
        return Kept(group, _shape_for_an_image(tensor), frozenset() if is_within else frozenset(flows))


def group_name(spec: NetSpec, group: Sequence[str]) -> str:
    """What people call a group of layers: by its scopes, without the network's root; of many by the first and last."""
    names = [scope.removeprefix(f"{spec.root_scope}/") if spec.root_scope else scope for scope in group]
    return " + ".join(names) if len(names) <= MOST_SCOPES_IN_NAME else f"{names[0]} … {names[-1]}"


def _groups_of_operations(traced: TracedPass, operations: Mapping[str, ImageOperation]) -> dict[str, int]:
    groups = {traced.images.op.name: IMAGES}
    of_variables = {name: group_of(traced.model.spec, name) for name in traced.model.model_variables}
    for name, operation in operations.items():
        if operation.variables:
            groups[name] = max(of_variables[variable] for variable in operation.variables)
        elif operation.sources:
            groups[name] = max(groups[source] for source in operation.sources)
    return groups


def _shape_for_an_image(tensor: Tensor) -> Shape:
    return tuple(tensor.shape[1:].as_list())


def group_of(spec: NetSpec, variable: str) -> int:
    """The number of a variable's group.

    Raises:
        UserError: It is in none, of a network from outside.
    """
    for number, group in enumerate(spec.layer_groups):
        if any(in_scope(variable, scope) for scope in group):
            return number
    raise UserError(
        f"--model: {variable} lies in none of the groups of layers in the record of {spec.name}.",
        "Add its scope to layer_groups there.",
    )
