"""The last feature map of a network, found in the graph of its pass: the last to know what lies where in an image."""

from finetune.model.scopes import in_scope
from finetune.nets.spec import NetSpec
from finetune.trunk.subgraph import operations_between
from finetune.trunk.traced_pass import TracedPass
from finetune.types import Tensor

CONVOLUTIONS = frozenset({"Conv2D", "DepthwiseConv2dNative"})
POOLINGS = frozenset({"AvgPool", "MaxPool", "MaxPoolV2"})


def last_feature_map(traced: TracedPass) -> Tensor | None:
    """The tensor [B,H,W,C] that the head of a convolutional network is computed from; None: there is none.

    It is the nearest to the logits of those through which all goes that the logits are computed from (so branches of a
    block don't count, nor do auxiliary heads), which have more than one position, lie behind a convolution and before
    the head. What pooling made of a map is passed over in favour of the map: it is the finer one.

    Args:
        traced: A pass in evaluation.
    """
    of_head = _following_head(traced)
    for tensor in _passages(traced):
        is_map = tensor.op.name not in of_head and tensor.op.type not in POOLINGS and _num_positions(tensor) > 1
        if is_map and _is_behind_convolution(traced, tensor):
            return tensor
    return None


def _passages(traced: TracedPass) -> list[Tensor]:
    """Tensors through which every way from the images to the logits goes, the nearest to the logits first.

    Ways are those that gradients go: a shape or an index, which is no float, leads nowhere.
    """
    needed = operations_between([traced.images], [traced.outputs.logits.op])
    operations = [operation for operation in traced.operations if operation.name in needed]
    used = {tensor.name for operation in operations for tensor in operation.inputs} | {traced.outputs.logits.name}
    tensors = [traced.images]
    places = {traced.images.name: 0}
    last_use = {0: 0}
    for operation in operations:
        read = [places[tensor.name] for tensor in operation.inputs if tensor.name in places]
        for output in operation.outputs if read else ():
            if output.dtype.is_floating and output.name in used:
                places[output.name] = len(tensors)
                last_use |= dict.fromkeys(read, len(tensors))
                tensors.append(output)
    found = []
    reach = 0  # Of what was computed before: where a later tensor lies that reads it, past those in between.
    for place, tensor in enumerate(tensors):
        if reach <= place:
            found.append(tensor)
        reach = max(reach, last_use.get(place, 0))
    return found[::-1]


def _following_head(traced: TracedPass) -> set[str]:
    """Names of the operations that hang on variables which, by the network's record, lie behind its feature maps.

    Fully connected layers of old networks are convolutions, and have several positions over large images.
    """
    scopes = _scopes_behind_maps(traced.model.spec)
    variables = traced.captured_variables().items()
    found = {operation for operation, name in variables if any(in_scope(name, scope) for scope in scopes)}
    for operation in traced.operations:
        if any(tensor.op.name in found for tensor in operation.inputs):
            found.add(operation.name)
    return found


def _scopes_behind_maps(spec: NetSpec) -> tuple[str, ...]:
    groups = spec.layer_groups
    top = groups[len(groups) - (spec.num_top_groups or 0) :]
    return (*spec.head_scopes, *(scope for group in top for scope in group))


def _num_positions(tensor: Tensor) -> int:
    """H * W; 0 where it is no [B,H,W,C] of known size."""
    shape = tensor.shape
    if shape.rank != 4 or shape[1] is None or shape[2] is None:
        return 0
    return int(shape[1] * shape[2])


def _is_behind_convolution(traced: TracedPass, tensor: Tensor) -> bool:
    before = operations_between([traced.images], [tensor.op])
    return any(operation.type in CONVOLUTIONS for operation in traced.operations if operation.name in before)
