"""finetune-convert: a folder of images becomes TFRecord shards, labels.txt and dataset.json.

As a function: `convert(ConvertSettings(dataset_dir=..., images_dir=...))`.
"""

import contextlib
import dataclasses
import logging
import re
import shlex
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from finetune.commands.command import run_command, say
from finetune.commands.conversion import (
    BACKGROUND,
    NO_LABEL,
    Conversion,
    Grouping,
    NearDuplicates,
    print_summary,
    remarks_of,
)
from finetune.commands.conversion_shares import (
    PROGRAM,
    ConversionPlan,
    ConversionWork,
    merged_work,
    write_conversion_share,
)
from finetune.commands.duplicate_search import (
    apart,
    find_pairs,
    in_words,
    looks_beforehand,
    refuse_apart,
    write_pairs,
)
from finetune.commands.verbs import VERBS
from finetune.datasets.description import FILE_NAME, LABELS_FILE, NEAR_DUPLICATES_FILE, VERSION, write_labels
from finetune.datasets.duplicates import find_duplicates
from finetune.datasets.folders import ClassFiles, ImageFolder, scan_images
from finetune.datasets.groups import Groups, groups_of, joined, refuse_divided
from finetune.datasets.image_rules import ImageRules
from finetune.datasets.image_walk import found_folder, list_folder
from finetune.datasets.label_lists import LabelLists
from finetune.datasets.label_table import find_label_table, read_label_table
from finetune.datasets.multilabel_splits import by_class, divide_evenly
from finetune.datasets.processes import num_cores
from finetune.datasets.remarks import Remark
from finetune.datasets.sample_bits import find_used_bits
from finetune.datasets.shards import ShardReport, ShardTask, labels_of, write_shards
from finetune.datasets.shared_pictures import with_labels_of_copies
from finetune.datasets.split_folders import NoClassesError
from finetune.datasets.split_words import SPLITS
from finetune.datasets.splits import count, divide, divide_groups, share_by_fraction, share_by_size, shuffled
from finetune.datasets.staging import complete_conversion, files_to_replace, whole_dataset
from finetune.errors import UserError
from finetune.files.shares import SHARES_FOLDER, Share, remove_shares, whole_share
from finetune.files.whole_files import write_json
from finetune.notices import few
from finetune.published.known_datasets import KNOWN_DATASETS
from finetune.settings.choices import (
    DEFAULT_VALIDATION_FRACTION,
    MAX_IMAGES_PER_SHARD,
    MIN_SHARDS,
    MOST_SAMPLE_BITS,
    MULTILABEL,
    PUBLISHED_DATASETS,
    SINGLE_LABEL,
)
from finetune.settings.convert import ConvertSettings
from finetune.settings.group_rule import GroupRule

log = logging.getLogger("finetune")


def main(argv: Sequence[str] | None = None, prog: str = "finetune-convert") -> int:
    """Runs `finetune-convert`; returns its exit status."""
    return run_command(
        ConvertSettings,
        _convert_and_print,
        prog=prog,
        description=f"{VERBS['convert'].summary} finetune-train and finetune-eval read them.",
        argv=argv,
    )


def convert(settings: ConvertSettings) -> Conversion:
    """Converts a folder of images. All of it is written, or nothing.

    Returns:
        Of a share, with `settings.shard`, what is in its record files, without what only all of them together tell:
        duplicates, contradictions, and the remarks.

    Raises:
        UserError: A setting out of its range; no images, a class without images; files that can't be read (with
            `on_corrupt="fail"`); anything to remark (with `strict`); a data set that exists (without `overwrite`); a
            folder that can't be written; shares that are missing, or not of one piece.
    """
    given_rules = ImageRules(settings.background, settings.sample_bits, settings.max_megapixels)
    name = settings.dataset_name or name_of_folder(settings.dataset_dir)
    if settings.share is None:  # A job leaves alone what others may be at work on.
        complete_conversion(settings.dataset_dir)
    files_to_replace(settings.dataset_dir, name, overwrite=settings.overwrite)  # What is refused is refused at once.
    start = time.monotonic()
    with _images_dir(settings) as images_dir:
        plan = _plan(images_dir, name, settings, given_rules)
        if settings.share is None:
            conversion = _convert_all(settings, plan, given_rules)
        else:
            conversion = _convert_share(settings, settings.share, plan, given_rules)
    seconds = time.monotonic() - start
    num_written = sum(conversion.num_images.values())
    rate = num_written / seconds
    log.info("Converted %d images into %s in %.1f s (%.0f/s).", num_written, settings.dataset_dir, seconds, rate)
    return conversion


