"""The data sets that slim knows by name.

The numbers of classes and channels are slim's (datasets/*.py). How many records there are is
counted from the files.
"""

from dataclasses import dataclass


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
