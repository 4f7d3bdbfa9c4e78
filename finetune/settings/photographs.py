"""The photographs that `finetune-train` converts by itself, in place of records."""

import dataclasses
from pathlib import Path
from typing import ClassVar

from finetune.errors import UserError
from finetune.notices import few
from finetune.settings.choices import DEFAULT_VALIDATION_FRACTION
from finetune.settings.flags import CommandSettings, flag


@dataclasses.dataclass(frozen=True, kw_only=True)
class PhotographSettings(CommandSettings):
    """Where the photographs are, and how many of them are kept aside.

    None of them is recorded: a run's config.toml names the records that were made of them.
    """

    title: ClassVar[str] = "Photographs"

    photographs: tuple[str, ...] = flag(
        (),
        positional=True,
        is_path=True,
        access="read",
        metavar="PHOTOS",
        is_recorded=False,
        help="class folders, train and validation folders of such, or a CSV of path, label and split: converted into "
        "records beside the run, which the next run takes as they are",
    )
    images_dir: Path | None = flag(None, access="read", metavar="PHOTOS", is_recorded=False, help="the same, as a flag")
    validation_fraction: float | None = flag(
        None,
        at_least=0,
        below=1,
        metavar="F",
        is_recorded=False,
        help=f"part of each class of PHOTOS for validation; not given: {DEFAULT_VALIDATION_FRACTION}, or their own "
        "split; which ones depends on their names alone, not on --seed",
    )

    group_by: str | None = flag(
        None,
        metavar="REGEX|COLUMN",
        is_recorded=False,
        help="keep those of PHOTOS in one split and one fold that are of one patient, plant or day, as "
        "finetune-convert does: column:patient of a table, or regex:^(p[0-9]+)_",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.photographs) > 1:
            raise UserError(
                f"finetune-train takes one folder or table of photographs, not {len(self.photographs)}: "
                f"{few(self.photographs)}.",
                "Give one of them; flags begin with --, and what holds blanks needs quotation marks.",
            )
        if self.photographs and self.images_dir is not None:
            raise UserError(
                f"{self.photographs[0]} and --images-dir {self.images_dir} are both given.", "Give one of them."
            )
        if self.validation_fraction is not None and self.photographs_path is None:
            raise UserError(
                "--validation-fraction is of photographs, and none are given.",
                "Give PHOTOS, or divide them by finetune-convert --validation-fraction.",
            )

        if self.group_by is not None and self.photographs_path is None:
            raise UserError(
                "--group-by is of photographs, and none are given.",
                "Give PHOTOS, or divide them by finetune-convert --group-by.",
            )

    @property
    def photographs_path(self) -> Path | None:
        """The folder or the table, however it is given; None: it isn't."""
        return Path(self.photographs[0]) if self.photographs else self.images_dir
