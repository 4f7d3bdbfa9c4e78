"""An image file made ready for a record: proven whole, in bytes that TensorFlow's decoder reads right.

Whatever the file is called, its content says what it is. JPEG and PNG bytes are kept as they are wherever TensorFlow
reads them as people see them; all else that Pillow reads is encoded anew. What trains on records and what predicts on
files must see the same pixels, so both go through `prepare_image`, by the same rules.
"""

import contextlib
import dataclasses
import hashlib
import io
import threading
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from PIL import ExifTags, Image, UnidentifiedImageError

from finetune.datasets import jpeg, png
from finetune.datasets.image_rules import DEFAULT_RULES, ImageRules
from finetune.datasets.jpeg import DamagedJpegError, RareSamplingError
from finetune.files.whole_files import is_special
from finetune.settings.choices import DEEP_PIXEL_COUNTS

# EPS and PDF would call another program, TGA has no mark to know it by: they are not read.
FORMATS = ("JPEG", "PNG", "BMP", "DIB", "GIF", "TIFF", "WEBP", "PPM", "AVIF", "JPEG2000")

# A file that ends in one of these is meant to be an image: if it can't be read, it is corrupt, not just another file.
SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".bmp", ".dib", ".gif", ".tif", ".tiff"})
SUFFIXES |= {".webp", ".pgm", ".ppm", ".pbm", ".pnm", ".avif", ".heic", ".heif", ".jp2", ".j2k"}

# A HEIF file names its kinds behind "ftyp"; AVIF files are of the same build.
HEIF_KINDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
AVIF_KINDS = (b"avif", b"avis")
HEADER_BYTES = 64

