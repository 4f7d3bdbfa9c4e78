"""How many images a training step finds memory for: tried, downwards where memory says no, upwards where it kills."""

import dataclasses
from collections.abc import Callable, Sequence

from finetune.model.out_of_memory import OUT_OF_MEMORY, first_that_fits

# Of the memory that is free steps may take so much: validations, checkpoints and other programs take some, too.
LARGEST_SHARE = 0.8


@dataclasses.dataclass(frozen=True)
class FittingSize:
    """What was found.

    Attributes:
        size: The largest of the sizes that fits; None: none does.
        why: Why the next larger one doesn't; empty: there is none.
    """

    size: int | None
    why: str = ""


def halve_until_it_fits(sizes: Sequence[int], make_steps: Callable[[int], object]) -> FittingSize:
    """For devices whose memory is their own, as GPUs', and whose want of it is an error.

    Args:
        sizes: From the largest to the smallest.
        make_steps: Makes steps with so many images.
    """
    size = first_that_fits(sizes, make_steps)
    failed = sizes[-1] if size is None else sizes[max(0, sizes.index(size) - 1)]
    return FittingSize(size, "" if size == failed else _too_large(failed))


def double_while_it_fits(sizes: Sequence[int], make_steps: Callable[[int], int], limit_bytes: int) -> FittingSize:
    """For the processor, where the kernel ends a program that takes too much: the same sizes from the smallest on.

    What a size would take is known beforehand by the two smaller ones: what steps take grows by the image.

    Args:
        sizes: From the largest to the smallest.
        make_steps: Makes steps with so many images, and returns how many bytes the process took at most.
        limit_bytes: That it may take.
    """
    sizes, peaks = sorted(sizes), list[int]()
    for number, size in enumerate(sizes):
        try:
            needed = expected_bytes(sizes[:number], peaks, size) if number > 1 else 0
            if needed <= limit_bytes:
                peaks.append(make_steps(size))
                needed = peaks[-1]
        except OUT_OF_MEMORY:
            return FittingSize(sizes[number - 1] if number else None, _too_large(size))
        if needed > limit_bytes:
            why = f"{size} would take {_gib(needed)}, of {_gib(limit_bytes)} that steps may take"
            return FittingSize(sizes[number - 1] if number else None, why)
    return FittingSize(sizes[-1])


def expected_bytes(sizes: Sequence[int], peaks: Sequence[int], size: int) -> int:
    """What a size would take, by the last two that were measured."""
    of_an_image = max(0, peaks[-1] - peaks[-2]) / (sizes[-1] - sizes[-2])
    return round(peaks[-1] + of_an_image * (size - sizes[-1]))


def _too_large(size: int) -> str:
    return f"{size} need more memory than there is"


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:.1f} GiB"
