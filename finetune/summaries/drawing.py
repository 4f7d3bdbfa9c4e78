"""What a drawing of a network shows: its groups of layers, how they look and what is written in them."""

import dataclasses
import textwrap

from finetune.errors import visible
from finetune.summaries.groups import IMAGES
from finetune.summaries.summary import (
    Fate,
    NetworkSummary,
    Part,
    frontier_in_words,
    in_words,
    kept_bytes,
    network_in_words,
)

# Letters; what is longer in the title is broken.
LONGEST_LINE = 110


@dataclasses.dataclass(frozen=True)
class Look:
    """How a group looks by what becomes of it: by the colours and the width of its frame, and the colour of a hatch."""

    fill: str
    frame: str
    width: float
    hatch: str | None = None


# Blue and orange, which those who see no red or no green tell apart.
INK, PAPER, FAINT = "#1f2933", "#ffffff", "#8794a3"
LOOKS: dict[Fate, Look] = {
    "frozen": Look("#dce8f4", "#1f5f9e", 0.8),
    "trained": Look("#fde3cf", "#c2410c", 2.2),
    "partly": Look("#fde3cf", "#c2410c", 1.4, hatch="#f6c19c"),
    "updated": Look("#fde3cf", "#c2410c", 0.8),
    "none": Look("#ffffff", "#8794a3", 0.8),
}
_IN_WORDS: dict[Fate, str] = {
    "frozen": "frozen",
    "trained": "trained",
    "partly": "partly trained",
    "updated": "statistics move",
    "none": "no parameters",
}


@dataclasses.dataclass(frozen=True)
class Node:
    """A box: its name, what is said of it, what of the frontier lies behind or in it, and how it looks."""

    name: str
    lines: tuple[str, ...]
    kept: tuple[str, ...]
    look: Look


@dataclasses.dataclass(frozen=True)
class Drawing:
    """What is to be drawn.

    Attributes:
        title: In lines.
        legend: Words, and how a box looks that they stand for.
        nodes: The images, then the groups.
        arrows: From one node to another, by their numbers.
        is_cut: Of each arrow, whether the frontier lies across it.
    """

    title: tuple[str, ...]
    legend: tuple[tuple[str, Look], ...]
    nodes: tuple[Node, ...]
    arrows: tuple[tuple[int, int], ...]
    is_cut: tuple[bool, ...]


def make_drawing(summary: NetworkSummary, trained_by: str) -> Drawing:
    """What is to be drawn of a network.

    Args:
        summary: Of the network.
        trained_by: By whose word this and that is trained.
    """
    totals = summary.totals()
    title = (
        network_in_words(summary).removeprefix("network: "),
        f"trained: {trained_by}; {totals['trained']:,} of {totals['parameters']:,} parameters",
        *frontier_in_words(summary),
    )
    images = Node("images", (in_words(summary.image_shape),), _kept_in_words(summary, IMAGES), LOOKS["none"])
    groups = [_node(summary, group) for group in summary.groups]
    fates = [fate for fate in LOOKS if any(group.in_training == fate for group in summary.groups)]
    cut = {ends for kept in summary.kept for ends in kept.flows if kept.group != IMAGES}
    return Drawing(
        title=tuple(part for line in title for part in textwrap.wrap(visible(line), LONGEST_LINE)),
        legend=tuple((_IN_WORDS[fate], LOOKS[fate]) for fate in fates),
        nodes=(images, *groups),
        arrows=tuple((flow.source - IMAGES, flow.target - IMAGES) for flow in summary.flows),
        is_cut=tuple((flow.source, flow.target) in cut for flow in summary.flows),
    )


def _node(summary: NetworkSummary, group: Part) -> Node:
    told = f"{_IN_WORDS[group.in_training]}, {group.num_parameters:,} parameters"
    lines = [told] if group.output_shape is None else [told, f"gives {in_words(group.output_shape)}"]
    return Node(visible(group.name), tuple(lines), _kept_in_words(summary, group.index), LOOKS[group.in_training])


def _kept_in_words(summary: NetworkSummary, group: int) -> tuple[str, ...]:
    found = [kept for kept in summary.kept if kept.group == group]
    if not found or group == IMAGES:
        return ()
    shape = in_words(found[0].shape) if len(found) == 1 else f"{len(found)} tensors"
    where = "" if any(kept.flows for kept in found) else " within"
    return (f"frontier{where}: {shape}, {sum(map(kept_bytes, found)):,} bytes",)
