"""Which activations of a pass the backward pass reads, and at which of them it is best cut to compute the others again.

The fewer are kept, the more must be computed again at once: near the root of their number both are small (Chen et al.,
arXiv:1604.06174). That is for a chain of equal layers; here sizes are read in the graph, and places are taken where
few bytes flow, such as the ends of a network's blocks, or the bottlenecks between them.
"""

import bisect
import dataclasses
import itertools
import math
from collections.abc import Iterable, Sequence


@dataclasses.dataclass(frozen=True)
class Activation:
    """What an operation of the forward pass makes of the images.

    Attributes:
        made: Place of the operation in the pass; -1 of what the pass is given, which takes nothing more.
        last_read: Place of the last operation of the forward pass that reads it; `made` where none does.
        num_bytes: Of all images of the pass; of one where their number isn't known.
        is_needed: Whether the backward pass reads it.
    """

    made: int
    last_read: int
    num_bytes: int
    is_needed: bool


@dataclasses.dataclass(frozen=True)
class Cuts:
    """Where a pass is cut.

    Attributes:
        places: After which of its operations, in order. What is read behind one and made before it is kept. Behind the
            last one nothing is computed again, for it is needed at once.
        num_bytes: That are kept, with the most that are computed again at once.
        num_bytes_of_all: That are kept without cuts.
    """

    places: list[int]
    num_bytes: int
    num_bytes_of_all: int

    def __str__(self) -> str:
        least, whole = (f"{num_bytes / 2**20:,.1f} MiB" for num_bytes in (self.num_bytes, self.num_bytes_of_all))
        return (
            f"kept at {len(self.places)} places, and computed again between them: by their shapes at most {least} of "
            f"{whole} at once."
        )

    def part_of(self, place: int) -> int:
        """Number of the part of the pass that an operation at this place is in, from 0, before the first cut."""
        return bisect.bisect_left(self.places, place)

    def keep(self, made: int, last_read: int) -> bool:
        """Whether an activation flows through a cut."""
        return self.part_of(made) < self.part_of(last_read)


def find_cuts(activations: Sequence[Activation], num_operations: int) -> Cuts | None:
    """The cuts that take the least memory; None where none are better than no cut.

    Args:
        activations: Of the pass.
        num_operations: In the pass.
    """
    needed = [activation for activation in activations if activation.is_needed]
    if not needed:
        return None
    flow = _bytes_flowing(activations, num_operations)
    made = _bytes_needed_so_far(needed, num_operations)
    # Frozen layers before the first one are not computed again.
    begin = min(activation.made for activation in needed)
    found = [
        _weighed(_places(flow, made, begin, number), activations)
        for number in range(2, 2 * math.isqrt(len(needed)) + 2)
    ]
    best = min(found, key=lambda cuts: (cuts.num_bytes, len(cuts.places)))
    # No cut lessens what the forward pass itself has at once, such as early layers that are frozen.
    return best if max(best.num_bytes, *flow) < best.num_bytes_of_all else None


def _bytes_flowing(activations: Iterable[Activation], num_operations: int) -> list[int]:
    """Bytes that would be kept by a cut after each operation."""
    changes = [0] * (num_operations + 1)
    for activation in activations:
        changes[activation.made] += activation.num_bytes
        changes[activation.last_read] -= activation.num_bytes
    return list(itertools.accumulate(changes[:num_operations]))


def _bytes_needed_so_far(needed: Iterable[Activation], num_operations: int) -> list[int]:
    sizes = [0] * num_operations
    for activation in needed:
        sizes[activation.made] += activation.num_bytes
    return list(itertools.accumulate(sizes))


def _places(flow: Sequence[int], made: Sequence[int], begin: int, number: int) -> list[int]:
    """Cuts into so many parts of about as many bytes, each where the fewest flow near its even share."""
    first = made[begin] if begin >= 0 else 0
    share = (made[-1] - first) / number
    places = [begin]
    for cut in range(1, number):
        even = first + cut * share
        start = max(places[-1] + 1, bisect.bisect_left(made, even - share / 2))
        near = range(start, bisect.bisect_left(made, even + share / 2))
        if near:
            places.append(min(near, key=lambda place: (flow[place], abs(made[place] - even))))
    return places


def _weighed(places: list[int], activations: Sequence[Activation]) -> Cuts:
    cuts = Cuts(places, 0, sum(activation.num_bytes for activation in activations if activation.is_needed))
    kept, again = 0, [0] * (len(places) + 1)
    for activation in activations:
        if cuts.keep(activation.made, activation.last_read):
            kept += activation.num_bytes
        elif activation.is_needed:
            again[cuts.part_of(activation.made)] += activation.num_bytes
    return dataclasses.replace(cuts, num_bytes=kept + max(again))
