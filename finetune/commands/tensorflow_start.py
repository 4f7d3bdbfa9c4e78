"""TensorFlow's start: without its chatter on standard error, with the kernels and heaps that suit our commands."""

import contextlib
import ctypes
import gc
import importlib.abc
import os
import sys
import tempfile
from collections.abc import Iterator

LOG_LEVEL_VARIABLE = "TF_CPP_MIN_LOG_LEVEL"
SILENT_LEVEL = "3"
ONEDNN_VARIABLE = "TF_ENABLE_ONEDNN_OPTS"
HEAPS_VARIABLE = "MALLOC_ARENA_MAX"
_M_ARENA_MAX = -8  # Of malloc.h.


def start_tensorflow() -> None:
    """Imports TensorFlow and looks for devices, in silence unless it fails or `TF_CPP_MIN_LOG_LEVEL` is below 3.

    The variable means what it means to TensorFlow: 0 to 2 show its lines, 3 is silence, which is the default here.
    TensorFlow's libraries write lines about absent CUDA drivers before any setting can stop them; a user who asked for
    an accuracy takes them for errors.

    Keras isn't imported with it: who uses Keras imports it himself, and `tensorflow.keras` does when it is used.

    oneDNN's convolutions are asked for, unless `TF_ENABLE_ONEDNN_OPTS` says otherwise: TensorFlow takes them by itself
    only on processors with certain units, but they are faster without these as well (scripts/benchmarks/full.py).
    """
    os.environ.setdefault(ONEDNN_VARIABLE, "1")
    _limit_heaps()
    if not _is_silence_wanted(os.environ.setdefault(LOG_LEVEL_VARIABLE, SILENT_LEVEL)):
        _import_tensorflow()
        return
    with silent_standard_error():
        _import_tensorflow()
        import tensorflow as tf

        tf.config.list_physical_devices()


class _UnneededPackages(importlib.abc.MetaPathFinder):
    """Finds that scikit-learn and the modules of Keras aren't there."""

    def find_spec(self, name: str, path: object, target: object = None) -> None:
        # The package Keras itself is found: TensorFlow looks where it lies.
        if name == "sklearn" or name.startswith("keras."):
            raise ModuleNotFoundError(f"{name} isn't needed yet.", name=name)


def _import_tensorflow() -> None:
    """Imports TensorFlow and tf-slim without what they take besides where it is installed, and can do without.

    TensorFlow imports Keras for what that registers at its own import, and tf-slim imports scikit-learn for a loss;
    Keras brings scikit-learn as well, and both bring SciPy, pandas and Matplotlib. A half of the time goes into these,
    and few commands use them; those import them themselves.

    Modules stay to the end: Python looks for garbage neither while they are loaded nor, later, among them. What else
    there is at that time would stay, too, so that this is done but once.
    """
    if "tensorflow" in sys.modules:
        return
    finder, searches = _UnneededPackages(), gc.isenabled()
    sys.meta_path.insert(0, finder)
    gc.disable()
    try:
        import tensorflow  # noqa: F401
        import tf_slim  # noqa: F401
    finally:
        gc.freeze()
        if searches:
            gc.enable()
        sys.meta_path.remove(finder)


def _limit_heaps() -> None:
    """Has glibc share out as many heaps to threads as there are cores, where it has eight times as many.

    No more threads allocate at once; and what is freed in one heap serves no other, so that a training on images takes
    a tenth more memory, and goes on growing for thousands of steps. `MALLOC_ARENA_MAX` says otherwise.
    """
    if sys.platform == "linux" and HEAPS_VARIABLE not in os.environ:
        with contextlib.suppress(OSError, AttributeError):  # Another C library.
            ctypes.CDLL(None).mallopt(_M_ARENA_MAX, len(os.sched_getaffinity(0)))


def _is_silence_wanted(level: str) -> bool:
    """What is no number shows all lines, as TensorFlow has it."""
    return level.strip().isdecimal() and int(level) >= int(SILENT_LEVEL)


@contextlib.contextmanager
def silent_standard_error() -> Iterator[None]:
    """Holds back what is written to the standard error's descriptor; shows it if an error leaves the context."""
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as held_back:
        os.dup2(held_back.fileno(), 2)
        try:
            yield
        except Exception:
            os.dup2(kept, 2)
            held_back.seek(0)
            sys.stderr.write(held_back.read().decode("utf-8", "replace"))
            raise
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)
