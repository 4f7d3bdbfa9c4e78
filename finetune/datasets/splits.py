"""Which image goes into which split: by a hash of its name, class by class, the same on every machine."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import TypeVar

from finetune.datasets.folders import ClassFiles, canonical_name
from finetune.datasets.split_words import SPLITS
from finetune.errors import UserError

Class = TypeVar("Class", bound=Hashable)


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


def divide_groups(
    classes: ClassFiles,
    groups: Mapping[str, str],
    *,
    seed: int,
    validation: Mapping[str, int],
    test: Mapping[str, int],
) -> dict[str, ClassFiles]:
    """Divides as `divide` does, but keeps groups together: numbers are as near to those asked for as groups allow.

    Args:
        classes: From class to its files.
        groups: From files to the names of their groups; others are by themselves.
        seed: Another seed gives another division.
        validation: How many files of each class are to go into validation.
        test: How many files of each class are to go into test.
    """
    units: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for name, files in classes.items():
        for file in files:
            # A file and a group may be called alike.
            units[f"group {groups[file]}" if file in groups else f"image {file}"].append((name, file))
    order = shuffled(units, seed)
    counts = [Counter(name for name, _ in units[unit]) for unit in order]
    train = {name: len(files) - validation[name] - test[name] for name, files in classes.items()}
    wanted = {"train": train, "validation": validation, "test": test}
    wanted = {split: of_classes for split, of_classes in wanted.items() if any(of_classes.values())}
    chosen = deal(counts, list(wanted.values()))
    part_of = dict(zip(order, chosen, strict=True))
    _keep_all_classes_in_first(classes, order, counts, part_of)
    names = list(wanted)
    splits: dict[str, ClassFiles] = {split: {name: [] for name in classes} for split in SPLITS}
    for unit, part in part_of.items():
        for name, file in units[unit]:
            splits[names[part]][name].append(file)
    return {split: files for split, files in splits.items() if any(files.values())}


def deal(counts: Sequence[Counter[Class]], wanted: Sequence[Mapping[Class, float]]) -> list[int]:
    """Which part each unit goes to, so that parts get about as much of each class as is wanted of them.

    The largest units are dealt first, those of one size in their order; each goes where it brings the classes nearest
    to their numbers, by the sum of squares over the classes' sizes; where that is the same, where most is missing.

    Args:
        counts: Of each unit the number of images of its classes.
        wanted: Of each part the number of images of each class; together they are as many as all units have.
    """
    missing = [dict(of_part) for of_part in wanted]
    sizes: Counter[Class] = Counter()
    for unit in counts:
        sizes.update(unit)
    room = [sum(of_part.values()) for of_part in wanted]
    parts = [0] * len(counts)
    for place in sorted(range(len(counts)), key=lambda place: -counts[place].total()):
        unit = counts[place]

        def worse(part: int, unit: Mapping[Class, int] = unit) -> tuple[float, float]:
            by_class = (number * (number - 2 * missing[part][name]) / sizes[name] for name, number in unit.items())
            return sum(by_class), -room[part]

        parts[place] = min(range(len(wanted)), key=worse)
        room[parts[place]] -= unit.total()
        for name, number in unit.items():
            missing[parts[place]][name] -= number
    return parts


def _keep_all_classes_in_first(
    classes: Iterable[str], order: Sequence[str], counts: Sequence[Counter[str]], part_of: dict[str, int]
) -> None:
    """Each class needs something to train on: where it has nothing there, its smallest unit goes there."""
    trained_on = {name for unit, of_unit in zip(order, counts, strict=True) if part_of[unit] == 0 for name in of_unit}
    for name in sorted(set(classes) - trained_on):
        units = [(of_unit.total(), unit) for unit, of_unit in zip(order, counts, strict=True) if name in of_unit]
        if all(part_of[unit] for _, unit in units):
            part_of[min(units)[1]] = 0


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
