"""Where the groups of layers of a drawing lie, and which way the arrows between them go. In inches, from the top left.

The groups stand in columns, read one after the other from top to bottom. An arrow to the next below goes straight; all
others run in the gutters right of the columns, in lanes of their own, and above all columns from gutter to gutter.
"""

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence

MOST_IN_A_COLUMN = 14

BOX_WIDTH, BOX_GAP = 2.45, 0.3
LANE, GUTTER = 0.13, 0.3
MARGIN = 0.25
# Where arrows leave and reach the side of a box, off its middle.
PORT = 0.13

Point = tuple[float, float]
# From one box to another, by their numbers.
Arrow = tuple[int, int]
# From where to where something runs.
Stretch = tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Box:
    """A place: its column, its upper left corner and its height."""

    column: int
    left: float
    top: float
    height: float

    @property
    def right(self) -> float:
        """Of its side."""
        return self.left + BOX_WIDTH

    @property
    def bottom(self) -> float:
        """Of its lower edge."""
        return self.top + self.height

    @property
    def out(self) -> float:
        """Where arrows leave its side."""
        return self.top + self.height / 2 + PORT

    @property
    def into(self) -> float:
        """Where arrows reach its side."""
        return self.top + self.height / 2 - PORT


@dataclasses.dataclass(frozen=True)
class Layout:
    """Boxes and arrows, in the order in which they were given, and the size of it all."""

    boxes: list[Box]
    routes: list[list[Point]]
    width: float
    height: float


def columns(num_boxes: int) -> list[range]:
    """The numbers of the boxes in each column: as many columns as it takes, all of them filled alike."""
    num_columns = math.ceil(num_boxes / MOST_IN_A_COLUMN)
    bounds = [math.ceil(num_boxes * column / num_columns) for column in range(num_columns + 1)]
    return [range(begin, end) for begin, end in itertools.pairwise(bounds)]


def lay_out(heights: Sequence[float], arrows: Sequence[Arrow], top: float) -> Layout:
    """Boxes in columns, and the ways of the arrows.

    Args:
        heights: Of the boxes.
        arrows: From one box to another, by their numbers.
        top: What is left free above.
    """
    boxes = _stack(heights)
    aside = [arrow for arrow in arrows if not _is_straight(arrow, boxes)]
    gutters = [_lanes(_stretches(aside, column, boxes)) for column in range(boxes[-1].column + 1)]
    above = _lanes({a: _ordered(boxes[a[0]].column, boxes[a[1]].column) for a in aside if _is_far(a, boxes)})
    top += LANE * _num_lanes(above) + (GUTTER if above else 0)
    lefts = [MARGIN]
    for lanes in gutters:
        lefts.append(lefts[-1] + BOX_WIDTH + 2 * GUTTER + LANE * _num_lanes(lanes))
    boxes = [dataclasses.replace(box, left=lefts[box.column], top=top + box.top) for box in boxes]
    channels = {arrow: top - GUTTER - LANE * lane for arrow, lane in above.items()}
    routes = [_route(arrow, boxes, gutters, channels) for arrow in arrows]
    width = lefts[-1] - (0 if gutters[-1] else 2 * GUTTER) + MARGIN
    return Layout(boxes, routes, width, max(box.bottom for box in boxes) + MARGIN)


def _stack(heights: Sequence[float]) -> list[Box]:
    """The boxes in their columns, each column from 0 on."""
    boxes = []
    for column, part in enumerate(columns(len(heights))):
        top = 0.0
        for number in part:
            boxes.append(Box(column, 0.0, top, heights[number]))
            top += heights[number] + BOX_GAP
    return boxes


def _stretches(aside: Sequence[Arrow], column: int, boxes: Sequence[Box]) -> dict[Arrow, Stretch]:
    """The parts of arrows that run in the gutter right of a column, from above to below."""
    found = {}
    for arrow in aside:
        begin, end = (boxes[number] for number in arrow)
        if _is_far(arrow, boxes):
            if column in (begin.column, end.column):
                found[arrow] = (-1.0, begin.out if begin.column == column else end.into)
        elif begin.column == column:
            found[arrow] = _ordered(begin.out, end.into)
    return found


def _lanes(stretches: Mapping[Arrow, Stretch]) -> dict[Arrow, int]:
    """A lane for each, as few as do: in one lane none touches another."""
    lanes: dict[Arrow, int] = {}
    ends: list[float] = []
    for arrow, (begin, end) in sorted(stretches.items(), key=lambda item: item[1]):
        lane = next((lane for lane, last in enumerate(ends) if last < begin), len(ends))
        ends[lane : lane + 1] = [end]
        lanes[arrow] = lane
    return lanes


def _route(
    arrow: Arrow, boxes: Sequence[Box], gutters: Sequence[Mapping[Arrow, int]], channels: Mapping[Arrow, float]
) -> list[Point]:
    begin, end = (boxes[number] for number in arrow)
    if _is_straight(arrow, boxes):
        centre = begin.left + BOX_WIDTH / 2
        return [(centre, begin.bottom), (centre, end.top)]
    lane = begin.right + GUTTER + LANE * gutters[begin.column][arrow]
    first = [(begin.right, begin.out), (lane, begin.out)]
    if not _is_far(arrow, boxes):
        side = end.right if begin.column == end.column else end.left
        return [*first, (lane, end.into), (side, end.into)]
    down = end.right + GUTTER + LANE * gutters[end.column][arrow]
    return [*first, (lane, channels[arrow]), (down, channels[arrow]), (down, end.into), (end.right, end.into)]


def _is_straight(arrow: Arrow, boxes: Sequence[Box]) -> bool:
    source, target = arrow
    return target == source + 1 and boxes[source].column == boxes[target].column


def _is_far(arrow: Arrow, boxes: Sequence[Box]) -> bool:
    """Whether it ends neither in its own column nor in the next."""
    return boxes[arrow[1]].column - boxes[arrow[0]].column not in (0, 1)


def _num_lanes(lanes: Mapping[Arrow, int]) -> int:
    return max(lanes.values(), default=-1) + 1


def _ordered(one: float, other: float) -> Stretch:
    return min(one, other), max(one, other)
