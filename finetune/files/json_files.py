"""JSON files read with a check of what they hold: whatever else lies in one is told with its name, and not believed.

A shape says what is expected of a value:

    str, int, bool, str | None     of that type; true is no number
    Number(float, at_most=1)       a finite number in a range
    {"step": int}                  an object with these keys, and others that don't matter; MayLack(...): or without it
    {...: str}                     an object of any keys
    [str]                          a list
    dict                           an object of whatever
"""

import dataclasses
import json
import math
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from finetune.errors import UserError
from finetune.files.whole_files import MOST_TEXT_BYTES, TextTooLongError, read_text
from finetune.notices import few, tell_once

MOST_LINE_BYTES = 2**20

Shape = Any

_WORDS = {
    str: "a text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    dict: "an object",
    types.NoneType: "null",
}


@dataclasses.dataclass(frozen=True)
class Number:
    """A finite number, or a whole one, in a range."""

    kind: type = float
    at_least: float = -math.inf
    at_most: float = math.inf


@dataclasses.dataclass(frozen=True)
class MayLack:
    """The value of a key that may be missing."""

    shape: Shape


def read_json(path: Path, shape: Shape, mend: str | None = None) -> Any:
    """What a JSON file holds.

    Args:
        path: Of the file.
        shape: What is expected of it.
        mend: What the user can do where it holds something else.

    Raises:
        UserError: It can't be read, is no JSON, or of another shape.
    """
    try:
        if path.exists() and not path.is_file():
            raise ValueError("it is no file")
        return _parsed(read_text(path), shape)
    except OSError as error:
        raise UserError(f"{path} can't be read: {error.strerror}.", mend) from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} can't be read: {_reason(error)}.", mend) from error


def read_json_or_tell(path: Path, shape: Shape, without: str) -> Any:
    """What a JSON file holds that can be done without; None where there is no file, or none of the shape.

    Args:
        path: Of the file.
        shape: What is expected of it.
        without: What comes of its absence, in words.
    """
    if not path.exists():
        return None
    try:
        return read_json(path, shape)
    except UserError as error:
        tell_once(f"{error} {without}")
        return None


def read_json_lines(path: Path, shape: Shape, mend: str | None = None) -> Iterator[Any]:
    """The values of a file with one on each line. Behind the last line break is nothing, or what a full disk left.

    Raises:
        UserError: A line is no JSON, or of another shape; its number is told.
    """
    number = 0
    try:
        if not path.is_file():
            raise ValueError("it is no file")
        with path.open("rb") as file:
            while (line := file.readline(MOST_LINE_BYTES)).endswith(b"\n"):
                number += 1
                yield _parsed(line.decode(), shape)
            if len(line) == MOST_LINE_BYTES:
                number += 1
                raise ValueError(f"it is longer than {MOST_LINE_BYTES:,} bytes")
    except OSError as error:
        raise UserError(f"{path} can't be read: {error.strerror}.", mend) from error
    except (ValueError, RecursionError) as error:
        line_number = f", line {number}," if number else ""
        raise UserError(f"{path}{line_number} can't be read: {_reason(error)}.", mend) from error


def _parsed(text: str, shape: Shape) -> Any:
    value = json.loads(text)
    _check(value, shape, "it")
    return value


def _reason(error: ValueError | RecursionError) -> str:
    if isinstance(error, RecursionError):
        return "its lists and objects lie too deep in each other"
    if isinstance(error, TextTooLongError):
        return f"it has more than {MOST_TEXT_BYTES:,} bytes"
    if isinstance(error, UnicodeError):
        return "it is no text in UTF-8"
    if isinstance(error, json.JSONDecodeError):
        return f"it is no JSON: {error}"
    return str(error)


def _check(value: Any, shape: Shape, what: str) -> None:
    """Compares a value with a shape; `what` says where the value stands.

    Raises:
        ValueError: It is of another shape.
    """
    if isinstance(shape, Number):
        _check_number(value, shape, what)
    elif isinstance(shape, dict):
        _check_object(value, shape, what)
    elif isinstance(shape, list):
        if not isinstance(value, list):
            raise ValueError(f"{what} is {_shown(value)}, but must be a list")
        for index, item in enumerate(value):
            _check(item, shape[0], _part_of(what, index))
    elif not isinstance(value, shape) or (isinstance(value, bool) and not _takes(shape, bool)):
        raise ValueError(f"{what} is {_shown(value)}, but must be {_in_words(shape)}")


def _check_number(value: Any, number: Number, what: str) -> None:
    kinds = int if number.kind is int else int | float
    is_number = isinstance(value, kinds) and not isinstance(value, bool)
    if not is_number or not -math.inf < value < math.inf or not number.at_least <= value <= number.at_most:
        bounds = [f"at least {number.at_least}"] if number.at_least > -math.inf else []
        bounds += [f"at most {number.at_most}"] if number.at_most < math.inf else []
        kind = "a whole number" if number.kind is int else "a finite number"
        raise ValueError(f"{what} is {_shown(value)}, but must be {' and '.join([kind, *bounds])}")


def _check_object(value: Any, shape: dict[Any, Shape], what: str) -> None:
    if not isinstance(value, dict):
        keys = [key for key in shape if key is not ...]
        raise ValueError(f"{what} is {_shown(value)}, but must be an object{f' with {few(keys)}' if keys else ''}")
    for key, expected in shape.items():
        if key is ...:
            for name, item in value.items():
                _check(item, expected, _part_of(what, name))
        elif key in value:
            _check(value[key], expected.shape if isinstance(expected, MayLack) else expected, _part_of(what, key))
        elif not isinstance(expected, MayLack):
            raise ValueError(f"{what} lacks {key}")


def _takes(shape: Any, kind: type) -> bool:
    return kind in (shape.__args__ if isinstance(shape, types.UnionType) else (shape,))


def _in_words(shape: Any) -> str:
    kinds = shape.__args__ if isinstance(shape, types.UnionType) else (shape,)
    return " or ".join(_WORDS[kind] for kind in kinds)


def _part_of(what: str, key: Any) -> str:
    name = _shown(key) if isinstance(key, int) or not str(key).isidentifier() else str(key)
    return name if what == "it" else f"{what}.{name}"


def _shown(value: Any) -> str:
    """A value in a few characters."""
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return "a list"
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:40]}…"
