"""Training images that are similar to those of a split: what a report shows beside its mistakes. No TensorFlow."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from finetune.datasets.dataset import Dataset


class Neighbour(NamedTuple):
    """A similar image.

    Attributes:
        filename: Of the image.
        label: Name of its class.
        similarity: Cosine of the angle between the two images' features, -1 to 1.
        position: Its number in the set that was looked in, from 0.
    """

    filename: str
    label: str
    similarity: float
    position: int


@dataclasses.dataclass(frozen=True)
class SimilarImages:
    """The most similar training images of some images of a split.

    Attributes:
        dataset: The training split, whose records `position` numbers.
        neighbours: By an image's number in its split, the most similar first.
    """

    dataset: Dataset
    neighbours: Mapping[int, Sequence[Neighbour]]
