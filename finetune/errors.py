"""Mistakes that the user can mend, and the search for the name that was meant."""

import difflib
import re
from collections.abc import Iterable

# What TensorFlow puts around its messages for its own developers: the function, the operation, and graph nodes.
_NODE_NAMES = re.compile(r"\{\{[^{}]*\}\}|\[\[[^\[\]]*\]\]|\[Op:[^\[\]]*\]|\bname: *$")


class UserError(Exception):
    """A mistake that the user can mend: told in a line or two on standard error, exit status 2, no traceback.

    The message says what was found and what was expected; `mend` names the flag or the action that mends it.
    """

    def __init__(self, message: str, mend: str | None = None) -> None:
        super().__init__(f"{message}\n  {mend}" if mend else message)


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
