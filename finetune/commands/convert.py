"""finetune-convert: a folder of images becomes TFRecord shards, labels.txt and dataset.json.

As a function: `convert(ConvertSettings(dataset_dir=..., images_dir=...))`.
"""

import contextlib
import dataclasses
import logging
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
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
from finetune.commands.conversion_plan import ConversionPlan, find_rules, name_of_folder, plan_conversion
from finetune.commands.conversion_shares import PROGRAM, ConversionWork, merged_work, write_conversion_share
from finetune.commands.duplicate_search import (
    apart,
    in_words,
    write_pairs,
)
from finetune.commands.verbs import VERBS
from finetune.datasets.description import FILE_NAME, LABELS_FILE, NEAR_DUPLICATES_FILE, VERSION, write_labels
from finetune.datasets.duplicates import find_duplicates
from finetune.datasets.folders import ImageFolder
from finetune.datasets.image_rules import ImageRules
from finetune.datasets.image_walk import found_folder, list_folder
from finetune.datasets.remarks import Remark
from finetune.datasets.shards import ShardReport, ShardTask, labels_of, write_shards
from finetune.datasets.staging import complete_conversion, files_to_replace, whole_dataset
from finetune.errors import UserError
from finetune.files.shares import SHARES_FOLDER, Share, remove_shares, whole_share
from finetune.files.whole_files import write_json
from finetune.notices import few
from finetune.settings.choices import (
    MULTILABEL,
    PUBLISHED_DATASETS,
    SINGLE_LABEL,
)
from finetune.settings.convert import ConvertSettings

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
        plan = plan_conversion(images_dir, name, settings, given_rules)
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
    rules, guessed = find_rules(given_rules, settings.workers, paths)
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
