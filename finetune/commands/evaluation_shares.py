"""An evaluation shared out: a share's part of the split, what its job keeps, and all shares as one result."""

import dataclasses
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.commands.decisions import decided
from finetune.commands.shares import command_of_share, facts_of_settings, facts_of_software
from finetune.datasets.dataset import Dataset, SkippedRecord, content_hash, skipped_in_words, without
from finetune.datasets.dataset_search import find_dataset
from finetune.datasets.record_ranges import records_within
from finetune.datasets.tfrecord import hash_content
from finetune.errors import UserError
from finetune.evaluation.class_areas import keeps_logits
from finetune.evaluation.metrics import Scores, join_scores
from finetune.evaluation.result_files import EvalResult
from finetune.evaluation.score_rows import ROW_SHAPE, rows_of, scores_of
from finetune.files.json_files import Number, Shape
from finetune.files.shares import (
    SHARES_FOLDER,
    Facts,
    FoundShare,
    Share,
    check_shapes,
    find_shares,
    read_rows,
    refuse_differences,
    write_share,
)
from finetune.runs.trained_network import TrainedNetwork
from finetune.settings.evaluate import EvalSettings

if TYPE_CHECKING:
    from collections.abc import Sequence

log = logging.getLogger("finetune")

PROGRAM = "finetune-eval"
# They decide on how fast it goes, or on what is done with the whole.
NOT_OF_THE_RESULT = (
    *("batch_size", "num_preprocessing_threads"),
    *("report", "assert_accuracy_at_least", "timeout", "trust_code"),
    *("threshold", "positive_class", "calibrate"),
)
COUNT = Number(int, at_least=0)
NETWORK_SHAPE: dict[str, Shape] = {
    "model": str,
    "preprocessing": str,
    "image_size": int | None,
    "use_grayscale": bool,
    "labels_offset": COUNT,
    "use_moving_averages": bool,
    "precision": str,
    "image_key": str,
    "label_key": str,
    "resize": str | None,
    "head": str,
    "head_dropout": Number(float),
    "head_pooling": str | None,
}
FACTS_SHAPE = {
    "checkpoint": str,
    "file": str,
    "step": int | None,
    "weights (sha256)": str,
    "classes": [str],
    "network": NETWORK_SHAPE,
}
OWN_SHAPE = {"sha256": {...: str}, "undecodable": {...: [{"number": COUNT, "offset": COUNT, "reason": str}]}}


def part_of_split(dataset: Dataset, share: Share) -> Dataset:
    """The records of a split that are one share's, with the hashes of the files that they are in.

    Raises:
        UserError: There are more shares than records.
    """
    share.refuse_too_many(dataset.num_examples, f"images in the split {dataset.split}")
    part = records_within(dataset, share.part_of(dataset.num_examples))
    hashed = (dataclasses.replace(shard, sha256=shard.sha256 or hash_content(shard.path)) for shard in part.shards)
    return dataclasses.replace(part, shards=tuple(hashed))


def write_evaluation_share(
    folder: Path, share: Share, result: EvalResult, weights_sha256: str, settings: EvalSettings
) -> None:
    """Writes what a share of an evaluation came to.

    Args:
        folder: Where it goes.
        share: Which one it is.
        result: Of its part of the split.
        weights_sha256: The hash of the network's weights.
        settings: Of the command.
    """
    part = result.dataset
    assert part.whole is not None
    facts = {
        **facts_of_settings(settings, NOT_OF_THE_RESULT),
        **facts_of_software(),
        "checkpoint": result.checkpoint_name,
        "file": Path(result.checkpoint).name,
        "step": result.step,
        "weights (sha256)": weights_sha256,
        "network": dataclasses.asdict(result.network),
        "classes": result.class_names,
        **_facts_of_data(part.whole),
    }
    known = {shard.path: shard.skipped for shard in part.whole.shards}
    undecodable = {
        shard.path.name: [skipped._asdict() for skipped in shard.skipped if skipped not in known[shard.path]]
        for shard in part.shards
    }
    hashes = {shard.path.name: shard.sha256 for shard in part.shards}
    own = {"sha256": hashes, "undecodable": {file: records for file, records in undecodable.items() if records}}
    write_share(folder, share, facts=facts, own=own, rows=rows_of(result.scores))


