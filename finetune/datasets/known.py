"""The data sets that slim knows by name, and the words that splits are called by.

The numbers of classes and channels are slim's (datasets/*.py). How many records there are is
counted from the files.
"""

from dataclasses import dataclass

# From a split to the words that files and folders call it by.
SPLIT_WORDS = {
    "train": ("train", "training"),
    "validation": ("validation", "val", "valid", "eval", "dev"),
    "test": ("test", "testing"),
}
_SPLIT_OF_WORD = {word: split for split, words in SPLIT_WORDS.items() for word in words}


@dataclass(frozen=True)
class KnownDataset:
    """One of slim's data sets.

    Attributes:
        name: As `--dataset-name` takes it.
        num_classes: Where no labels.txt says otherwise.
        channels: Of its images.
    """

    name: str
    num_classes: int
    channels: int


KNOWN_DATASETS = {
    known.name: known
    for known in (
        KnownDataset("flowers", num_classes=5, channels=3),
        KnownDataset("cifar10", num_classes=10, channels=3),
        KnownDataset("mnist", num_classes=10, channels=1),
        KnownDataset("imagenet", num_classes=1001, channels=3),  # 0 is background.
        KnownDataset("visualwakewords", num_classes=2, channels=3),
    )
}


def is_split_word(word: str) -> bool:
    """Whether files or folders that are called so are a split's, in any letter case."""
    return word.lower() in _SPLIT_OF_WORD


def canonical_split(word: str) -> str:
    """What a word for a split stands for, such as "validation" for val; another word as it is."""
    return _SPLIT_OF_WORD.get(word.lower(), word)
