"""Records that can't be used: which one a failure came from, and splits without those that are damaged."""

import contextlib
import dataclasses
import logging
from collections.abc import Iterator
from typing import NamedTuple

import tensorflow as tf

from finetune.datasets.dataset import (
    OR_SKIP,
    WRONG_DESCRIPTION,
    Dataset,
    bad_record,
    check_labels,
    skipped_in_words,
    skipped_record,
    usable_records,
    without,
)
from finetune.datasets.decoding import BAD_DATA_ERRORS, decode_image
from finetune.datasets.record_streams import AUTOTUNE, plain, records_in_order
from finetune.datasets.schema import LabelError, parse_record
from finetune.datasets.tfrecord import RecordFileError
from finetune.errors import UserError
from finetune.progress import progress
from finetune.types import Tensor

log = logging.getLogger("finetune")

# The last is a number of records that isn't the expected one.
BAD_FILE_ERRORS = (tf.errors.DataLossError, tf.errors.NotFoundError, tf.errors.FailedPreconditionError)


@contextlib.contextmanager
def reading(dataset: Dataset, labels_offset: int = 0) -> Iterator[None]:
    """Turns a failure to read the data set within this context into a mistake that names the shard and the record.

    Raises:
        UserError: A record is damaged, no Example, no image, or has no label or one outside of the classes; a shard
            holds another number of records than expected.
    """
    try:
        yield
    except (*BAD_DATA_ERRORS, *BAD_FILE_ERRORS) as error:
        # tf.data doesn't say which record it failed at, and the failure may not be the data's at all.
        log.info("Reading failed; looking for the record among %d of %s.", dataset.num_examples, dataset.split)
        found = find_bad_record(dataset, labels_offset)
        if found is None:
            raise
        raise found from error


def find_bad_record(dataset: Dataset, labels_offset: int = 0) -> UserError | None:
    """Reads the split record by record and tells of the first that can't be used; None if all can."""
    for shard in dataset.shards:
        num_records = 0
        try:
            for record in usable_records(shard):
                problem = _find_problem(record.data, dataset, labels_offset)
                if problem:
                    return bad_record(shard.path, record, problem.what, problem.mend)
                num_records += 1
        except RecordFileError as error:
            return UserError(f"The shard {error}.", OR_SKIP)
        if num_records != shard.num_records:
            return UserError(
                f"The shard {shard.path} holds {num_records} records, but {shard.num_records} were expected: so many "
                "dataset.json says, or were counted at the start.",
                f"Let nothing write into it meanwhile. {WRONG_DESCRIPTION}",
            )
    return None


def without_undecodable(dataset: Dataset, labels_offset: int = 0) -> Dataset:
    """The split without the records whose images can't be decoded, each of which is decoded for it; says so.

    Raises:
        UserError: A record lacks its label, or has one that is no class: that is no damage; no record is left.
    """
    whole = _decodable(dataset)
    shards, position = [], 0
    for shard in dataset.shards:
        skipped = []
        for record in usable_records(shard) if shard.num_records else ():
            problem = None if position in whole else _find_problem(record.data, dataset, labels_offset)
            if problem and not problem.is_damage:
                raise bad_record(shard.path, record, problem.what, problem.mend)
            if problem:
                skipped.append(skipped_record(record, problem.what))
            position += 1
        shards.append(without(shard, skipped))
    dataset = dataclasses.replace(dataset, shards=tuple(shards))
    if dataset.num_skipped:
        log.warning("%s", skipped_in_words(dataset))
    if not dataset.num_examples:
        raise UserError(f"No record of the {dataset.split} split can be read.", "Convert the images again.")
    return dataset


def _decodable(dataset: Dataset) -> set[int]:
    """The positions of the records whose images can be decoded, counted over all shards without what is left out."""

    def decode(position: Tensor, serialized: Tensor) -> tuple[Tensor, Tensor]:
        # The size is asked for lest TensorFlow leave out what nobody needs.
        return position, tf.size(decode_image(parse_record(serialized, dataset.schema).encoded, channels=3))

    positions = (
        records_in_order(dataset)
        .enumerate()
        .map(plain(decode), num_parallel_calls=AUTOTUNE, deterministic=True)
        .ignore_errors()
    )
    found = set()
    with progress(f"Checking the images of {dataset.split}", dataset.num_examples) as advance:
        for position, _ in positions.as_numpy_iterator():
            found.add(int(position))
            advance(1)
    return found


class _Problem(NamedTuple):
    """What is wrong with a record, what mends it, and whether it is damage rather than a label that isn't as meant."""

    what: str
    mend: str
    is_damage: bool = True


def _find_problem(serialized: bytes, dataset: Dataset, labels_offset: int) -> _Problem | None:
    """What is wrong with a record; None if nothing is."""
    convert_again = f"finetune-convert checks each image. {OR_SKIP}"
    try:
        check_labels(serialized, dataset.schema, labels_offset, dataset.num_classes)
        dataset.schema.read_weight(serialized)
        record = parse_record(serialized, dataset.schema)
    except LabelError as error:
        return _Problem(str(error), error.mend, is_damage=False)
    except (ValueError, *BAD_DATA_ERRORS):
        return _Problem("no tf.train.Example of an image and its class", convert_again)
    try:
        decode_image(record.encoded, channels=3)
    except BAD_DATA_ERRORS:
        filename = record.filename.numpy().decode("utf-8", "replace")
        num_bytes = len(record.encoded.numpy())
        of_file = f" ({filename})" if filename else ""
        return _Problem(f"its {num_bytes} bytes can't be decoded as an image{of_file}", convert_again)
    return None
