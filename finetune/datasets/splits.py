"""Which image goes into which split: by a hash of its name, class by class, the same on every machine."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence

from finetune.datasets.folders import ClassFiles, canonical_name
from finetune.datasets.split_words import SPLITS
from finetune.errors import UserError


def name_hash(file: str, seed: int) -> bytes:
    """Places a file among all others, as if drawn at random: depends on nothing but its relative name and the seed."""
    return hashlib.sha256(f"{seed}/{canonical_name(file)}".encode("utf-8", "surrogateescape")).digest()


def shuffled(files: Iterable[str], seed: int) -> list[str]:
    """The files in the order of their name hashes."""
    return sorted(files, key=lambda file: (name_hash(file, seed), file))


def divide(
    classes: ClassFiles, *, seed: int, validation: Mapping[str, int], test: Mapping[str, int]
) -> dict[str, ClassFiles]:
    """Divides the files of each class into splits; one that gets no file at all is left out.

    Args:
        classes: From class to its files.
        seed: Another seed gives another division.
        validation: How many files of each class go into validation.
        test: How many files of each class go into test.
    """
    splits: dict[str, ClassFiles] = {split: {} for split in SPLITS}
    for name, files in classes.items():
        drawn = shuffled(files, seed)
        end_test = test[name] + validation[name]
        splits["test"][name] = drawn[: test[name]]
        splits["validation"][name] = drawn[test[name] : end_test]
        splits["train"][name] = drawn[end_test:]
    return {split: files for split, files in splits.items() if any(files.values())}


def share_by_fraction(class_sizes: Mapping[str, int], fraction: float) -> dict[str, int]:
    """The rounded fraction of each class, but never the whole class."""
    return {name: min(int(size * fraction + 0.5), size - 1) for name, size in class_sizes.items()}


def share_by_size(class_sizes: Mapping[str, int], total: int) -> dict[str, int]:
    """`total` files, spread over the classes in proportion to their sizes (largest remainders), never a whole class.

    Raises:
        UserError: Fewer than `total` can be taken.
    """
    available = sum(class_sizes.values()) - len(class_sizes)
    if total > available:
        raise UserError(
            f"A validation split of {total} was asked for, but only {available} images can be spared "
            "when each class keeps one for training.",
            f"Give --validation-size of at most {available}.",
        )
    num_images = sum(class_sizes.values())
    shares = {name: min(size * total // num_images, size - 1) for name, size in class_sizes.items()}
    by_remainder = sorted(class_sizes, key=lambda name: (-(class_sizes[name] * total % num_images), name))
    while missing := total - sum(shares.values()):
        open_classes = [name for name in by_remainder if shares[name] < class_sizes[name] - 1]
        for name in open_classes[:missing]:
            shares[name] += 1
    return shares


def count(classes: Mapping[str, Sequence[str]]) -> dict[str, int]:
    """From class to its number of files."""
    return {name: len(files) for name, files in classes.items()}
