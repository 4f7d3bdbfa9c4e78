"""A conversion shared out: what a job keeps beside its record files, and all shares' work as if it were one's."""

import dataclasses
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from finetune.commands.conversion_plan import ConversionPlan
from finetune.commands.shares import command_of_share, facts_of_settings, facts_of_software
from finetune.datasets.image_rules import IMAGE_RULES_SHAPE, ImageRules
from finetune.datasets.shards import ShardReport, ShardTask
from finetune.errors import UserError
from finetune.files.json_files import Number
from finetune.files.shares import (
    SHARES_FOLDER,
    FoundShare,
    Share,
    check_shapes,
    find_shares,
    read_rows,
    write_share,
)
from finetune.settings.convert import ConvertSettings

PROGRAM = "finetune-convert"
# They decide on how fast it goes, or on what is done with the whole.
NOT_OF_THE_RESULT = ("workers", "overwrite", "strict")
COUNT = Number(int, at_least=0)
FACTS_SHAPE = {"rules of the images": IMAGE_RULES_SHAPE, "guessed": [str]}
OWN_SHAPE = {
    "record files": [
        {
            "file": str,
            "num_records": COUNT,
            "num_bytes": COUNT,
            "sha256": str,
            "corrupt": [{"file": str, "reason": str}],
            **{key: {...: COUNT} for key in ("formats", "reencoded", "changed")},
        }
    ]
}
ROW_SHAPE = {"index": COUNT, "fingerprint": str}


@dataclasses.dataclass(frozen=True)
class ConversionWork:
    """Record files that are written.

    Attributes:
        reports: What became of each, in the order of the plan.
        rules: By which images became pixels of 8 bits.
        guessed: What was taken for granted of that, a sentence each.
    """

    reports: tuple[ShardReport, ...]
    rules: ImageRules
    guessed: tuple[str, ...]


def write_conversion_share(
    folder: Path, share: Share, plan: ConversionPlan, work: ConversionWork, settings: ConvertSettings
) -> None:
    """Writes what the whole must know of a share's record files, which are in the folder already.

    Args:
        folder: Where it goes.
        share: Which one it is.
        plan: Of the whole.
        work: The share's.
        settings: Of the command.
    """
    facts = {
        **facts_of_settings(settings, NOT_OF_THE_RESULT),
        **facts_of_software(),
        **_facts_of_plan(plan),
        "rules of the images": work.rules.to_json(),
        "guessed": work.guessed,
    }
    own = {"record files": [_described(report) for report in work.reports]}
    write_share(folder, share, facts=facts, own=own, rows=_rows(work.reports))


def merged_work(settings: ConvertSettings, count: int, plan: ConversionPlan, staging: Path) -> ConversionWork:
    """The record files of all shares, in a folder together, and what became of them.

    Args:
        settings: Of the command.
        count: Number of shares.
        plan: Of the whole, as it is now.
        staging: Where the files go: by another name for the same file where the file system can, else as copies.

    Raises:
        UserError: As `find_shares`; the images are others than those of the shares, or go elsewhere.
    """
    again = command_of_share(settings, PROGRAM)
    mend = f"Make the shares again, by {again(f'I/{count}')}"
    facts = {**facts_of_settings(settings, NOT_OF_THE_RESULT), **_facts_of_plan(plan)}
    reports: dict[str, ShardReport] = {}
    shares = find_shares(settings.dataset_dir / SHARES_FOLDER, count, facts, again)
    for found in shares:
        check_shapes(found, FACTS_SHAPE, OWN_SHAPE, mend)
        for report in _reports(found, found.share.turns(plan.tasks), mend):
            _link(found.folder / report.task.name, staging / report.task.name, report.num_bytes, mend)
            reports[report.task.name] = report
    common = shares[0].facts
    found_rules = common["rules of the images"]
    rules = ImageRules(found_rules["background"], found_rules["sample_bits"], settings.max_megapixels)
    return ConversionWork(tuple(reports[task.name] for task in plan.tasks), rules, tuple(common["guessed"]))


def _facts_of_plan(plan: ConversionPlan) -> dict[str, Any]:
    return {
        "data set": plan.name,
        "number of images": plan.num_images,
        "images and where they go (sha256)": plan.sha256,
    }


def _described(report: ShardReport) -> dict[str, Any]:
    return {
        "file": report.task.name,
        "num_records": len(report.written),
        "num_bytes": report.num_bytes,
        "sha256": report.sha256,
        "corrupt": [{"file": file, "reason": reason} for file, reason in report.corrupt],
        "formats": report.formats,
        "reencoded": report.reencoded,
        "changed": report.changed,
    }


def _rows(reports: Sequence[ShardReport]) -> Iterator[dict[str, Any]]:
    """A row for each record, of one file after the other."""
    for report in reports:
        for index, fingerprint in zip(report.written, report.fingerprints, strict=True):
            yield {"index": index, "fingerprint": fingerprint.hex()}


def _reports(found: FoundShare, tasks: Sequence[ShardTask], mend: str) -> Iterator[ShardReport]:
    """What became of the tasks of a share."""
    described = found.own["record files"]
    is_whole = [each["file"] for each in described] == [task.name for task in tasks] and all(
        each["num_records"] + len(each["corrupt"]) == len(task.files)
        for each, task in zip(described, tasks, strict=False)
    )
    if not is_whole or found.num_rows != sum(each["num_records"] for each in described):
        raise UserError(f"{found.folder} doesn't hold the {len(tasks)} record files of share {found.share}.", mend)
    rows = read_rows(found, ROW_SHAPE, mend)
    for task, each in zip(tasks, described, strict=True):
        records = list(islice(rows, each["num_records"]))
        written = [row["index"] for row in records]
        if any(index >= len(task.files) for index in written) or len(set(written)) < len(written):
            raise UserError(f"{found.folder} doesn't hold the images of {task.name}, each once.", mend)
        yield ShardReport(
            task,
            num_bytes=each["num_bytes"],
            sha256=each["sha256"],
            written=written,
            fingerprints=[_bytes_of(row["fingerprint"], found, mend) for row in records],
            formats=Counter(each["formats"]),
            reencoded=Counter(each["reencoded"]),
            changed=Counter(each["changed"]),
            corrupt=[(corrupt["file"], corrupt["reason"]) for corrupt in each["corrupt"]],
        )


def _bytes_of(text: str, found: FoundShare, mend: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError as error:
        raise UserError(f"{found.folder} has a fingerprint {text!r}, which is no number of base 16.", mend) from error


def _link(source: Path, target: Path, num_bytes: int, mend: str) -> None:
    """Gives a record file another name, or copies it where that can't be."""
    if not source.is_file() or source.stat().st_size != num_bytes:
        raise UserError(f"{source} is missing, or has not the {num_bytes:,} bytes that its job wrote.", mend)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
