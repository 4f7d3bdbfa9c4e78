"""Features in files: .npz for NumPy, .parquet for tables. TensorFlow is not needed.

Both have the columns `filename`, `prediction`, `prediction_name`, `probability`, and `label` and `label_name` where the
labels are known; `features` is float32 [N,D] in a .npz file, and in Parquet a list of fixed size D. Both hold
`weights_sha256`, by which features of one network are told from those of another.

Rows are written as they come, some thousand at a time; of those before, texts and numbers of a .npz file stay in
memory, about 200 bytes an image, and of a Parquet file nothing.
"""

import contextlib
import dataclasses
import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np

from finetune.errors import UserError
from finetune.files.whole_files import printable, whole_binary_file
from finetune.types import Array

PARQUET = ".parquet"
ROWS_AT_A_TIME = 4096
TEXTS = ("filename", "prediction_name", "label_name")
NUMBERS = {"prediction": np.int64, "probability": np.float64, "label": np.int64}
WEIGHTS = "weights_sha256"
KEY = "key"
_ZIP_LOCAL_HEADER_BYTES = 30


@dataclasses.dataclass(frozen=True)
class FeatureRow:
    """An image's features [D], and what is known of it.

    Attributes:
        filename: Of the image.
        class_id: The likeliest class.
        class_name: Its name.
        probability: Its softmax probability, 0 to 1.
        features: float32 [D].
        label: The true class; None: not known, of any image of the file.
        label_name: Its name.
    """

    filename: str
    class_id: int
    class_name: str
    probability: float
    features: Array
    label: int | None = None
    label_name: str = ""


class _Writer(Protocol):
    """Takes some rows at a time."""

    def write(self, columns: Mapping[str, Sequence[Any]], features: Array) -> None:
        """Adds rows: of each column the values, and the features, float32 [B,D]."""

    def close(self) -> None:
        """Adds what comes after the last row."""


class FeatureFile:
    """A file of features that is being written."""

    def __init__(self, writer: _Writer, num_features: int, *, with_labels: bool) -> None:
        self._writer = writer
        self._num_features = num_features
        self._with_labels = with_labels
        self._rows: list[FeatureRow] = []
        self._is_empty = True

    def add(self, row: FeatureRow) -> None:
        """Adds an image."""
        self._rows.append(row)
        if len(self._rows) == ROWS_AT_A_TIME:
            self._flush()

    def close(self) -> None:
        """Writes what is left, of a file without rows the columns."""
        if self._rows or self._is_empty:
            self._flush()
        self._writer.close()

    def _flush(self) -> None:
        rows, self._rows, self._is_empty = self._rows, [], False
        columns: dict[str, Sequence[Any]] = {
            "filename": [row.filename for row in rows],
            "prediction": [row.class_id for row in rows],
            "prediction_name": [row.class_name for row in rows],
            "probability": [row.probability for row in rows],
        }
        if self._with_labels:
            columns |= {"label": [row.label for row in rows], "label_name": [row.label_name for row in rows]}
        features = np.array([row.features for row in rows], np.float32)
        self._writer.write(columns, features.reshape(-1, self._num_features))


@contextlib.contextmanager
def feature_file(
    path: Path, num_features: int, notes: Mapping[str, str], *, with_labels: bool = False
) -> Iterator[FeatureFile]:
    """A file to add rows to, which gets its name when the context ends; an exception leaves what was there before.

    Args:
        path: Ends in .npz or .parquet.
        num_features: D.
        notes: Texts about all of it by their names, such as `weights_sha256`.
        with_labels: Whether rows have labels.

    Raises:
        OSError: It can't be written.
    """
    with whole_binary_file(path) as file, contextlib.ExitStack() as stack:
        if path.suffix.lower() == PARQUET:
            writer: _Writer = _ParquetWriter(file, num_features, notes, with_labels=with_labels)
        else:
            beside = stack.enter_context(tempfile.TemporaryFile(dir=path.parent))
            writer = _NpzWriter(file, beside, num_features, notes)
        features = FeatureFile(writer, num_features, with_labels=with_labels)
        yield features
        features.close()


def refuse_without_parquet(path: Path, argument: str) -> None:
    """Refuses a Parquet file that couldn't be written.

    Raises:
        UserError: pyarrow isn't installed.
    """
    if path.suffix.lower() != PARQUET:
        return
    try:
        import pyarrow.parquet  # noqa: F401
    except ModuleNotFoundError as error:
        raise UserError(
            f"{argument}: {path} needs {error.name}, which is not installed.",
            "It comes with the extra parquet: pip install 'slim-finetune[parquet]'; or give a name that ends in .npz",
        ) from error


class _NpzWriter:
    """Arrays whose length is known at the end alone: the features go to a file beside it before."""

    def __init__(self, file: BinaryIO, beside: Any, num_features: int, notes: Mapping[str, str]) -> None:
        self._file = file
        self._beside = beside
        self._num_features = num_features
        self._notes = notes
        self._num_rows = 0
        self._columns: dict[str, list[Any]] = {}

    def write(self, columns: Mapping[str, Sequence[Any]], features: Array) -> None:
        for name, values in columns.items():
            self._columns.setdefault(name, []).extend(values)
        self._beside.write(np.ascontiguousarray(features, "<f4").tobytes())
        self._num_rows += len(features)

    def close(self) -> None:
        self._beside.seek(0)
        with zipfile.ZipFile(self._file, "w", zipfile.ZIP_STORED) as archive:
            for name, values in self._columns.items():
                _write_column(archive, name, values)
            for name, text in self._notes.items():
                with archive.open(f"{name}.npy", "w") as member:
                    np.lib.format.write_array(member, np.array(text), allow_pickle=False)
            with archive.open("features.npy", "w", force_zip64=True) as member:
                _write_header(member, np.dtype("<f4"), (self._num_rows, self._num_features))
                shutil.copyfileobj(self._beside, member, 2**20)


