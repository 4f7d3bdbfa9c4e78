"""How many bits the images of a data set use of 16 a sample.

Cameras and scanners of 10, 12 or 14 bits write files of 16: read by the high byte, those are nearly black. One scale
for all images keeps the bright apart from the dark, so it is found from the whole data set before any is converted.
"""

import warnings
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from finetune.datasets.image_rules import ImageRules
from finetune.datasets.images import BrokenImageError, largest_sample

USUAL_BITS = (8, 10, 12, 14, 16)


# A hot pixel or a stamp in white makes an image look as if it used all bits: a set is not judged by a few of those.
FEW = 0.1
LEAST_SEEN = 20


class UsedBits(NamedTuple):
    """What the images of 16 bits a sample have in common.

    Attributes:
        num_images: How many there are; where most use all bits, not all of them are counted.
        largest: The largest value of them all.
        bits: The fewest of the usual that hold it.
        num_above: How many images use more than the others, where these are few.
        bits_of_others: The fewest of the usual that hold the others' values.
    """

    num_images: int
    largest: int
    bits: int
    num_above: int
    bits_of_others: int


def find_used_bits(paths: Iterable[Path], rules: ImageRules, num_threads: int) -> UsedBits | None:
    """Reads the images of 16 bits a sample among the files, and of all others no more than the start.

    Ends as soon as more than a few use them all. Files that can't be read are passed over: the conversion names them.

    Returns:
        What they use; None where there is no such image.
    """
    num_using: Counter[int] = Counter()
    largest = 0
    # Threads, since Pillow's decoders and NumPy work beside each other; an image at a time for each of them.
    with ThreadPoolExecutor(num_threads) as executor, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Around the threads: in each of them, one would put back another's.
        for found in executor.map(lambda path: _largest_of(path, rules), paths):
            if found is None:
                continue
            num_using[_bits_for(found)] += 1
            largest = max(largest, found)
            if num_using.total() >= LEAST_SEEN and num_using[USUAL_BITS[-1]] > FEW * num_using.total():
                executor.shutdown(cancel_futures=True)
                break
    return _summarise(num_using, largest) if num_using else None


def _summarise(num_using: Counter[int], largest: int) -> UsedBits:
    num_images, num_above = num_using.total(), 0
    bits_of_others, *fewer = sorted(num_using, reverse=True)
    for bits in fewer:
        if num_above + num_using[bits_of_others] > FEW * num_images:
            break
        num_above += num_using[bits_of_others]
        bits_of_others = bits
    return UsedBits(num_images, largest, max(num_using), num_above, bits_of_others)


def _bits_for(largest: int) -> int:
    return next(bits for bits in USUAL_BITS if largest < 1 << bits)


def _largest_of(path: Path, rules: ImageRules) -> int | None:
    try:
        return largest_sample(path, rules)
    except (BrokenImageError, OSError, MemoryError):
        return None
