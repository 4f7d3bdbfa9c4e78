"""The figures of each image of an evaluation as rows of a file, to the last bit, and back. No TensorFlow."""

import base64
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from finetune.evaluation.metrics import Scores
from finetune.files.json_files import MayLack, Number
from finetune.types import Array

_CLASS = Number(int, at_least=0)
_SHARE = Number(float, at_least=0, at_most=1)
ROW_SHAPE = {
    "filename": str,
    "label": _CLASS,
    "prediction": _CLASS,
    "probability": _SHARE,
    "rank": _CLASS,
    "loss": Number(float),
    "logits": MayLack(str),
}
_LOGIT_TYPE = np.dtype("<f4")


def rows_of(scores: Scores) -> Iterator[dict[str, Any]]:
    """A row of `ROW_SHAPE` for each image, in order; logits, where they were kept, as the bytes of float32, Base64."""
    for index, filename in enumerate(scores.filenames):
        logits = {} if scores.logits is None else {"logits": _text_of(scores.logits[index])}
        yield {
            "filename": filename,
            "label": int(scores.labels[index]),
            "prediction": int(scores.predictions[index]),
            "probability": float(scores.probabilities[index]),
            "rank": int(scores.ranks[index]),
            "loss": float(scores.losses[index]),
            **logits,
        }


def scores_of(rows: Iterable[dict[str, Any]], num_classes: int, *, has_logits: bool) -> Scores:
    """The scores that `rows_of` made rows of.

    Args:
        rows: Each of `ROW_SHAPE`.
        num_classes: Number of logits.
        has_logits: Whether the rows hold them.

    Raises:
        ValueError: A class or rank is none of so many; a row's logits are not as many, or not finite.
    """
    rows = list(rows)

    def column(name: str, kind: type) -> Array:
        return np.array([row[name] for row in rows], kind)

    scores = Scores(
        filenames=[row["filename"] for row in rows],
        labels=column("label", np.int64),
        predictions=column("prediction", np.int64),
        probabilities=column("probability", np.float64),
        ranks=column("rank", np.int64),
        losses=column("loss", np.float64),
        num_classes=num_classes,
        logits=np.array([_logits_of(row, num_classes) for row in rows], np.float32) if has_logits else None,
    )
    for name in ("labels", "predictions", "ranks"):
        highest = getattr(scores, name).max(initial=0)
        if highest >= num_classes:
            raise ValueError(f"{highest} is among its {name}, of {num_classes} classes")
    return scores


def _text_of(logits: Array) -> str:
    return base64.b64encode(logits.astype(_LOGIT_TYPE).tobytes()).decode()


def _logits_of(row: dict[str, Any], num_classes: int) -> Array:
    try:
        logits = np.frombuffer(base64.b64decode(row.get("logits", ""), validate=True), _LOGIT_TYPE)
    except ValueError as error:
        raise ValueError(f"the logits of {row['filename']} are no float32 in Base64: {error}") from error
    if len(logits) != num_classes or not np.isfinite(logits).all():
        raise ValueError(f"the logits of {row['filename']} are not {num_classes} finite numbers")
    return logits
