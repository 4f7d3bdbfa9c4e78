"""A part of a split: its records from one place to another, in the order of its files."""

import dataclasses
from collections.abc import Iterator

import numpy as np

from finetune.datasets.dataset import Dataset, Shard


def records_within(dataset: Dataset, positions: range) -> Dataset:
    """The split's records at some positions that follow each other; files that hold none of them are none of its own.

    Args:
        dataset: The whole split, all of each file.
        positions: Counted from 0 over all files, without the records that are left out.
    """
    return dataclasses.replace(dataset, shards=tuple(_within(dataset.shards, positions)), whole=dataset)


def _within(shards: tuple[Shard, ...], positions: range) -> Iterator[Shard]:
    first = 0
    for shard in shards:
        start, stop = max(0, positions.start - first), min(shard.num_records, positions.stop - first)
        if start < stop:
            yield _part(shard, start, stop)
        first += shard.num_records


def _part(shard: Shard, start: int, stop: int) -> Shard:
    """A file's records from one to another; said of a whole file, too, for readers want it of all files or of none."""
    left_out = [skipped.number for skipped in shard.skipped]
    numbers = np.setdiff1d(np.arange(shard.num_records + len(left_out)), left_out)
    is_chosen = np.zeros(shard.num_records + len(left_out), np.uint8)
    is_chosen[numbers[start:stop]] = 1
    return dataclasses.replace(shard, num_records=stop - start, chosen=is_chosen.tobytes())
