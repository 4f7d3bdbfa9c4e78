"""Where a network's values stop depending on what training changes: found in the graph, not written by hand.

In the graph of one pass an operation *varies* if it reads a variable that training changes, draws a random number, or
follows one that does; all others are *steady*: they give the same for an image at every step. The frontier is the
smallest set of steady tensors, by bytes for each image, through which all that the varying part needs of the images
flows, and behind which no frozen variable is read. What lies before it (the trunk) need be computed once for an image.
"""

import math
from collections.abc import Callable, Iterable, Sequence

import networkx

from finetune.types import Operation, Tensor

_SOURCE, _SINK = "source", "sink"


def varying_operations(operations: Iterable[Operation], brings_change: Callable[[Operation], bool]) -> set[str]:
    """Names of the operations that vary.

    Args:
        operations: A graph's, each after those that it reads.
        brings_change: Whether an operation makes something vary by itself: it stands for a variable that training
            changes, or for a seed, or mixes the images of a batch.
    """
    varying: set[str] = set()
    for operation in operations:
        if brings_change(operation) or any(tensor.op.name in varying for tensor in operation.inputs):
            varying.add(operation.name)
    return varying


def find_frontier(
    operations: Sequence[Operation], images: Tensor, varying: set[str], outputs: Sequence[Tensor]
) -> list[Tensor]:
    """The smallest cut between the images and all that varies; of equal ones the nearest to the outputs.

    A tensor may be cut where its first dimension is the batch. A steady operation without variables may fall on either
    side: a shape or a pooled copy, say, is as well computed anew from a tensor that is kept anyway.

    Args:
        operations: The graph's, each after those that it reads.
        images: What the pass is given, [B,...].
        varying: Names of the operations that vary.
        outputs: What the pass gives; one that is steady is itself needed behind the cut.

    Returns:
        Steady tensors, in the order of their operations.
    """
    network = networkx.DiGraph()
    network.add_edge(_SOURCE, (images.name, "in"))
    tensors = {images.name: images}
    follows_images = {images.op.name}
    follows_variables: set[str] = set()
    for operation in operations:
        read = [tensor for tensor in operation.inputs if tensor.op.name in follows_images]
        reads_variables = any(tensor.op.name in follows_variables for tensor in operation.inputs)
        if operation.name in varying:
            for tensor in read:
                network.add_edge((tensor.name, "out"), _SINK)
        elif read:
            follows_images.add(operation.name)
            for output in operation.outputs:
                tensors[output.name] = output
                for tensor in read:
                    network.add_edge((tensor.name, "out"), (output.name, "in"))
                if reads_variables:
                    network.add_edge(_SOURCE, (output.name, "in"))
        elif reads_variables or operation.type == "ReadVariableOp":
            follows_variables.add(operation.name)
    for output in outputs:
        if output.name in tensors:
            network.add_edge((output.name, "out"), _SINK)
    for name, tensor in tensors.items():
        size = _bytes_per_image(tensor)
        network.add_edge((name, "in"), (name, "out"), **({} if size is None else {"capacity": size}))
    if _SINK not in network:
        return []
    # Of its two parts the second holds what can still reach the sink: the first minimal cut that is met from there,
    # where the algorithm ends with a flow (the default one ends with a preflow).
    flow = networkx.algorithms.flow.shortest_augmenting_path
    _, (_, behind) = networkx.minimum_cut(network, _SOURCE, _SINK, flow_func=flow)
    return [tensor for name, tensor in tensors.items() if (name, "out") in behind and (name, "in") not in behind]


def frontier_bytes(frontier: Sequence[Tensor]) -> int:
    """Bytes of the frontier for each image."""
    return sum(_bytes_per_image(tensor) or 0 for tensor in frontier)


def _bytes_per_image(tensor: Tensor) -> int | None:
    """None where the tensor is not one of [B,...], such as a shape."""
    shape = tensor.shape
    if shape.rank is None or shape.rank == 0 or shape[0] is not None or None in shape[1:].as_list():
        return None
    return math.prod(shape[1:].as_list()) * int(tensor.dtype.size)
