"""CIFAR-10 and MNIST from the files they were published in: PNG images in train and test folders of class folders."""

import contextlib
import gzip
import shutil
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from finetune.errors import UserError
from finetune.published.archives import unpack
from finetune.types import Array

CIFAR_SIDE_PIXELS = 32
# What an IDX file of bytes begins with: two zeros, the type, the number of dimensions.
IDX_HEADER_BYTES = 4
MOST_IDX_BYTES = 2**28  # Several times what MNIST's largest file unpacks to.
GZIP_MARK = b"\x1f\x8b"


def write_cifar10(files: Sequence[Path], folder: Path) -> None:
    """Writes the images of CIFAR-10's binary version (https://www.cs.toronto.edu/~kriz/cifar.html) as RGB files.

    Args:
        files: The archive of `cifar-10-batches-bin`.
        folder: Gets `train/CLASS/NUMBER.png` and `test/...`.

    Raises:
        UserError: The archive is damaged, or a file in it is missing or damaged.
    """
    unpacked = folder / "unpacked"
    unpack(files[0], unpacked)
    _write_cifar10(unpacked / "cifar-10-batches-bin", folder)
    shutil.rmtree(unpacked)


def _write_cifar10(batches: Path, folder: Path) -> None:
    with _damage_told(batches):
        class_names = (batches / "batches.meta.txt").read_text(encoding="utf-8").split()
    splits = {"train": sorted(batches.glob("data_batch_*.bin")), "test": [batches / "test_batch.bin"]}
    for split, files_of_split in splits.items():
        with _damage_told(batches):
            records = np.concatenate([np.fromfile(file, np.uint8) for file in files_of_split])
            records = records.reshape(-1, 1 + 3 * CIFAR_SIDE_PIXELS**2)
        _check_labels(batches, len(records), records[:, 0], len(class_names))
        images = records[:, 1:].reshape(-1, 3, CIFAR_SIDE_PIXELS, CIFAR_SIDE_PIXELS).transpose(0, 2, 3, 1)
        _write_images(images, records[:, 0], class_names, folder / split)


def write_mnist(files: Sequence[Path], folder: Path) -> None:
    """Writes the images of MNIST's four IDX files (LeCun et al., 1998), compressed or not, as grey files, by digit.

    Args:
        files: Images and labels of the training split, images and labels of the test split.
        folder: Gets `train/DIGIT/NUMBER.png` and `test/...`.

    Raises:
        UserError: A file is damaged.
    """
    for split, (images_file, labels_file) in {"train": files[:2], "test": files[2:]}.items():
        images, labels = _read_idx(images_file, 3), _read_idx(labels_file, 1)
        _check_labels(labels_file, len(images), labels, num_classes=10)
        _write_images(images, labels, "0123456789", folder / split)


def _read_idx(path: Path, num_dimensions: int) -> Array:
    with _damage_told(path):
        with path.open("rb") as file:
            is_compressed = file.read(len(GZIP_MARK)) == GZIP_MARK
        with gzip.open(path) if is_compressed else path.open("rb") as file:
            content = file.read(MOST_IDX_BYTES + 1)
        if len(content) > MOST_IDX_BYTES:
            raise ValueError(f"it holds more than {MOST_IDX_BYTES:,} bytes")
        if content[IDX_HEADER_BYTES - 1] != num_dimensions:
            raise ValueError(f"it has {content[IDX_HEADER_BYTES - 1]} dimensions, not {num_dimensions}")
        shape = np.frombuffer(content, ">u4", num_dimensions, IDX_HEADER_BYTES)
        return np.frombuffer(content, np.uint8, offset=IDX_HEADER_BYTES * (1 + num_dimensions)).reshape(shape)


def _check_labels(path: Path, num_images: int, labels: Array, num_classes: int) -> None:
    if len(labels) != num_images or not (labels < num_classes).all():
        raise UserError(
            f"{path} is not as it was published: {num_images:,} images and {len(labels):,} labels, up to "
            f"{labels.max(initial=0)} where {num_classes - 1} is the highest.",
            "Download it again.",
        )


def _write_images(images: Iterable[Array], labels: Iterable[int], class_names: Sequence[str], folder: Path) -> None:
    for class_name in class_names:
        (folder / class_name).mkdir(parents=True, exist_ok=True)
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        Image.fromarray(image).save(folder / class_names[label] / f"{number:05}.png")


@contextlib.contextmanager
def _damage_told(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, EOFError, ValueError, IndexError, zlib.error) as error:
        raise UserError(f"{path} is not as it was published: {error}.", "Download it again.") from error
