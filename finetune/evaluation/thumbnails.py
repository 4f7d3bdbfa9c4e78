"""Images of a split, read from its records, and small copies of them."""

import io
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

import numpy as np
from PIL import Image

from finetune.datasets.dataset import Dataset, usable_records
from finetune.datasets.schema import parse_record

JPEG_QUALITY = 80


def read_thumbnails(dataset: Dataset, positions: Iterable[int], size_pixels: int) -> dict[int, bytes]:
    """JPEG files of some images, as the network sees them, of at most `size_pixels` in height and width.

    Args:
        dataset: The split.
        positions: Of the records in the split, from 0, in the order of its shards.
        size_pixels: The longer side; smaller images are not enlarged.

    Returns:
        The bytes by position. Images that Pillow can't read are left out.
    """
    thumbnails = {}
    for position, encoded in read_encoded(dataset, positions):
        try:
            thumbnails[position] = thumbnail(encoded, size_pixels)
        except OSError:
            continue
    return thumbnails


def read_encoded(dataset: Dataset, positions: Iterable[int]) -> Iterator[tuple[int, bytes]]:
    """The image files of some records, each with its position, in order; `positions` as of `read_thumbnails`."""
    for position, serialized in read_records(dataset, sorted(positions)):
        yield position, parse_record(serialized, dataset.schema).encoded.numpy()


def as_jpeg(image: Image.Image) -> bytes:
    """The bytes of a JPEG file as small as the report's are."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()


def read_records(dataset: Dataset, positions: Sequence[int]) -> Iterable[tuple[int, bytes]]:
    """Some records of a split with their numbers, in its order; shards without any are not opened."""
    first = 0
    for shard in dataset.shards:
        wanted = {position - first for position in positions if first <= position < first + shard.num_records}
        if wanted:
            records = enumerate(islice(usable_records(shard), max(wanted) + 1))
            yield from ((first + index, record.data) for index, record in records if index in wanted)
        first += shard.num_records


def thumbnail(encoded: bytes, size_pixels: int) -> bytes:
    """A JPEG file of an image of at most `size_pixels` in height and width.

    Raises:
        OSError: Pillow can't read the image.
    """
    image: Image.Image = Image.open(io.BytesIO(encoded))
    if image.mode.startswith("I"):  # TensorFlow takes the high byte.
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    image = image.convert("L" if image.mode in ("1", "L", "LA") else "RGB")
    image.thumbnail((size_pixels, size_pixels))
    return as_jpeg(image)