def _write_column(archive: zipfile.ZipFile, name: str, values: Sequence[Any]) -> None:
    """Some rows at a time; texts as an array of Unicode, as wide as the longest one."""
    dtype = np.dtype(f"<U{max(map(len, values), default=1) or 1}" if name in TEXTS else NUMBERS[name])
    with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
        _write_header(member, dtype, (len(values),))
        for start in range(0, len(values), ROWS_AT_A_TIME):
            member.write(np.array(values[start : start + ROWS_AT_A_TIME], dtype).tobytes())


def _write_header(file: Any, dtype: Any, shape: tuple[int, ...]) -> None:
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_2_0(file, header)


class _ParquetWriter:
    """A row group for some rows at a time."""

    def __init__(self, file: BinaryIO, num_features: int, notes: Mapping[str, str], *, with_labels: bool) -> None:
        import pyarrow
        import pyarrow.parquet

        texts, numbers = pyarrow.string(), pyarrow.int64()
        columns = [("filename", texts), ("prediction", numbers), ("prediction_name", texts)]
        columns += [("probability", pyarrow.float64())]
        columns += [("label", numbers), ("label_name", texts)] if with_labels else []
        columns += [("features", pyarrow.list_(pyarrow.float32(), num_features))]
        self._pyarrow = pyarrow
        self._schema = pyarrow.schema(columns, metadata=dict(notes))
        # Dictionaries are of use for names of classes alone, and no float32 of a network repeats itself.
        names = [name for name, _ in columns if name.endswith("_name")]
        self._writer = pyarrow.parquet.ParquetWriter(file, self._schema, use_dictionary=names)

    def write(self, columns: Mapping[str, Sequence[Any]], features: Array) -> None:
        arrow = self._pyarrow
        arrays = [_arrow_array(arrow, self._schema.field(name).type, values) for name, values in columns.items()]
        flat = arrow.array(np.ascontiguousarray(features).reshape(-1), arrow.float32())
        arrays.append(arrow.FixedSizeListArray.from_arrays(flat, features.shape[1]))
        self._writer.write_table(arrow.table(arrays, schema=self._schema))

    def close(self) -> None:
        self._writer.close()


def _arrow_array(arrow: Any, kind: Any, values: Sequence[Any]) -> Any:
    """Of texts valid Unicode alone, which Parquet's are."""
    return arrow.array([printable(value) if isinstance(value, str) else value for value in values], kind)


@dataclasses.dataclass(frozen=True)
class StoredFeatures:
    """A .npz file of features; these stay in it.

    Attributes:
        path: Of the file.
        features: float32 [N,D], mapped.
        filenames: Text [N].
        label_names: Text [N]: the images' true classes, or, where they aren't known, those predicted.
        notes: Texts about all of it.
    """

    path: Path
    features: Array
    filenames: Array
    label_names: Array
    notes: Mapping[str, str]


def read_features(path: Path, argument: str) -> StoredFeatures:
    """Reads a .npz file of features.

    Raises:
        UserError: There is none, or it isn't as `feature_file` writes it.
    """
    mend = "Make it by finetune-predict --features FILE.npz"
    try:
        with zipfile.ZipFile(path) as archive:
            members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            arrays = {name: _mapped(path, info) for name, info in members.items()}
    except OSError as error:
        raise UserError(f"{argument}: {path} can't be read: {error.strerror or error}.", mend) from error
    except (ValueError, zipfile.BadZipFile, EOFError, NotImplementedError, OverflowError) as error:
        raise UserError(f"{argument}: {path} is no file of features: {error}.", mend) from error
    features = arrays.get("features")
    if features is None or features.ndim != 2 or features.dtype != np.float32 or 0 in features.shape:
        raise UserError(f"{argument}: {path} has no images' features, float32 [N,D].", mend)
    name_of_labels = "label_name" if "label_name" in arrays else "prediction_name"
    filenames, labels = (_texts(arrays.get(name), len(features)) for name in ("filename", name_of_labels))
    if filenames is None or labels is None:
        raise UserError(f"{argument}: {path} has no `filename` and `{name_of_labels}` for each of its features.", mend)
    notes = {
        name: str(array[()])
        for name, array in arrays.items()
        if name in (WEIGHTS, KEY) and array.shape == () and array.dtype.kind == "U"
    }
    return StoredFeatures(path, features, filenames, labels, notes)


def _texts(array: Array | None, number: int) -> Array | None:
    return array if array is not None and array.dtype.kind == "U" and array.shape == (number,) else None


def _mapped(path: Path, info: zipfile.ZipInfo) -> Array:
    """An array of an archive, in place.

    Raises:
        ValueError: It is compressed, or no array.
    """
    if info.compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"{info.filename} is compressed, as numpy.savez doesn't do it")
    with path.open("rb") as file:
        file.seek(info.header_offset)
        local = file.read(_ZIP_LOCAL_HEADER_BYTES)
        start = info.header_offset + len(local) + int.from_bytes(local[26:28], "little")
        start += int.from_bytes(local[28:30], "little")
        file.seek(start)
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, is_fortran, dtype = read(file)
        offset, num_bytes = file.tell(), dtype.itemsize * int(np.prod(shape, dtype=object))
    if is_fortran or dtype.hasobject or offset + num_bytes > start + info.file_size:
        raise ValueError(f"{info.filename} is no plain array")
    if num_bytes == 0:
        return np.empty(shape, dtype)
    return np.memmap(path, dtype, "r", offset, shape)
