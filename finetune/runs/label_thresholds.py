"""label_thresholds.json beside a checkpoint: from which probability on an image has a class, for each class."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from finetune.files.json_files import Number, read_json
from finetune.files.whole_files import write_json
from finetune.notices import few, tell_once
from finetune.settings.choices import NO_DECISION

LABEL_THRESHOLDS_FILE = "label_thresholds.json"
DEFAULT_THRESHOLD = 0.5

_SHAPE = {
    "checkpoint": str,
    "weights_sha256": str,
    "rule": str,
    "split": str,
    "data_sha256": str,
    "num_images": Number(int, at_least=1),
    "thresholds": {...: Number(at_least=0, at_most=2)},
    "not_chosen": [str],
}
_MEND = "Move it away: 0.5 then counts for each class; or choose anew with finetune-eval --threshold max-f1."


@dataclasses.dataclass(frozen=True)
class LabelThresholds:
    """Probabilities from which on an image has a class.

    Attributes:
        checkpoint: Name of the checkpoint that they are for.
        weights_sha256: Hash of its weights, by which it is known again.
        rule: That chose them.
        split: That they were chosen on.
        data_sha256: Hash of all its bytes.
        num_images: How many there were.
        thresholds: By name of the class.
        not_chosen: Classes that all images had, or none, which have 0.5.
    """

    checkpoint: str
    weights_sha256: str
    rule: str
    split: str
    data_sha256: str
    num_images: int
    thresholds: dict[str, float]
    not_chosen: tuple[str, ...]

    def of_classes(self, names: Sequence[str]) -> tuple[float, ...]:
        """By the network's outputs, of these names."""
        return tuple(self.thresholds.get(name, DEFAULT_THRESHOLD) for name in names)

    def __str__(self) -> str:
        """In words."""
        return f"{self.rule} on {self.split}"

    def write(self, folder: Path) -> None:
        """Puts the file beside the checkpoint."""
        write_json(folder / LABEL_THRESHOLDS_FILE, dataclasses.asdict(self), indent=2)


def read_label_thresholds(
    checkpoint_prefix: str, names: Sequence[str], weights_sha256: Callable[[], str]
) -> LabelThresholds | None:
    """The thresholds that were chosen for a checkpoint; None: none were. Those for another one are told and left alone.

    Args:
        checkpoint_prefix: Of the checkpoint.
        names: Of its classes.
        weights_sha256: Gives the hash of its weights.

    Raises:
        UserError: The file holds something else.
    """
    prefix = Path(checkpoint_prefix)
    path = prefix.parent / LABEL_THRESHOLDS_FILE
    if not path.is_file():
        return None
    content: dict[str, Any] = read_json(path, _SHAPE, _MEND)
    values = {field.name: content[field.name] for field in dataclasses.fields(LabelThresholds)}
    kept = LabelThresholds(**{**values, "not_chosen": tuple(content["not_chosen"])})
    others = sorted(set(names) ^ set(kept.thresholds))
    if others:
        why = f"has other classes ({few(others)})"
    elif kept.weights_sha256 != weights_sha256():
        why = f"is for other weights ({kept.checkpoint})"
    else:
        return kept
    tell_once(f"{path} {why}, not those of {prefix.name}: {DEFAULT_THRESHOLD} counts for each class.")
    return None


def thresholds_in_use(
    given: float | str | None, checkpoint_prefix: str, names: Sequence[str], weights_sha256: Callable[[], str]
) -> tuple[tuple[float, ...], str]:
    """Of each class, and what they are by, in words.

    Args:
        given: One for all classes; None: those that are kept beside the checkpoint, else 0.5; "none": 0.5.
        checkpoint_prefix: Of the checkpoint.
        names: Of its classes.
        weights_sha256: Gives the hash of its weights.

    Raises:
        UserError: The file of those that are kept holds something else.
    """
    if isinstance(given, float):
        return (given,) * len(names), f"{given:g} for each class, by hand"
    kept = None if given == NO_DECISION else read_label_thresholds(checkpoint_prefix, names, weights_sha256)
    if kept is None:
        return (DEFAULT_THRESHOLD,) * len(names), f"{DEFAULT_THRESHOLD:g} for each class"
    return kept.of_classes(names), f"chosen by {kept}"
