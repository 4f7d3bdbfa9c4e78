"""Lines that say what was guessed, left out or changed: each of them once, however many splits it holds for."""

import contextlib
import logging
import unicodedata
from collections.abc import Iterator, Sequence

log = logging.getLogger("finetune")

# Unicode's categories of control characters and of other line breaks.
CONTROL = ("Cc", "Zl", "Zp")

_told: set[str] = set()


def tell_once(notice: str, *, level: int = logging.INFO) -> None:
    """Logs a line, which names the folder or file it is about, unless this process has logged it before."""
    if notice not in _told:
        _told.add(notice)
        log.log(level, "%s", notice)


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Within, nothing is logged below an error, and what is said once is still to be said."""
    told, level = set(_told), log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)
        _told.intersection_update(told)


def has_control(text: str) -> bool:
    """Whether it holds a line break or another control character."""
    return any(unicodedata.category(letter) in CONTROL for letter in text)


def on_one_line(text: str) -> str:
    """The text with line breaks, tabs and other control characters as escapes: a file may be called anything."""
    if not has_control(text):
        return text
    return "".join(c.encode("unicode_escape").decode() if unicodedata.category(c) in CONTROL else c for c in text)


def few(items: Sequence[object], most: int = 3, separator: str = ", ", *, total: int | None = None) -> str:
    """The first items in words, and how many more there are: of these, or of `total` where these are some of them."""
    more = (len(items) if total is None else total) - min(len(items), most)
    return separator.join(map(str, items[:most])) + (f" and {more:,} more" if more > 0 else "")
