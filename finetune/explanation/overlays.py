"""A class activation map laid over the picture that it is of."""

import dataclasses
import functools
import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

from finetune.explanation.seen_region import SeenRegion, seen_region
from finetune.preprocessing.steps import Step
from finetune.types import Array

# Perceptually uniform (matplotlib's): equal steps of the map look equal, in grey as well. It begins with a blue, by
# which the map's zeros are told from what isn't seen.
COLOUR_MAP = "plasma"
# How much of the colour there is where the map is 0, and where it is greatest.
LEAST_COLOUR, MOST_COLOUR = 0.4, 0.75
# What is left of the picture's light under the colours, so that white in it isn't taken for a great value; and where
# the network doesn't look.
SEEN_LIGHT, UNSEEN_LIGHT = 0.75, 0.3
# Pixels of the longer side: of a small picture the map could not be read, and of a large one it shows no more.
LEAST_SIDE, MOST_SIDE = 256, 768


@dataclasses.dataclass(frozen=True)
class ShownPicture:
    """What maps are laid over.

    Attributes:
        picture: RGB, in its own proportions.
        region: Where in it the network's square lies.
    """

    picture: Image.Image
    region: SeenRegion


def shown_picture(
    pixels: Array, steps: Sequence[Step], *, least_side: int = LEAST_SIDE, most_side: int = MOST_SIDE
) -> ShownPicture:
    """A picture of a size to be looked at.

    Args:
        pixels: uint8 [H,W,1] or [H,W,3]: the whole picture, as it is decoded for the network.
        steps: What the network's preprocessing does to it, as `Preprocessing.evaluation_steps` gives them.
        least_side: Of its longer side in pixels.
        most_side: The same.
    """
    height, width, channels = pixels.shape
    picture = Image.fromarray(pixels[..., 0] if channels == 1 else pixels).convert("RGB")
    longer = max(height, width)
    factor = min(max(longer, least_side), most_side) / longer
    size = max(1, round(width * factor)), max(1, round(height * factor))
    resized = picture.resize(size, Image.Resampling.BOX if factor < 1 else Image.Resampling.NEAREST)
    return ShownPicture(resized, seen_region(steps, height, width))


def overlay(shown: ShownPicture, activation: Array) -> Image.Image:
    """The picture in grey under the colours of a map; what the network doesn't see is dark, without colour.

    Args:
        shown: The picture.
        activation: The map, float32 [H,W], at least 0; its own greatest value has the brightest colour, and a map of
            zeros the darkest everywhere.

    Returns:
        RGB, of the picture's size.
    """
    grey = np.repeat(np.asarray(shown.picture.convert("L"), np.float32)[..., np.newaxis], 3, axis=2)
    laid = grey * UNSEEN_LIGHT
    seen, heat = _on_picture(activation, shown.region, *shown.picture.size)
    share = LEAST_COLOUR + (MOST_COLOUR - LEAST_COLOUR) * heat[..., np.newaxis]
    colours = _colours()[np.rint(heat * 255).astype(np.uint8)]
    laid[seen] = (1 - share) * SEEN_LIGHT * grey[seen] + share * colours
    return Image.fromarray(laid.astype(np.uint8))


def as_png(picture: Image.Image) -> bytes:
    """The bytes of a PNG file."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def _on_picture(activation: Array, region: SeenRegion, width: int, height: int) -> tuple[tuple[slice, slice], Array]:
    """The part of the picture that is seen, and the map's values there, 0 to 1 of the greatest one."""
    heat = Image.fromarray(activation / (activation.max() or 1.0))
    columns, from_column, to_column = _span(region.left, region.right, width, heat.width)
    rows, from_row, to_row = _span(region.top, region.bottom, height, heat.height)
    size = columns.stop - columns.start, rows.stop - rows.start
    box = from_column, from_row, to_column, to_row
    return (rows, columns), np.asarray(heat.resize(size, Image.Resampling.BICUBIC, box=box)).clip(0, 1)


def _span(begin: float, end: float, num_pixels: int, num_positions: int) -> tuple[slice, float, float]:
    """Which pixels of a side are seen, and from where to where in the map they reach."""
    first = min(round(max(begin, 0.0) * num_pixels), num_pixels - 1)
    last = max(round(min(end, 1.0) * num_pixels), first + 1)
    places = (np.array([first, last]) / num_pixels - begin) / (end - begin) * num_positions
    start, stop = places.clip(0, num_positions)
    return slice(first, last), float(start), float(stop)


@functools.cache
def _colours() -> Array:
    """RGB of 256 values, float32 [256,3]."""
    import matplotlib

    return (matplotlib.colormaps[COLOUR_MAP](np.arange(256))[:, :3] * 255).astype(np.float32)
