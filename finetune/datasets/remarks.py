"""What a conversion tells beside its table: each thing that was left out, changed, guessed or looks doubtful."""

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from finetune.notices import few

MOST_KEPT = 10
MOST_NAMED = 3


class Kind(enum.Enum):
    """Why it is told; the value is the line's first word."""

    LEFT_OUT = "Left out"
    CHANGED = "Changed"
    GUESSED = "Guessed"
    DOUBTFUL = "Doubtful"


@dataclass(frozen=True)
class Remark:
    """One line to the user.

    Attributes:
        kind: Its first word.
        what: What it is about, in the singular where `count` is 1: "files that are no images".
        count: How many there are; None where there is nothing to count.
        examples: Some of them, at most `MOST_KEPT`.
    """

    kind: Kind
    what: str
    count: int | None = None
    examples: tuple[str, ...] = ()

    def __str__(self) -> str:
        number = "" if self.count is None else f"{self.count:,} "
        named = few([_on_one_line(example) for example in self.examples], MOST_NAMED, total=self.count)
        return f"{self.kind.value}: {number}{self.what}" + (f" ({named})" if self.examples else "")

    def as_json(self) -> dict[str, Any]:
        """The remark for dataset.json."""
        return {"kind": self.kind.value, "what": self.what, "count": self.count, "examples": self.examples}


def remarks_on(kind: Kind, items: Sequence[str], one: str, many: str) -> tuple[Remark, ...]:
    """A remark on a number of things, all named in `items`; none where there are none.

    Args:
        kind: Its first word.
        items: The things.
        one: What they are, where there is one.
        many: What they are, where there are more.
    """
    if not items:
        return ()
    return (Remark(kind, one if len(items) == 1 else many, len(items), tuple(items[:MOST_KEPT])),)


def changed_images(counts: Mapping[str, int]) -> tuple[Remark, ...]:
    """A remark for each kind of change: from what was done to an image to the number of images it was done to."""
    return tuple(
        Remark(Kind.CHANGED, f"{'image' if number == 1 else 'images'}, {what}", number)
        for what, number in sorted(counts.items())
    )


def _on_one_line(text: str) -> str:
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
