"""Mistakes that the user can mend, and the search for the name that was meant."""

import difflib
import itertools
import re
from collections.abc import Iterable
from pathlib import Path

# Of a folder with more than these, the rest is not looked through for a name that was meant.
MOST_SIBLINGS = 10_000

# What TensorFlow puts around its messages for its own developers: the function, the operation, and graph nodes.
_NODE_NAMES = re.compile(r"\{\{[^{}]*\}\}|\[\[[^\[\]]*\]\]|\[Op:[^\[\]]*\]|\bname: *$")


_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class UserError(Exception):
    """A mistake that the user can mend: told in a line or two on standard error, exit status 2, no traceback.

    The message says what was found and what was expected; `mend` names the flag or the action that mends it.
    """

    def __init__(self, message: str, mend: str | None = None) -> None:
        super().__init__(f"{message}\n  {mend}" if mend else message)


class Interrupted(KeyboardInterrupt):
    """A signal ended the work; the message says what was kept, and how to go on.

    Attributes:
        signal_number: SIGINT, of Ctrl-C, or SIGTERM; the exit status is 128 more.
    """

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.signal_number = signal_number


def visible(text: str) -> str:
    """The text with control characters as escapes, but for tabs and line breaks: none reaches a terminal as a command.

    Names of files and classes, and what servers answer, may hold any.
    """
    return _CONTROLS.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def first_line(error: BaseException) -> str:
    """The first line of an error's message that says something, without TensorFlow's names of nodes and operations."""
    lines = (" ".join(_NODE_NAMES.sub("", line).split()) for line in str(error).splitlines())
    return next((line for line in lines if line), type(error).__name__)


def nearest(name: str, candidates: Iterable[str], most: int = 3) -> list[str]:
    """The candidates that look most like `name`, best first; letter case is not held against them."""
    by_folded: dict[str, str] = {}
    for candidate in candidates:
        by_folded.setdefault(candidate.casefold(), candidate)
    matches = difflib.get_close_matches(name.casefold(), by_folded, n=most, cutoff=0.5)
    return [by_folded[match] for match in matches]


def did_you_mean(name: str, candidates: Iterable[str]) -> str:
    """A sentence with the nearest candidates, or with all of them where none is near."""
    candidates = list(candidates)
    close = nearest(name, candidates)
    if close:
        return f"Did you mean {' or '.join(close)}?"
    return f"Known: {', '.join(candidates)}." if candidates else ""


def nearest_siblings(path: Path, *, only_folders: bool = False) -> str | None:
    """A sentence for a path that isn't there: what lies beside it and looks like it; None where nothing does.

    Where the folder around it is missing too, the first part of the path that is missing is looked for.
    """
    missing = path.absolute()
    while not missing.parent.exists():
        missing = missing.parent
    try:
        siblings = list(itertools.islice(missing.parent.iterdir(), MOST_SIBLINGS))
    except OSError:
        siblings = []
    names = nearest(missing.name, (sibling.name for sibling in siblings if not only_folders or sibling.is_dir()))
    if missing == path.absolute():
        return f"Did you mean {' or '.join(names)}?" if names else None
    close = " or ".join(str(missing.parent / name) for name in names)
    return f"There is no {missing}." + (f" Did you mean {close}?" if close else "")