def _convert_all(settings: ConvertSettings, plan: ConversionPlan, given_rules: ImageRules) -> Conversion:
    """Writes the data set, of record files that are written now or of those of shares."""
    with whole_dataset(settings.dataset_dir, plan.name, overwrite=settings.overwrite) as staging:
        if settings.merge_shards is not None:
            work = merged_work(settings, settings.merge_shards, plan, staging)
        else:
            work = _write_records(settings, plan, plan.tasks, given_rules, staging)
        _refuse_corrupt(work.reports, plan.num_images, settings.on_corrupt)
        conversion = _summarise(settings, plan, work)
        if settings.strict and conversion.remarks:
            _refuse_remarks(conversion.remarks)
        if plan.pairs is not None and settings.find_near_duplicates:
            write_pairs(staging, plan.pairs, plan.split_of, plan.class_of, plan.found.root, work.rules)
        _describe(staging, conversion, work.reports, settings.seed)
    if settings.merge_shards is not None:
        remove_shares(settings.dataset_dir / SHARES_FOLDER, settings.merge_shards, program=PROGRAM)
    return conversion


def _convert_share(
    settings: ConvertSettings, share: Share, plan: ConversionPlan, given_rules: ImageRules
) -> Conversion:
    """Writes the record files of one share, and keeps what the whole must know of them."""
    share.refuse_too_many(len(plan.tasks), "record files to write", ", or a larger --num-shards")
    place, tasks = settings.dataset_dir / SHARES_FOLDER, share.turns(plan.tasks)
    with whole_share(place, share, flag="--dataset-dir", program=PROGRAM) as folder:
        work = _write_records(settings, plan, tasks, given_rules, folder)
        _refuse_corrupt(work.reports, sum(len(task.files) for task in tasks), settings.on_corrupt)
        write_conversion_share(folder, share, plan, work, settings)
    return _found_in(work, settings, plan)


def _write_records(
    settings: ConvertSettings, plan: ConversionPlan, tasks: Sequence[ShardTask], given_rules: ImageRules, folder: Path
) -> ConversionWork:
    """Writes record files by rules that all images decide on, whichever of them these files hold."""
    from finetune.progress import progress

    paths = [plan.found.root / file for task in plan.tasks for file in task.files]
    rules, guessed = _find_rules(given_rules, settings.workers, paths)
    with progress("Converting", sum(len(task.files) for task in tasks)) as advance:
        reports = write_shards(tasks, plan.found.root, folder, rules, num_workers=settings.workers, on_progress=advance)
    return ConversionWork(tuple(reports), rules, guessed)


def _convert_and_print(settings: ConvertSettings) -> None:
    conversion, share = convert(settings), settings.share
    if share is None:
        print_summary(conversion)
        return
    num_images, num_files = sum(conversion.num_images.values()), sum(conversion.num_shards.values())
    say(f"share {share}: {num_images} images in {num_files} record files, {len(conversion.corrupt)} can't be read")
    kept = settings.dataset_dir / SHARES_FOLDER / share.folder_name
    say(f"kept in {kept}; when all are there: --merge-shards {share.count}")


def _find_rules(
    rules: ImageRules, num_workers: int | None, paths: Sequence[Path]
) -> tuple[ImageRules, tuple[str, ...]]:
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


@contextlib.contextmanager
def _images_dir(settings: ConvertSettings) -> Iterator[Path]:
    """As told, else the class folders in --dataset-dir, else what is published under --dataset-name.

    That is unpacked from its files in --dataset-dir where they are there, else downloaded.
    """
    from finetune.published.obtain import default_folder, find_published_files, obtain, unpacked_for_now

    folder, name = settings.dataset_dir, settings.dataset_name
    has_folders = folder.is_dir() and bool(list_folder(found_folder(folder)).folders)
    if settings.images_dir is not None:
        yield settings.images_dir
    elif has_folders or name is None or name not in PUBLISHED_DATASETS:
        yield folder
    elif files := find_published_files(name, folder):
        if settings.shard is not None or settings.merge_shards is not None:
            raise UserError(
                f"{'--shard' if settings.shard else '--merge-shards'}: each job would unpack {few(files)} once more.",
                "Convert without shares, or name a folder of images with --images-dir.",
            )
        log.info("Images from %s.", ", ".join(map(str, files)))
        with unpacked_for_now(name, files, folder) as unpacked:
            yield unpacked
    else:
        yield obtain(name, default_folder())


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


