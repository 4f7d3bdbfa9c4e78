"""Names in tables that spreadsheets open: none of them is taken for a formula."""

import re
from collections.abc import Sequence
from typing import Any

# What spreadsheets take for a formula, or skip before one; behind apostrophes, so that each can be taken off again.
_FORMULA = re.compile(r"'*[=+\-@\t\r\n]")


def cells_of(values: Sequence[Any]) -> list[Any]:
    """The cells of a row: a text that a spreadsheet would take for a formula gets an apostrophe in front.

    `text_of` takes it off again. Numbers stay numbers.
    """
    return [f"'{value}" if isinstance(value, str) and _FORMULA.match(value) else value for value in values]


def text_of(cell: str) -> str:
    """The text that a cell stands for."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell
