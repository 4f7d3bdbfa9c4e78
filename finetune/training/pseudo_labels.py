"""The labels that a run gives images itself: what checkpoints hold of them, and pseudo_labels.csv."""

import csv
import dataclasses
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from finetune.files.csv_cells import cells_of
from finetune.files.whole_files import write_text
from finetune.model.checkpoint_names import PSEUDO_LABELS, PSEUDO_LABELS_STEP
from finetune.training.label_thresholds import Choice
from finetune.training.mixed_batches import UNUSED
from finetune.types import Array

NOT_YET = -1


class PseudoLabels:
    """The labels that steps are given now.

    A checkpoint holds them: a run that is resumed goes on with those of its last steps, whatever the file says, which
    is of the newest labels that were made.

    Attributes:
        labels: Of each unlabelled image the output that stands for its class, int64 [N]; `UNUSED`: it isn't taken.
        made_at: Number of updates made when the labels were made; `NOT_YET`: none were.
    """

    def __init__(self, num_images: int) -> None:
        self.labels = np.full([num_images], UNUSED, np.int64)
        self.made_at = NOT_YET

    def values(self) -> dict[str, Array]:
        """What a checkpoint keeps: the labels, int32 [N], and when they were made."""
        return {PSEUDO_LABELS: self.labels.astype(np.int32), PSEUDO_LABELS_STEP: np.array(self.made_at, np.int64)}

    def restore(self, values: Mapping[str, Array]) -> None:
        """Takes up what a checkpoint keeps, where that is of as many images; else they are yet to be labelled."""
        labels, made_at = values.get(PSEUDO_LABELS), values.get(PSEUDO_LABELS_STEP)
        if labels is None or made_at is None or labels.shape != self.labels.shape or made_at.shape != ():
            self.labels[:], self.made_at = UNUSED, NOT_YET
            return
        self.labels, self.made_at = labels.astype(np.int64), int(made_at)

    def replace(self, choice: Choice, made_at: int) -> "Changes":
        """Puts new labels in place; returns what they change."""
        before, now = self.labels, np.where(choice.is_used, choice.labels, UNUSED)
        self.labels, self.made_at = now, made_at
        was_used, is_used = before != UNUSED, now != UNUSED
        return Changes(
            num_new=int((is_used & ~was_used).sum()),
            num_other=int((is_used & was_used & (before != now)).sum()),
            num_gone=int((was_used & ~is_used).sum()),
        )


@dataclasses.dataclass(frozen=True)
class Changes:
    """How many images are used that weren't, have another label than before, and are used no more."""

    num_new: int
    num_other: int
    num_gone: int

    def __str__(self) -> str:
        return f"{self.num_new} new, {self.num_other} with another label, {self.num_gone} gone"


def write_pseudo_labels(path: Path, names: Sequence[str], classes: Sequence[str], choice: Choice) -> None:
    """Writes a row for each image: path, label, confidence, the threshold of that class, and whether it is used.

    Args:
        path: Of the file.
        names: Of the images.
        classes: By output of the network.
        choice: Their labels.
    """
    table = io.StringIO()
    rows = csv.writer(table, lineterminator="\n")
    rows.writerow(["path", "label", "confidence", "threshold", "used"])
    columns = (names, choice.labels, choice.confidences, choice.thresholds[choice.labels], choice.is_used)
    for name, label, confidence, threshold, is_used in zip(*columns, strict=True):
        values = [name, classes[label], f"{confidence:.6f}", f"{threshold:.6f}", str(bool(is_used)).lower()]
        rows.writerow(cells_of(values))
    write_text(path, table.getvalue())
