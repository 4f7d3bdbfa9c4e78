"""The files of a cross-validation that is under way: folds.json, and in each fold's folder what it came to.

folds.json says how the split was divided, and which folds are done:

    num_folds, seed     of the division
    split, num_examples, num_copies, data_sha256
                        the split that was divided; records that are copies of others; the hash of its records
    division_sha256     of the fold of each record, in the order of the records
    folds               of each its num_examples, num_examples_per_class, and outcome_sha256 once it is done: the hash
                        of outcome.npz in its folder, fold-N, with the logits of its images
"""

import dataclasses
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from finetune.datasets.dataset import Dataset
from finetune.datasets.folds import Folds
from finetune.errors import UserError
from finetune.evaluation.metrics import Scores, score_batch
from finetune.files.json_files import MayLack, Number, read_json
from finetune.files.whole_files import sha256, write_bytes
from finetune.types import Array

FOLDS_FILE = "folds.json"
OUTCOME_FILE = "outcome.npz"
MEND = "Copy it from where it came from, or begin another cross-validation."
COUNT = Number(int, at_least=0)
FOLDS_SHAPE = {
    "num_folds": COUNT,
    "seed": Number(int),
    "split": str,
    "num_examples": COUNT,
    "num_copies": COUNT,
    "data_sha256": str,
    "division_sha256": str,
    "folds": [
        {"num_examples": COUNT, "num_examples_per_class": {...: COUNT}, "outcome_sha256": MayLack(str)},
    ],
}
# Which say what is divided, and how.
DIVISION = ("num_folds", "seed", "num_examples", "data_sha256", "division_sha256")


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a fold came to.

    Attributes:
        step: Of the checkpoint that scored it; None: it holds none.
        class_names: Of the logits.
        scores: Of its images, in the order of the records, with logits.
    """

    step: int | None
    class_names: list[str]
    scores: Scores


def fold_folder(folder: Path, fold: int) -> Path:
    """The folder of a fold's run."""
    return folder / f"fold-{fold}"


def describe_folds(folds: Folds, dataset: Dataset, data_sha256: str, seed: int) -> dict[str, Any]:
    """What folds.json holds before any of them is done."""
    names = dataset.class_names or tuple(map(str, range(dataset.num_classes)))
    return {
        "num_folds": folds.num_folds,
        "seed": seed,
        "split": dataset.split,
        "num_examples": dataset.num_examples,
        "num_copies": folds.num_copies,
        "data_sha256": data_sha256,
        "division_sha256": folds.sha256,
        "folds": [
            {
                "num_examples": int(counts.sum()),
                "num_examples_per_class": dict(zip(names, counts.tolist(), strict=True)),
            }
            for counts in folds.counts
        ],
    }


def read_folds(folder: Path) -> dict[str, Any]:
    """What folds.json holds.

    Raises:
        UserError: It can't be read, or holds something else.
    """
    content: dict[str, Any] = read_json(folder / FOLDS_FILE, FOLDS_SHAPE, MEND)
    if len(content["folds"]) != content["num_folds"]:
        found = f"{len(content['folds'])} folds of {content['num_folds']}"
        raise UserError(f"{folder / FOLDS_FILE} describes {found}.", MEND)
    return content


def is_done(folder: Path, fold: int, described: dict[str, Any]) -> bool:
    """Whether what a fold came to is there, as folds.json knows it."""
    path = fold_folder(folder, fold) / OUTCOME_FILE
    known = described["folds"][fold - 1].get("outcome_sha256")
    return known is not None and path.is_file() and sha256(path) == known


def write_outcome(folder: Path, outcome: Outcome) -> str:
    """Writes what a fold came to into its folder; returns the hash of the file."""
    content = io.BytesIO()
    names = {"filenames": outcome.scores.filenames, "class_names": outcome.class_names, "step": outcome.step}
    np.savez(
        content,
        logits=_logits(outcome),
        labels=outcome.scores.labels,
        names=np.frombuffer(json.dumps(names).encode(), np.uint8),
    )
    write_bytes(folder / OUTCOME_FILE, content.getvalue())
    return sha256(folder / OUTCOME_FILE)


def read_outcome(folder: Path) -> Outcome:
    """What a fold came to, from its folder, whose file is as it was written.

    Raises:
        UserError: The file can't be read.
    """
    path = folder / OUTCOME_FILE
    try:
        with np.load(path, allow_pickle=False) as arrays:
            names = json.loads(arrays["names"].tobytes())
            scores = score_batch(arrays["logits"], arrays["labels"], names["filenames"], keep_logits=True)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} can't be read: {error}.", "Remove it: --resume then scores the fold again.") from error
    return Outcome(names["step"], names["class_names"], scores)


def _logits(outcome: Outcome) -> Array:
    assert outcome.scores.logits is not None
    return outcome.scores.logits
