"""The chunks of a PNG file: which of them the pixels need."""

from collections.abc import Iterator

SIGNATURE = b"\x89PNG\r\n\x1a\n"
END = b"\x00\x00\x00\x00IEND\xaeB`\x82"
BIT_DEPTH_OFFSET = 24
LENGTH_BYTES, NAME_BYTES, CHECKSUM_BYTES = 4, 4, 4
# What a decoder can't do without has a name that starts with a capital; of the rest, pixels need transparency alone.
PIXEL_CHUNKS = (b"IHDR", b"PLTE", b"IDAT", b"IEND")
TRANSPARENCY, EXIF = b"tRNS", b"eXIf"


def has_16_bits(data: bytes) -> bool:
    """Whether the file is a PNG of 16 bits a sample."""
    return data.startswith(SIGNATURE) and data[BIT_DEPTH_OFFSET : BIT_DEPTH_OFFSET + 1] == b"\x10"


def has_unknown_chunks(data: bytes) -> bool:
    """Whether a chunk, of a name that isn't known here, claims that the pixels can't be decoded without it."""
    return any(name[:1].isupper() and name not in PIXEL_CHUNKS for name, _ in _chunks(data))


def without_metadata(data: bytes, *, keep_exif: bool) -> bytes:
    """The file without the chunks that its pixels don't need."""
    needed = (*PIXEL_CHUNKS, TRANSPARENCY, *([EXIF] if keep_exif else []))
    return SIGNATURE + b"".join(chunk for name, chunk in _chunks(data) if name in needed)


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Name and whole bytes of each chunk, in order; a last one that is cut off as far as it goes."""
    position = len(SIGNATURE)
    while position < len(data):
        name = data[position + LENGTH_BYTES : position + LENGTH_BYTES + NAME_BYTES]
        length = int.from_bytes(data[position : position + LENGTH_BYTES])
        end = position + LENGTH_BYTES + NAME_BYTES + length + CHECKSUM_BYTES
        yield name, data[position:end]
        if name == b"IEND":
            return
        position = end
