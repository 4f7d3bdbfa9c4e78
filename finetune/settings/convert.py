"""Settings of `finetune-convert`."""

import dataclasses
from pathlib import Path
from typing import ClassVar

from finetune.errors import UserError
from finetune.notices import has_control
from finetune.settings.choices import (
    DEFAULT_BACKGROUND,
    DEFAULT_DUPLICATE_SIMILARITY,
    DEFAULT_LABEL_SEPARATOR,
    DEFAULT_MAX_MEGAPIXELS,
    DEFAULT_VALIDATION_FRACTION,
    LAYOUTS,
    LEAST_SAMPLE_BITS,
    MAX_IMAGES_PER_SHARD,
    MIN_SHARDS,
    MOST_MEGAPIXELS,
    MOST_SAMPLE_BITS,
    MOST_SHARDS,
    MULTILABEL,
    ON_CORRUPT,
    ON_DUPLICATE,
    SINGLE_LABEL,
    TASK_HELP,
    TASKS,
)
from finetune.settings.flags import CommandSettings, flag
from finetune.settings.group_rule import GroupRule
from finetune.settings.shares import ShareSettings


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageSourceSettings(CommandSettings):
    """The images, and what their classes are known by."""

    title: ClassVar[str] = "Classes and pixels"

    layout: str | None = flag(
        None, choices=LAYOUTS, help="what the folders there are; not given: told by their names and what they hold"
    )
    labels_csv: Path | None = flag(
        None,
        access="read",
        metavar="FILE",
        help="CSV with the file and class of each image, and its split if known, in place of class folders",
    )
    task: str = flag(SINGLE_LABEL, choices=TASKS, help=TASK_HELP)
    label_columns: tuple[str, ...] = flag(
        (),
        metavar="A,B,...",
        help="with multilabel: columns of --labels-csv that hold 1 for an image of the class, else 0",
    )
    label_separator: str = flag(
        DEFAULT_LABEL_SEPARATOR,
        metavar="TEXT",
        help="with multilabel: between the classes in one column of --labels-csv",
    )
    background: str = flag(
        DEFAULT_BACKGROUND, metavar="COLOUR", help="what transparency is laid on, such as white, black or #ff8000"
    )
    sample_bits: int | None = flag(
        None,
        at_least=LEAST_SAMPLE_BITS,
        at_most=MOST_SAMPLE_BITS,
        metavar="N",
        help="bits that files of 16 a sample use; not given: as many as their largest value needs, for which "
        "each job of --shard looks at all images",
    )
    max_megapixels: float = flag(
        DEFAULT_MAX_MEGAPIXELS, above=0, at_most=MOST_MEGAPIXELS, metavar="N", help="larger images can't be read"
    )
    on_corrupt: str = flag(
        "fail", choices=ON_CORRUPT, help="files that can't be read: name them and stop, or leave them out"
    )
    strict: bool = flag(False, help="write nothing if anything is left out, changed or guessed, or looks doubtful")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.layout is not None and self.labels_csv is not None:
            raise UserError(
                "--layout and --labels-csv are both given.", "Leave out --layout: the table says the classes."
            )
        self._check_lists()

    def _check_lists(self) -> None:
        """Refuses settings of a table's labels that nothing is read by."""
        separator = "--label-separator" if self.label_separator != DEFAULT_LABEL_SEPARATOR else ""
        given = "--label-columns" if self.label_columns else separator
        if given and self.task != MULTILABEL:
            raise UserError(f"{given} is of several labels an image.", f"Give --task {MULTILABEL}, or leave it out.")
        if given and self.labels_csv is None:
            raise UserError(f"{given} is of a table.", "Give the table with --labels-csv.")
        if self.label_columns and separator:
            raise UserError(
                "--label-columns and --label-separator are both given.",
                "Give the columns that hold 0 and 1, or the separator of the lists in one column.",
            )
        if not self.label_separator.strip():
            raise UserError(f"--label-separator is {self.label_separator!r}, but must be a text that isn't blank.")
        if len(set(self.label_columns)) < len(self.label_columns):
            raise UserError("--label-columns names a column twice.", "Name each once.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class SplitSettings(CommandSettings):
    """How the images are divided."""

    title: ClassVar[str] = "Splits"

    validation_fraction: float | None = flag(
        None,
        at_least=0,
        below=1,
        metavar="F",
        help=f"part of each class for validation; not given: {DEFAULT_VALIDATION_FRACTION}, or the folder's own split",
    )
    validation_size: int | None = flag(
        None, at_least=0, metavar="N", help="number of images for validation, instead of a fraction"
    )
    test_fraction: float | None = flag(
        None, at_least=0, below=1, metavar="F", help="part of each class for a test split; not given: none"
    )
    group_by: str | None = flag(
        None,
        metavar="REGEX|COLUMN",
        help="keep the images of a patient, a plant or a day in one split: a column of --labels-csv (column:patient), "
        "or a regular expression (regex:^(p[0-9]+)_) whose first group, or whole match, in an image's path is the name "
        "of its group",
    )
    on_duplicate: str = flag(
        "warn",
        choices=ON_DUPLICATE,
        help="the same picture in two splits: tell it, write nothing, or keep it in one of them",
    )
    find_near_duplicates: bool = flag(
        False, help="take copies that are resized, encoded anew, slightly cropped or mirrored for the same picture, too"
    )
    duplicate_similarity: float = flag(
        DEFAULT_DUPLICATE_SIMILARITY,
        above=0,
        at_most=1,
        metavar="F",
        help="correlation of their details from which on --find-near-duplicates takes two pictures for one",
    )
    seed: int = flag(0, help="another seed divides and shuffles differently")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.validation_fraction is not None and self.validation_size is not None:
            raise UserError("--validation-fraction and --validation-size are both given.", "Give one of them.")
        if (self.validation_fraction or 0) + (self.test_fraction or 0) >= 1:
            raise UserError("--validation-fraction and --test-fraction together leave nothing to train on.")
        if self.duplicate_similarity != DEFAULT_DUPLICATE_SIMILARITY and not self.find_near_duplicates:
            raise UserError(
                "--duplicate-similarity is of near duplicates, which nobody asked for.", "Give --find-near-duplicates."
            )


@dataclasses.dataclass(frozen=True)
class ConvertSettings(SplitSettings, ImageSourceSettings, ShareSettings):
    """Settings of `finetune-convert`."""

    title: ClassVar[str] = "From and to"

    dataset_dir: Path = flag(
        access="write", help="where the shards go; the images are looked for there too without --images-dir"
    )
    images_dir: Path | None = flag(
        None, access="read", help="folder of class folders, or of train/validation(/test) folders of class folders"
    )
    dataset_name: str | None = flag(None, help="first part of the shards' names; not given: the name of --dataset-dir")
    num_shards: int | None = flag(
        None,
        at_least=1,
        at_most=MOST_SHARDS,
        metavar="N",
        help=f"shards per split; not given: {MIN_SHARDS}, more beyond {MAX_IMAGES_PER_SHARD} images each",
    )
    workers: int | None = flag(None, at_least=1, metavar="N", help="processes; not given: one for each core")
    overwrite: bool = flag(False, help="replace the data set if it exists")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.group_rule is not None:
            self.group_rule.check()
        self._refuse_together()
        name = self.dataset_name
        if name is not None and (name != Path(name).name or name.startswith(".")):
            raise UserError(f"--dataset-name is {name!r}; it is the first part of file names, without folders.")
        if name is not None and has_control(name):
            raise UserError(
                f"--dataset-name is {name!r}; it is the first part of file names, which hold no line breaks and no "
                "control characters."
            )

    def _refuse_together(self) -> None:
        """Images of several labels are divided so that each label has its share, whatever belongs together."""
        together = {
            "--group-by": self.group_by is not None,
            "--find-near-duplicates": self.find_near_duplicates,
            f"--on-duplicate {self.on_duplicate}": self.on_duplicate != ON_DUPLICATE[0],
        }
        given = [name for name, is_given in together.items() if is_given]
        if given and self.task == MULTILABEL:
            raise UserError(
                f"{' and '.join(given)}: not with --task {MULTILABEL}, which divides images by their labels alone.",
                "Leave it out, and give folders for train and validation, or a column of the table with splits.",
            )

    @property
    def group_rule(self) -> GroupRule | None:
        """What the groups of images are known by; None: there are none."""
        return (
            None if self.group_by is None else GroupRule.of_text(self.group_by, has_table=self.labels_csv is not None)
        )
