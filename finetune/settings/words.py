"""From words, as command lines and TOML files have them, to values."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from finetune.remote.urls import is_url
from finetune.settings.flags import Flag, Tabular, of_another_kind, path_of_text

TRUE_WORDS = ("true", "t", "1", "yes", "y")
FALSE_WORDS = ("false", "f", "0", "no", "n")


def value_of_words(flag: Flag, text: str) -> Any:
    """The value that a text stands for; where the flag takes a list, its items are parted by commas.

    Raises:
        UserError: It stands for none of the flag's kind.
    """
    if text in flag.words:
        return text
    if not flag.is_list:
        return item_of_words(flag, text)
    if flag.kind is Path and _is_there(text):  # Whatever commas are in its name.
        return (item_of_words(flag, text),)
    return tuple(item_of_words(flag, part.strip()) for part in text.split(",") if part.strip())


def item_of_words(flag: Flag, text: str) -> Any:
    """The value, or one of the values of a list, that a text stands for.

    Raises:
        UserError: It stands for none of the flag's kind.
    """
    if issubclass(flag.kind, Tabular):
        return flag.kind.of_text(text)
    if flag.kind is Path and is_url(text):
        return path_of_text(flag.option, text)
    try:
        return _READERS[flag.kind](text)
    except (ValueError, KeyError):
        raise of_another_kind(flag, text) from None


def _read_path(text: str) -> Path:
    if not text:  # A path would take it for the current folder.
        raise ValueError("no path")
    path = Path(text)
    # What says that it is here is no home directory; a path forgets the dot.
    return path.absolute() if str(path).startswith("~") and not text.startswith("~") else path


_TRUTH = {**dict.fromkeys(TRUE_WORDS, True), **dict.fromkeys(FALSE_WORDS, False)}

_READERS: dict[type, Callable[[str], Any]] = {
    bool: lambda text: _TRUTH[text.lower()],
    int: int,
    float: float,
    str: str,
    Path: _read_path,
}


def _is_there(text: str) -> bool:
    """Whether there is such a path, or such a checkpoint."""
    path = os.path.expanduser(text)  # noqa: PTH111  Path.expanduser fails where a user isn't known.
    # Path.exists fails where a name is too long.
    return os.path.exists(path) or os.path.exists(f"{path}.index")  # noqa: PTH110
