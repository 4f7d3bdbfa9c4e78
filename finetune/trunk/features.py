"""Features: what a frozen trunk makes of images, computed once, kept in memory or on disk, drawn from in training."""

import dataclasses
import hashlib
import io
import json
import logging
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from finetune.errors import UserError
from finetune.files.json_files import Number, read_json
from finetune.files.whole_files import whole_folder, write_json
from finetune.progress import progress
from finetune.types import Array, Tensor

log = logging.getLogger("finetune")

DESCRIPTION_FILE = "features.json"
LABELS_FILE = "labels.npy"
FINGERPRINTS_FILE = "fingerprints.npy"
WEIGHTS_FILE = "weights.npy"
# In place of a permutation of all images: those that an epoch draws, and how often each was drawn before, both [N].
Drawn = Callable[[int], tuple[Array, Array]]


@dataclasses.dataclass(frozen=True)
class MappedRows:
    """Some rows of an array [N,...] that stays in its file."""

    array: Array
    rows: Array

    @property
    def shape(self) -> tuple[int, ...]:
        """Of these rows."""
        return (len(self.rows), *self.array.shape[1:])

    @property
    def dtype(self) -> Any:
        """Of the array."""
        return self.array.dtype

    def __getitem__(self, index: Any) -> Array:
        return self.array[self.rows[index]]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        return np.asarray(self[:], dtype)

    def __len__(self) -> int:
        return len(self.rows)


@dataclasses.dataclass(frozen=True)
class Features:
    """The frontier's values for images, and their labels.

    Attributes:
        values: For each tensor of the frontier an array [N,...], in memory or mapped from a file, or rows of such.
        labels: int64 [N]; where an image has any number of them uint8 [N,num_classes], 1 or 0 for each class.
        fingerprints: Of the images' records, int64 [N]; 0: not known.
        weights: How much the images count in training, float32 [N]; None: they have no weights.
    """

    values: tuple[Array, ...]
    labels: Array
    fingerprints: Array
    weights: Array | None = None

    def part(self, rows: Array, *, in_memory: bool) -> "Features":
        """The features of some of the images, by their numbers, int64 [M]."""
        values: tuple[Any, ...] = tuple(value[rows] if in_memory else MappedRows(value, rows) for value in self.values)
        weights = None if self.weights is None else self.weights[rows]
        return Features(values, self.labels[rows], self.fingerprints[rows], weights)

    def batch(self, rows: Any) -> tuple[list[Array], Array]:
        """The values of some images, by an index array or a slice, and their labels."""
        return [np.asarray(value[rows]) for value in self.values], self.labels[rows]


@dataclasses.dataclass(frozen=True)
class FeatureFolder:
    """Where features are kept that go to files.

    Attributes:
        path: Of the folder.
        is_shared: Whether several runs take them up: then they go to files whatever their size, and those that depend
            on something else lie beside each other.
    """

    path: Path
    is_shared: bool = False

    def name_of(self, what: str, key: str) -> str:
        """Name of the folder in it for features of this key."""
        return f"{what}-{key[:16]}" if self.is_shared else what


def compute_features(
    trunk: Callable[[Tensor], Sequence[Tensor]],
    batches: Iterable[tuple[Tensor, ...]],
    *,
    num_images: int,
    folder: Path | None,
    key: str,
    what: str,
) -> Features:
    """Runs the trunk over images, or takes up what it made of them before.

    Args:
        trunk: From images [B,H,W,C] to the frontier's values.
        batches: Images and labels, [B] or [B,num_classes], weights [B] where images have such, and what tells the
            images apart, int64 [B,3], or nothing; each image once.
        num_images: How many there are.
        folder: Where the features are kept; None: in memory alone.
        key: Says all that the features depend on; others are not taken up.
        what: The images, for the progress shown.

    Raises:
        OSError: The folder can't be written, or the disk is full; nothing is left of what was begun.
    """
    if folder is None:
        return _gathered(_rows(trunk, batches, num_images, what), num_images)
    found = _read(folder, key)
    if found is not None:
        log.info("Features of %s: %s holds them already.", what, folder)
        return found
    shutil.rmtree(folder, ignore_errors=True)  # They are large: there may be no room for both.
    with whole_folder(folder) as partial:
        _write(partial, _rows(trunk, batches, num_images, what), num_images, key)
    written = _read(folder, key)
    assert written is not None
    return written


