"""Readers of weights that other programs wrote. `open_weights` finds the reader by the file's name."""

from pathlib import Path

from finetune.errors import UserError
from finetune.foreign_weights.foreign_file import ForeignFile

_KINDS = (
    "a frozen graph (.pb), Keras weights (.h5, .keras), a TensorFlow Lite model (.tflite), arrays (.npz), a checkpoint"
)


def open_weights(path: Path) -> ForeignFile:
    """Opens a file of weights.

    Raises:
        UserError: There is no such file, it is of none of the known kinds, or it is damaged.
    """
    # Each reader needs another part of TensorFlow; what isn't needed isn't loaded.
    if not path.exists() and not path.with_name(f"{path.name}.index").exists():
        raise UserError(f"There is no file {path}.", f"Give {_KINDS}.")
    match path.suffix.lower():
        case ".pb":
            from finetune.foreign_weights.frozen_graph import FrozenGraph

            return FrozenGraph(path)
        case ".npz":
            from finetune.foreign_weights.named_arrays import open_npz

            return open_npz(path)
        case _:
            from finetune.foreign_weights.named_arrays import open_slim_checkpoint

            return open_slim_checkpoint(path)
