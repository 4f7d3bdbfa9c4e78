"""What a file of weights is that is no checkpoint, told by its first bytes, else by its ending. No TensorFlow."""

import dataclasses
import shlex
import zipfile
from pathlib import Path

_PYTORCH = "PyTorch's layers are named and laid out otherwise"


@dataclasses.dataclass(frozen=True)
class FileKind:
    """A format.

    Attributes:
        description: With its article.
        reader: By which `finetune.foreign_weights` reads it; None: nothing here does.
        mend: What can be done with a file that nothing here reads; `{path}` and `{folder}` stand for the file.
    """

    description: str
    reader: str | None = None
    mend: str = ""


HDF5 = FileKind("a Keras file (HDF5)", "keras")
KERAS = FileKind("a Keras file", "keras")
TFLITE = FileKind("a TensorFlow Lite file", "tflite")
NPZ = FileKind("a file of NumPy arrays", "npz")
GRAPH = FileKind("a frozen graph", "graph")
STATE = FileKind("the list of a folder's checkpoints", mend="Give the folder, for the newest of them: {folder}")
TAR = FileKind("an archive", mend="Unpack it, tar -xf {path} -C {folder}, and give the checkpoint that was in it.")
ZIP = FileKind("an archive", mend="Unpack it, unzip {path} -d {folder}, and give the checkpoint that was in it.")
SAVED_MODEL = FileKind(
    "a SavedModel, a network with its weights", mend="Give the checkpoint that it was made of; {path} can't be read."
)
PYTORCH = FileKind(
    "a PyTorch file",
    mend=f"It can't be read: {_PYTORCH}. Give the same network's weights as a checkpoint, a Keras or TensorFlow Lite "
    "file, a frozen graph or an .npz file.",
)
SAFETENSORS = FileKind(
    "a safetensors file",
    mend=f"It can't be read: it is mostly PyTorch's, and {_PYTORCH}. Give the same network's weights as a checkpoint, "
    "a Keras or TensorFlow Lite file, a frozen graph or an .npz file.",
)
ONNX = FileKind(
    "an ONNX file",
    mend="It can't be read. Give what it was made of: a checkpoint, a Keras or TensorFlow Lite file, a frozen graph.",
)
OPENVINO = FileKind("an OpenVINO file", mend=ONNX.mend)

# Of these nothing is read as it is; the network's published weights may do.
NOT_READ = (TAR, ZIP, PYTORCH, SAFETENSORS, ONNX, OPENVINO)

_BY_ENDING = {
    ".pb": GRAPH,
    ".npz": NPZ,
    ".h5": HDF5,
    ".hdf5": HDF5,
    ".keras": KERAS,
    ".tflite": TFLITE,
    ".pth": PYTORCH,
    ".pt": PYTORCH,
    ".safetensors": SAFETENSORS,
    ".onnx": ONNX,
    ".tgz": TAR,
    ".tar": TAR,
    ".gz": TAR,
    ".zip": ZIP,
}
_BY_FIRST_BYTES = {
    b"\x89HDF\r\n\x1a\n": HDF5,
    b"\x1f\x8b": TAR,
    b"BZh": TAR,
    b"\xfd7zXZ\x00": TAR,
    b"model_checkpoint_path:": STATE,
    b"\x80\x02": PYTORCH,  # A pickle, as PyTorch wrote them before version 1.6.
}


def file_kind(path: Path) -> FileKind | None:
    """What a file or a folder is; None where it may be a checkpoint.

    Args:
        path: There is something.
    """
    if path.is_dir():
        return SAVED_MODEL if (path / "saved_model.pb").is_file() else None
    try:
        with path.open("rb") as file:
            first = file.read(512)
    except OSError:
        return kind_by_ending(path)
    for magic, kind in _BY_FIRST_BYTES.items():
        if first.startswith(magic):
            return kind
    if first.startswith(b"PK\x03\x04"):
        return _kind_of_zip(path)
    if first[4:8] == b"TFL3":
        return TFLITE
    if first[257:262] == b"ustar":
        return TAR
    if first[8:10] == b'{"' and int.from_bytes(first[:8], "little") < path.stat().st_size:
        return SAFETENSORS
    if first.startswith(b"<?xml") and b"<net " in first:
        return OPENVINO
    return SAVED_MODEL if path.name == "saved_model.pb" else kind_by_ending(path)


def kind_by_ending(path: Path) -> FileKind | None:
    """What a file calls itself, whether it is there or not; None: nothing that is known here."""
    return _BY_ENDING.get(path.suffix.lower())


def what_reads(kind: FileKind, path: Path, model: str | None) -> str:
    """What is to be done with a file that is given for a checkpoint.

    Args:
        kind: Of the file.
        path: The file or folder.
        model: The network whose weights it should hold; None: that isn't told.
    """
    folder = path if path.is_dir() else path.parent
    if kind.reader is not None:
        output = path.with_name(path.name.removesuffix(path.suffix).removesuffix(".weights") + ".ckpt")
        words = [str(path), "--model", model or "NAME", "--output", str(output)]
        names = "" if model else "\n  NAME is one of finetune-inspect --models."
        return f"Make a checkpoint of it and give that: finetune-import {shlex.join(words)}{names}"
    weights = folder / "variables" / "variables"
    if kind is SAVED_MODEL and Path(f"{weights}.index").is_file():
        return f"Its weights may be read, where the network is one of these here: give {weights}"
    return kind.mend.format(path=shlex.quote(str(path)), folder=shlex.quote(str(folder)))


def _kind_of_zip(path: Path) -> FileKind:
    try:
        with zipfile.ZipFile(path) as zipped:
            names = zipped.namelist()
    except (OSError, zipfile.BadZipFile):
        return kind_by_ending(path) or ZIP
    if any(name.endswith("data.pkl") for name in names):
        return PYTORCH
    if "model.weights.h5" in names:
        return KERAS
    return NPZ if names and all(name.endswith(".npy") for name in names) else ZIP
