"""What a summary and a drawing of a network say: its layers, its groups of layers, what is trained, the frontier."""

import dataclasses
import math
from collections.abc import Collection, Sequence
from typing import Any, Literal

from finetune.model.model import Model
from finetune.model.scopes import PlannedVariable, VariablePlan
from finetune.summaries.groups import IMAGES, Flow, GroupGraph, Kept, group_name, group_of
from finetune.summaries.image_operations import Shape, image_operations
from finetune.summaries.layers import network_layers
from finetune.trunk.split_model import find_cut
from finetune.trunk.traced_pass import trace_pass

Fate = Literal["trained", "partly", "frozen", "updated", "none"]

BYTES_OF_FLOAT32 = 4  # Whatever the layers compute in, what is kept of them is float32.


@dataclasses.dataclass(frozen=True)
class Part:
    """A layer, or a group of them.

    Attributes:
        index: In the order of the network.
        name: The scope of a layer's variables; what people call a group.
        kind: Of a layer, such as Conv2D; of a group "group".
        scopes: That hold its variables.
        output_shape: Of what it gives for an image; None: not known.
        num_parameters: Values of all its variables.
        num_trained: Of these, those that gradients change.
        num_statistics: Of these, those of moving statistics.
        in_training: What becomes of it: trained; frozen; partly: some variables of it are trained; updated: it has but
            moving statistics, which move; none: it has no variables.
    """

    index: int
    name: str
    kind: str
    scopes: tuple[str, ...]
    output_shape: Shape | None
    num_parameters: int
    num_trained: int
    num_statistics: int
    in_training: Fate


@dataclasses.dataclass(frozen=True)
class NetworkSummary:
    """A network under a plan.

    Attributes:
        model: Its name.
        root_scope: The first component of its variables' names.
        image_shape: [H,W,C] of its images.
        num_classes: Number of logits.
        layers: All of them.
        groups: The groups of its record.
        flows: What flows between the groups, and from the images to them.
        kept: The tensors of the frontier; of the images themselves where nothing lies before them.
        num_moved_statistics: Values of moving statistics that move in training.
    """

    model: str
    root_scope: str
    image_shape: Shape
    num_classes: int
    layers: tuple[Part, ...]
    groups: tuple[Part, ...]
    flows: tuple[Flow, ...]
    kept: tuple[Kept, ...]
    num_moved_statistics: int

    @property
    def num_bytes(self) -> int:
        """What is kept of an image in the frontier; 0 where that is the images themselves."""
        return sum(kept_bytes(kept) for kept in self.kept if kept.group != IMAGES)

    def name_of(self, group: int) -> str:
        """What people call the group of this number."""
        return "images" if group == IMAGES else self.groups[group].name

    def totals(self) -> dict[str, int]:
        """Numbers of values: trained, frozen, of moving statistics, of all."""
        everything = sum(layer.num_parameters for layer in self.layers)
        trained = sum(layer.num_trained for layer in self.layers)
        statistics = sum(layer.num_statistics for layer in self.layers)
        frozen = everything - trained - statistics
        return {"trained": trained, "frozen": frozen, "statistics": statistics, "parameters": everything}


def summarise(model: Model, plan: VariablePlan) -> NetworkSummary:
    """Traces a training pass and looks at it; the model must have been frozen by the plan before.

    Args:
        model: Its variables may be those of a `tf.Graph`, where they take no memory.
        plan: Which variables training changes.

    Raises:
        UserError: The network's record has a variable in none of its groups.
    """
    traced = trace_pass(model, is_training=True)
    operations = image_operations(traced)
    graph = GroupGraph(traced, operations, find_cut(traced, plan))
    planned = {variable.name: variable for variable in plan.variables}
    layers = [
        _part(index, layer.name, layer.kind, (layer.name,), layer.output_shape, [planned[v] for v in layer.variables])
        for index, layer in enumerate(network_layers(model, operations))
    ]
    moved = set(model.updated_batch_norms())
    return NetworkSummary(
        model=model.spec.name,
        root_scope=model.spec.root_scope,
        image_shape=(model.image_size, model.image_size, model.channels),
        num_classes=model.num_classes,
        layers=tuple(layers),
        groups=tuple(_groups(model, plan, graph)),
        flows=tuple(graph.flows),
        kept=tuple(graph.kept),
        num_moved_statistics=sum(layer.num_statistics for layer in layers if layer.name in moved),
    )


