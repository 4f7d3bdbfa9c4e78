"""Which files of a folder hold records, of which data set and split: by their names, and those of folders."""

import itertools
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from finetune.datasets.description import LABELS_FILE
from finetune.datasets.split_words import canonical_split, is_split_word, split_words_in_words
from finetune.errors import UserError, did_you_mean, nearest_siblings
from finetune.files.whole_files import is_special, uncompleted_sets
from finetune.notices import few, tell_once

SUFFIX = r"\.(?:tfrecords?|tfrec|records?)(?:\.(?:gz|gzip|z|zlib))?"
# STEM-00000-of-00005.tfrecord, STEM.tfrecord-00000-of-00005, and each without one of the two.
FILE_NAME = re.compile(
    rf"(?P<stem>.+?)(?:[_.-](?P<index>\d+)-of-(?P<count>\d+))?(?P<suffix>{SUFFIX})?(?:-(?P<last>\d+)-of-(?P<total>\d+))?",
    re.IGNORECASE,
)
# What a stem is made of: a data set's name, where it has one, and a split, or the split first.
SPLIT_LAST = re.compile(r"(?:(?P<name>.+)(?P<separator>[_.-]))?(?P<split>[A-Za-z0-9]+)")
SPLIT_AND_NUMBER = re.compile(r"(?:(?P<name>.+)[_.-])?(?P<split>[A-Za-z]+)[_.-]?(?P<index>\d+)")
SPLIT_FIRST = re.compile(r"(?P<split>[A-Za-z0-9]+)[_.-](?P<name>.+)")

