"""Photographs set upright in a TensorFlow graph, as EXIF says: TensorFlow's decoders ignore it.

EXIF is a TIFF directory (CIPA DC-008, "Exchangeable image file format", section 4.6.2) in a JPEG's segment APP1 or a
PNG's chunk eXIf; the entry Orientation tells how the picture is to be turned.
"""

from collections.abc import Callable

import tensorflow as tf

from finetune.datasets import jpeg, png
from finetune.types import Tensor

ORIENTATION = 0x0112
UPRIGHT = 1
MARKER, EXIF_SEGMENT, SCAN, END_OF_IMAGE = 0xFF, 0xE1, 0xDA, 0xD9
SEGMENT_START = b"Exif\x00\x00"
CHUNK_START_BYTES = png.LENGTH_BYTES + png.NAME_BYTES
LITTLE_ENDIAN, BIG_ENDIAN = b"II", b"MM"
TIFF_VERSION = 42
BYTE, SHORT, LONG = 1, 3, 4  # Types of a directory's entries.
ENTRY_BYTES = 12
MOST_EXIF_BYTES = 1 << 16  # A segment of a JPEG has no more; what lies behind is a thumbnail.


def turned_upright(image: Tensor, encoded: Tensor) -> Tensor:
    """The image [H,W,C] of a file upright, [H,W,C] or [W,H,C]; `encoded` are the file's bytes, a scalar string."""
    orientation = exif_orientation(encoded)

    def is_one_of(*orientations: int) -> Tensor:
        return tf.reduce_any(orientation == tf.constant(orientations, tf.int64))

    image = tf.cond(is_one_of(5, 6, 7, 8), lambda: tf.transpose(image, [1, 0, 2]), lambda: image)
    image = tf.cond(is_one_of(3, 4, 7, 8), lambda: tf.reverse(image, [0]), lambda: image)
    return tf.cond(is_one_of(2, 3, 6, 7), lambda: tf.reverse(image, [1]), lambda: image)


def exif_orientation(encoded: Tensor) -> Tensor:
    """What the EXIF block of a JPEG or PNG file says, int64 [], 1 to 8; 1, upright, where there is none to be read."""
    none = tf.constant(-1, tf.int64)
    start = tf.case(
        [
            (tf.strings.substr(encoded, 0, len(jpeg.START)) == jpeg.START, lambda: _find_in_jpeg(encoded)),
            (tf.strings.substr(encoded, 0, len(png.SIGNATURE)) == png.SIGNATURE, lambda: _find_in_png(encoded)),
        ],
        default=lambda: none,
    )
    return tf.cond(start < 0, lambda: tf.constant(UPRIGHT, tf.int64), lambda: _orientation(_read(encoded, start)))


def _find_in_jpeg(encoded: Tensor) -> Tensor:
    """Where the TIFF data begin; -1 where there are none."""
    length = _length(encoded)
    start_bytes = 4 + len(SEGMENT_START)

    def step(position: Tensor) -> tuple[Tensor, Tensor]:
        head = _read(encoded, position, start_bytes)
        marker = head[1]
        is_found = (marker == EXIF_SEGMENT) & tf.reduce_all(head[4:] == tf.constant(list(SEGMENT_START), tf.int64))
        is_over = (head[0] != MARKER) | (marker == SCAN) | (marker == END_OF_IMAGE)
        following = tf.where(marker == MARKER, position + 1, position + 2 + _number(head, 2, 2, is_little=False))
        return tf.where(is_over, length, following), tf.where(is_found, position + start_bytes, -1)

    return _search(2, length - start_bytes, step)


def _find_in_png(encoded: Tensor) -> Tensor:
    """As `_find_in_jpeg`."""

    def step(position: Tensor) -> tuple[Tensor, Tensor]:
        head = _read(encoded, position, CHUNK_START_BYTES)
        is_found = tf.reduce_all(head[png.LENGTH_BYTES :] == tf.constant(list(png.EXIF), tf.int64))
        content = position + CHUNK_START_BYTES
        following = content + _number(head, 0, png.LENGTH_BYTES, is_little=False) + png.CHECKSUM_BYTES
        return following, tf.where(is_found, content, -1)

    return _search(len(png.SIGNATURE), _length(encoded) - CHUNK_START_BYTES, step)


def _search(first: int, last: Tensor, step: Callable[[Tensor], tuple[Tensor, Tensor]]) -> Tensor:
    """From position to position, until a step finds something or the file ends."""
    initial = [tf.constant(first, tf.int64), tf.constant(-1, tf.int64)]
    return tf.while_loop(
        lambda position, found: (position <= last) & (found < 0), lambda position, _: step(position), initial
    )[1]


def _orientation(data: Tensor) -> Tensor:
    """The entry in the first directory of TIFF data, int64 [N]."""
    size = tf.size(data, tf.int64)
    data = tf.concat([data, tf.zeros([ENTRY_BYTES], tf.int64)], 0)  # What is cut off reads as zeros.
    is_little = tf.reduce_all(data[:2] == tf.constant(list(LITTLE_ENDIAN), tf.int64))
    is_big = tf.reduce_all(data[:2] == tf.constant(list(BIG_ENDIAN), tf.int64))
    is_tiff = (is_little | is_big) & (_number(data, 2, 2, is_little) == TIFF_VERSION)
    directory = tf.minimum(_number(data, 4, 4, is_little), size)
    entries = directory + 2 + ENTRY_BYTES * tf.range(tf.maximum((size - directory - 2) // ENTRY_BYTES, 0))
    entries = entries[: _number(data, directory, 2, is_little)]
    matches = tf.boolean_mask(entries, _number(data, entries, 2, is_little) == ORIENTATION)

    def value() -> Tensor:
        kind, place = _number(data, matches[0] + 2, 2, is_little), matches[0] + 8
        found = tf.case(
            [
                (kind == SHORT, lambda: _number(data, place, 2, is_little)),
                (kind == LONG, lambda: _number(data, place, 4, is_little)),
                (kind == BYTE, lambda: _number(data, place, 1, is_little)),
            ],
            default=lambda: tf.constant(UPRIGHT, tf.int64),
        )
        return tf.where((found >= 1) & (found <= 8), found, UPRIGHT)

    return tf.cond(is_tiff & (tf.size(matches) > 0), value, lambda: tf.constant(UPRIGHT, tf.int64))


def _number(data: Tensor, places: Tensor | int, num_bytes: int, is_little: Tensor | bool) -> Tensor:
    """Whole numbers of so many bytes at each of the places."""
    offsets = tf.range(num_bytes, dtype=tf.int64)
    powers = tf.where(is_little, offsets, num_bytes - 1 - offsets)
    places = tf.convert_to_tensor(places, tf.int64)[..., tf.newaxis]
    return tf.reduce_sum(tf.bitwise.left_shift(tf.gather(data, places + offsets), 8 * powers), axis=-1)


def _read(encoded: Tensor, position: Tensor, num_bytes: int = MOST_EXIF_BYTES) -> Tensor:
    """At most so many bytes of the file, int64 [N]."""
    return tf.cast(tf.io.decode_raw(tf.strings.substr(encoded, position, num_bytes), tf.uint8), tf.int64)


def _length(encoded: Tensor) -> Tensor:
    return tf.cast(tf.strings.length(encoded), tf.int64)
