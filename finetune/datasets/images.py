"""An image file made ready for a record: proven whole, in bytes that TensorFlow's decoder reads right.

Whatever the file is called, its content says what it is. JPEG and PNG bytes are kept as they are wherever TensorFlow
reads them as people see them; all else that Pillow reads is encoded anew. What trains on records and what predicts on
files must see the same pixels, so both go through `prepare_image`.
"""

import hashlib
import io
import warnings
from dataclasses import dataclass
from pathlib import Path

from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

# EPS and PDF would call another program, TGA has no mark to know it by: they are not read.
FORMATS = ("JPEG", "PNG", "BMP", "DIB", "GIF", "TIFF", "WEBP", "PPM", "AVIF", "JPEG2000")

# A file that ends in one of these is meant to be an image: if it can't be read, it is corrupt, not just another file.
SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".bmp", ".dib", ".gif", ".tif", ".tiff"})
SUFFIXES |= {".webp", ".pgm", ".ppm", ".pbm", ".pnm", ".avif", ".heic", ".heif", ".jp2", ".j2k"}

UPRIGHT = 1
JPEG_QUALITY = 95
SAMPLES_KEPT_WHOLE = 0  # Pillow's word for 4:4:4
# Baseline, extended and progressive Huffman coding. libjpeg builds differ on arithmetic and lossless coding.
COMMON_JPEG_FRAMES = (0xC0, 0xC1, 0xC2)
JPEG_END = b"\xff\xd9"
PNG_BIT_DEPTH_OFFSET = 24
PNG_END = b"\x00\x00\x00\x00IEND\xaeB`\x82"


class BrokenImageError(ValueError):
    """A file that can't be read to its end as an image; the message says why."""


@dataclass(frozen=True)
class PreparedImage:
    """An image file's content, ready for a record.

    Attributes:
        encoded: The bytes of a JPEG or PNG file, 1 to 4 channels of 8 bits.
        format: "jpg" or "png".
        height: In pixels.
        width: In pixels.
        reencoded_from: Why these are not the bytes of the file, such as "TIFF" or "CMYK JPEG"; '' if they are.
        fingerprint: 16 bytes; files with the same bytes share it, and so do files of one kind with the same pixels.
            Files that share it need not be the same (`pixel_hash` tells).
    """

    encoded: bytes
    format: str
    height: int
    width: int
    reencoded_from: str
    fingerprint: bytes


def prepare_image(data: bytes) -> PreparedImage:
    """Decodes the whole of an image file to prove it, and encodes it anew where its bytes won't do.

    Raises:
        BrokenImageError: The bytes are no image, or not a whole one, or its pixels have no agreed range.
    """
    if not data:
        raise BrokenImageError("the file is empty")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of odd metadata and of very large images; neither matters.
            return _prepare(data)
    except UnidentifiedImageError as error:
        raise BrokenImageError("not an image of a known format") from error
    except (MemoryError, BrokenImageError):
        raise
    except Exception as error:  # Pillow's readers raise whatever comes to them on broken files.
        raise BrokenImageError(str(error) or type(error).__name__) from error


def is_image(path: Path) -> bool:
    """Whether the file starts like an image of a format that is read here, whatever its name."""
    try:
        with Image.open(path, formats=FORMATS):
            return True
    except Exception:  # See prepare_image.
        return False


