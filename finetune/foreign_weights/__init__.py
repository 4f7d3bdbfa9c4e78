"""Readers of weights that other programs wrote. `open_weights` finds the reader by what the file is."""

import importlib
from pathlib import Path

from finetune.errors import UserError
from finetune.foreign_weights.foreign_file import ForeignFile
from finetune.model.weight_files import file_kind, kind_by_ending
from finetune.nets.keras_networks.model_file import is_model_file
from finetune.nets.keras_networks.table import APPLICATIONS

# Each needs another part of TensorFlow, so what isn't needed isn't loaded.
_READERS = {
    "graph": "frozen_graph:FrozenGraph",
    "npz": "named_arrays:open_npz",
    "keras": "keras_weights:KerasFile",
    "keras_model": "keras_model_file:KerasModelFile",
    "keras_application": "keras_application:KerasApplicationFile",
    "tflite": "tflite:TFLiteFile",
}


def open_weights(path: Path, model: str | None = None) -> ForeignFile:
    """Opens a file of weights; one of no known kind is taken for a checkpoint.

    Args:
        path: Of the file.
        model: The network whose weights are wanted, for messages.

    Raises:
        UserError: There is no such file, it is damaged, or nothing here reads its kind.
    """
    if not path.exists() and kind_by_ending(path) is not None:
        raise UserError(f"FILE: there is no file {path}.")
    kind = file_kind(path) if path.is_file() else None
    if kind is None or kind.reader is None:
        from finetune.foreign_weights.named_arrays import open_slim_checkpoint

        return open_slim_checkpoint(path, model)
    reader = _reader_of_keras(model) if kind.reader == "keras" else kind.reader
    module_name, _, function_name = _READERS[reader].partition(":")
    opened: ForeignFile = getattr(importlib.import_module(f"{__name__}.{module_name}"), function_name)(path)
    return opened


def _reader_of_keras(model: str | None) -> str:
    """Keras's files are of slim's networks, of Keras's own, or of somebody's."""
    if model is not None and is_model_file(model):
        return "keras_model"
    return "keras_application" if model in APPLICATIONS else "keras"
