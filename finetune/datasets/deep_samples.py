"""Images of more than 8 bits a sample: all their bits, of which Pillow hands out a part, and how they become 8."""

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

from finetune.types import Array

MOST_VALUE = 0xFFFF
TIFF_BITS_PER_SAMPLE = 258
# Of colours of 16 bits a sample Pillow reads the high bytes. Told the other order of bytes, it reads the low ones.
OTHER_BYTES = {
    f"{mode};16{order}": f"{mode};16{other}"
    for mode in ("RGB", "RGBX", "RGBA")
    for order, other in (("B", "L"), ("L", "B"), ("N", "B" if sys.byteorder == "little" else "L"))
}
# Grey and transparency of 16 bits each, which Pillow only reads by the high bytes: as four bytes a pixel.
GREY_AND_ALPHA, AS_FOUR_BYTES = "LA;16B", "RGBA"


def stated_bits(image: Image.Image) -> int | None:
    """How many bits of a sample are used, where the file says it, or Pillow has scaled the samples by what it says."""
    if image.format in ("PPM", "JPEG2000"):
        return 16
    if image.format == "TIFF":
        bits = image.tag_v2.get(TIFF_BITS_PER_SAMPLE, (16,))[0]  # type: ignore[attr-defined]
        return bits if 8 < bits < 16 else None
    return None


def may_be_deep(image: Image.Image) -> bool:
    """Whether `deep_samples` finds any, as far as it shows before the image is loaded."""
    order = _order_of_bytes(image)
    return image.mode.startswith("I") or order == GREY_AND_ALPHA or order in OTHER_BYTES


def deep_samples(image: Image.Image, reopen: Callable[[], Image.Image]) -> Array | None:
    """The samples of an image that has 16 bits each, uint16 [H,W,C]; an even number of channels ends in alpha.

    Args:
        image: Opened, and not loaded yet; it is afterwards.
        reopen: Opens it once more.

    Returns:
        None where the samples have no more than 8 bits.

    Raises:
        ValueError: They have more than 16.
    """
    if image.mode.startswith("I"):
        return _deep_grey(image)
    order = _order_of_bytes(image)
    if order == GREY_AND_ALPHA:
        return _load_as(image, AS_FOUR_BYTES).view(">u2")
    if order not in OTHER_BYTES:
        return None
    low = _load_as(reopen(), OTHER_BYTES[order])
    image.load()
    samples = np.asarray(image).astype(np.uint16)
    samples <<= 8  # In place, as all that is done to an image that may be large.
    samples |= low
    del low
    invisible = image.info.get("transparency")
    if invisible is None:
        return samples
    is_visible = (samples != np.array(invisible, np.uint16)).any(axis=2, keepdims=True)
    return np.concatenate([samples, is_visible * np.uint16(MOST_VALUE)], axis=2)


def colours_of(samples: Array) -> Array:
    """The samples without alpha."""
    return samples[..., :-1] if samples.shape[2] % 2 == 0 else samples


def scaled(samples: Array, bits: int) -> Image.Image:
    """The upper 8 of so many bits, as TensorFlow and libpng take them of 16; what is beyond their range is white.

    Alpha may use all of 16 bits where the colours use fewer.
    """
    values = _upper_bits(samples, bits)
    has_alpha = samples.shape[2] % 2 == 0
    if has_alpha and samples[..., -1].max() >= 1 << bits:
        values[..., -1] = _upper_bits(samples[..., -1], 16)
    return Image.fromarray(values[..., 0] if values.shape[2] == 1 else values)


def _deep_grey(image: Image.Image) -> Array:
    image.load()
    values = np.asarray(image)[..., None]
    if values.min() < 0 or values.max() > MOST_VALUE:
        raise ValueError("pixels of more than 16 bits, which have no agreed range")
    invisible = image.info.get("transparency")
    values = values.astype(np.uint16)
    if invisible is None:
        return values
    return np.concatenate([values, (values != invisible) * np.uint16(MOST_VALUE)], axis=2)


def _order_of_bytes(image: Image.Image) -> str | None:
    """What Pillow calls the layout of the samples in the file."""
    tiles = getattr(image, "tile", None)
    if not tiles:
        return None
    arguments = tiles[0].args
    return arguments if isinstance(arguments, str) else arguments[0] if arguments else None


def _load_as(image: Any, order: str) -> Array:
    """Loads the image as if its samples had that layout."""
    image.tile = [
        tile._replace(args=order if isinstance(tile.args, str) else (order, *tile.args[1:])) for tile in image.tile
    ]
    image.load()
    return np.asarray(image)


def _upper_bits(samples: Array, bits: int) -> Array:
    upper = samples >> (bits - 8)
    return np.minimum(upper, 0xFF, out=upper).astype(np.uint8)
