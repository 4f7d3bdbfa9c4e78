"""Whether a JPEG file is whole: its structure, and a decoder that stops at every irregularity.

libjpeg replaces what it can't decode by grey, and says so in a warning that Pillow and TensorFlow pass over: half a
photograph passes for a whole one as soon as it ends like one. Here warnings count:

- Whatever is irregular outside of the pixel data, in metadata or between segments, is no matter: where the decoder
  warns, only what the pixels need is decoded once more.
- Bytes left over behind the last pixel are padding where they are all the same and the pixels need none of them. Other
  bytes left over are a sign that the decoder went astray before.
- Any other warning of the decoder means damage: a code that doesn't exist, data that ends early or in the wrong place.
- A progressive JPEG needs every scan: without the last ones it is a blurred picture, and no decoder minds.

Damage that happens to form valid codes can't be seen by anybody.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

from finetune.types import Array

START = b"\xff\xd8"
END = b"\xff\xd9"
# Baseline, extended and progressive Huffman coding. libjpeg builds differ on arithmetic and lossless coding.
PROGRESSIVE_FRAME = 0xC2
COMMON_FRAMES = (0xC0, 0xC1, PROGRESSIVE_FRAME)
FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # Huffman tables, extension, arithmetic tables
START_OF_SCAN, END_OF_IMAGE = 0xDA, 0xD9
EXIF_SEGMENT, ADOBE_SEGMENT = 0xE1, 0xEE
METADATA_SEGMENTS = frozenset(range(0xE0, 0xF0)) | {0xFE}
ADOBE_BYTES = 12
BLOCK_COEFFICIENTS = 64
# Within pixel data FF 00 is a value and FF D0 to FF D7 are restarts.
NEXT_SEGMENT = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
RARE_SAMPLING = "Could not determine subsampling level"
LEFT_OVER = re.compile(r"(\d+) extraneous bytes before marker 0xd9")
# A decoder that looks ahead takes a few bytes of padding with it.
PADDING_KEPT = 2


class DamagedJpegError(ValueError):
    """The JPEG file isn't whole; the message says what is missing or wrong."""


class RareSamplingError(ValueError):
    """The decoder knows no such combination of sampling factors; nothing is said of the file."""


class Segment(NamedTuple):
    """A part of a JPEG file: where its marker is, where what follows its length starts, and where that ends.

    Pixel data is no part of the scan header before it.
    """

    marker: int
    start: int
    payload: int
    end: int


def frame_marker(data: bytes) -> int:
    """The marker of the frame header, which tells how the pixels are coded. The headers are known to be whole."""
    return next(segment.marker for segment in _segments(data) if segment.marker in FRAMES)


def decode_whole(data: bytes) -> Array:
    """Decodes all pixel data of a JPEG of common coding, to prove it.

    Returns:
        The picture in grey at an eighth of its size, uint8 [H,W]: only the inverse transform is saved.

    Raises:
        DamagedJpegError: Something is missing or wrong.
        RareSamplingError: It can't be told.
    """
    try:
        grey = _decode(data)
    except DamagedJpegError:
        grey = _decode_bare(without_metadata(data, keep_exif=False))
    _check_scans(data)
    return grey


def without_metadata(data: bytes, *, keep_exif: bool) -> bytes:
    """The file without metadata, bytes between segments, and bytes behind its end.

    Raises:
        DamagedJpegError: It has no end.
    """
    kept = [START]
    scan_start = None
    for segment in _segments(data):
        if scan_start is not None:
            kept.append(data[scan_start : segment.start])
        is_scan = segment.marker == START_OF_SCAN
        scan_start = segment.end if is_scan else None
        is_needed = segment.marker == ADOBE_SEGMENT and segment.end - segment.payload >= ADOBE_BYTES
        is_needed |= keep_exif and segment.marker == EXIF_SEGMENT
        if segment.marker not in METADATA_SEGMENTS or is_needed:
            kept.append(data[segment.start : segment.end])
    return b"".join(kept)


def _decode(data: bytes) -> Array:
    import simplejpeg

    try:
        # The smallest of the decoder's sizes. All pixel data is read for it.
        picture = simplejpeg.decode_jpeg(data, "GRAY", min_height=1, min_width=1, min_factor=8, strict=True)
    except ValueError as error:
        if RARE_SAMPLING in str(error):
            raise RareSamplingError from error
        raise DamagedJpegError(f"the JPEG file is damaged: {error}") from error
    return picture[..., 0]


def _decode_bare(data: bytes) -> Array:
    """As `_decode`, but bytes of padding in front of the end marker are no matter."""
    try:
        return _decode(data)
    except DamagedJpegError as error:
        left_over = LEFT_OVER.search(str(error))
        if left_over is None:
            raise
    content = data[: -len(END)]
    num_padding = len(content) - len(content.rstrip(content[-1:]))
    if num_padding < int(left_over[1]):
        raise DamagedJpegError(
            f"the JPEG file is damaged: {left_over[1]} bytes of its pixel data are left over behind the last pixel"
        )
    needed = content[: len(content) - max(0, num_padding - PADDING_KEPT)]
    try:
        return _decode(needed + END)
    except DamagedJpegError as error:
        left_over = LEFT_OVER.search(str(error))
        if left_over is not None and int(left_over[1]) <= PADDING_KEPT:
            return _decode_leniently(needed + END)
        raise DamagedJpegError(
            f"the JPEG file is damaged: the last {num_padding} bytes of its pixel data are all the same"
        ) from error


def _decode_leniently(data: bytes) -> Array:
    import simplejpeg

    return simplejpeg.decode_jpeg(data, "GRAY", min_height=1, min_width=1, min_factor=8, strict=False)[..., 0]


def _check_scans(data: bytes) -> None:
    """Refuses a JPEG whose scans don't bring all coefficients of all components, to their last bit."""
    missing: dict[int, set[int]] = {}
    is_progressive = False
    for segment in _segments(data):
        payload = data[segment.payload : segment.end]
        if segment.marker in FRAMES:
            is_progressive = segment.marker == PROGRESSIVE_FRAME
            components = payload[6 : 6 + 3 * payload[5] : 3]
            missing = {component: set(range(BLOCK_COEFFICIENTS if is_progressive else 1)) for component in components}
        elif segment.marker == START_OF_SCAN:
            num_components = payload[0]
            first, last, bits = payload[1 + 2 * num_components :][:3]
            for component in payload[1 : 1 + 2 * num_components : 2]:
                if not is_progressive:
                    missing[component] = set()
                elif bits & 0x0F == 0:  # The low half: how many bits are still to come.
                    missing[component] -= set(range(first, last + 1))
            if not any(missing.values()):
                return
    lacking = sum(map(bool, missing.values()))
    raise DamagedJpegError(f"the JPEG file is incomplete: it lacks scans of {lacking} of its {len(missing)} components")


def _segments(data: bytes) -> Iterator[Segment]:
    """The segments in order, found as they are asked for, the end marker the last of them.

    Raises:
        DamagedJpegError: There is no end marker.
    """
    position = len(START)
    while found := NEXT_SEGMENT.search(data, position):
        start, after_marker = found.span()
        marker = data[start + 1]
        if marker == END_OF_IMAGE:
            yield Segment(marker, start, after_marker, after_marker)
            return
        position = after_marker + int.from_bytes(data[after_marker : after_marker + 2])
        yield Segment(marker, start, after_marker + 2, position)
    raise DamagedJpegError("the JPEG file is truncated: it has no end marker")
