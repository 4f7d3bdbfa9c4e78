"""Tables that give an image any number of labels: a column of lists, or a column of 0 and 1 for each class."""

from collections.abc import Sequence
from dataclasses import dataclass

from finetune.datasets.remarks import Kind, Remark
from finetune.errors import UserError, did_you_mean
from finetune.notices import few
from finetune.settings.choices import DEFAULT_LABEL_SEPARATOR

ONE_OR_ZERO = {"0": False, "1": True, "0.0": False, "1.0": True}
OTHER_SEPARATORS = (";", "|", ",")


@dataclass(frozen=True)
class LabelLists:
    """How a row says its labels.

    Attributes:
        columns: Names of columns of 0 and 1, which are those of the classes; empty: a column holds lists.
        separator: Between the classes of a list.
    """

    columns: tuple[str, ...] = ()
    separator: str = DEFAULT_LABEL_SEPARATOR

    def places(self, header: Sequence[str], table: str) -> tuple[int, ...]:
        """The indices of the columns.

        Raises:
            UserError: There is no such column, or more than one.
        """
        for name in self.columns:
            if header.count(name) != 1:
                what = "no column" if name not in header else "more than one column"
                raise UserError(
                    f"--label-columns: {table} has {what} {name!r}; its columns are {few(header)}.",
                    did_you_mean(name, list(header)) if name not in header else "Call them otherwise.",
                )
        return tuple(header.index(name) for name in self.columns)

    def of_list(self, cell: str) -> tuple[str, ...]:
        """The labels in a cell, sorted, each once."""
        return tuple(sorted({label for part in cell.split(self.separator) if (label := part.strip())}))

    def of_flags(self, cells: Sequence[str]) -> tuple[str, ...] | None:
        """The labels whose columns hold 1, sorted; None: a cell is neither 0 nor 1."""
        if not set(cells) <= ONE_OR_ZERO.keys():
            return None
        return tuple(sorted(name for name, cell in zip(self.columns, cells, strict=True) if ONE_OR_ZERO[cell]))

    def doubts(self, cells: Sequence[str]) -> list[Remark]:
        """What is doubtful of a column of lists: that no list is parted by the separator, and some are by another."""
        if any(self.separator in cell for cell in cells):
            return []
        for other in OTHER_SEPARATORS:
            number = sum(other in cell for cell in cells)
            if number:
                return [
                    Remark(
                        Kind.DOUBTFUL,
                        f"rows have {other!r} in their labels, and none has {self.separator!r}, which parts them: "
                        f"--label-separator {other!r} takes them for lists",
                        number,
                    )
                ]
        return []
