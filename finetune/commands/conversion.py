"""What a conversion came to, and that as a table."""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from finetune.datasets.description import NEAR_DUPLICATES_SHEET
from finetune.datasets.folders import ImageFolder
from finetune.datasets.image_rules import ImageRules
from finetune.datasets.remarks import MOST_NAMED, Kind, Remark, changed_images, remarks_on
from finetune.errors import visible
from finetune.settings.choices import DEFAULT_VALIDATION_FRACTION, MULTILABEL

if TYPE_CHECKING:
    from rich.console import Console


# slim's labels of ImageNet begin at 1: 0 is the background, which no picture shows.
BACKGROUND = "background"
# Of what is encoded anew, what isn't the same afterwards.
LOSSY = "turned JPEG"
# What images without labels are called in tables.
NO_LABEL = "(no label)"


@dataclass(frozen=True)
class NearDuplicates:
    """What a look for near duplicates came to.

    Attributes:
        similarity: Correlation of details from which on two pictures were taken for one.
        num_pairs: How many pairs were found, copies among them.
        in_splits: Pairs that are no copies and are in different splits, in words.
        in_classes: Those in different classes.
    """

    similarity: float
    num_pairs: int
    in_splits: tuple[str, ...]
    in_classes: tuple[str, ...]


@dataclass(frozen=True)
class Grouping:
    """What was kept together in one split.

    Attributes:
        by: What the user said groups are known by; None: duplicates alone are kept together.
        num_groups: How many there are.
        num_images: How many images are in them.
        wanted: For each split that was divided the number of images that were asked for.
        too_large: Groups with more images than a split was to have, in words.
    """

    by: str | None
    num_groups: int
    num_images: int
    wanted: Mapping[str, int]
    too_large: tuple[str, ...]

    def in_words(self, counts: Mapping[str, Sequence[int]]) -> str:
        """A line on it, with how many images of each split there are now, by class."""
        reached = [
            f"{split} has {sum(counts.get(split, ())):,} images of {number:,} asked for"
            for split, number in self.wanted.items()
            if number
        ]
        what = "1 group is" if self.num_groups == 1 else f"{self.num_groups:,} groups are each"
        what += f" kept in one split, {self.num_images:,} images together"
        return "; ".join([what, *reached]) + "."


@dataclass(frozen=True)
class Conversion:
    """What was written.

    Attributes:
        dataset_dir: The folder of the shards.
        name: The data set's.
        classes: The index is the label.
        counts: For each split the number of images of each class, in the order of the labels.
        num_images: For each split.
        num_without_labels: For each split, where an image has any number of labels; else empty.
        task: Whether an image has one label, a word of `TASKS`.
        num_shards: For each split.
        reencoded: How many images were encoded anew, by what they were before.
        changed: How many images were changed beyond that, by what was done.
        guessed: What was taken for granted about the images, a sentence each.
        image_rules: How the images became pixels of 8 bits.
        corrupt: File and reason of each that was left out.
        ignored: Files and folders that were left out for other reasons.
        duplicates: For each picture that is in more than one split, its files by split.
        contradictions: For each picture that is in more than one class, or of other labels, its files by class.
        remarks: What was left out, changed, guessed or looks doubtful.
        near_duplicates: Where they were looked for.
        grouping: Where images were kept together.
    """

    dataset_dir: Path
    name: str
    classes: tuple[str, ...]
    counts: dict[str, tuple[int, ...]]
    num_images: dict[str, int]
    num_without_labels: dict[str, int]
    task: str
    num_shards: dict[str, int]
    reencoded: dict[str, int]
    changed: dict[str, int]
    guessed: tuple[str, ...]
    image_rules: ImageRules
    corrupt: tuple[tuple[str, str], ...]
    ignored: tuple[str, ...]
    duplicates: tuple[dict[str, list[str]], ...]
    contradictions: tuple[dict[str, list[str]], ...]
    remarks: tuple[Remark, ...]
    near_duplicates: NearDuplicates | None = None
    grouping: Grouping | None = None


def remarks_of(conversion: Conversion, found: ImageFolder, *, validation: bool | None) -> tuple[Remark, ...]:
    """All that is to be told of a conversion, in the order of the kinds.

    Args:
        conversion: What was written, without its remarks.
        found: What it was written from.
        validation: Whether a validation split was asked for; None: nobody said.
    """
    corrupt = [f"{file}: {reason}" for file, reason in conversion.corrupt]
    missing = [
        f"{class_name} in {split}"
        for split, counts in conversion.counts.items()
        for class_name, number in zip(conversion.classes, counts, strict=True)
        if not number and class_name != BACKGROUND
    ]
    remarks = (
        *found.remarks(),
        *remarks_on(Kind.LEFT_OUT, corrupt, "file that can't be read", "files that can't be read"),
        *changed_images(_lossy(conversion.reencoded)),
        *changed_images(conversion.changed),
        *(Remark(Kind.GUESSED, guess) for guess in conversion.guessed),
        *remarks_on(
            Kind.DOUBTFUL,
            _side_by_side(conversion.duplicates),
            "picture is in more than one split, which makes scores look better than they are",
            "pictures are in more than one split, which makes scores look better than they are",
        ),
        *remarks_on(
            Kind.DOUBTFUL,
            _side_by_side(conversion.contradictions),
            *_contradicting(conversion.task),
        ),
        *_on_near_duplicates(conversion.near_duplicates),
        *remarks_on(
            Kind.DOUBTFUL,
            conversion.grouping.too_large if conversion.grouping else (),
            "group has more images than a split was to have",
            "groups have more images than a split was to have",
        ),
        *remarks_on(Kind.DOUBTFUL, missing, "class has no image in a split", "classes have no image in a split"),
        *remarks_on(
            Kind.DOUBTFUL,
            _alike(conversion.classes),
            "pair of classes whose names differ in case or blanks only",
            "pairs of classes whose names differ in case or blanks only",
        ),
        *_on_validation(conversion, validation),
    )
    return tuple(sorted(remarks, key=lambda remark: list(Kind).index(remark.kind)))


