"""What a traced pass does with the images: which operations, and which variables each of them computes with."""

import dataclasses

from finetune.trunk.traced_pass import TracedPass
from finetune.types import Operation

Shape = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class ImageOperation:
    """An operation that the images reach.

    Attributes:
        operation: In the traced graph.
        output_shape: Of its first output, without the batch; None: that isn't one of [B,...].
        variables: Names of those that it computes with, directly or as what variables alone were made into.
        sources: Names of the operations that bring it the images.
    """

    operation: Operation
    output_shape: Shape | None
    variables: frozenset[str]
    sources: frozenset[str]


def image_operations(traced: TracedPass) -> dict[str, ImageOperation]:
    """Those of a pass by name, each after those that it reads."""
    steady = {name: frozenset([variable]) for name, variable in traced.captured_variables().items()}
    found = {traced.images.op.name: _image_operation(traced.images.op, frozenset(), frozenset())}
    for operation in traced.operations:
        names = {tensor.op.name for tensor in operation.inputs}
        variables = frozenset[str]().union(*(steady.get(name, ()) for name in names))
        sources = frozenset(names & found.keys())
        if sources:
            found[operation.name] = _image_operation(operation, variables, sources)
        elif variables:
            steady[operation.name] = variables
    return found


def _image_operation(operation: Operation, variables: frozenset[str], sources: frozenset[str]) -> ImageOperation:
    return ImageOperation(operation, _shape_for_an_image(operation), variables, sources)


def _shape_for_an_image(operation: Operation) -> Shape | None:
    shape = operation.outputs[0].shape if operation.outputs else None
    if shape is None or not shape.rank or shape[0] is not None or None in shape[1:].as_list():
        return None
    return tuple(shape[1:].as_list())
