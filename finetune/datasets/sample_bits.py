"""How many bits the images of a data set use of 16 a sample.

Cameras and scanners of 10, 12 or 14 bits write files of 16: read by the high byte, those are nearly black. One scale
for all images keeps the bright apart from the dark, so it is found from the whole data set before any is converted.
"""

import warnings
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from finetune.datasets.image_rules import ImageRules
from finetune.datasets.images import BrokenImageError, largest_sample

USUAL_BITS = (8, 10, 12, 14, 16)


class UsedBits(NamedTuple):
    """What the images of 16 bits a sample have in common; `bits` is the fewest of the usual that hold `largest`."""

    num_images: int
    largest: int
    bits: int


def find_used_bits(paths: Iterable[Path], rules: ImageRules, num_threads: int) -> UsedBits | None:
    """Reads the images of 16 bits a sample among the files, and of all others no more than the start.

    Ends as soon as one uses them all. Files that can't be read are passed over: the conversion names them.

    Returns:
        What they use; None where there is no such image.
    """
    num_images, largest = 0, 0
    # Threads, since Pillow's decoders and NumPy work beside each other; an image at a time for each of them.
    with ThreadPoolExecutor(num_threads) as executor, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Around the threads: in each of them, one would put back another's.
        for found in executor.map(lambda path: _largest_of(path, rules), paths):
            if found is None:
                continue
            num_images, largest = num_images + 1, max(largest, found)
            if largest >> USUAL_BITS[-2]:
                executor.shutdown(cancel_futures=True)
                break
    if not num_images:
        return None
    return UsedBits(num_images, largest, next(bits for bits in USUAL_BITS if largest < 1 << bits))


def _largest_of(path: Path, rules: ImageRules) -> int | None:
    try:
        return largest_sample(path, rules)
    except (BrokenImageError, OSError, MemoryError):
        return None
