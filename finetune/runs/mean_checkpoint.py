"""The mean of several checkpoints' weights, read like one checkpoint."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from finetune.datasets.description import LABELS_FILE, read_labels
from finetune.errors import UserError
from finetune.model.checkpoint import Checkpoint, checkpoints_by_step, count_not_finite, refuse_not_finite
from finetune.model.checkpoint_names import NOTES_ON_DATA
from finetune.model.scopes import Shape
from finetune.types import Array


class MeanCheckpoint(Checkpoint):
    """Stochastic weight averaging after training (Izmailov et al. 2018, https://arxiv.org/abs/1803.05407).

    Moving statistics of batch norm are averaged like the weights: right where the checkpoints lie close together, as
    those of one run's end do.

    Attributes:
        prefix: That of the last checkpoint: its folder and its step count as the mean's.
        prefixes: Those of all.
        shapes: Shape of every tensor, by name; the same in all checkpoints.
    """

    def __init__(self, checkpoints: Sequence[Checkpoint]) -> None:
        """Takes the mean of one or more checkpoints, the newest last.

        Raises:
            UserError: They don't hold the same variables, or their outputs stand for other classes.
        """
        self._checkpoints = checkpoints
        self.prefix = checkpoints[-1].prefix
        self.prefixes = [checkpoint.prefix for checkpoint in checkpoints]
        self.shapes = _shapes_of_values(checkpoints[-1])
        self.name_prefix = checkpoints[-1].name_prefix
        self.is_object_based = checkpoints[-1].is_object_based
        for other in checkpoints:
            shapes = _shapes_of_values(other)
            if shapes != self.shapes:
                differing = sorted(dict(set(shapes.items()) ^ set(self.shapes.items())))
                raise UserError(
                    f"--checkpoint: {other.prefix} and {self.prefix} differ in {differing[0]}: they have no mean.",
                    "Give checkpoints of one network, best of one run.",
                )
            _refuse_other_classes(other.prefix, self.prefix)

    def read(self, name: str) -> Array:
        """The mean of the tensors called `name`; where it is of whole numbers, such as the step, the last one.

        Raises:
            UserError: One of the files is damaged, or holds NaN or infinity there.
        """
        last = self._checkpoints[-1].read(name)
        if not np.issubdtype(last.dtype, np.floating):
            return last
        total = np.zeros(last.shape)
        for checkpoint in self._checkpoints:
            value = checkpoint.read(name)
            refuse_not_finite(
                checkpoint,
                count_not_finite([(name, value)]),
                "Leave it out: without --average, give the others with a --checkpoint each.",
            )
            total += value
        return np.asarray(total / len(self._checkpoints), last.dtype)


def _shapes_of_values(checkpoint: Checkpoint) -> dict[str, Shape]:
    """Without what a checkpoint notes on the data, of which there is no mean."""
    return {name: shape for name, shape in checkpoint.shapes.items() if name not in NOTES_ON_DATA}


def _refuse_other_classes(*prefixes: str) -> None:
    labels = [Path(prefix).parent / LABELS_FILE for prefix in prefixes]
    if all(path.is_file() for path in labels) and read_labels(labels[0]) != read_labels(labels[1]):
        raise UserError(
            f"--checkpoint: {labels[0]} and {labels[1]} name other classes, or the same in another order: "
            "the weights have no mean.",
            "Give checkpoints of one run.",
        )


def last_checkpoints(folder: Path, number: int, name_prefix: str = "") -> list[Checkpoint]:
    """The newest checkpoints of a run, the newest last.

    Args:
        folder: Of the run.
        number: How many.
        name_prefix: As `Checkpoint` takes it.

    Raises:
        UserError: There are fewer.
    """
    prefixes = checkpoints_by_step(folder)
    if len(prefixes) < number:
        raise UserError(
            f"--average: {folder} holds {len(prefixes)} checkpoints, not {number}.",
            f"Give --average {len(prefixes)}, or train with a higher --max-to-keep."
            if len(prefixes) > 1
            else "--checkpoint must be the folder of a run that kept several.",
        )
    return [Checkpoint(prefix, name_prefix=name_prefix) for prefix in prefixes[-number:]]