def feature_batches(
    views: Sequence[Features], *, batch_size: int, seed: int, start_step: int, drawn: Drawn | None = None
) -> Iterator[tuple[Any, ...]]:
    """Endless shuffled batches: each epoch has each image once, in one of its views; a batch may span two epochs.

    A batch is the features, the labels [B], the weights [B] where images have such, and for each image its number, its
    record's fingerprint, and the view, int64 [B,3].

    Over as many epochs as there are views an image is seen in each of them once. What is drawn is a function of (seed,
    epoch, image) alone, so that a resumed run draws what an unbroken one would have.

    Args:
        views: Features of the same images in the same order, under different augmentations.
        batch_size: Images in a batch.
        seed: Of the order.
        start_step: How many batches to leave out.
        drawn: By an epoch's number, which images it draws, as many as there are; None: each once. An image drawn again
            comes in its next view.
    """
    stream = PickStream(picks_by_epoch(views, seed=seed, num_before=start_step * batch_size, drawn=drawn))
    while True:
        picks = stream.take(batch_size)
        yield *gather(views, picks), identities(views, picks)


def picks_by_epoch(
    views: Sequence[Features], *, seed: int, num_before: int, drawn: Drawn | None = None
) -> Iterator[Array]:
    """The order of `feature_batches`: of each epoch a view and a row of each image, int64 [N,2].

    Args:
        views: Features of the same images.
        seed: Of the order.
        num_before: How many images were taken before, which the first epoch comes without.
        drawn: As of `feature_batches`.
    """
    num_images = len(views[0].labels)
    first_view = np.random.default_rng([seed % 2**32, 0]).integers(len(views), size=num_images)
    epoch, position = divmod(num_before, num_images)
    while True:
        if drawn is None:
            order, before = np.random.default_rng([seed % 2**32, 1, epoch]).permutation(num_images), np.array(epoch)
        else:
            order, before = drawn(epoch)
        yield np.stack([(first_view[order] + before) % len(views), order], axis=1)[position:]
        epoch, position = epoch + 1, 0


class PickStream:
    """Picks, each a view and a row, as many at a time as are asked for."""

    def __init__(self, epochs: Iterator[Array]) -> None:
        """Begins with the first of the epochs, int64 [N,2] each, which never end."""
        self._epochs = epochs
        self._left = np.empty([0, 2], np.int64)

    def take(self, number: int) -> Array:
        """The next ones, int64 [number,2]."""
        while len(self._left) < number:
            self._left = np.concatenate([self._left, next(self._epochs)])
        taken, self._left = self._left[:number], self._left[number:]
        return taken


