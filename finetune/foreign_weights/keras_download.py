"""The published weights of Keras Applications, by Keras's own download, as a checkpoint."""

from pathlib import Path

import keras

from finetune.errors import UserError, first_line
from finetune.files.folder_lock import sole_writer
from finetune.files.write_errors import write_errors_told
from finetune.foreign_weights.keras_application import values_by_name
from finetune.model.checkpoint import write_checkpoint
from finetune.nets.keras_networks.network import make_application
from finetune.nets.keras_networks.table import APPLICATIONS


def obtain_application(name: str, folder: Path) -> Path:
    """Gets the weights of a network of Keras from where Keras publishes them, unless they are there already.

    Keras checks its files against hashes of its own, and keeps them in `~/.keras`.

    Args:
        name: Of the network, `keras/...`.
        folder: Gets `NAME/` with the checkpoint.

    Returns:
        Prefix of the checkpoint, the head for ImageNet in it.

    Raises:
        UserError: The server can't be reached, a file is not the one it should be, or can't be written.
    """
    prefix = folder / name / f"{name.rpartition('/')[2]}.ckpt"
    if not prefix.with_name(f"{prefix.name}.index").exists():
        with (
            write_errors_told(),
            sole_writer(prefix.parent, flag="--output-dir", program="finetune-download", wait=True),
        ):
            write_checkpoint(prefix, values_by_name(_published(name)))
    return prefix


def _published(name: str) -> "keras.Model":
    shows = keras.config.is_interactive_logging_enabled()
    keras.config.disable_interactive_logging()  # Standard output is for the checkpoint's path.
    try:
        return make_application(APPLICATIONS[name].function, 1000, include_top=True, weights="imagenet")
    except UserError:
        raise
    except Exception as error:  # Of a failing download Keras tells by plain exceptions.
        checkpoint = f"{name.rpartition('/')[2]}.ckpt"
        raise UserError(
            f"Keras's weights of {name} can't be had: {first_line(error)}",
            "Where its server can be reached, fetch that file, with its top or without; then finetune-import FILE "
            f"--model {name} --output {checkpoint}, and give --checkpoint {checkpoint}",
        ) from error
    finally:
        if shows:
            keras.config.enable_interactive_logging()
