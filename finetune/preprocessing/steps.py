"""Evaluation's preprocessing as data: what is done to a decoded image, for programs that do it themselves.

A step is a JSON object. `step` says which operation it is, `in_words` describes it to people, and all else is what the
operation needs; together they leave nothing to guess. Each family's `evaluation_steps` gives its own, made of the same
constants as its `evaluate`.
"""

from collections.abc import Sequence
from typing import Any

from finetune.types import Array

Step = dict[str, Any]

_SAMPLING = {"method": "bilinear", "antialias": False, "half_pixel_centers": False, "align_corners": False}
_SAMPLING_IN_WORDS = (
    "Bilinear, without antialiasing. Output pixel i, counted from 0, is taken at input position i * input / output, "
    "not at pixel centres: between the pixels below and above it, of which the last is repeated at the border. In "
    "float32, without rounding the result (in TensorFlow: tf.compat.v1.image.resize_bilinear with its defaults)."
)


def central_crop(fraction: float) -> Step:
    """Keeps a share of each side, and its middle."""
    return {
        "step": "central_crop",
        "fraction": fraction,
        "in_words": f"Keep the middle {fraction * 100:g} % of each side: take int(side * (1 - {fraction:g}) / 2) "
        "pixels, rounded down, off either end of it (in TensorFlow: tf.image.central_crop).",
    }


def resize(height: int, width: int) -> Step:
    """Resizes to [height,width] whatever the aspect ratio."""
    return {
        "step": "resize",
        "height": height,
        "width": width,
        **_SAMPLING,
        "in_words": f"Resize to {height} rows of {width} pixels, whatever the aspect ratio. {_SAMPLING_IN_WORDS}",
    }


def resize_short_side(short_side: int) -> Step:
    """Resizes, the aspect ratio kept."""
    return {
        "step": "resize_short_side",
        "short_side": short_side,
        "side_rounding": "half to even",
        **_SAMPLING,
        "in_words": f"Resize so that the shorter side has {short_side} pixels and the aspect ratio is kept: with scale "
        f"= {short_side} / shorter side, both sides become round(side * scale), all in float32, a half rounded to the "
        f"even number. {_SAMPLING_IN_WORDS}",
    }


def resize_long_side(long_side: int) -> Step:
    """Resizes, the aspect ratio kept."""
    return {
        "step": "resize_long_side",
        "long_side": long_side,
        "side_rounding": "half to even",
        **_SAMPLING,
        "in_words": f"Resize so that the longer side has {long_side} pixels and the aspect ratio is kept: with scale = "
        f"{long_side} / longer side, both sides become round(side * scale), 1 at least, all in float32, a half rounded "
        f"to the even number. {_SAMPLING_IN_WORDS}",
    }


def pad(height: int, width: int, value: float) -> Step:
    """Adds borders of a value, 0 to 255, to [height,width] around an image that is no larger."""
    return {
        "step": "pad",
        "height": height,
        "width": width,
        "pad_value": value,
        "in_words": f"Bring each side to {height} rows of {width} pixels by borders of the value {value:g}: before the "
        "image (wanted - side) / 2 of them, rounded down, and the rest after it.",
    }


def centre_crop(height: int, width: int) -> Step:
    """Cuts [height,width] out of the middle of an image that is no smaller."""
    return {
        "step": "centre_crop",
        "height": height,
        "width": width,
        "in_words": f"Cut {height} rows of {width} pixels out of the middle, the first of them number (side - cut) / 2 "
        "rounded down.",
    }


def centre_crop_or_pad(height: int, width: int) -> Step:
    """Cuts, or adds black borders, to [height,width] around the same middle."""
    return {
        "step": "centre_crop_or_pad",
        "height": height,
        "width": width,
        "pad_value": 0,
        "in_words": f"Without resizing, bring each side to {height} rows of {width} pixels. Of a longer side cut out "
        "the middle, its first pixel number (side - cut) / 2 rounded down; before a shorter one put (wanted - side) / "
        "2 zeros, rounded down, and the rest after it (in TensorFlow: tf.image.resize_with_crop_or_pad).",
    }


def scale(multiply_by: float, add: Sequence[float]) -> Step:
    """Values as value * multiply_by + add, with a number to add for each channel."""
    amounts = ", ".join(f"{amount:g}" for amount in dict.fromkeys(add))
    return {
        "step": "scale",
        "multiply_by": multiply_by,
        "add": list(add),
        "in_words": f"In float32: value * {multiply_by:g} + ({amounts}), the numbers exactly as multiply_by and add "
        "have them, one of add for each channel.",
    }


def reverse_channels() -> Step:
    """Blue, green, red in place of red, green, blue."""
    return {"step": "reverse_channels", "in_words": "The channels the other way round: blue, green, red."}


def divide(by: Sequence[float]) -> Step:
    """Values divided by a number for each channel."""
    numbers = ", ".join(f"{number:g}" for number in by)
    return {"step": "divide", "by": list(by), "in_words": f"In float32: value / ({numbers}), one for each channel."}


def standardise() -> Step:
    """Mean 0 and standard deviation 1 in each image."""
    return {
        "step": "standardise",
        "in_words": "In float32: (value - mean) / max(deviation, 1 / sqrt(n)), with mean and standard deviation "
        "(divided by n) of all n = height * width * channels values of this image "
        "(in TensorFlow: tf.image.per_image_standardization).",
    }


def value_range(steps: Sequence[Step]) -> tuple[list[float], list[float]] | None:
    """The least and the largest value of each channel after all steps; None where each image has its own."""
    least, largest = [0.0], [255.0]
    for step in steps:
        match step["step"]:
            case "standardise":
                return None
            case "scale":
                least = list(step["add"])
                largest = [255 * step["multiply_by"] + amount for amount in step["add"]]
            case "reverse_channels":
                least, largest = least[::-1], largest[::-1]
            case "divide":
                least = [value / by for value, by in zip(least, step["by"], strict=True)]
                largest = [value / by for value, by in zip(largest, step["by"], strict=True)]
    return least, largest


def to_pixels(images: Array, steps: Sequence[Step]) -> Array:
    """Images [...,C] as they are after all steps, brought back to [0, 255] for people, of the same type.

    Where each image was given a mean of 0 and a deviation of 1 its own can't be known: it is shown with 128 and 64.
    """
    last = steps[-1]
    multiply_by, add = (last["multiply_by"], last["add"]) if last["step"] == "scale" else (1 / 64, [-2.0])
    return ((images - add) / multiply_by).clip(0, 255).astype(images.dtype)
