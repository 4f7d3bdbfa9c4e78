"""Tables on standard output: drawn on a terminal and in a notebook; for programs a line for each row, however wide."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

# No row is as wide; rich folds cells to fit the width of what it takes for a page.
WIDEST = 100_000


def is_on_terminal() -> bool:
    """Whether people read standard output."""
    from rich.console import Console

    return Console().is_terminal


def print_table(table: "Table", *, header_in_files: bool = True) -> None:
    """Prints a table; where it isn't drawn, its columns alone, parted by two spaces or more.

    Args:
        table: What isn't needed in a file, such as its lines, is taken off.
        header_in_files: Whether the names of the columns are needed there.
    """
    from rich.console import Console

    console = Console()
    if console.is_terminal or console.is_jupyter:
        console.print(table)
        return
    table.title = table.box = None
    table.padding = (0, 2, 0, 0)
    table.pad_edge = False
    table.show_header = header_in_files
    console = Console(width=WIDEST)
    with console.capture() as captured:
        console.print(table)
    for line in captured.get().splitlines():
        print(line.rstrip())
