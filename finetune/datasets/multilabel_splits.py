"""Which image goes where, of images with several labels: splits that share out each label evenly.

Iterative stratification (Sechidis, Tsoumakas and Vlahavas, 2011), where chance is the hash of an image's name.
"""

from collections import Counter
from collections.abc import Mapping, Sequence

from finetune.datasets.splits import shuffled
from finetune.errors import UserError

Labels = tuple[str, ...]


def divide_evenly(
    labels_of: Mapping[str, Labels], *, seed: int, validation: float | int, test: float
) -> dict[str, list[str]]:
    """Divides images into splits, each of which gets its share of each label, and of the images without any.

    The rarest label comes first: each of its images goes to the split that lacks most of it, of two such to the one
    that lacks most images. Training keeps at least one image of each label.

    Args:
        labels_of: From each image to its labels.
        seed: Another seed, another division.
        validation: The share for validation, or the number of images, as an int.
        test: The share for a test split.

    Returns:
        The files of "train", "validation" and "test", without those that get none.

    Raises:
        UserError: More images are asked for than can be spared.
    """
    num_images = len(labels_of)
    share = validation if isinstance(validation, float) else validation / num_images
    shares = {"train": 1.0 - share - test, "validation": share, "test": test}
    if shares["train"] <= 0:
        raise UserError(
            f"A validation split of {validation} was asked for, of {num_images} images.", "Give a smaller one."
        )
    counts = Counter(label for labels in labels_of.values() for label in labels)
    lacking = {split: {label: share * number for label, number in counts.items()} for split, share in shares.items()}
    room = {split: share * num_images for split, share in shares.items()}
    wanted = [split for split, share in shares.items() if share]
    in_training = Counter[str]()
    splits: dict[str, list[str]] = {split: [] for split in shares}
    left = dict.fromkeys(shuffled(labels_of, seed))

    def put(file: str, label: str | None) -> None:
        labels = labels_of[file]
        if any(not in_training[each] for each in labels):
            split = "train"
        elif label is None:
            split = max(wanted, key=lambda split: room[split])
        else:
            split = max(wanted, key=lambda split: (lacking[split][label], room[split]))
        splits[split].append(file)
        del left[file]
        room[split] -= 1
        for each in labels:
            lacking[split][each] -= 1
            counts[each] -= 1
        if split == "train":
            in_training.update(labels)

    files_of: dict[str, list[str]] = {label: [] for label in counts}
    for file in left:
        for label in labels_of[file]:
            files_of[label].append(file)
    while any(counts.values()):
        rarest = min((label for label, number in counts.items() if number), key=lambda label: (counts[label], label))
        for file in files_of[rarest]:
            if file in left:
                put(file, rarest)
    for file in list(left):
        put(file, None)
    return {split: files for split, files in splits.items() if files}


def by_class(files: Sequence[str], labels_of: Mapping[str, Labels], classes: Sequence[str]) -> dict[str, list[str]]:
    """The files of each class, in which a file with several labels stands as often."""
    found: dict[str, list[str]] = {name: [] for name in classes}
    for file in files:
        for label in labels_of[file]:
            found[label].append(file)
    return found