def _plan(images_dir: Path, name: str, settings: ConvertSettings, given_rules: ImageRules) -> ConversionPlan:
    """Which image goes where: a function of the folder and the settings alone."""
    found = find_images(images_dir, settings)
    groups: Groups = groups_of(found, settings.group_rule) if settings.group_rule else {}
    pairs = None
    if looks_beforehand(settings):
        paths = [found.root / file for classes in found.splits.values() for files in classes.values() for file in files]
        rules, _ = _find_rules(given_rules, settings.workers, paths)
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


def _refuse_corrupt(reports: Sequence[ShardReport], num_images: int, on_corrupt: str) -> None:
    corrupt = _all_corrupt(reports)
    if corrupt and on_corrupt == "fail":
        names = "".join(f"\n  {file}: {reason}" for file, reason in corrupt)
        raise UserError(
            f"{len(corrupt)} of {num_images} files can't be read as images; nothing was written:{names}",
            "Mend or remove them, or leave them out with --on-corrupt skip.",
        )


def _refuse_remarks(remarks: Sequence[Remark]) -> None:
    lines = "".join(f"\n  {remark}" for remark in remarks)
    raise UserError(
        f"--strict: nothing was written, as not all is plain:{lines}", "Mend that, or accept it: leave out --strict."
    )


def _summarise(settings: ConvertSettings, plan: ConversionPlan, work: ConversionWork) -> Conversion:
    of_splits: dict[str, dict[str, bytes]] = defaultdict(dict)
    of_classes: dict[str, dict[str, bytes]] = defaultdict(dict)
    for report in work.reports:
        for index, fingerprint in zip(report.written, report.fingerprints, strict=True):
            labels, file = labels_of(report.task.labels[index]), report.task.files[index]
            group = ", ".join(plan.classes[label] for label in labels) or NO_LABEL
            of_splits[report.task.split][file] = of_classes[group][file] = fingerprint
    conversion = _found_in(work, settings, plan)
    for class_name, number in zip(plan.classes, conversion.counts["train"], strict=True):
        if not number and class_name != BACKGROUND:
            raise UserError(f"No image of class {class_name} can be read, of those to train on.", "Mend its files.")
    conversion = dataclasses.replace(
        conversion,
        duplicates=find_duplicates(of_splits, plan.found.root, work.rules),
        contradictions=find_duplicates(of_classes, plan.found.root, work.rules),
        near_duplicates=_near_duplicates(settings, plan),
    )
    remarks = remarks_of(conversion, plan.found, validation=_validation_asked(plan.found, settings))
    return dataclasses.replace(conversion, remarks=remarks)


def _near_duplicates(settings: ConvertSettings, plan: ConversionPlan) -> NearDuplicates | None:
    if plan.pairs is None or not settings.find_near_duplicates:
        return None
    near = [pair for pair in plan.pairs if not pair.is_copy]
    in_splits, in_classes = (
        tuple(in_words(pair, place_of) for pair in apart(near, place_of)) for place_of in (plan.split_of, plan.class_of)
    )
    return NearDuplicates(settings.duplicate_similarity, len(plan.pairs), in_splits, in_classes)


def _found_in(work: ConversionWork, settings: ConvertSettings, plan: ConversionPlan) -> Conversion:
    """What record files hold, without duplicates, contradictions and remarks."""
    counts: dict[str, list[int]] = {}
    num_images, num_without_labels = Counter[str](), Counter[str]()
    for report in work.reports:
        of_split = counts.setdefault(report.task.split, [0] * len(plan.classes))
        num_images[report.task.split] += len(report.written)
        for index in report.written:
            labels = labels_of(report.task.labels[index])
            num_without_labels[report.task.split] += not labels
            for label in labels:
                of_split[label] += 1
    return Conversion(
        dataset_dir=settings.dataset_dir,
        name=plan.name,
        classes=plan.classes,
        counts={split: tuple(of_split) for split, of_split in counts.items()},
        num_images={split: num_images[split] for split in counts},
        num_without_labels={split: num_without_labels[split] for split in counts} if plan.found.labels else {},
        task=MULTILABEL if plan.found.labels else SINGLE_LABEL,
        num_shards=dict(Counter(report.task.split for report in work.reports)),
        reencoded=_total(report.reencoded for report in work.reports),
        changed=_total(report.changed for report in work.reports),
        guessed=work.guessed,
        image_rules=work.rules,
        corrupt=tuple(_all_corrupt(work.reports)),
        ignored=plan.found.ignored,
        duplicates=(),
        contradictions=(),
        remarks=(),
        grouping=plan.grouping,
    )