def features_key(**parts: Any) -> str:
    """A hash over all that features depend on."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def values_hash(values: Iterable[tuple[str, Array]]) -> str:
    """A hash over names and arrays."""
    digest = hashlib.sha256()
    for name, value in values:
        digest.update(f"{name} {value.dtype} {value.shape} ".encode())
        digest.update(np.ascontiguousarray(value).tobytes())
    return digest.hexdigest()


def identities(views: Sequence[Features], picks: Array) -> Array:
    """Of each pick the image's number, its record's fingerprint, and the view, int64 [B,3]."""
    numbers_of_views, rows = picks.T
    return np.stack([rows, views[0].fingerprints[rows], numbers_of_views], axis=1)


def gather(views: Sequence[Features], picks: Array) -> tuple[Any, ...]:
    """The features of picks, each a view and a row, their labels, and their weights where there are such."""
    rows, first = picks[:, 1], views[0]
    weights = () if first.weights is None else (first.weights[rows],)
    if len(views) == 1:
        return *first.batch(rows), *weights
    values = []
    for of_views in zip(*(view.values for view in views), strict=True):
        gathered = np.empty([len(rows), *of_views[0].shape[1:]], of_views[0].dtype)
        for view, value in enumerate(of_views):
            is_in_view = picks[:, 0] == view
            gathered[is_in_view] = value[rows[is_in_view]]
        values.append(gathered)
    return values, first.labels[rows], *weights


def _rows(
    trunk: Callable[[Tensor], Sequence[Tensor]], batches: Iterable[tuple[Tensor, ...]], num_images: int, what: str
) -> Iterator[Features]:
    """Of each batch."""
    with progress(f"Features of {what}", num_images) as advance:
        for images, labels, *rest in batches:
            fingerprints = rest[-1].numpy()[:, 1] if rest else np.zeros([len(labels)], np.int64)
            weights = rest[0].numpy() if len(rest) > 1 else None
            values = tuple(value.numpy() for value in trunk(images))
            yield Features(values, labels.numpy(), fingerprints, weights)
            advance(len(labels))


def _gathered(rows: Iterator[Features], num_images: int) -> Features:
    """In arrays of the final size from the first: parts put together at the end would need twice the memory."""
    values: tuple[Array, ...] = ()
    fingerprints = np.empty([num_images], np.int64)
    labels = weights = None
    start = 0
    for some in rows:
        if not values:
            values = tuple(np.empty([num_images, *value.shape[1:]], value.dtype) for value in some.values)
            labels = np.empty([num_images, *some.labels.shape[1:]], some.labels.dtype)
            weights = np.empty([num_images], np.float32) if some.weights is not None else None
        assert labels is not None
        end = start + len(some.labels)
        labels[start:end] = some.labels
        fingerprints[start:end] = some.fingerprints
        if weights is not None:
            weights[start:end] = some.weights
        for value, row_value in zip(values, some.values, strict=True):
            value[start:end] = row_value
        start = end
    assert labels is not None
    assert start == num_images, f"{start} of {num_images} images"
    return Features(values, labels, fingerprints, weights)


def _write(folder: Path, rows: Iterator[Features], num_images: int, key: str) -> None:
    """Writes .npy files through ordinary writes: a full disk is then an error, not a fault of a mapped page."""
    files: list[Any] = []
    columns: dict[str, list[Array]] = {LABELS_FILE: [], FINGERPRINTS_FILE: []}
    try:
        for some in rows:
            values = some.values
            if not files:
                files = [(folder / f"{index}.npy").open("wb") for index in range(len(values))]
                for file, value in zip(files, values, strict=True):
                    np.lib.format.write_array_header_2_0(
                        file,
                        {
                            "descr": np.lib.format.dtype_to_descr(value.dtype),
                            "fortran_order": False,
                            "shape": (num_images, *value.shape[1:]),
                        },
                    )
            for file, value in zip(files, values, strict=True):
                file.write(np.ascontiguousarray(value).tobytes())
            columns[LABELS_FILE].append(some.labels)
            columns[FINGERPRINTS_FILE].append(some.fingerprints)
            if some.weights is not None:
                columns.setdefault(WEIGHTS_FILE, []).append(some.weights)
    finally:
        for file in files:
            file.close()
    for name, parts in columns.items():
        content = io.BytesIO()
        np.save(content, np.concatenate(parts))
        (folder / name).write_bytes(content.getvalue())  # NumPy's own write doesn't say that the disk is full.
    sizes = {path.name: path.stat().st_size for path in folder.iterdir()}
    write_json(folder / DESCRIPTION_FILE, {"key": key, "sizes": sizes})


def _read(folder: Path, key: str) -> Features | None:
    """The features in a folder; None where there are none, others, or not all of them."""
    try:
        description = read_json(folder / DESCRIPTION_FILE, {"key": str, "sizes": {...: Number(int)}})
        if description["key"] != key:
            return None
        if any((folder / name).stat().st_size != size for name, size in description["sizes"].items()):
            log.info("The features in %s are not whole; they are computed anew.", folder)
            return None
        num_tensors = len(set(description["sizes"]) - {LABELS_FILE, FINGERPRINTS_FILE, WEIGHTS_FILE})
        values = tuple(np.load(folder / f"{index}.npy", mmap_mode="r") for index in range(num_tensors))
        weights = np.load(folder / WEIGHTS_FILE) if WEIGHTS_FILE in description["sizes"] else None
        return Features(values, np.load(folder / LABELS_FILE), np.load(folder / FINGERPRINTS_FILE), weights)
    except (OSError, EOFError, ValueError, UserError):
        return None
