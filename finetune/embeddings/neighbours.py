"""The images of a set that are the most similar to others: by the cosine of the angle between their features."""

from collections.abc import Iterator

import numpy as np

from finetune.embeddings.feature_files import ROWS_AT_A_TIME, StoredFeatures
from finetune.errors import UserError
from finetune.evaluation.similar_images import Neighbour
from finetune.types import Array


class NearestImages:
    """A set to look in. Its features stay in their file and are read in blocks, once for all images of a call."""

    def __init__(self, stored: StoredFeatures, num_nearest: int) -> None:
        """Reads the features once.

        Args:
            stored: The set.
            num_nearest: K, how many to find of each image.

        Raises:
            UserError: A feature isn't finite.
        """
        self._stored = stored
        self._num_nearest = num_nearest
        lengths = [_lengths(block) for _, block in self._blocks()]
        self._lengths = np.concatenate(lengths)
        if not np.isfinite(self._lengths).all():
            raise UserError(f"{stored.path} has features that are not finite.", "Make the file again.")

    def of(self, features: Array) -> list[tuple[Neighbour, ...]]:
        """The K nearest, or all where there are fewer, of each of the features [B,D]; the earlier where two are equal.

        Features without length, all of them 0, are similar to nothing: 0.
        """
        unit = features / _lengths(features)[:, np.newaxis]
        similarities = np.empty([len(features), 0], np.float32)
        positions = np.empty([len(features), 0], np.int64)
        for start, block in self._blocks():
            found = unit @ block.T / self._lengths[start : start + len(block)]
            similarities = np.concatenate([similarities, found], axis=1)
            of_block = np.broadcast_to(np.arange(start, start + len(block)), found.shape)
            positions = np.concatenate([positions, of_block], axis=1)
            # In the order of the set, of which a stable sort keeps the earlier.
            best = np.argsort(-similarities, axis=1, kind="stable")[:, : self._num_nearest]
            similarities = np.take_along_axis(similarities, best, axis=1)
            positions = np.take_along_axis(positions, best, axis=1)
        return [tuple(map(self._neighbour, row, of_row)) for row, of_row in zip(positions, similarities, strict=True)]

    def _neighbour(self, position: int, similarity: float) -> Neighbour:
        stored, at = self._stored, int(position)
        return Neighbour(str(stored.filenames[at]), str(stored.label_names[at]), float(np.clip(similarity, -1, 1)), at)

    def _blocks(self) -> Iterator[tuple[int, Array]]:
        features = self._stored.features
        for start in range(0, len(features), ROWS_AT_A_TIME):
            yield start, np.asarray(features[start : start + ROWS_AT_A_TIME])


def _lengths(features: Array) -> Array:
    """Of each row [B]; 1 in place of 0."""
    lengths = np.linalg.norm(features, axis=1)
    return np.where(lengths == 0, np.float32(1), lengths)