def _validation_asked(found: ImageFolder, settings: ConvertSettings) -> bool | None:
    """Whether validation images are asked for, by the settings or where they say nothing; None: nobody says."""
    asked = [value for value in (settings.validation_fraction, settings.validation_size) if value is not None]
    return any(asked) if asked else None if found.is_split else True


def _describe(staging: Path, conversion: Conversion, reports: Sequence[ShardReport], seed: int) -> None:
    """Writes labels.txt and dataset.json (see datasets/description.py for its keys)."""
    shards: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for report in reports:
        shards[report.task.split].append(
            {
                "file": report.task.name,
                "num_records": len(report.written),
                "num_bytes": report.num_bytes,
                "sha256": report.sha256,
            }
        )
    description = {
        "version": VERSION,
        **({"task": conversion.task} if conversion.task != SINGLE_LABEL else {}),
        "name": conversion.name,
        "seed": seed,
        "classes": conversion.classes,
        "splits": {
            split: {
                "num_examples": conversion.num_images[split],
                "num_examples_per_class": dict(zip(conversion.classes, counts, strict=True)),
                **(
                    {"num_without_labels": conversion.num_without_labels[split]}
                    if conversion.num_without_labels
                    else {}
                ),
                "shards": shards[split],
            }
            for split, counts in conversion.counts.items()
        },
        **({"weights": weights} if (weights := _weights(reports)) else {}),
        "formats": _total(report.formats for report in reports),
        "images": conversion.image_rules.to_json(),
        "reencoded": conversion.reencoded,
        "changed": conversion.changed,
        "guessed": conversion.guessed,
        "corrupt": [{"file": file, "reason": reason} for file, reason in conversion.corrupt],
        "ignored": conversion.ignored,
        "remarks": [remark.as_json() for remark in conversion.remarks],
        "duplicates": {"count": len(conversion.duplicates), "pictures": conversion.duplicates},
        "contradictions": {"count": len(conversion.contradictions), "pictures": conversion.contradictions},
        **_described_near_duplicates(conversion.near_duplicates),
        **_described_grouping(conversion.grouping),
    }
    write_json(staging / FILE_NAME, description, indent=2)
    write_labels(staging / LABELS_FILE, conversion.classes)


def _described_near_duplicates(found: NearDuplicates | None) -> dict[str, Any]:
    if found is None:
        return {}
    described = {
        "similarity": found.similarity,
        "pairs": found.num_pairs,
        "in_different_splits": len(found.in_splits),
        "in_different_classes": len(found.in_classes),
        "file": NEAR_DUPLICATES_FILE,
    }
    return {"near_duplicates": described}


def _described_grouping(grouping: Grouping | None) -> dict[str, Any]:
    if grouping is None:
        return {}
    return {"groups": {"by": grouping.by, "count": grouping.num_groups, "wanted": dict(grouping.wanted)}}


def _all_corrupt(reports: Sequence[ShardReport]) -> list[tuple[str, str]]:
    return sorted(corrupt for report in reports for corrupt in report.corrupt)


def _total(counters: Iterable[Counter[str]]) -> dict[str, int]:
    return dict(sorted(sum(counters, Counter()).items()))


def _weights(reports: Sequence[ShardReport]) -> dict[str, dict[str, float]]:
    """How much images count in training, for each split; empty where nothing is said of it."""
    of_splits: dict[str, list[float]] = defaultdict(list)
    for report in reports:
        of_splits[report.task.split] += [report.task.weights[index] for index in report.written if report.task.weights]
    return {
        split: {"least": min(weights), "most": max(weights), "mean": sum(weights) / len(weights)}
        for split, weights in of_splits.items()
        if weights
    }
