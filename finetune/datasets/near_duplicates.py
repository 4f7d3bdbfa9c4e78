"""Near duplicates: pictures that are one picture, resized, encoded anew, cropped by up to a tenth, or mirrored.

They are found in two steps. Pictures are candidates where a hash of one, whole or of one of its parts, is near to a
hash of another, whole or mirrored. Candidates are then laid on each other: the window of the one is looked for that
shows what the other shows, and their details there are correlated. Pictures of one kind of thing have much the same
hash, but not the same details.
"""

import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from finetune.datasets.picture_prints import MIRRORED, SMALL_PIXELS, WHOLE
from finetune.types import Array

# Of 64 bits: 99.7 % of 360 crops of photographs were no further from them, and 1 of 1,000 pairs of different flowers.
MOST_BITS = 12
# Where all pictures are alike, each is laid on so many others that have the nearest hashes.
MOST_CANDIDATES = 16
ROWS, COLUMNS = 64, 1024  # Of a block of pairs: what is computed of it stays in a core's cache.
PAIRS_PER_TASK = 64

COARSE_PIXELS = 16
COARSE_STEP, STEP, MOST_LEFT_OUT = 0.04, 0.02, 0.125
ROUNDS = 2
LEAST_COARSE_CORRELATION = 0.5
COARSE_MARGIN = 0.1
SURROUNDINGS = 5  # Details are what differs from the mean of so many pixels in height and width.
BORDER = SURROUNDINGS // 2 + 1
LEAST_CONTRAST = 2.0  # Standard deviation in grey levels; below it there is nothing to compare.

Ends = tuple[float, float]  # What a window leaves out at its beginning and at its end, of the side's length.


class NearPairs(NamedTuple):
    """Pairs of pictures, by their places in what was searched.

    Attributes:
        first, second: int64 [P]; `first` is the smaller one.
        similarity: Correlation of their details, float64 [P], at most 1.
        distance: Bits in which their nearest hashes differ, uint8 [P].
    """

    first: Array
    second: Array
    similarity: Array
    distance: Array


def find_near_pairs(
    hashes: Array, small: Array, *, least_similarity: float, num_threads: int, on_progress: Callable[[int], None]
) -> NearPairs:
    """Finds pairs of near duplicates, the most similar first.

    That takes N²/2 comparisons of 40 hashes, and memory for `MOST_CANDIDATES` pairs of each picture.

    Args:
        hashes: uint64 [N,NUM_HASHES], as `take_prints` gives them.
        small: uint8 [N,SMALL_PIXELS,SMALL_PIXELS], of the same pictures.
        least_similarity: Correlation of details from which on pictures are near duplicates.
        num_threads: How many threads.
        on_progress: Called with the number of pictures that were just compared with all others.
    """
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1), _threads(num_threads) as executor:
        # One by one: all at once they would be taken as floats, eight times as large.
        has_content = np.array([picture.std() >= LEAST_CONTRAST for picture in small], bool)
        candidates = _find_candidates(hashes, has_content, executor, on_progress)
        first, second = candidates.T[:2]
        tasks = [slice(start, start + PAIRS_PER_TASK) for start in range(0, len(candidates), PAIRS_PER_TASK)]

        def similarities(task: slice) -> list[float]:
            return [similarity_of(small[i], small[j]) for i, j in zip(first[task], second[task], strict=True)]

        similarity = np.array([value for part in executor.map(similarities, tasks) for value in part], np.float64)
    order = np.lexsort([second, first, -similarity])
    order = order[similarity[order] >= least_similarity]
    return NearPairs(first[order], second[order], similarity[order], candidates[order, 2].astype(np.uint8))


@contextlib.contextmanager
def _threads(number: int) -> Iterator[ThreadPoolExecutor]:
    """Threads that end with the context: after Ctrl-C, too, at once, and not when all that waits is done."""
    executor = ThreadPoolExecutor(number)
    try:
        yield executor
    finally:
        executor.shutdown(cancel_futures=True)


