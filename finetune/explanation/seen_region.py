"""Which part of a picture a network sees, by the steps of its preprocessing."""

import dataclasses
from collections.abc import Sequence

from finetune.preprocessing.steps import Step


@dataclasses.dataclass(frozen=True)
class SeenRegion:
    """Where the borders of a network's square lie in a picture.

    All in shares of the picture's width or height, from its upper left corner; below 0 or above 1 where the square has
    borders around the picture.
    """

    left: float
    top: float
    right: float
    bottom: float


def seen_region(steps: Sequence[Step], height: int, width: int) -> SeenRegion:
    """Where a picture of so many pixels lies in what the steps of an evaluation make of it.

    Args:
        steps: As `Preprocessing.evaluation_steps` gives them.
        height: Of the picture, in pixels.
        width: The same.
    """
    vertical, horizontal = _Axis(height), _Axis(width)
    for step in steps:
        sides = vertical.size, horizontal.size
        for axis, name in ((vertical, "height"), (horizontal, "width")):
            match step["step"]:
                case "central_crop":
                    axis.cut_to(axis.size - 2 * int(axis.size * (1 - step["fraction"]) / 2))
                case "resize":
                    axis.resize_to(step[name])
                case "resize_short_side":
                    axis.resize_to(round(axis.size * step["short_side"] / min(sides)))
                case "resize_long_side":
                    axis.resize_to(max(1, round(axis.size * step["long_side"] / max(sides))))
                case "pad" | "centre_crop" | "centre_crop_or_pad":
                    axis.cut_to(step[name])
    return SeenRegion(horizontal.begin / width, vertical.begin / height, horizontal.end / width, vertical.end / height)


class _Axis:
    """One side of what a picture was made into, and where in the picture it begins, all in pixels."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.begin = 0.0
        self._pixel = 1.0  # Of the picture, in one of what was made of it.

    @property
    def end(self) -> float:
        return self.begin + self.size * self._pixel

    def resize_to(self, size: int) -> None:
        self._pixel *= self.size / size
        self.size = size

    def cut_to(self, size: int) -> None:
        """Around the same middle; a longer side than before has borders."""
        before = (self.size - size) // 2 if size < self.size else -((size - self.size) // 2)
        self.begin += before * self._pixel
        self.size = size
