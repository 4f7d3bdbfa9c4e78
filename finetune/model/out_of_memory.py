"""Memory that is too small for a batch, of a GPU or of the machine: told as what the user can mend."""

import contextlib
from collections.abc import Iterator

import tensorflow as tf

from finetune.errors import UserError, first_line


@contextlib.contextmanager
def out_of_memory_told(num_images: int) -> Iterator[None]:
    """Makes a line with the flag that mends it of an error that so many images need more memory than there is.

    Raises:
        UserError: In place of such an error.
    """
    try:
        yield
    except (MemoryError, tf.errors.ResourceExhaustedError) as error:
        raise UserError(
            f"There is not enough memory for {num_images} images at once: {first_line(error)}",
            f"Give a --batch-size below {num_images}, or leave more memory free.",
        ) from error
