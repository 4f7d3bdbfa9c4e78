"""What a result rests on beside its settings: software and data. TensorFlow is not loaded."""

import importlib.metadata
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune import __version__
from finetune.json_files import MayLack, Number, read_json_or_tell

if TYPE_CHECKING:
    from finetune.datasets.dataset import Dataset

PROVENANCE_FILE = "provenance.json"
DATA_SHAPE = {"name": str, "split": str, "num_examples": Number(int, at_least=0), "sha256": str}
PROVENANCE_SHAPE = {"versions": {...: str}, "data": DATA_SHAPE, "validation": MayLack(DATA_SHAPE)}
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
    """What a run was made with; None where its folder doesn't say, or, which is told, says it in no way known here."""
    path = run_folder / PROVENANCE_FILE
    return read_json_or_tell(path, PROVENANCE_SHAPE, "So it isn't known what data and software the run was made with.")


def _describe(dataset: "Dataset", hashes: Mapping[str, str]) -> dict[str, Any]:
    return {
        "name": dataset.name,
        "split": dataset.split,
        "num_examples": dataset.num_examples,
        "sha256": hashes[dataset.split],
    }
