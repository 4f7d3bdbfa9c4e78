"""What the steps of a run were given, so that a resumed run can prove that it goes on where the run was.

Each step adds a link to a chain of hashes: over the link before it, the run's seed and the step's number, of which
dropout is made, and for each image the number of its record, the record's fingerprint, and the seed of its augmentation
(of cached features: the number of the view). Two runs with one link at a step were given the same in all steps before.

A checkpoint keeps its last link and the one before. A resumed run is given the last step before it once more: from the
link before and from that step the last link must follow. That is one batch, whatever the step, and enough: a step's
records follow from the order of its whole epoch, so that another seed, batch size, number of records, or shuffle of
another TensorFlow shows in any step. What changed in records that the step didn't hold is found by the hash of the
data, and by the fingerprints of all records seen so far, which a checkpoint keeps, too.
"""

import hashlib
import logging
import struct
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from finetune.datasets.bad_records import reading
from finetune.datasets.dataset import Dataset
from finetune.datasets.pipeline import fingerprints_in_order
from finetune.errors import UserError
from finetune.model.checkpoint_names import DATA_CHAIN, RECORD_FINGERPRINTS
from finetune.types import Array

log = logging.getLogger("finetune")


class SeenRecords:
    """The chain of what steps were given, and the fingerprints of the records."""

    def __init__(self, dataset: Dataset, seed: int, labels_offset: int = 0) -> None:
        """Begins a chain.

        Args:
            dataset: The split that is trained on.
            seed: Of the run.
            labels_offset: Of the network's first output.
        """
        self._dataset = dataset
        self._labels_offset = labels_offset
        self._seed = seed
        self._link = self._link_before = bytes(32)
        self._fingerprints = np.zeros([dataset.num_examples], np.int32)  # 0: not seen yet.
        self._can_be_checked = False

    @property
    def link(self) -> str:
        """The last link, its first 16 hexadecimal digits."""
        return self._link.hex()[:16]

    def values(self) -> dict[str, Array]:
        """What a checkpoint keeps: the last two links, uint8 [2,32], and a fingerprint for each record, int32 [N]."""
        links = np.frombuffer(self._link_before + self._link, np.uint8).reshape([2, 32])
        return {DATA_CHAIN: links, RECORD_FINGERPRINTS: self._fingerprints.copy()}

    def restore(self, values: Mapping[str, Array], source: str) -> None:
        """Takes up what a checkpoint keeps.

        Args:
            values: Of the checkpoint, by name.
            source: Its name, for the line that says that nothing can be checked where there is none of this.
        """
        links, fingerprints = values.get(DATA_CHAIN), values.get(RECORD_FINGERPRINTS)
        if links is None or links.dtype != np.uint8 or links.shape != (2, 32):
            log.info("%s doesn't say what its steps were given, as older runs' don't: that can't be checked.", source)
            return
        self._link_before, self._link = (row.tobytes() for row in links)
        self._can_be_checked = True
        mine = self._fingerprints  # Another number of records is told by the hash of the data.
        if fingerprints is not None and (fingerprints.dtype, fingerprints.shape) == (mine.dtype, mine.shape):
            self._fingerprints = fingerprints.copy()

    def accept_other_data(self) -> None:
        """Goes on with records that aren't those seen so far; the chain goes on."""
        self._fingerprints[:] = 0
        self._can_be_checked = False

    def accept_other_order(self) -> None:
        """Goes on with steps that are not given what they would have been."""
        self._can_be_checked = False

    def watched(self, batches: Callable[[int], Iterator[Any]], first_step: int) -> Iterator[Any]:
        """What steps from `first_step` on are given; it is noted as it is taken, and that of the step before checked.

        Args:
            batches: From a step on: for each step what it is given, and what tells its images apart, int64 [B,3].
            first_step: Number of updates made.

        Raises:
            UserError: The step before was given something else when the run made it.
        """
        if not self._can_be_checked or first_step == 0:
            return self._noted(batches(first_step), first_step)
        endless = batches(first_step - 1)
        *_, records = next(endless)
        if self._next_link(self._link_before, first_step - 1, records) != self._link:
            raise UserError(
                f"--resume: step {first_step} would not be given again what the run gave it: other images, in another "
                "order, or under another augmentation.",
                "Go on with the data, the settings and the TensorFlow of the run (provenance.json), or go on all the "
                "same, as another run, by --allow-changed data.",
            )
        return self._noted(endless, first_step)

    def changed_records(self) -> list[int]:
        """Numbers of the records that aren't what they were when they were seen."""
        with reading(self._dataset, self._labels_offset):
            batches = fingerprints_in_order(self._dataset, self._labels_offset)
            now = np.concatenate([batch.numpy() for batch in batches])
        return [int(number) for number in np.flatnonzero((self._fingerprints != 0) & (self._fingerprints != now))]

    def has_seen_all(self) -> bool:
        """Whether there is no record that no step was given."""
        return bool((self._fingerprints != 0).all())

    def name_of(self, number: int) -> str:
        """A record by its number in its shard."""
        for shard in self._dataset.shards:
            if number < shard.num_records:
                return f"record {number} (counted from 0) of {shard.path}"
            number -= shard.num_records
        raise IndexError(number)

    def _noted(self, batches: Iterator[Any], step: int) -> Iterator[Any]:
        for *given, records in batches:
            self._note_fingerprints(records)
            self._link, self._link_before = self._next_link(self._link, step, records), self._link
            step += 1
            yield tuple(given)

    def _next_link(self, link: bytes, step: int, records: Array) -> bytes:
        content = records.astype("<i8", copy=False).tobytes()
        return hashlib.sha256(link + struct.pack("<qq", self._seed, step) + content).digest()

    def _note_fingerprints(self, records: Array) -> None:
        numbers, found, _ = records[records[:, 0] >= 0].T  # Unlabelled images have numbers below 0.
        known = self._fingerprints[numbers]
        if (known == found).all():
            return
        changed = (known != found) & (known != 0)
        if changed.any():
            raise UserError(
                f"The training data: {self.name_of(int(numbers[changed][0]))} has changed since the run saw it.",
                "Put the data back as it was and go on with --resume, or go on all the same by --resume "
                "--allow-changed data.",
            )
        self._fingerprints[numbers] = found
