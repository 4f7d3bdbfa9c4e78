"""Whether one classifier is better than another on the same images, or only luckier. No TensorFlow."""

import dataclasses
import math

import numpy as np

from finetune.evaluation.metrics import Scores
from finetune.types import Array

# With fewer discordant images the chi-square distribution is too rough (Dietterich 1998, Neural Computation 10(7)).
FEWEST_FOR_CHI_SQUARE = 25


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Two classifiers' scores of the same images.

    Attributes:
        first: Scores of the first.
        second: Scores of the second, in the same order.
    """

    first: Scores
    second: Scores

    @property
    def only_first_right(self) -> int:
        """Images that the first alone got right."""
        return int(np.count_nonzero(self.first.is_right & ~self.second.is_right))

    @property
    def only_second_right(self) -> int:
        """Images that the second alone got right."""
        return int(np.count_nonzero(~self.first.is_right & self.second.is_right))

    @property
    def differing(self) -> Array:
        """Positions of the images that the two predict to be of different classes."""
        return np.flatnonzero(self.first.predictions != self.second.predictions)

    @property
    def mcnemar(self) -> "McNemar":
        """The test of whether both are right equally often."""
        return mcnemar(self.only_first_right, self.only_second_right)


@dataclasses.dataclass(frozen=True)
class McNemar:
    """McNemar's test (1947): only images that one of two classifiers got right and the other wrong say which is better.

    Attributes:
        method: "exact binomial", or "chi-square" (one degree of freedom, continuity corrected).
        p_value: How often so uneven a count, or a more uneven one, comes about if both are equally good; 0 to 1.
    """

    method: str
    p_value: float


def mcnemar(only_first_right: int, only_second_right: int) -> McNemar:
    """The two-sided test for two counts of discordant images."""
    num_discordant = only_first_right + only_second_right
    if num_discordant < FEWEST_FOR_CHI_SQUARE:
        fewer = min(only_first_right, only_second_right)
        tail = sum(math.comb(num_discordant, count) for count in range(fewer + 1)) / 2**num_discordant
        return McNemar("exact binomial", min(1.0, 2 * tail))
    distance = max(0, abs(only_first_right - only_second_right) - 1)
    return McNemar("chi-square", math.erfc(math.sqrt(distance**2 / num_discordant / 2)))
