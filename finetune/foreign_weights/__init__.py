"""Readers of weights that other programs wrote. `open_weights` finds the reader by the file's name."""

import importlib
from pathlib import Path

from finetune.errors import UserError
from finetune.foreign_weights.foreign_file import ForeignFile

# By the ending of the file's name; each needs another part of TensorFlow, so what isn't needed isn't loaded.
_READERS = {
    ".pb": "frozen_graph:FrozenGraph",
    ".npz": "named_arrays:open_npz",
    ".h5": "keras_weights:KerasFile",
    ".hdf5": "keras_weights:KerasFile",
    ".keras": "keras_weights:KerasFile",
    ".tflite": "tflite:TFLiteFile",
}
_CHECKPOINT_READER = "named_arrays:open_slim_checkpoint"


def open_weights(path: Path) -> ForeignFile:
    """Opens a file of weights; one with none of the known endings is taken for a checkpoint.

    Raises:
        UserError: There is no such file, or it is damaged.
    """
    reader = _READERS.get(path.suffix.lower(), _CHECKPOINT_READER)
    if reader != _CHECKPOINT_READER and not path.is_file():
        raise UserError(f"There is no file {path}.")
    module_name, _, function_name = reader.partition(":")
    opened: ForeignFile = getattr(importlib.import_module(f"{__name__}.{module_name}"), function_name)(path)
    return opened
