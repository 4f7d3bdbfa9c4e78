"""The words that files and folders call splits by, in any letter case."""

SPLIT_WORDS = {
    "train": ("train", "training", "trainset", "trainingset", "traindata", "trainingdata"),
    "validation": (
        *("validation", "val", "valid", "validate", "validating", "eval", "dev"),
        *("valset", "validationset", "devset"),
    ),
    "test": ("test", "testing", "tests", "testset", "testingset", "testdata", "testingdata"),
}
SPLITS = tuple(SPLIT_WORDS)
_SPLIT_OF_WORD = {word: split for split, words in SPLIT_WORDS.items() for word in words}


def is_split_word(word: str) -> bool:
    """Whether files or folders that are called so are a split's."""
    return word.lower() in _SPLIT_OF_WORD


def canonical_split(word: str) -> str:
    """What a word for a split stands for, such as "validation" for val; another word as it is."""
    return _SPLIT_OF_WORD.get(word.lower(), word)


def split_words_in_words() -> str:
    """The table for a message."""
    return "; ".join(f"{split}: {', '.join(words)}" for split, words in SPLIT_WORDS.items())
