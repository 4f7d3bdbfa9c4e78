"""Memory that is too small for a batch, of a GPU or of the machine: told as what the user can mend."""

import contextlib
from collections.abc import Callable, Iterator, Sequence

import tensorflow as tf

from finetune.errors import UserError, first_line

OUT_OF_MEMORY = (MemoryError, tf.errors.ResourceExhaustedError)


@contextlib.contextmanager
def out_of_memory_told(
    num_images: int, make: Callable[[int], object] | None = None, *, may_recompute: bool = False
) -> Iterator[None]:
    """Makes a line with the flag that mends it of an error that so many images need more memory than there is.

    Args:
        num_images: At once.
        make: Does the same with fewer images, to find out how many there is memory for; None: that isn't known.
        may_recompute: Whether --recompute-activations is another way out.

    Raises:
        UserError: In place of such an error.
    """
    try:
        yield
    except OUT_OF_MEMORY as error:
        fewer = first_that_fits(halves(num_images)[1:], make) if make is not None else None
        fitting = f"Give --batch-size {fewer}, which fits (of a --global-batch-size, more --accumulate-steps)"
        recompute = "--recompute-activations where more than a head is trained, " if may_recompute else ""
        mend = fitting if fewer else f"Give a --batch-size below {num_images}"
        raise UserError(
            f"There is not enough memory for {num_images} images at once: {first_line(error)}",
            f"{mend}, {recompute}or leave more memory free.",
        ) from error


def halves(number: int) -> list[int]:
    """A number, its half, and so on down to 1."""
    return [number >> power for power in range(number.bit_length())]


def first_that_fits(sizes: Sequence[int], make: Callable[[int], object]) -> int | None:
    """The first size with which something is made without want of memory; None: there is none."""
    for size in sizes:
        with contextlib.suppress(*OUT_OF_MEMORY):
            make(size)
            return size
    return None