def _find_candidates(
    hashes: Array, has_content: Array, executor: ThreadPoolExecutor, on_progress: Callable[[int], None]
) -> Array:
    """Rows of first, second and distance, int64 [P,3], of pairs whose hashes are near."""
    places = np.flatnonzero(has_content)
    windows = np.ascontiguousarray(hashes[places, :MIRRORED].T)
    wholes = np.ascontiguousarray(hashes[places][:, [WHOLE, MIRRORED]].T)
    starts = range(0, len(places), ROWS)
    found = [np.empty([0, 3], np.int64)]
    for start, of_rows in zip(starts, executor.map(lambda row: _of_rows(windows, wholes, row), starts), strict=True):
        found.append(of_rows)
        on_progress(min(ROWS, len(places) - start))
    candidates = np.concatenate(found)
    return np.column_stack([places[candidates[:, 0]], places[candidates[:, 1]], candidates[:, 2]])


def _of_rows(windows: Array, wholes: Array, start: int) -> Array:
    """Candidates whose first picture is one of some that follow each other: of each the nearest."""
    rows = slice(start, start + ROWS)
    found = []
    for left in range(start, windows.shape[1], COLUMNS):
        columns = slice(left, left + COLUMNS)
        distances = _least_distances(windows[:, rows], wholes[:, rows], windows[:, columns], wholes[:, columns])
        first, second = np.nonzero(distances <= MOST_BITS)
        found.append(np.column_stack([start + first, left + second, distances[first, second]]))
    pairs = np.concatenate(found)
    pairs = pairs[pairs[:, 0] < pairs[:, 1]]
    pairs = pairs[np.lexsort([pairs[:, 1], pairs[:, 2], pairs[:, 0]])]
    rank = np.arange(len(pairs)) - np.searchsorted(pairs[:, 0], pairs[:, 0])
    return pairs[rank < MOST_CANDIDATES]


def _least_distances(windows: Array, wholes: Array, other_windows: Array, other_wholes: Array) -> Array:
    """Bits in which a window's hash of the one differs at least from a whole's of the other, uint8 [N,M]."""
    shape = windows.shape[1], other_windows.shape[1]
    least, bits, differing = np.full(shape, 64, np.uint8), np.empty(shape, np.uint8), np.empty(shape, np.uint64)
    for those, others in ((windows, other_wholes), (wholes, other_windows)):
        for one in those:
            for other in others:
                np.bitwise_xor(one[:, np.newaxis], other, out=differing)
                np.bitwise_count(differing, out=bits)
                np.minimum(least, bits, out=least)
    return least


def similarity_of(picture: Array, other: Array) -> float:
    """Correlation of the details of two pictures, one of them cropped as the other is, and mirrored if it is.

    Args:
        picture: uint8 [SMALL_PIXELS,SMALL_PIXELS].
        other: Of the same shape.

    Returns:
        At most 1; 0 where no window of the one looks like the other.
    """
    one, two = picture.astype(np.float32), other.astype(np.float32)
    pairs = [(one, two), (two, one), (one, two[:, ::-1]), (two[:, ::-1], one)]
    coarse = [_correlations(_COARSE.of_both_axes(_reduced(larger)), _reduced(smaller)) for larger, smaller in pairs]
    best = max(found.max() for found in coarse)
    if best < LEAST_COARSE_CORRELATION:
        return 0.0
    return max(
        _correlation_of_details(*pair, _COARSE.ends_at(found))
        for pair, found in zip(pairs, coarse, strict=True)
        if found.max() > best - COARSE_MARGIN
    )