TIFF_STARTS = (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")

UPRIGHT = 1
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
JPEG_QUALITY = 95
SAMPLES_KEPT_WHOLE = 0  # Pillow's word for 4:4:4

OPAQUE = 0xFF
BAND_ROWS = 256

METADATA_IGNORED = "metadata that can't be read ignored"
OTHER_PICTURES_LEFT_OUT = "first of several pictures taken"


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
        changes: What was left out or changed, beyond another encoding of the same picture, in words.
        fingerprint: 16 bytes; files with the same bytes share it, and so do files of one kind with the same pixels.
            Files that share it need not be the same (`pixel_hash` tells).
    """

    encoded: bytes
    format: str
    height: int
    width: int
    reencoded_from: str
    changes: tuple[str, ...]
    fingerprint: bytes


def prepare_image(data: bytes, rules: ImageRules = DEFAULT_RULES) -> PreparedImage:
    """Decodes the whole of an image file to prove it, and encodes it anew where its bytes won't do.

    Raises:
        BrokenImageError: The bytes are no image, or not a whole one, or a larger one than the rules allow, or its
            pixels have no agreed range.
    """
    if not data:
        raise BrokenImageError("the file is empty")
    with _errors_of_the_file():
        return _prepare(data, rules)


def read_image_file(path: Path, rules: ImageRules) -> bytes:
    """The content of an image file.

    Raises:
        BrokenImageError: It can't be read; it is a pipe, a socket or a device, which are not opened; it is larger than
            a file of the largest image that the rules allow.
    """
    try:
        if is_special(path):
            raise BrokenImageError("can't be read: it is a pipe, a socket or a device")
        num_bytes = path.stat().st_size
        if num_bytes > rules.most_bytes:
            raise BrokenImageError(
                f"its {num_bytes:,} bytes are more than an image of {rules.max_megapixels:g} megapixels takes "
                "(--max-megapixels)"
            )
        return path.read_bytes()
    except BrokenImageError:
        raise
    except (OSError, ValueError) as error:  # ValueError: what is no file name, as one with a zero byte.
        raise BrokenImageError(f"can't be read: {getattr(error, 'strerror', None) or error}") from error


def largest_sample(path: Path, rules: ImageRules) -> int | None:
    """The largest value, 0 to 65535, in an image of 16 bits a sample, transparency aside; None for all others.

    Formats that say what range they use are no such images: they are scaled by what they say. Of most others no more
    than the first bytes are read.

    Raises:
        OSError: The file can't be read.
        BrokenImageError: As `prepare_image`.
    """
    with path.open("rb") as file:
        start = file.read(HEADER_BYTES)
        if not (png.has_16_bits(start) or start.startswith(TIFF_STARTS)):
            return None
    data = read_image_file(path, rules)
    from finetune.datasets.deep_samples import colours_of, deep_samples, stated_bits

    with _errors_of_the_file():
        image = _open_checked(data, rules)
        if stated_bits(image) is not None:
            return None
        samples = deep_samples(image, lambda: _open_checked(data, rules))
        return None if samples is None else int(colours_of(samples).max())


def is_image(path: Path) -> bool:
    """Whether the file starts like an image of a format that is read here, whatever its name."""
    try:
        with path.open("rb") as file:
            if _is_heif(file.read(HEADER_BYTES)):
                return True
        with _no_limit, _open(path):
            return True
    except Exception:  # See prepare_image.
        return False


def pixel_hash(data: bytes, rules: ImageRules) -> bytes:
    """A hash of the image as it is seen, at full size: equal for equal pictures, whatever the file format."""
    return _hash_pixels(_open(io.BytesIO(prepare_image(data, rules).encoded)))


@contextlib.contextmanager
def _errors_of_the_file() -> Iterator[None]:
    """Turns whatever Pillow's readers raise on broken files into a BrokenImageError."""
    try:
        with _no_limit, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of odd metadata, which doesn't matter.
            yield
    except UnidentifiedImageError as error:
        raise BrokenImageError("not an image of a known format") from error
    except (MemoryError, BrokenImageError):
        raise
    except Exception as error:
        raise BrokenImageError(str(error) or type(error).__name__) from error


def _prepare(data: bytes, rules: ImageRules) -> PreparedImage:
    """As it is; or, where that fails, without its metadata: if that helps, it was the metadata that can't be read."""
    try:
        return _prepare_as_it_is(data, rules)
    except (MemoryError, BrokenImageError):
        raise
    except Exception:
        for stripped in _without_metadata(data):
            with contextlib.suppress(Exception):
                prepared = _prepare_as_it_is(stripped, rules)
                changes = (*prepared.changes, METADATA_IGNORED)
                return dataclasses.replace(prepared, changes=tuple(dict.fromkeys(changes)))
        raise


def _without_metadata(data: bytes) -> Iterator[bytes]:
    for keep_exif in (True, False):  # It may say how the picture is to be turned.
        if data.startswith(jpeg.START):
            yield jpeg.without_metadata(data, keep_exif=keep_exif)
        elif data.startswith(png.SIGNATURE):
            yield png.without_metadata(data, keep_exif=keep_exif)


def _prepare_as_it_is(data: bytes, rules: ImageRules) -> PreparedImage:
    image = _open_checked(data, rules)
    if image.format in ("JPEG", "MPO"):  # Multi-picture files of cameras are JPEG files with more behind the end.
        return _prepare_jpeg(data, image, rules)
    if image.format == "PNG":
        return _prepare_png(data, image, rules)
    return _reencode(data, image, rules, str(image.format), keep_lossless=True)


def _prepare_jpeg(data: bytes, image: Image.Image, rules: ImageRules) -> PreparedImage:
    # What is rare is proven by Pillow's decoder alone, and encoded anew.
    if jpeg.frame_marker(data) not in jpeg.COMMON_FRAMES:
        return _reencode(data, image, rules, "rare JPEG coding", keep_lossless=True)
    try:
        small = jpeg.decode_whole(data)
    except RareSamplingError:
        return _reencode(data, image, rules, "rare JPEG coding", keep_lossless=True)
    except DamagedJpegError as error:
        raise BrokenImageError(str(error)) from error
    if image.mode not in ("L", "RGB"):
        return _reencode(data, image, rules, f"{image.mode} JPEG", keep_lossless=True)
    changes: list[str] = []
    if _orientation(image, changes) != UPRIGHT:
        # Not lossless, for once: as PNG a photograph takes five to ten times the space, on disk and in every epoch,
        # while the JPEG noise of quality 95 is below its own.
        return _reencode(data, image, rules, "turned JPEG", keep_lossless=False)
    width, height = image.size
    fingerprint = _hash(f"L {small.shape[1]}x{small.shape[0]} {width}x{height}", [small.tobytes()])
    return PreparedImage(data, "jpg", height, width, reencoded_from="", changes=tuple(changes), fingerprint=fingerprint)


def _prepare_png(data: bytes, image: Image.Image, rules: ImageRules) -> PreparedImage:
    # TensorFlow's decoder insists on the checksums and on the last chunk, Pillow's doesn't.
    image.verify()
    if png.END not in data:
        raise BrokenImageError("the PNG file ends too early")
    image = _open_checked(data, rules)
    if png.has_16_bits(data):
        return _reencode(data, image, rules, "16-bit PNG", keep_lossless=True)
    if png.has_unknown_chunks(data):
        return _reencode(data, image, rules, "rare PNG coding", keep_lossless=True)
    changes = _note_other_pictures(image)
    image.load()
    if _orientation(image, changes) != UPRIGHT:
        return _reencode(data, image, rules, "turned PNG", keep_lossless=True)
    if _is_transparent(image):
        if rules.background is not None:
            return _reencode(data, image, rules, "transparent PNG", keep_lossless=True)
        changes.append(_what_became_of_transparency(rules))
    return PreparedImage(
        data,
        "png",
        image.height,
        image.width,
        reencoded_from="",
        changes=tuple(changes),
        fingerprint=_hash_pixels(image),
    )


def _reencode(
    data: bytes, image: Image.Image, rules: ImageRules, reencoded_from: str, *, keep_lossless: bool
) -> PreparedImage:
    changes = [] if image.format == "MPO" else _note_other_pictures(image)
    pixels = _eight_bits(data, image, rules, changes)
    pixels.info = {}
    buffer = io.BytesIO()
    if keep_lossless:
        pixels.save(buffer, "PNG")
    else:
        pixels.save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=SAMPLES_KEPT_WHOLE)
    return PreparedImage(
        encoded=buffer.getvalue(),
        format="png" if keep_lossless else "jpg",
        height=pixels.height,
        width=pixels.width,
        reencoded_from=reencoded_from,
        changes=tuple(changes),
        fingerprint=_hash_pixels(pixels),
    )


