"""`--model my.keras`: the architecture in a `.keras` file, or in what a run keeps of one. Keras isn't needed."""

import json
import logging
import zipfile
from pathlib import Path
from typing import Any

from finetune.errors import UserError, first_line
from finetune.nets.keras_networks.architecture import Config
from finetune.nets.keras_networks.plain_layers import plain_model

ENDING = ".keras"
_ARCHITECTURE = "config.json"
_MOST_BYTES = 2**24

log = logging.getLogger("finetune")

# Files that stand for a model's name in this process, where a run keeps what it was begun with.
_kept: dict[str, Path] = {}


def is_model_file(name: str) -> bool:
    """Whether a network's name is that of a file."""
    return name.endswith(ENDING) and ":" not in name


def keep_to(name: str, kept: Path | None) -> None:
    """From now on a name stands for the architecture that a run keeps; None: for the file of that name.

    What is kept is what the run has, wherever the file has gone. Where the file is another model by now that is said.
    """
    _kept.pop(name, None)
    if not is_model_file(name) or kept is None or not kept.is_file():
        return
    if Path(name).is_file() and not _is_of(Path(name), _read(kept)):
        log.warning("%s is another network by now: the run's own is taken, which %s holds.", name, kept)
    _kept[name] = kept


def read_model(name: str) -> Config:
    """The architecture that a name stands for, as `plain_model` gives it.

    Raises:
        UserError: There is no such file; it is damaged, too large, or holds what isn't taken.
    """
    return _read(_kept.get(name, Path(name)))


def _is_of(path: Path, model: Config) -> bool:
    try:
        return _read(path) == model
    except UserError:
        return False


def _read(path: Path) -> Config:
    if not path.is_file():
        raise UserError(f"--model: there is no file {path}.", "Give the path of a .keras file, or a network's name.")
    try:
        return plain_model(json.loads(_content(path)), str(path))
    except UserError:
        raise
    except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise UserError(f"--model: {path} can't be read: {first_line(error)}.", "Give a whole .keras file.") from error
    except (KeyError, TypeError, IndexError, AttributeError, AssertionError, RecursionError) as error:
        raise UserError(
            f"--model: {path} holds no model as Keras 3 writes it.", "Load it by Keras 3 and save it again."
        ) from error


def _content(path: Path) -> Any:
    if not zipfile.is_zipfile(path):
        with path.open("rb") as file:
            return _bounded(file.read(_MOST_BYTES + 1), path)
    with zipfile.ZipFile(path) as zipped:
        if _ARCHITECTURE not in zipped.namelist():
            raise UserError(f"--model: {path} holds no {_ARCHITECTURE}.", "Give a whole .keras file of Keras 3.")
        with zipped.open(_ARCHITECTURE) as file:
            return _bounded(file.read(_MOST_BYTES + 1), path)


def _bounded(content: bytes, path: Path) -> bytes:
    if len(content) > _MOST_BYTES:
        raise UserError(f"--model: the architecture in {path} takes more than {_MOST_BYTES:,} bytes.", "Save it again.")
    return content
