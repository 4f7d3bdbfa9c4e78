"""Which image of a folder goes where: a function of the folder and the settings alone."""

import dataclasses
import hashlib
import json
import re
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from finetune.commands.conversion import BACKGROUND, Grouping
from finetune.commands.duplicate_search import find_pairs, looks_beforehand, refuse_apart
from finetune.datasets.duplicates import DuplicatePair
from finetune.datasets.folders import ClassFiles, ImageFolder, scan_images
from finetune.datasets.groups import Groups, groups_of, joined, refuse_divided
from finetune.datasets.image_rules import ImageRules
from finetune.datasets.label_lists import LabelLists
from finetune.datasets.label_table import find_label_table, read_label_table
from finetune.datasets.multilabel_splits import by_class, divide_evenly
from finetune.datasets.processes import num_cores
from finetune.datasets.sample_bits import find_used_bits
from finetune.datasets.shards import ShardTask, labels_of
from finetune.datasets.shared_pictures import with_labels_of_copies
from finetune.datasets.split_folders import NoClassesError
from finetune.datasets.split_words import SPLITS
from finetune.datasets.splits import count, divide, divide_groups, share_by_fraction, share_by_size, shuffled
from finetune.errors import UserError
from finetune.published.known_datasets import KNOWN_DATASETS
from finetune.settings.choices import (
    DEFAULT_VALIDATION_FRACTION,
    MAX_IMAGES_PER_SHARD,
    MIN_SHARDS,
    MOST_SAMPLE_BITS,
    MULTILABEL,
)
from finetune.settings.convert import ConvertSettings
from finetune.settings.group_rule import GroupRule


@dataclasses.dataclass(frozen=True)
class ConversionPlan:
    """Which image goes where.

    Attributes:
        name: The data set's.
        classes: The index is the label.
        found: The images, and what lies beside them.
        tasks: One for each record file.
        pairs: Duplicates, where they were looked for beforehand; None: they weren't.
        grouping: What was kept together, where anything was; None: nothing was asked for.
    """

    name: str
    classes: tuple[str, ...]
    found: ImageFolder
    tasks: tuple[ShardTask, ...]
    pairs: tuple[DuplicatePair, ...] | None = None
    grouping: Grouping | None = None

    @property
    def num_images(self) -> int:
        """Of all record files."""
        return sum(len(task.files) for task in self.tasks)

    @property
    def split_of(self) -> dict[str, str]:
        """Of each file its split."""
        return {file: task.split for task in self.tasks for file in task.files}

    @property
    def class_of(self) -> dict[str, str]:
        """Of each file its class, or its classes."""
        return {
            file: ", ".join(self.classes[each] for each in labels_of(label))
            for task in self.tasks
            for file, label in zip(task.files, task.labels, strict=True)
        }

    @property
    def sha256(self) -> str:
        """Of the names of images, and of where each of them goes."""
        digest = hashlib.sha256(json.dumps(self.classes).encode())
        for task in self.tasks:
            digest.update(json.dumps(dataclasses.astuple(task)).encode())
        return digest.hexdigest()


def plan_conversion(images_dir: Path, name: str, settings: ConvertSettings, given_rules: ImageRules) -> ConversionPlan:
    """Which image goes where.

    Args:
        images_dir: The folder.
        name: The data set's.
        settings: How images are found and divided.
        given_rules: How images become pixels, as told; by it duplicates are looked for.

    Raises:
        UserError: There are no images, they contradict each other, or the settings contradict what the folder has.
    """
    found = find_images(images_dir, settings)
    groups: Groups = groups_of(found, settings.group_rule) if settings.group_rule else {}
    pairs = None
    if looks_beforehand(settings):
        paths = [found.root / file for classes in found.splits.values() for files in classes.values() for file in files]
        rules, _ = find_rules(given_rules, settings.workers, paths)
        pairs = find_pairs(found, settings, rules)
    named_groups = groups
    if pairs and settings.on_duplicate == "same-split":
        groups = joined(groups, ((pair.first, pair.second) for pair in pairs))
    splits, wanted = _divide(found, settings, groups)
    split_of = {file: split for split, classes in splits.items() for files in classes.values() for file in files}
    refuse_divided(named_groups, split_of)
    if pairs:
        refuse_apart(pairs, split_of, settings)
    known = KNOWN_DATASETS.get(name)
    classes = (BACKGROUND, *found.classes) if known and known.has_background else found.classes
    tasks = _plan_shards(splits, classes, found, groups, name, settings)
    return ConversionPlan(name, classes, found, tuple(tasks), pairs, _grouping(settings, groups, wanted))


