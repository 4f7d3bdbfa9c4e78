"""The rules by which an image file becomes pixels of 8 bits, where its format leaves a choice.

A data set is converted by one set of rules, which its dataset.json holds; a run that is trained on it keeps them, and
whatever predicts with the run, or is exported from it, prepares images by the same.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from finetune.errors import UserError, nearest
from finetune.settings.choices import (
    DEFAULT_BACKGROUND,
    DEFAULT_MAX_MEGAPIXELS,
    LEAST_SAMPLE_BITS,
    MOST_MEGAPIXELS,
    MOST_SAMPLE_BITS,
)

BYTES_PER_PIXEL = 4
METADATA_BYTES = 64 << 20
# What `ImageRules.from_json` takes.
IMAGE_RULES_SHAPE = {"background": str | None, "sample_bits": int | None}


@dataclass(frozen=True)
class ImageRules:
    """How an image file becomes pixels of 8 bits.

    Attributes:
        background: The colour that transparency is laid on, by name or as #rrggbb; None: transparency is dropped, and
            the colours hidden behind it come out.
        sample_bits: How many bits of the samples are used where a file has 16 a sample; None: all 16, and no image of
            the data set had so many.
        max_megapixels: The largest image that is read; no part of what the images look like.

    Raises:
        UserError: A value out of its range; it is called by its flag.
    """

    background: str | None = DEFAULT_BACKGROUND
    sample_bits: int | None = None
    max_megapixels: float = field(default=DEFAULT_MAX_MEGAPIXELS, compare=False)

    def __post_init__(self) -> None:
        if self.background is not None:
            _parse_colour(self.background)
        if self.sample_bits is not None and not LEAST_SAMPLE_BITS <= self.sample_bits <= MOST_SAMPLE_BITS:
            raise UserError(
                f"--sample-bits is {self.sample_bits}; files of 16 bits a sample use "
                f"{LEAST_SAMPLE_BITS} to {MOST_SAMPLE_BITS} of them."
            )
        if not 0 < self.max_megapixels <= MOST_MEGAPIXELS:
            raise UserError(
                f"--max-megapixels is {self.max_megapixels:g}; it must be above 0 and at most {MOST_MEGAPIXELS:g}, "
                "where TensorFlow's decoders end."
            )

    @property
    def background_rgb(self) -> tuple[int, int, int] | None:
        """The background's red, green and blue, 0 to 255."""
        return None if self.background is None else _parse_colour(self.background)

    @property
    def most_bytes(self) -> int:
        """Of a file: what the largest image takes without compression, and something for metadata."""
        return int(self.max_megapixels * 1e6) * BYTES_PER_PIXEL + METADATA_BYTES

    def differences(self, other: "ImageRules") -> list[str]:
        """In words, what makes images come out otherwise than by the other rules; nothing if they come out the same."""
        found = []
        if self.background_rgb != other.background_rgb:
            found.append(f"transparency {_laid_on(self.background)}, not {_laid_on(other.background)}")
        # Where one side had no file of 16 bits, nothing was scaled.
        if self.sample_bits and other.sample_bits and self.sample_bits != other.sample_bits:
            found.append(f"16-bit files scaled from {self.sample_bits} bits, not {other.sample_bits}")
        return found

    def to_json(self) -> dict[str, Any]:
        """What `from_json` reads."""
        return {"background": self.background, "sample_bits": self.sample_bits}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "ImageRules":
        """Reads rules from the content of a JSON file.

        Args:
            content: Of `IMAGE_RULES_SHAPE`.

        Raises:
            UserError: As the class.
        """
        return cls(content["background"], content["sample_bits"])


def _laid_on(background: str | None) -> str:
    return "dropped" if background is None else f"laid on {background}"


def _parse_colour(name: str) -> tuple[int, int, int]:
    if name == DEFAULT_BACKGROUND:  # Known without Pillow, which takes a while to load.
        return 0xFF, 0xFF, 0xFF
    from PIL import ImageColor

    try:
        red, green, blue, *alpha = ImageColor.getrgb(name)
        if alpha:
            raise ValueError("a transparent colour")
    except ValueError as error:
        close = " or ".join(nearest(name, ImageColor.colormap))
        raise UserError(
            f"--background: {name!r} is no opaque colour, such as white, gray or #ff8000.",
            f"Did you mean {close}?" if close else None,
        ) from error
    return red, green, blue


DEFAULT_RULES = ImageRules()
# Records that say nothing of rules, slim's among them, hold files as they were: TensorFlow's decoders drop transparency
# and take the high byte of 16 bits. What was trained on those must see files in the same way.
RULES_OF_OTHER_RECORDS = ImageRules(background=None, sample_bits=16)
