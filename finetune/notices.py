"""Lines that say what was guessed, left out or changed: each of them once, however many splits it holds for."""

import logging
from collections.abc import Sequence

log = logging.getLogger("finetune")

_told: set[str] = set()


def tell_once(notice: str) -> None:
    """Logs a line, which names the folder or file it is about, unless this process has logged it before."""
    if notice not in _told:
        _told.add(notice)
        log.info("%s", notice)


def few(items: Sequence[object], most: int = 3, separator: str = ", ", *, total: int | None = None) -> str:
    """The first items in words, and how many more there are: of these, or of `total` where these are some of them."""
    more = (len(items) if total is None else total) - min(len(items), most)
    return separator.join(map(str, items[:most])) + (f" and {more:,} more" if more > 0 else "")