def _on_near_duplicates(found: NearDuplicates | None) -> tuple[Remark, ...]:
    if found is None:
        return ()
    return (
        *remarks_on(
            Kind.DOUBTFUL,
            found.in_splits,
            "pair of pictures that are nearly the same is in different splits, which makes scores look better than "
            "they are",
            "pairs of pictures that are nearly the same are in different splits, which makes scores look better than "
            "they are",
        ),
        *remarks_on(
            Kind.DOUBTFUL,
            found.in_classes,
            "pair of pictures that are nearly the same is in different classes",
            "pairs of pictures that are nearly the same are in different classes",
        ),
    )


def _contradicting(task: str) -> tuple[str, str]:
    if task == MULTILABEL:
        return "picture is there twice, with other labels", "pictures are there twice, with other labels"
    return "picture is in more than one class", "pictures are in more than one class"


def _side_by_side(pictures: Sequence[Mapping[str, Sequence[str]]]) -> list[str]:
    return [_equal_files(by_group) for by_group in pictures]


def _equal_files(by_group: Mapping[str, Sequence[str]]) -> str:
    """A file of each of the first groups, and how many more there are."""
    first = [f"{files[0]} ({group})" for group, files in by_group.items()][:MOST_NAMED]
    num_more = sum(map(len, by_group.values())) - len(first)
    return " = ".join(first) + (f" = {num_more:,} more" if num_more else "")


def _lossy(reencoded: Mapping[str, int]) -> dict[str, int]:
    return {"turned upright and encoded anew as JPEG": reencoded[LOSSY]} if LOSSY in reencoded else {}


def _alike(classes: Sequence[str]) -> list[str]:
    by_folded: dict[str, str] = {}
    pairs = []
    for name in classes:
        other = by_folded.setdefault(" ".join(name.casefold().split()), name)
        if other != name:
            pairs.append(f"{other!r} and {name!r}")
    return pairs


def _on_validation(conversion: Conversion, validation: bool | None) -> tuple[Remark, ...]:
    if "validation" in conversion.counts or validation is False:
        return ()
    if validation:
        return (Remark(Kind.DOUBTFUL, "there is no validation split: no class has enough images to spare one"),)
    what = f"there is no validation split: --validation-fraction {DEFAULT_VALIDATION_FRACTION} takes one out of train"
    return (Remark(Kind.DOUBTFUL, what + (", and leaves test alone" if "test" in conversion.counts else "")),)


def print_summary(conversion: Conversion) -> None:
    """Prints how many images each class has in each split, and a line for each remark, to standard output."""
    from rich.console import Console

    _print_summary(conversion, Console())


def summary_text(conversion: Conversion) -> str:
    """What `print_summary` prints, in lines for the log: as wide as the terminal, without colours."""
    from rich.console import Console

    console = Console(stderr=True, color_system=None, force_jupyter=False)  # A notebook's would show an empty cell.
    with console.capture() as captured:
        _print_summary(conversion, console)
    return captured.get().rstrip("\n")


def _print_summary(conversion: Conversion, console: "Console") -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(title=visible(f"{conversion.name}: images per class and split"), title_justify="left")
    table.add_column("label", justify="right")
    table.add_column("class", overflow="fold")
    for split in conversion.counts:
        table.add_column(split, justify="right")
    rows = list(zip(*conversion.counts.values(), strict=True))
    for label, (name, row) in enumerate(zip(conversion.classes, rows, strict=True)):
        table.add_row(str(label), Text(visible(name)), *map(str, row))
    if conversion.num_without_labels:
        table.add_row("", NO_LABEL, *(str(conversion.num_without_labels[split]) for split in conversion.counts))
    table.add_section()
    table.add_row("", "all", *(str(conversion.num_images[split]) for split in conversion.counts))
    table.add_row("", "shards", *(str(conversion.num_shards[split]) for split in conversion.counts))
    console.print(table)
    if conversion.reencoded:
        kinds = ", ".join(f"{number} {kind}" for kind, number in sorted(conversion.reencoded.items()))
        console.print(Text(f"Encoded anew: {kinds}; all others keep their bytes."))
    if conversion.grouping is not None:
        console.print(Text(conversion.grouping.in_words(conversion.counts)))
    if conversion.near_duplicates is not None:
        console.print(Text(_where_pairs_are(conversion, conversion.near_duplicates.num_pairs)), soft_wrap=True)
    for remark in conversion.remarks:
        console.print(Text(_folded(visible(str(remark)), console)), soft_wrap=True)


def _where_pairs_are(conversion: Conversion, num_pairs: int) -> str:
    if not num_pairs:
        return "Near duplicates: none."
    sheet = visible(str(conversion.dataset_dir / NEAR_DUPLICATES_SHEET))
    return f"Near duplicates: {num_pairs:,} {'pair' if num_pairs == 1 else 'pairs'} in {sheet}"


def _folded(line: str, console: "Console") -> str:
    """A line in the width of the terminal; whole where programs read it."""
    if not console.is_terminal:
        return line
    return textwrap.fill(line, console.width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