def merged_evaluation(settings: EvalSettings, count: int) -> EvalResult:
    """What all shares came to, as one evaluation of the whole split; no network is built for it.

    Args:
        settings: Of the command.
        count: Number of shares.

    Raises:
        UserError: As `find_shares`; the data are others than those of the shares.
    """
    checkpoint = settings.checkpoint[-1]
    run_folder = checkpoint if checkpoint.is_dir() else checkpoint.parent
    output_dir = settings.output_dir or run_folder / f"eval_{settings.split}"
    again = command_of_share(settings, PROGRAM)
    mend = f"Make the shares again, by {again(f'I/{count}')}"
    place = output_dir / SHARES_FOLDER
    shares = find_shares(place, count, facts_of_settings(settings, NOT_OF_THE_RESULT), again)
    for found in shares:
        check_shapes(found, FACTS_SHAPE, OWN_SHAPE, mend)
    facts = shares[0].facts
    network = TrainedNetwork(**{name: facts["network"][name] for name in NETWORK_SHAPE})
    whole = _whole_split(settings, network, facts, f"Give the records that the shares are of. {mend}")
    dataset = _as_read(whole, shares, mend)
    if dataset.num_skipped:
        log.warning("%s", skipped_in_words(dataset))
    result = EvalResult(
        checkpoint=str(run_folder / Path(facts["file"]).name),
        checkpoint_name=facts["checkpoint"],
        step=facts["step"],
        network=network,
        tta=settings.tta,
        dataset=dataset,
        data_sha256=content_hash(dataset),
        scores=join_scores([_scores(found, whole.num_examples, settings, mend) for found in shares]),
        class_names=facts["classes"],
        output_dir=output_dir,
        writes_logits=settings.write_logits,
    )
    return decided(result, settings, lambda: facts["weights (sha256)"])


def _facts_of_data(whole: Dataset) -> dict[str, Any]:
    """Of which records the split consists."""
    return {
        "data set": whole.name,
        "classes of the data": None if whole.class_names is None else list(whole.class_names),
        "records of the files": {shard.path.name: shard.num_records for shard in whole.shards},
        "records left out": {
            shard.path.name: [skipped.number for skipped in shard.skipped] for shard in whole.shards if shard.skipped
        },
    }


def _whole_split(settings: EvalSettings, network: TrainedNetwork, facts: Facts, mend: str) -> Dataset:
    """The split as each job found it before it took its part."""
    whole = find_dataset(
        settings.dataset_dir,
        settings.dataset_name,
        settings.split,
        labels_offset=network.labels_offset,
        image_key=network.image_key,
        label_key=network.label_key,
        on_corrupt=settings.on_corrupt,
    )
    data = _facts_of_data(whole)
    refuse_differences({name: facts.get(name) for name in data}, "the shares", data, "--dataset-dir", mend)
    return whole


def _as_read(whole: Dataset, shares: "Sequence[FoundShare]", mend: str) -> Dataset:
    """The split with the hashes of its files, and without the records that the jobs found to be no images."""
    hashes = {shard.path.name: shard.sha256 for shard in whole.shards if shard.sha256}
    undecodable: dict[str, list[SkippedRecord]] = {}
    for found in shares:
        of_share = found.own["sha256"]
        known = {file: hashes[file] for file in of_share if file in hashes}
        told = {file: of_share[file] for file in known}
        refuse_differences(known, "the others", told, f"share {found.share}", mend)
        hashes |= of_share
        for file, records in found.own["undecodable"].items():
            left_out = (SkippedRecord(each["number"], each["offset"], each["reason"]) for each in records)
            undecodable.setdefault(file, []).extend(left_out)
    shards = (
        dataclasses.replace(without(shard, undecodable.get(shard.path.name, [])), sha256=hashes.get(shard.path.name))
        for shard in whole.shards
    )
    return dataclasses.replace(whole, shards=tuple(shards))


def _scores(found: FoundShare, num_images: int, settings: EvalSettings, mend: str) -> Scores:
    """Of the images of a share, which are as many as it must have."""
    expected = len(found.share.part_of(num_images)) - sum(map(len, found.own["undecodable"].values()))
    if found.num_rows != expected:
        raise UserError(
            f"{found.folder} has figures of {found.num_rows} images; share {found.share} has {expected}.", mend
        )
    try:
        rows = read_rows(found, ROW_SHAPE, mend)
        num_classes = len(found.facts["classes"])
        return scores_of(rows, num_classes, has_logits=settings.write_logits or keeps_logits(num_images, num_classes))
    except ValueError as error:
        raise UserError(f"{found.folder} can't be used: {error}.", mend) from error