def describe_network(summary: NetworkSummary) -> dict[str, Any]:
    """The same, for programs."""
    return {
        "model": summary.model,
        "image_shape": summary.image_shape,
        "num_classes": summary.num_classes,
        "layers": [_describe_layer(layer) for layer in summary.layers],
        "totals": {**summary.totals(), "moved_statistics": summary.num_moved_statistics},
        "groups": [{**_describe_layer(group), "scopes": group.scopes} for group in summary.groups],
        "flows": [
            {"from": summary.name_of(flow.source), "to": summary.name_of(flow.target), "shape": flow.shape}
            for flow in summary.flows
        ],
        "frontier": {
            "num_bytes": summary.num_bytes,
            "tensors": [
                {"behind": summary.name_of(kept.group), "shape": kept.shape, "is_within": not kept.flows}
                for kept in summary.kept
            ],
        },
    }


def in_words(shape: Shape | None) -> str:
    """A shape as people write it: 35×35×288."""
    return "" if shape is None else "×".join(map(str, shape))


def network_in_words(summary: NetworkSummary) -> str:
    """Which network, of how many classes, for which images."""
    return f"network: {summary.model}, {summary.num_classes} classes, images {in_words(summary.image_shape)}"


def frontier_in_words(summary: NetworkSummary) -> tuple[str, ...]:
    """Where the frontier lies, and how much of an image is kept in it, in lines."""
    if any(kept.group == IMAGES for kept in summary.kept):
        return ("frontier: the images themselves, for no layer stays as it is before all others",)
    by_group: dict[int, list[Kept]] = {}
    for kept in summary.kept:
        by_group.setdefault(kept.group, []).append(kept)
    places = [f"{kept_in_words(kept)} {summary.name_of(group)}" for group, kept in by_group.items()]
    return (
        f"frontier: {' and '.join(places)}",
        f"kept of an image by --cache-features: {summary.num_bytes:,} bytes",
    )


def kept_in_words(kept: Sequence[Kept]) -> str:
    """What is kept of a group, and whether it is what the group gives."""
    if len(kept) > 1:
        return f"{len(kept)} tensors in"
    return f"{in_words(kept[0].shape)} {'behind' if kept[0].flows else 'in'}"


def kept_bytes(kept: Kept) -> int:
    """Bytes of a tensor of the frontier for an image."""
    return math.prod(kept.shape) * BYTES_OF_FLOAT32


def _describe_layer(part: Part) -> dict[str, Any]:
    values = dataclasses.asdict(part)
    del values["scopes"]
    return values


def _groups(model: Model, plan: VariablePlan, graph: GroupGraph) -> list[Part]:
    spec = model.spec
    variables: list[list[PlannedVariable]] = [[] for _ in spec.layer_groups]
    for variable in plan.variables:
        variables[group_of(spec, variable.name)].append(variable)
    return [
        _part(number, group_name(spec, scopes), "group", scopes, graph.output_shapes.get(number), variables[number])
        for number, scopes in enumerate(spec.layer_groups)
    ]


def _part(
    index: int,
    name: str,
    kind: str,
    scopes: tuple[str, ...],
    shape: Shape | None,
    variables: Sequence[PlannedVariable],
) -> Part:
    return Part(
        index=index,
        name=name,
        kind=kind,
        scopes=scopes,
        output_shape=shape,
        num_parameters=sum(variable.num_parameters for variable in variables),
        num_trained=sum(v.num_parameters for v in variables if v.is_trained and not v.is_statistic),
        num_statistics=sum(variable.num_parameters for variable in variables if variable.is_statistic),
        in_training=_fate(variables),
    )


def _fate(variables: Collection[PlannedVariable]) -> Fate:
    by_gradients = [variable for variable in variables if not variable.is_statistic]
    if not by_gradients:
        return "none" if not variables else "updated" if any(v.is_trained for v in variables) else "frozen"
    num_trained = sum(variable.is_trained for variable in by_gradients)
    if num_trained == len(by_gradients):
        return "trained"
    return "partly" if num_trained else "frozen"
