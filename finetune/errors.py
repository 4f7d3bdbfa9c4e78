"""Mistakes that the user can mend, and the search for the name that was meant."""

import difflib
from collections.abc import Iterable


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