def pixel_hash(data: bytes) -> bytes:
    """A hash of the image as it is seen, at full size: equal for equal pictures, whatever the file format."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image = _eight_bits(_upright(_open(data)))
    return _hash_pixels(image)


def _prepare(data: bytes) -> PreparedImage:
    image = _open(data)
    if image.format in ("JPEG", "MPO"):  # Multi-picture files of cameras are JPEG files with more behind the end.
        return _prepare_jpeg(data, image)
    if image.format == "PNG":
        return _prepare_png(data, image)
    return _reencode(image, str(image.format), keep_lossless=True)


def _prepare_jpeg(data: bytes, image: Image.Image) -> PreparedImage:
    if image.mode not in ("L", "RGB"):
        return _reencode(image, f"{image.mode} JPEG", keep_lossless=True)
    frame = _jpeg_frame(data)
    if data[frame] not in COMMON_JPEG_FRAMES:
        return _reencode(image, "rare JPEG coding", keep_lossless=True)
    if _orientation(image) != UPRIGHT:
        # Not lossless, for once: as PNG a photograph takes five to ten times the space, on disk and in every epoch,
        # while the JPEG noise of quality 95 is below its own.
        return _reencode(image, "turned JPEG", keep_lossless=False)
    width, height = image.size
    # An eighth of the size, grey: all the data is still read and decoded, only the inverse transform is saved.
    image.draft("L", (1, 1))
    image.load()
    if data.find(JPEG_END, frame) < 0:  # TensorFlow's decoder insists on it.
        raise BrokenImageError("the JPEG file has no end marker")
    fingerprint = _hash_pixels(image, f"{width}x{height}")
    return PreparedImage(data, "jpg", height, width, reencoded_from="", fingerprint=fingerprint)


def _prepare_png(data: bytes, image: Image.Image) -> PreparedImage:
    # TensorFlow's decoder insists on the checksums and on the last chunk, Pillow's doesn't.
    image.verify()
    if PNG_END not in data:
        raise BrokenImageError("the PNG file ends too early")
    image = _open(data)
    if data[PNG_BIT_DEPTH_OFFSET] == 16:
        return _reencode(image, "16-bit PNG", keep_lossless=True)
    image.load()
    if _orientation(image) != UPRIGHT:
        return _reencode(image, "turned PNG", keep_lossless=True)
    return PreparedImage(data, "png", image.height, image.width, reencoded_from="", fingerprint=_hash_pixels(image))


def _reencode(image: Image.Image, reencoded_from: str, *, keep_lossless: bool) -> PreparedImage:
    image = _eight_bits(_upright(image))
    image.info = {}
    buffer = io.BytesIO()
    if keep_lossless:
        image.save(buffer, "PNG")
    else:
        image.save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=SAMPLES_KEPT_WHOLE)
    return PreparedImage(
        encoded=buffer.getvalue(),
        format="png" if keep_lossless else "jpg",
        height=image.height,
        width=image.width,
        reencoded_from=reencoded_from,
        fingerprint=_hash_pixels(image),
    )


def _open(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data), formats=FORMATS)


def _orientation(image: Image.Image) -> int:
    """How EXIF says the picture is to be turned.

    TensorFlow's decoders ignore it, while every viewer obeys it: kept as it is, a telephone's photograph would be
    trained on lying on its side.
    """
    if "exif" not in image.info and "xmp" not in image.info:
        return UPRIGHT
    return image.getexif().get(ExifTags.Base.Orientation, UPRIGHT)


def _upright(image: Image.Image) -> Image.Image:
    image.load()
    return ImageOps.exif_transpose(image)


def _eight_bits(image: Image.Image) -> Image.Image:
    """The image in mode L or RGB. Transparency is dropped, as TensorFlow's PNG decoder drops it."""
    if image.mode in ("L", "RGB"):
        return image
    if image.mode == "F":
        raise BrokenImageError("floating-point pixels, which have no agreed range")
    if image.mode.startswith("I"):
        import numpy as np

        values = np.asarray(image)
        if values.min() < 0 or values.max() > 0xFFFF:
            raise BrokenImageError("pixels of more than 16 bits, which have no agreed range")
        # The high byte, as TensorFlow and libpng take it. (Pillow's own conversion cuts off at 255.)
        return Image.fromarray((values >> 8).astype(np.uint8))
    return image.convert("L" if image.mode in ("1", "LA", "La") else "RGB")


def _hash_pixels(image: Image.Image, of_size: str = "") -> bytes:
    pixels = image if image.mode in ("L", "RGB") else image.convert("RGB")
    header = f"{pixels.mode} {pixels.width}x{pixels.height} {of_size}".encode()
    return hashlib.blake2b(header + pixels.tobytes(), digest_size=16).digest()


def _jpeg_frame(data: bytes) -> int:
    """Where the marker of the frame header is, which tells how a JPEG is coded. The headers are known to be whole."""
    position = 2
    while True:
        while data[position] == 0xFF:
            position += 1
        marker = data[position]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # Huffman tables, extension, arithmetic tables
            return position
        position += 1 + int.from_bytes(data[position + 1 : position + 3])
