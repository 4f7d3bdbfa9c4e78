"""How labelled and pseudo-labelled images make batches: how many of each, which ones, and in which order.

All of it is a function of the step, the seed and the labels: a run that is resumed at a step is given what it would
have been given without the break. Of each batch that goes through the network, on each device and in each pass of a
step, the pseudo-labelled images are the last ones.
"""

import dataclasses
import itertools
from collections.abc import Iterator
from fractions import Fraction

import numpy as np

from finetune.types import Array

UNUSED = -1
# What the seeds of NumPy's generators tell apart; trunk/features.py has 0 and 1.
_ORDER = 2


@dataclasses.dataclass(frozen=True)
class Mixture:
    """How many images of each batch are pseudo-labelled.

    Batch number b, counted from 0 over the whole run, has as many as the first b + 1 batches should have together, in
    whole images, less those that the first b have: floor((b + 1) x size x fraction) - floor(b x size x fraction).

    Attributes:
        batch_size: Images in a batch, in one pass on one device.
        batches_per_step: Passes times devices.
        fraction: That is pseudo-labelled.
    """

    batch_size: int
    batches_per_step: int
    fraction: Fraction

    @classmethod
    def of(cls, batch_size: int, batches_per_step: int, fraction: float) -> "Mixture":
        """With the fraction as it is written: 0.3 is three tenths, not the nearest binary number."""
        return cls(batch_size, batches_per_step, Fraction(str(fraction)))

    @property
    def images_per_step(self) -> int:
        """Of all passes and devices."""
        return self.batch_size * self.batches_per_step

    def num_before_step(self, step: int) -> int:
        """How many pseudo-labelled images the batches before a step have, if all have their part."""
        return self._num_before(step * self.batches_per_step)

    def num_in_batches(self, step: int) -> list[int]:
        """How many each batch of a step has."""
        first = step * self.batches_per_step
        ends = [self._num_before(batch) for batch in range(first, first + self.batches_per_step + 1)]
        return [end - start for start, end in itertools.pairwise(ends)]

    def _num_before(self, batch: int) -> int:
        return batch * self.batch_size * self.fraction.numerator // self.fraction.denominator


@dataclasses.dataclass(frozen=True)
class MixedSteps:
    """Steps whose batches hold the same pseudo-labels.

    Attributes:
        mixture: How many images of each batch.
        labels: Of each unlabelled image, int64 [N]; `UNUSED`: it isn't taken.
        labelled_at: Number of updates made when the labels were made, of which their order is a function.
        first_step: Number of updates made before the first of these steps.
        num_labelled_before: How many labelled images were taken before.
        num_pseudo_before: How many pseudo-labelled ones since the labels were made.
        seed: Of the run.
    """

    mixture: Mixture
    labels: Array
    labelled_at: int
    first_step: int
    num_labelled_before: int
    num_pseudo_before: int
    seed: int

    @property
    def has_pseudo_labels(self) -> bool:
        """Whether any image is taken; else all batches are of labelled ones."""
        return bool((self.labels != UNUSED).any())

    def num_in_batches(self, step: int) -> list[int]:
        """How many pseudo-labelled images each batch of a step has."""
        of_step = self.mixture.num_in_batches(step)
        return of_step if self.has_pseudo_labels else [0] * len(of_step)

    def epochs(self) -> Iterator[tuple[int, Array]]:
        """The pseudo-labelled images without end: each epoch's number, and numbers of images; none where none count.

        An epoch has each of them once, the first without those that were taken before. Its number is another one for
        other labels, so that they don't come under the same augmentation again.
        """
        used = np.flatnonzero(self.labels != UNUSED)
        if not len(used):
            return
        first, position = divmod(self.num_pseudo_before, len(used))
        for epoch in itertools.count(self.labelled_at + first):
            yield epoch, np.random.default_rng([self.seed % 2**32, _ORDER, epoch]).permutation(used)[position:]
            position = 0

    def picks(self) -> Iterator[tuple[int, int, int]]:
        """As `epochs`, one by one: an image's number, its label, and the epoch."""
        for epoch, numbers in self.epochs():
            for number in numbers.tolist():
                yield number, int(self.labels[number]), epoch
