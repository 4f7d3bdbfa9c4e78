"""What a sweep searches: texts such as `learning_rate=1e-4..1e-2:log` as ranges and choices, by the rules of flags."""

import dataclasses
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from finetune.errors import UserError, did_you_mean
from finetune.settings.flags import Flag, checked, of_another_kind
from finetune.settings.words import value_of_words

_FORM = "SETTING=LOW..HIGH, SETTING=LOW..HIGH:log or SETTING=ONE|OTHER"
MOST_CORNERS = 4096

# A number of a range, or the text of a choice.
Point = float | int | str


@dataclasses.dataclass(frozen=True)
class Range:
    """Numbers from low to high, both included; whole ones for a setting of whole numbers."""

    name: str
    low: float | int
    high: float | int
    is_log: bool = False

    @property
    def corners(self) -> tuple[Point, ...]:
        """Its ends."""
        return self.low, self.high

    @property
    def num_points(self) -> float:
        """How many values it has."""
        return self.high - self.low + 1 if isinstance(self.low, int) else math.inf


@dataclasses.dataclass(frozen=True)
class Choice:
    """One of several values, as texts of the command line."""

    name: str
    texts: tuple[str, ...]

    @property
    def corners(self) -> tuple[Point, ...]:
        """All of them."""
        return self.texts

    @property
    def num_points(self) -> float:
        """How many values it has."""
        return len(self.texts)


Space = tuple[Range | Choice, ...]


def parse_space(texts: Sequence[str], flags: Mapping[str, Flag]) -> Space:
    """The ranges and choices that texts stand for.

    Args:
        texts: `SETTING=VALUES` each.
        flags: The settings that can be searched, by name.

    Raises:
        UserError: A text of another form; a setting that isn't there, the nearest are named, or comes twice; a value
            that its flag doesn't allow.
    """
    by_word = {alias: flag for flag in flags.values() for alias in (flag.name, *flag.slim)}
    space: list[Range | Choice] = []
    for text in texts:
        word, equals, values = text.partition("=")
        name = word.strip().removeprefix("--").replace("-", "_")
        if not equals or not name or not values.strip():
            raise UserError(f"--sweep: {text!r} is none of {_FORM}.")
        if name not in by_word:
            mend = did_you_mean(name, by_word)
            raise UserError(f"--sweep: {name!r} is no setting of how a network is trained.", mend)
        if any(dimension.name == by_word[name].name for dimension in space):
            raise UserError(f"--sweep: {name} is searched twice.", "Give one range, or all values parted by |.")
        space.append(_dimension(by_word[name], values.strip()))
    return tuple(space)


def values_of(space: Space, flags: Mapping[str, Flag], point: Mapping[str, Point]) -> dict[str, Any]:
    """The settings' values at a point of the space."""
    choices = {dimension.name for dimension in space if isinstance(dimension, Choice)}
    return {
        name: checked(flags[name], value_of_words(flags[name], str(value)) if name in choices else value)
        for name, value in point.items()
    }


def corners(space: Space) -> Iterator[dict[str, Point]]:
    """All combinations of the ranges' ends and of the choices.

    Raises:
        UserError: They are too many.
    """
    num_corners = math.prod(len(dimension.corners) for dimension in space)
    if num_corners > MOST_CORNERS:
        raise UserError(
            f"--sweep: the ends of its ranges and its choices have {num_corners:,} combinations, more than "
            f"{MOST_CORNERS:,}.",
            "Search fewer settings at once.",
        )
    names = [dimension.name for dimension in space]
    for values in itertools.product(*(dimension.corners for dimension in space)):
        yield dict(zip(names, values, strict=True))


def points(space: Space) -> Iterator[dict[str, Point]]:
    """All points that can be counted: of ranges that aren't of whole numbers, the ends."""
    names = [dimension.name for dimension in space]
    for values in itertools.product(*map(_countable, space)):
        yield dict(zip(names, values, strict=True))


def num_points(space: Space) -> float:
    """How many points it has; infinite where a range isn't of whole numbers."""
    return math.prod(dimension.num_points for dimension in space)


def point_text(point: Mapping[str, Point]) -> str:
    """A point of the space in words."""
    return ", ".join(f"{name} {short(value)}" for name, value in point.items())


def short(value: Point) -> str:
    """A value as it is shown, and as flags take it."""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _countable(dimension: Range | Choice) -> Sequence[Point]:
    if isinstance(dimension, Range) and isinstance(dimension.low, int) and isinstance(dimension.high, int):
        return range(dimension.low, dimension.high + 1)
    return dimension.corners


def _dimension(flag: Flag, values: str) -> Range | Choice:
    if flag.kind in (int, float) and not flag.is_list and ".." in values:
        return _range(flag, values)
    texts = tuple(text.strip() for text in values.split("|"))
    if len(texts) == 1:
        raise UserError(
            f"--sweep: {flag.name} has the one value {values!r}.",
            f"Give several, {flag.name}={values}|OTHER, or leave it out and give {flag.option} {values}.",
        )
    if len(set(texts)) < len(texts) or not all(texts):
        raise UserError(f"--sweep: {flag.name}={values} has a value twice, or an empty one.")
    for text in texts:
        _checked(flag, text)
    return Choice(flag.name, texts)


def _range(flag: Flag, values: str) -> Range:
    ends, colon, scale = values.partition(":")
    low, high = (_checked(flag, end.strip()) for end in ends.split("..", 1))
    if (colon and scale != "log") or isinstance(low, str) or isinstance(high, str):
        raise UserError(f"--sweep: {flag.name}={values} is none of {_FORM}.")
    if not low < high:
        raise UserError(f"--sweep: {flag.name}={values} must rise: the lower end comes first.")
    if colon and low <= 0:
        raise UserError(
            f"--sweep: {flag.name}={values}: a logarithmic range begins above 0.",
            "Leave :log out, or give another end.",
        )
    return Range(flag.name, low, high, bool(colon))


def _checked(flag: Flag, text: str) -> Any:
    try:
        if flag.kind in (int, float) and not flag.is_list and text == "":
            raise of_another_kind(flag, text)
        return checked(flag, value_of_words(flag, text))
    except UserError as error:
        raise UserError(f"--sweep: {error}") from error
