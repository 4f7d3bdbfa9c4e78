"""Which images are drawn where each class is drawn equally often. NumPy alone.

The classes take turns: draw number m, counted over the whole training, is of class m mod K, K being the number of
classes that have images. A class goes through its images in a random order, then through all of them in another one, so
that none is drawn again before all others of its class were. An epoch is as long as without balance, as many draws as
there are images: its draws are shuffled. A rare class's images come several times in it, of a frequent class some only.

What is drawn is a function of (seed, epoch, position) alone, and takes no memory beyond an epoch's numbers: a resumed
run draws what an unbroken one would have. Drawing at random with replacement would be as balanced in expectation; here
an epoch has each class equally often to one draw.
"""

import numpy as np

from finetune.types import Array

# Set the two orders apart from others that are drawn with the seed of a run.
OF_CLASS, OF_EPOCH = 3, 4


class BalancedDraws:
    """The draws of each epoch."""

    def __init__(self, outputs: Array, seed: int) -> None:
        """Sets them up.

        Args:
            outputs: The class of each image, int [N].
            seed: Of the order.
        """
        order = np.argsort(outputs, kind="stable")
        self._classes = np.split(order, np.flatnonzero(np.diff(outputs[order])) + 1)
        self._num_images = len(outputs)
        self._seed = seed % 2**32

    def epoch(self, epoch: int) -> tuple[Array, Array]:
        """The images that an epoch draws, and how often each was drawn before.

        Returns:
            Numbers of the images, int64 [N], and rounds, int64 [N]: in its round r an image is drawn for the (r+1)th
            time.
        """
        first, end = epoch * self._num_images, (epoch + 1) * self._num_images
        drawn = [self._of_class(place, first, end) for place in range(len(self._classes))]
        numbers, rounds = (np.concatenate(parts) for parts in zip(*drawn, strict=True))
        order = np.random.default_rng([self._seed, OF_EPOCH, epoch]).permutation(self._num_images)
        return numbers[order], rounds[order]

    def _of_class(self, place: int, first: int, end: int) -> tuple[Array, Array]:
        """Of the draws from `first` up to `end`, those of one class, as images and rounds."""
        members, num_classes = self._classes[place], len(self._classes)
        # Its turns before a draw m: the numbers below m that are `place` modulo the number of classes.
        turns = np.arange((first - place - 1) // num_classes + 1, (end - place - 1) // num_classes + 1)
        rounds, positions = np.divmod(turns, len(members))
        numbers = np.empty(len(turns), np.int64)
        for each in np.unique(rounds):
            order = np.random.default_rng([self._seed, OF_CLASS, place, int(each)]).permutation(members)
            is_of_round = rounds == each
            numbers[is_of_round] = order[positions[is_of_round]]
        return numbers, rounds