def _correlation_of_details(larger: Array, smaller: Array, start: tuple[Ends, Ends]) -> float:
    """Of a picture and of that window of another one that looks most like it, looked for from one that nearly does."""
    rows, columns = map(_FINE.ends.index, start)
    for _ in range(ROUNDS):
        columns = int(_correlations(_FINE.of_columns(_FINE.matrices[rows] @ larger), smaller).argmax())
        rows = int(_correlations(_FINE.of_rows(larger @ _FINE.matrices[columns].T), smaller).argmax())
    window = _FINE.matrices[rows] @ larger @ _FINE.matrices[columns].T
    return float(_correlations(_details(window)[np.newaxis, :, np.newaxis], _details(smaller)).item())


class _Windows:
    """Windows of a square picture along one axis, and the matrices that sample them at as many pixels, linearly.

    Attributes:
        ends: Of each what it leaves out.
        matrices: float32 [W,P,P].
    """

    def __init__(self, pixels: int, step: float) -> None:
        steps = np.arange(0, MOST_LEFT_OUT, step).round(6).tolist()
        self.ends = [(first, last) for first in steps for last in steps if first + last <= MOST_LEFT_OUT]
        self.matrices = np.stack([self._matrix(pixels, first, 1 - last) for first, last in self.ends])

    @staticmethod
    def _matrix(pixels: int, start: float, end: float) -> Array:
        centres = (np.arange(pixels) + 0.5) / pixels
        places = np.clip((start + (end - start) * centres) * pixels - 0.5, 0, pixels - 1)
        return np.maximum(0, 1 - np.abs(places[:, np.newaxis] - np.arange(pixels))).astype(np.float32)

    def ends_at(self, correlations: Array) -> tuple[Ends, Ends]:
        """Of the window with the largest of correlations [W,W], by rows and by columns."""
        rows, columns = np.unravel_index(correlations.argmax(), correlations.shape)
        return self.ends[rows], self.ends[columns]

    def of_rows(self, picture: Array) -> Array:
        """Windows from top to bottom, float32 [W,P,1,P]."""
        return (self.matrices.reshape(-1, len(picture)) @ picture).reshape(len(self.ends), -1, 1, len(picture))

    def of_columns(self, picture: Array) -> Array:
        """Windows from left to right, float32 [1,P,W,P]."""
        return (picture @ self.matrices.reshape(-1, len(picture)).T).reshape(1, len(picture), len(self.ends), -1)

    def of_both_axes(self, picture: Array) -> Array:
        """Windows of all heights and widths, float32 [W,P,W,P]."""
        pixels, all_of_them = len(picture), self.matrices.reshape(-1, len(picture))
        return (all_of_them @ picture @ all_of_them.T).reshape(len(self.ends), pixels, len(self.ends), pixels)


_COARSE, _FINE = _Windows(COARSE_PIXELS, COARSE_STEP), _Windows(SMALL_PIXELS, STEP)


def _correlations(windows: Array, picture: Array) -> Array:
    """Of windows [W,P,V,Q] with a picture [P,Q], float32 [W,V]; 0 where either is of one grey."""
    picture = picture - picture.mean()
    sums = windows.sum(axis=(1, 3))
    squares = np.einsum("wpvq,wpvq->wv", windows, windows) - sums**2 / picture.size
    products = np.einsum("wpvq,pq->wv", windows, picture)
    scale = np.sqrt(np.maximum(squares, 0) * (picture**2).sum())
    return np.where(scale > 0, products / np.where(scale > 0, scale, 1), 0)


def _reduced(picture: Array) -> Array:
    """A square picture of `COARSE_PIXELS`."""
    factor = len(picture) // COARSE_PIXELS
    return picture.reshape(COARSE_PIXELS, factor, COARSE_PIXELS, factor).mean(axis=(1, 3))


def _details(picture: Array) -> Array:
    """What differs from its surroundings, without the border."""
    from scipy.ndimage import uniform_filter

    details: Array = picture - uniform_filter(picture, SURROUNDINGS)
    return details[BORDER:-BORDER, BORDER:-BORDER]