class _NoLimit:
    """Within it Pillow reads images of any size: its own limit calls a large scan an attack.

    The limit is the whole process's: the first thread that enters sets it aside, the last that leaves puts it back.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._num_within = 0
        self._limit: int | None = None

    def __enter__(self) -> None:
        with self._lock:
            if self._num_within == 0:
                self._limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
            self._num_within += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._num_within -= 1
            if self._num_within == 0:
                Image.MAX_IMAGE_PIXELS = self._limit


_no_limit = _NoLimit()


def _open(source: io.BytesIO | Path) -> Image.Image:
    return Image.open(source, formats=FORMATS)


def _open_checked(data: bytes, rules: ImageRules) -> Image.Image:
    """Opens an image of no more than the size that the rules allow."""
    image = _open_heif(data) if _is_heif(data[:HEADER_BYTES]) else _open(io.BytesIO(data))
    from finetune.datasets.deep_samples import may_be_deep

    megapixels = image.width * image.height / 1e6
    times = DEEP_PIXEL_COUNTS if may_be_deep(image) else 1
    if megapixels * times > rules.max_megapixels:
        counting = f", which count {times} times, of 16 bits a sample" if times > 1 else ""
        raise BrokenImageError(
            f"its {image.width} x {image.height} pixels are {megapixels:.4g} megapixels{counting}, above the limit of "
            f"{rules.max_megapixels:g} (--max-megapixels)"
        )
    return image


def _is_heif(header: bytes) -> bool:
    if header[4:8] != b"ftyp":
        return False
    kinds = {header[at : at + 4] for at in range(8, min(len(header), int.from_bytes(header[:4])), 4)}
    return kinds.isdisjoint(AVIF_KINDS) and not kinds.isdisjoint(HEIF_KINDS)


def _open_heif(data: bytes) -> Image.Image:
    try:
        import pillow_heif
    except ImportError as error:
        raise BrokenImageError("HEIC files are read with the extra heic: pip install '.[heic]'") from error
    pillow_heif.register_heif_opener()
    return Image.open(io.BytesIO(data), formats=("HEIF",))


def _orientation(image: Image.Image, changes: list[str]) -> int:
    """How EXIF says the picture is to be turned, where it says what can be.

    TensorFlow's decoders ignore it, while every viewer obeys it: kept as it is, a telephone's photograph would be
    trained on lying on its side.
    """
    if "exif" not in image.info and "xmp" not in image.info:
        return UPRIGHT
    try:
        # Pillow may have met the trouble before, in search of the resolution, and not told.
        Image.Exif().load(image.info.get("exif", b""))
        orientation = image.getexif().get(ExifTags.Base.Orientation, UPRIGHT)
    except Exception:
        changes.append(METADATA_IGNORED)
        return UPRIGHT
    return orientation if orientation in TURNS else UPRIGHT


def _eight_bits(data: bytes, image: Image.Image, rules: ImageRules, changes: list[str]) -> Image.Image:
    """The image upright, in mode L or RGB, without transparency; notes what was changed."""
    from finetune.datasets.deep_samples import deep_samples, scaled, stated_bits

    if image.mode == "F":
        raise BrokenImageError("floating-point pixels, which have no agreed range")
    bits = stated_bits(image)
    deep = deep_samples(image, lambda: _open_checked(data, rules))
    if deep is None:
        image.load()
        pixels = image
    else:
        pixels = scaled(deep, bits or rules.sample_bits or 16)
        if bits is None and rules.sample_bits not in (None, 16):
            changes.append(f"{rules.sample_bits}-bit samples scaled to 8 bits")
    orientation = _orientation(image, changes)  # Of TIFF files Pillow turns the pixels as it loads them.
    if orientation != UPRIGHT:
        pixels = pixels.transpose(TURNS[orientation])
    if _is_transparent(pixels):
        changes.append(_what_became_of_transparency(rules))
        if rules.background_rgb is not None:
            return _laid_on(pixels, rules.background_rgb)
    if pixels.mode in ("L", "RGB"):
        return pixels
    if pixels.mode == "La":
        pixels = pixels.convert("LA")
    return pixels.convert("L" if pixels.mode in ("1", "L", "LA") else "RGB")


def _note_other_pictures(image: Image.Image) -> list[str]:
    """Of an animation or a file of several pages there is one picture to a class."""
    try:
        has_others = getattr(image, "is_animated", False)
    except Exception:  # The others can't be read.
        has_others = True
    return [OTHER_PICTURES_LEFT_OUT] if has_others else []


def _what_became_of_transparency(rules: ImageRules) -> str:
    return "transparency dropped" if rules.background is None else f"transparency laid on {rules.background}"


def _is_transparent(image: Image.Image) -> bool:
    """Whether anything shines through: an alpha channel that is opaque everywhere changes nothing."""
    if not image.has_transparency_data:
        return False
    return any(
        band.convert("RGBA").getchannel("A").histogram()[OPAQUE] < band.width * band.height for _, band in _bands(image)
    )


def _laid_on(image: Image.Image, background: tuple[int, int, int]) -> Image.Image:
    """The transparent image on an opaque ground; each value is rounded to the nearest."""
    is_grey = image.mode in ("1", "L", "LA", "La") and len(set(background)) == 1
    laid = Image.new("L", image.size, background[0]) if is_grey else Image.new("RGB", image.size, background)
    for top, band in _bands(image):
        colours = band.convert("RGBA")
        values = colours.getchannel("R") if is_grey else colours
        laid.paste(values, (0, top), mask=colours.getchannel("A"))
    return laid


def _bands(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    """The image in bands from edge to edge, each with its first row: copies of a large one whole take the memory."""
    for top in range(0, image.height, BAND_ROWS):
        yield top, image.crop((0, top, image.width, min(top + BAND_ROWS, image.height)))


def _hash_pixels(image: Image.Image) -> bytes:
    mode = "L" if image.mode == "L" else "RGB"
    bands = (band if band.mode == mode else band.convert(mode) for _, band in _bands(image))
    return _hash(f"{mode} {image.width}x{image.height} ", (band.tobytes() for band in bands))


def _hash(header: str, pixels: Iterable[bytes]) -> bytes:
    digest = hashlib.blake2b(header.encode(), digest_size=16)
    for part in pixels:
        digest.update(part)
    return digest.digest()
