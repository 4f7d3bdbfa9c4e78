"""`--group-by`: a column of a table, or a regular expression over paths."""

import dataclasses
import re
from typing import Self

from finetune.errors import UserError

COLUMN, REGEX = "column:", "regex:"


@dataclasses.dataclass(frozen=True)
class GroupRule:
    """What the group of an image is known by.

    Attributes:
        column: Name of a column of the table; '': it is no column.
        pattern: A regular expression; '': it is none. Where both are given, it isn't said which of them is meant: the
            column, if there is one of that name, else the expression.
    """

    column: str = ""
    pattern: str = ""

    @classmethod
    def of_text(cls, text: str, *, has_table: bool) -> Self:
        """The rule that a flag's value stands for.

        Args:
            text: The value.
            has_table: Whether there is a table, which may have such a column.

        Raises:
            UserError: It names nothing; a column without a table.
        """
        column, pattern = text.removeprefix(COLUMN).strip(), text.removeprefix(REGEX)
        if not column or not pattern:
            raise UserError(
                f"--group-by {text!r} names nothing.", "Give a column of the table, or a regular expression."
            )
        if text.startswith(COLUMN):
            if not has_table:
                raise UserError(
                    f"--group-by {text}: there is no table.",
                    "Give it with --labels-csv, or a regular expression over the paths of images: --group-by regex:...",
                )
            return cls(column=column)
        if text.startswith(REGEX):
            return cls(pattern=pattern)
        return cls(column=column if has_table else "", pattern=pattern)

    def check(self) -> None:
        """Makes sure that what can be a regular expression alone is one.

        Raises:
            UserError: It is none.
        """
        if not self.column:
            self.compiled()

    def compiled(self) -> re.Pattern[str]:
        """The regular expression.

        Raises:
            UserError: It is none.
        """
        try:
            return re.compile(self.pattern)
        except (re.error, OverflowError, RecursionError) as error:
            raise UserError(
                f"--group-by: {self.pattern!r} is no regular expression: {error}.",
                "Write a backslash before a letter that stands for itself, and quotation marks around all of it.",
            ) from error
