"""What a result rests on beside its settings: software and data. TensorFlow is not loaded."""

import importlib.metadata
import json
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune import __version__

if TYPE_CHECKING:
    from finetune.datasets.dataset import Dataset

PROVENANCE_FILE = "provenance.json"
PACKAGES = ("tensorflow", "tf-slim", "numpy", "pillow")


def software_versions() -> dict[str, str]:
    """Version by name of this package, of those that figures may depend on, and of Python."""
    packages = {name: importlib.metadata.version(name) for name in PACKAGES}
    return {"finetune": __version__, **packages, "Python": platform.python_version()}


def describe_run(training: "Dataset", validation: "Dataset | None", hashes: Mapping[str, str]) -> dict[str, Any]:
    """What provenance.json holds: the software, and the data by name, size and hash.

    Args:
        training: The split that is trained on.
        validation: None where there is none.
        hashes: Of each split's bytes, by its name.
    """
    described = {"versions": software_versions(), "data": _describe(training, hashes)}
    return described if validation is None else {**described, "validation": _describe(validation, hashes)}


def read_provenance(run_folder: Path) -> dict[str, Any] | None:
    """What a run was made with; None where its folder doesn't say."""
    path = run_folder / PROVENANCE_FILE
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def _describe(dataset: "Dataset", hashes: Mapping[str, str]) -> dict[str, Any]:
    return {
        "name": dataset.name,
        "split": dataset.split,
        "num_examples": dataset.num_examples,
        "sha256": hashes[dataset.split],
        "num_skipped": dataset.num_skipped,
    }
