"""Duplicates that are looked for before anything is written: found, refused, and listed beside the records."""

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from finetune.datasets.description import NEAR_DUPLICATES_FILE, NEAR_DUPLICATES_SHEET
from finetune.datasets.duplicates import DuplicatePair, same_pictures
from finetune.datasets.folders import ImageFolder, readable_name
from finetune.datasets.image_rules import ImageRules
from finetune.datasets.near_duplicates import find_near_pairs
from finetune.datasets.picture_prints import take_prints
from finetune.datasets.processes import num_cores
from finetune.errors import UserError
from finetune.evaluation.pair_sheet import ShownPair, write_pair_sheet
from finetune.files.csv_cells import cells_of
from finetune.files.whole_files import whole_file
from finetune.settings.convert import ConvertSettings

MOST_REFUSED_NAMED = 20
MOST_SHOWN = 200
COLUMNS = ("file", "other_file", "split", "other_split", "class", "other_class", "similarity", "distance", "is_copy")

# From each file to where it is: its split or its class.
Places = Mapping[str, str]


def looks_beforehand(settings: ConvertSettings) -> bool:
    """Whether all pictures are looked at before any is written.

    A job with a share alone leaves to the merge what decides on nothing.
    """
    return settings.on_duplicate != "warn" or (settings.find_near_duplicates and settings.share is None)


def find_pairs(found: ImageFolder, settings: ConvertSettings, rules: ImageRules) -> tuple[DuplicatePair, ...]:
    """Finds copies and, where they are asked for, near duplicates; the most similar come first.

    Of a picture with several copies each is paired with the first, and that one with its near duplicates.

    Raises:
        UserError: As `take_prints`.
    """
    from finetune.progress import progress

    files = [file for classes in found.splits.values() for of_class in classes.values() for file in of_class]
    near = settings.find_near_duplicates
    with progress("Looking for duplicates", len(files)) as advance:
        prints = take_prints(files, found.root, rules, near=near, num_workers=settings.workers, on_progress=advance)
    pictures = same_pictures(prints.files, prints.fingerprints, found.root, rules)
    pairs = [DuplicatePair(same[0], other) for same in pictures for other in same[1:]]
    if near:
        place_of = {file: place for place, file in enumerate(prints.files)}
        places = np.array(sorted(place_of[same[0]] for same in pictures), np.int64)
        with progress("Comparing", len(places)) as advance:
            found_pairs = find_near_pairs(
                prints.hashes[places],
                prints.small[places],
                least_similarity=settings.duplicate_similarity,
                num_threads=settings.workers or num_cores(),
                on_progress=advance,
            )
        names = [prints.files[place] for place in places]
        pairs += [
            DuplicatePair(names[first], names[second], float(similarity), int(distance), is_copy=False)
            for first, second, similarity, distance in zip(*found_pairs, strict=True)
        ]
    return tuple(pairs)


def apart(pairs: Iterable[DuplicatePair], place_of: Places) -> tuple[DuplicatePair, ...]:
    """Those whose files are in different splits, or classes."""
    return tuple(pair for pair in pairs if place_of[pair.first] != place_of[pair.second])


def in_words(pair: DuplicatePair, place_of: Places) -> str:
    """Both files, and where they are."""
    sign = "=" if pair.is_copy else "~"
    first, second = (f"{readable_name(file)} ({place_of[file]})" for file in (pair.first, pair.second))
    return f"{first} {sign} {second}"


def refuse_apart(pairs: Sequence[DuplicatePair], split_of: Places, settings: ConvertSettings) -> None:
    """Makes sure that no picture is in two splits, where that is to be so.

    Raises:
        UserError: Some are.
    """
    in_two = apart(pairs, split_of)
    if not in_two or settings.on_duplicate == "warn":
        return
    named = "".join(f"\n  {in_words(pair, split_of)}" for pair in in_two[:MOST_REFUSED_NAMED])
    more = len(in_two) - MOST_REFUSED_NAMED
    if settings.on_duplicate == "same-split":
        reason = "the folder or the table gives the splits, and nothing is moved out of them"
        mend = "Move them into one split or remove them, or leave out --on-duplicate to have them told alone."
    else:
        reason = "nothing was written"
        mend = "Keep them in one split by --on-duplicate same-split, or remove them."
    raise UserError(
        f"--on-duplicate {settings.on_duplicate}: {len(in_two):,} {'pair' if len(in_two) == 1 else 'pairs'} of "
        f"duplicates {'is' if len(in_two) == 1 else 'are'} in different splits; {reason}:{named}"
        + (f"\n  and {more:,} more" if more > 0 else ""),
        mend,
    )


def write_pairs(
    folder: Path, pairs: Sequence[DuplicatePair], split_of: Places, class_of: Places, root: Path, rules: ImageRules
) -> None:
    """Writes the table of pairs and, where there are any, the sheet that shows them.

    Args:
        folder: Where they go.
        pairs: All that were found.
        split_of: Of each file.
        class_of: Of each file.
        root: What the files are relative to.
        rules: How the images become pixels of 8 bits.
    """

    def urgency(pair: DuplicatePair) -> tuple[bool, bool]:
        return split_of[pair.first] == split_of[pair.second], class_of[pair.first] == class_of[pair.second]

    ordered = sorted(pairs, key=urgency)  # Stable: the most similar stay first.
    with whole_file(folder / NEAR_DUPLICATES_FILE, newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for pair in ordered:
            both = pair.first, pair.second
            texts = [*map(readable_name, both), *(split_of[file] for file in both), *(class_of[file] for file in both)]
            figures = [f"{pair.similarity:.4f}", pair.distance, "yes" if pair.is_copy else "no"]
            writer.writerow([*cells_of(texts), *figures])
    if ordered:
        shown = [
            ShownPair(
                (pair.first, pair.second),
                (split_of[pair.first], split_of[pair.second]),
                (class_of[pair.first], class_of[pair.second]),
                "copy" if pair.is_copy else f"similarity {pair.similarity:.2f}",
            )
            for pair in ordered[:MOST_SHOWN]
        ]
        num_apart = len(apart(pairs, split_of))
        write_pair_sheet(folder / NEAR_DUPLICATES_SHEET, shown, root, rules, num_pairs=len(pairs), num_apart=num_apart)