def _grouping(settings: ConvertSettings, groups: Groups, wanted: Mapping[str, int]) -> Grouping | None:
    if not groups:
        return None
    sizes = Counter(groups.values())
    least = min((number for number in wanted.values() if number), default=len(groups))
    too_large = [f"{name}: {number:,}" for name, number in sizes.most_common() if number > least]
    return Grouping(settings.group_by, len(sizes), len(groups), wanted, tuple(too_large))


def _plan_shards(
    splits: Mapping[str, ClassFiles],
    classes: Sequence[str],
    found: ImageFolder,
    groups: Groups,
    name: str,
    settings: ConvertSettings,
) -> list[ShardTask]:
    """Cuts each split, shuffled, into shards of equal size: each of them mixes all classes."""
    labels = {class_name: label for label, class_name in enumerate(classes)}
    tasks = []
    for split in sorted(splits, key=SPLITS.index):
        label_of: dict[str, int | tuple[int, ...]]
        if found.labels:
            label_of = {file: tuple(sorted(map(labels.__getitem__, found.labels[file]))) for file in found.files[split]}
        else:
            label_of = {file: labels[class_name] for class_name, files in splits[split].items() for file in files}
        files = shuffled(label_of, settings.seed)
        wanted = settings.num_shards or max(MIN_SHARDS, -(-len(files) // MAX_IMAGES_PER_SHARD))
        num_shards = min(wanted, len(files))
        for index in range(num_shards):
            part = files[len(files) * index // num_shards : len(files) * (index + 1) // num_shards]
            shard_name = f"{name}_{split}_{index:05d}-of-{num_shards:05d}.tfrecord"
            of_part = tuple(found.weights[file] for file in part) if found.weights else ()
            labels_of_part = tuple(label_of[file] for file in part)
            groups_of_part = tuple(groups.get(file, "") for file in part) if groups else ()
            names = tuple(classes) if found.labels else ()
            tasks.append(ShardTask(split, shard_name, tuple(part), labels_of_part, of_part, groups_of_part, names))
    return tasks


def find_images(images_dir: Path, settings: ConvertSettings) -> ImageFolder:
    """The images and their classes: by a table where one is given, else by their folders.

    Raises:
        UserError: There are none, or they contradict each other.
    """
    skip = settings.dataset_dir
    is_multilabel = settings.task == MULTILABEL
    if settings.labels_csv is not None:
        rule = settings.group_rule or GroupRule()
        return read_label_table(
            settings.labels_csv,
            images_dir,
            skip=skip,
            group_column=rule.column,
            must_have_groups=bool(rule.column and not rule.pattern),
            lists=LabelLists(settings.label_columns, settings.label_separator) if is_multilabel else None,
        )
    try:
        found = scan_images(images_dir, skip=skip, layout=settings.layout, may_share=is_multilabel)
        if is_multilabel:
            with_labels_of_copies(found)
        return found
    except NoClassesError as error:
        table = find_label_table(images_dir, skip=skip)
        if table is None:
            raise
        words = ["--images-dir", str(table[1])] if table[1] != settings.images_dir else []
        words += ["--labels-csv", str(table[0])]
        raise UserError(
            f"{error.message} But {table[0]} says the classes of images.",
            f"Read them from it: give {shlex.join(words)}",
        ) from error


def name_of_folder(folder: Path) -> str:
    """What a data set is called by its folder: a part of file names."""
    return re.sub(r"[^\w.-]+", "_", folder.resolve().name).strip("._-") or "images"


def _divide(
    found: ImageFolder, settings: ConvertSettings, groups: Groups
) -> tuple[dict[str, ClassFiles], dict[str, int]]:
    """The splits the folder has, or a division by the settings; and how many images were to go into those it makes."""
    asked = {
        "validation": settings.validation_fraction is not None or settings.validation_size is not None,
        "test": settings.test_fraction is not None,
    }
    for split, is_asked in asked.items():
        if is_asked and split in found.splits:
            raise UserError(
                f"{found.root} has its own {split} split, and --{split}-fraction or --{split}-size asks for another.",
                "Leave out the flag, or point --images-dir at the train folder.",
            )
    if found.labels:
        return {**found.splits, **_divide_lists(found, settings)}, {}
    validation, test = _numbers_kept_aside(found, settings)
    classes, seed = found.splits["train"], settings.seed
    if groups:
        divided = divide_groups(classes, groups, seed=seed, validation=validation, test=test)
    else:
        divided = divide(classes, seed=seed, validation=validation, test=test)
    wanted = {"validation": sum(validation.values()), "test": sum(test.values())}
    return {**found.splits, **divided}, wanted


def _numbers_kept_aside(found: ImageFolder, settings: ConvertSettings) -> tuple[dict[str, int], dict[str, int]]:
    """How many images of each class are to go into validation, and how many into test."""
    fraction = _validation_fraction(found, settings)
    sizes = count(found.splits["train"])
    test = share_by_fraction(sizes, settings.test_fraction or 0.0)
    rest = {name: size - test[name] for name, size in sizes.items()}
    if settings.validation_size is not None:
        return share_by_size(rest, settings.validation_size), test
    # Of the whole class, so that a test split takes nothing from validation, as long as one is left to train on.
    return {name: min(n, rest[name] - 1) for name, n in share_by_fraction(sizes, fraction).items()}, test


def _validation_fraction(found: ImageFolder, settings: ConvertSettings) -> float:
    if settings.validation_fraction is not None:
        return settings.validation_fraction
    return 0.0 if found.is_split else DEFAULT_VALIDATION_FRACTION


def _divide_lists(found: ImageFolder, settings: ConvertSettings) -> dict[str, ClassFiles]:
    """As `_divide`, of images with any number of labels, whose files by split are then in `found.files`."""
    size = settings.validation_size
    divided = divide_evenly(
        {file: found.labels[file] for file in found.files["train"]},
        seed=settings.seed,
        validation=_validation_fraction(found, settings) if size is None else size,
        test=settings.test_fraction or 0.0,
    )
    found.files |= divided
    return {split: by_class(files, found.labels, found.classes) for split, files in divided.items()}


def find_rules(rules: ImageRules, num_workers: int | None, paths: Sequence[Path]) -> tuple[ImageRules, tuple[str, ...]]:
    """How the images become pixels of 8 bits, and what was guessed of it.

    Args:
        rules: As told.
        num_workers: Processes; None: one for each core.
        paths: Of the images.
    """
    if rules.sample_bits is not None:
        return rules, ()
    used = find_used_bits(paths, rules, num_workers or num_cores())
    if used is None:
        return rules, ()
    rules = dataclasses.replace(rules, sample_bits=used.bits)
    if used.num_above:
        return rules, (
            f"{used.num_above} of {used.num_images} images of 16 bits a sample have values of more than "
            f"{used.bits_of_others} bits: all are taken to use {used.bits}, which leaves the others dark "
            f"(--sample-bits {used.bits_of_others} scales by the others, {used.bits} leaves it so)",
        )
    if used.bits == MOST_SAMPLE_BITS:
        return rules, ()
    return rules, (
        f"{used.num_images} images of 16 bits a sample have no value above {used.largest}: they are taken to use "
        f"{used.bits} bits (--sample-bits {used.bits} says so; 16 takes them as they are)",
    )