ARCHIVE_SUFFIXES = (".zip", ".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".7z", ".rar")
# So many folders in a folder without records are looked into.
MOST_FOLDERS = 50


@dataclass(frozen=True)
class ShardName:
    """What the name of a file of records, and of its folder, says.

    Attributes:
        path: The file.
        dataset: "" where the name has none.
        split: As the file or the folder has it.
        index: Its number, 0 where it has none.
        count: Of how many; None where it has a number, but not this.
    """

    path: Path
    dataset: str
    split: str
    index: int
    count: int | None


# From the names of data sets in a folder to their splits to the shards of each.
Catalogue = dict[str, dict[str, list[ShardName]]]


@dataclass(frozen=True)
class FoundShards:
    """The shards of one data set.

    Attributes:
        folder: Where labels.txt and dataset.json lie, if there are such.
        dataset: Its name in the files' names, "" where they have none.
        splits: From split, as the files have it, to shards.
    """

    folder: Path
    dataset: str
    splits: dict[str, list[ShardName]]

    @property
    def title(self) -> str:
        """The data set in a message: its folder, and its name where it has one."""
        return f"{self.dataset} in {self.folder}" if self.dataset else f"the data set in {self.folder}"

    def choose_split(self, split: str) -> str:
        """The split as the files have it, by any word for it.

        Raises:
            UserError: There is no such split, or two under different words.
        """
        if split in self.splits:
            return split
        spellings = [word for word in self.splits if canonical_split(word) == canonical_split(split)]
        if len(spellings) > 1:
            raise UserError(
                f"There are files of {' and of '.join(sorted(spellings))} for the {split} split of {self.title}.",
                "Name one of them with --split (of validation in training: --eval-split).",
            )
        if not spellings:
            found = ", ".join(sorted(self.splits))
            raise UserError(
                f"There is no {split} split of {self.title}; found: {found}.", "Name one of those with --split."
            )
        return spellings[0]


def find_shards(dataset_dir: Path, name: str | None) -> FoundShards:
    """The record files of one data set in a folder, or in the only folder within that holds some.

    Raises:
        UserError: No such folder; no data set, none of this name, several and no name; files whose split isn't known;
            a conversion was killed while its files got their places.
    """
    _check_folder(dataset_dir)
    try:
        _refuse_uncompleted(dataset_dir)
        return _find_shards(dataset_dir, name)
    except OSError as error:
        raise UserError(
            f"--dataset-dir: {error.filename or dataset_dir} can't be read: {error.strerror}.",
            "Make it readable, or give another folder.",
        ) from error


def catalogue_shards(folder: Path) -> Catalogue:
    """The files of records in a folder itself, by their names."""
    return _catalogue(shard for path in _files(folder) if (shard := parse_shard_name(path)))


def parse_shard_name(path: Path) -> ShardName | None:
    """Reads a file's name as that of a record shard; None if it isn't called like one, or no split is named."""
    match = FILE_NAME.fullmatch(path.name)
    if match is None or not _is_meant(match):
        return None
    index, count = _number(match)
    stem = match["stem"]
    last = SPLIT_LAST.fullmatch(stem)
    if last and is_split_word(last["split"]):
        return ShardName(path, last["name"] or "", last["split"], index, count)
    numbered = SPLIT_AND_NUMBER.fullmatch(stem)
    if numbered and is_split_word(numbered["split"]) and count == 1:
        return ShardName(path, numbered["name"] or "", numbered["split"], int(numbered["index"]), None)
    first = SPLIT_FIRST.fullmatch(stem)
    if first and is_split_word(first["split"]):
        return ShardName(path, first["name"], first["split"], index, count)
    if last and last["name"] and last["separator"] in "_-" and not last["split"].isdecimal():
        return ShardName(path, last["name"], last["split"], index, count)
    return None


def in_order(shards: Sequence[ShardName]) -> list[ShardName]:
    """The shards of a split by their numbers.

    Raises:
        UserError: One is missing, or there are two sets of them.
    """
    folder, split = shards[0].path.parent, shards[0].split
    counts = {shard.count for shard in shards}
    if len(counts) > 1 or len({shard.index for shard in shards}) < len(shards):
        files = few([shard.path.name for shard in shards])
        raise UserError(
            f"{folder} holds two sets of shards for the {split} split ({files}).",
            "Remove the one that isn't wanted.",
        )
    count = counts.pop()
    indices = {shard.index for shard in shards}
    # Not listed: a file's name may claim to be one of any number.
    first, end = (min(indices), max(indices) + 1) if count is None else (0, count)
    num_missing = end - first - sum(index < end for index in indices)
    if num_missing:
        first_missing = next(index for index in itertools.count(first) if index not in indices)
        raise UserError(
            f"{num_missing} of {count or end - first} shards of the {split} split are missing from {folder}; the first "
            f"is number {first_missing:05d}.",
            "Copy them again, or convert again.",
        )
    return sorted(shards, key=lambda shard: shard.index)


def _find_shards(dataset_dir: Path, name: str | None) -> FoundShards:
    catalogue = catalogue_shards(dataset_dir) or _catalogue_split_folders(dataset_dir)
    if not catalogue:
        within = _folder_within(dataset_dir, name)
        if within is None:
            raise _no_shards(dataset_dir)
        tell_once(f"Records are read from {within}: {dataset_dir} itself holds none.")
        labels = dataset_dir / LABELS_FILE
        if labels.exists() and not (within / LABELS_FILE).exists():
            tell_once(f"{labels} is not read: names of the classes belong beside the records, in {within}.")
        return find_shards(within, None if name == within.name else name)
    _tell_left_out(dataset_dir)
    dataset = _choose_name(catalogue, dataset_dir, name)
    return FoundShards(dataset_dir, dataset, catalogue[dataset])


def _refuse_uncompleted(dataset_dir: Path) -> None:
    if uncompleted_sets(dataset_dir):
        raise UserError(
            f"{dataset_dir}: finetune-convert was killed while its files got their places, or is just at it.",
            "Wait for its end, or start it once more: it begins with putting the rest in place.",
        )


def _check_folder(dataset_dir: Path) -> None:
    if dataset_dir.is_dir():
        return
    if not dataset_dir.exists():
        raise UserError(
            f"The data set folder {dataset_dir} doesn't exist.", nearest_siblings(dataset_dir, only_folders=True)
        )
    if dataset_dir.name.lower().endswith(ARCHIVE_SUFFIXES):
        raise UserError(
            f"--dataset-dir: {dataset_dir} is an archive, not a folder.",
            "Unpack it, and give the folder that it makes.",
        )
    raise UserError(
        f"--dataset-dir: {dataset_dir} is a file; the folder that holds the files of records was expected.",
        f"Give --dataset-dir {dataset_dir.parent}.",
    )


def _catalogue(shards: Iterable[ShardName]) -> Catalogue:
    catalogue: Catalogue = defaultdict(lambda: defaultdict(list))
    for shard in shards:
        catalogue[shard.dataset][shard.split].append(shard)
    return catalogue


def _catalogue_split_folders(dataset_dir: Path) -> Catalogue:
    """The record files in folders that are called like splits, whatever they are called themselves."""
    folders = [folder for folder in _folders(dataset_dir) if is_split_word(folder.name)]
    return _catalogue(shard for folder in folders for shard in _shards_of_split(folder))


def _shards_of_split(folder: Path) -> list[ShardName]:
    shards = []
    for path in _files(folder):
        match = FILE_NAME.fullmatch(path.name)
        # The second is a checkpoint's: a run's folder may be called train, too.
        if match is None or not _is_meant(match) or match["stem"].endswith(".data"):
            continue
        named = parse_shard_name(path)
        if named is None or not is_split_word(named.split):
            named = ShardName(path, "", folder.name, *_number(match))
        elif canonical_split(named.split) != canonical_split(folder.name):
            raise UserError(
                f"{path} is of the split {named.split} by its name, but lies in the folder {folder.name}.",
                "Move it to where it belongs, or rename it.",
            )
        shards.append(replace(named, split=folder.name))
    if len(shards) > 1 and all(shard.count == 1 for shard in shards) and len({shard.dataset for shard in shards}) == 1:
        # Without numbers all of them are the split's, in the order of their names.
        return [replace(shard, index=index, count=len(shards)) for index, shard in enumerate(shards)]
    return shards


def _folder_within(dataset_dir: Path, name: str | None) -> Path | None:
    """The folder within that holds records: the only one, or the one that is called `name`."""
    folders = [
        folder
        for folder in itertools.islice(_folders(dataset_dir), MOST_FOLDERS)
        if catalogue_shards(folder) or _catalogue_split_folders(folder)
    ]
    named = [folder for folder in folders if folder.name == name]
    if len(folders) > 1 and not named:
        raise UserError(
            f"{dataset_dir} holds no files of records, but several folders do: "
            f"{few([folder.name for folder in folders])}.",
            f"Give one of them, such as --dataset-dir {folders[0]}.",
        )
    return next(iter(named or folders), None)


def _no_shards(dataset_dir: Path) -> UserError:
    files = list(_files(dataset_dir))
    nameless = _without_split(files)
    if nameless:
        return UserError(
            f"{dataset_dir} holds files of records whose names tell no split: {few(nameless)}.",
            f"Call them NAME_train_00000-of-00005.tfrecord or train.tfrecord, or put them into a folder train "
            f"({split_words_in_words()}).",
        )
    archives = [path.name for path in files if path.name.lower().endswith(ARCHIVE_SUFFIXES)]
    if archives:
        return UserError(
            f"{dataset_dir} holds no files of records, but {few(archives)}.",
            "Unpack it, and give the folder that holds the records.",
        )
    return UserError(
        f"{dataset_dir} holds no files of records, such as NAME_train_00000-of-00005.tfrecord.",
        "Make them from images: finetune-convert --images-dir FOLDER --dataset-dir FOLDER.",
    )


def _tell_left_out(dataset_dir: Path) -> None:
    special = [path.name for path in sorted(dataset_dir.iterdir()) if is_special(path)]
    if special:
        tell_once(f"{dataset_dir}: left out, {len(special)} pipes, sockets or devices: {few(special)}.")
    left_out = _without_split(_files(dataset_dir))
    if left_out:
        tell_once(f"{dataset_dir}: left out, for their names tell no split: {few(left_out)}.")


def _without_split(files: Iterable[Path]) -> list[str]:
    return [
        path.name
        for path in files
        if re.search(rf"{SUFFIX}(-\d+-of-\d+)?$", path.name, re.IGNORECASE) and parse_shard_name(path) is None
    ]


def _choose_name(catalogue: Catalogue, dataset_dir: Path, name: str | None) -> str:
    if name in catalogue:
        return str(name)
    names = sorted(catalogue)
    if name is None and len(names) > 1:
        named = [found for found in names if found]
        unnamed = " and one without a name" if "" in names else ""
        raise UserError(
            f"{dataset_dir} holds several data sets: {', '.join(named)}{unnamed}.", "Name one with --dataset-name."
        )
    if name is None:
        return names[0]
    if "" in catalogue:  # Such files bear no name: any name will do.
        return ""
    raise UserError(f"{dataset_dir} holds no data set {name}, but {', '.join(names)}.", did_you_mean(name, names))


def _is_meant(match: re.Match[str]) -> bool:
    return any(match[part] is not None for part in ("suffix", "index", "last"))


def _number(match: re.Match[str]) -> tuple[int, int]:
    """A file's number and of how many; (0, 1) where the name doesn't say."""
    return int(match["index"] or match["last"] or 0), int(match["count"] or match["total"] or 1)


def _files(folder: Path) -> Iterable[Path]:
    return (path for path in sorted(folder.iterdir()) if not path.name.startswith(".") and path.is_file())


def _folders(folder: Path) -> Iterable[Path]:
    return (path for path in sorted(folder.iterdir()) if not path.name.startswith(".") and path.is_dir())
