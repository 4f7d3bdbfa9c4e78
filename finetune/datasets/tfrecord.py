"""TFRecord files: records framed by their length and checksums, read and written without TensorFlow.

The format (tensorflow/core/lib/io/record_writer.h): length as little-endian uint64, masked CRC32-C of the length, the
data, masked CRC32-C of the data.
"""

import hashlib
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

import google_crc32c

HEADER = struct.Struct("<QI")
FOOTER = struct.Struct("<I")
CRC_MASK_DELTA = 0xA282EAD8
WRITE_BUFFER_BYTES = 1 << 20


class RecordFileError(ValueError):
    """A file that is truncated, damaged, or no TFRecord file; the message says which and where."""


class RecordWriter:
    """Writes a TFRecord file; a context manager.

    Attributes:
        num_records: Written so far.
        num_bytes: Written so far.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb", buffering=WRITE_BUFFER_BYTES)
        self._hash = hashlib.sha256()
        self.num_records = 0
        self.num_bytes = 0

    def write(self, data: bytes) -> None:
        """Appends one record."""
        length = struct.pack("<Q", len(data))
        for part in (length, FOOTER.pack(masked_crc(length)), data, FOOTER.pack(masked_crc(data))):
            self._file.write(part)
            self._hash.update(part)
            self.num_bytes += len(part)
        self.num_records += 1

    def sha256(self) -> str:
        """The hash of all that was written, as `sha256sum` prints it."""
        return self._hash.hexdigest()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            # The file gets its final name by a rename, which a power cut must not see before the data.
            self._file.flush()
            os.fsync(self._file.fileno())
        self._file.close()


def masked_crc(data: bytes) -> int:
    """CRC32-C, rotated and offset: a checksum of bytes that hold their own checksum would be weak."""
    crc = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + CRC_MASK_DELTA) & 0xFFFFFFFF


def count_records(path: Path) -> int:
    """How many records the file holds; only the 12 bytes in front of each are read.

    Raises:
        RecordFileError: The file is truncated or no TFRecord file.
    """
    with path.open("rb", buffering=0) as file:
        return sum(1 for _ in _data_lengths(file, path))


def read_records(path: Path) -> Iterator[bytes]:
    """The data of each record, checksums compared.

    Raises:
        RecordFileError: The file is truncated or no TFRecord file, or a record's data is damaged.
    """
    with path.open("rb") as file:
        for index, length in enumerate(_data_lengths(file, path)):
            data = file.read(length)
            if FOOTER.unpack(file.read(FOOTER.size))[0] != masked_crc(data):
                raise RecordFileError(f"{path}: record {index} is damaged (its checksum differs)")
            yield data


def _data_lengths(file: BinaryIO, path: Path) -> Iterator[int]:
    """The length of each record's data; the file is positioned at that data while its length is yielded."""
    size_bytes = path.stat().st_size
    position = index = 0
    while position < size_bytes:
        file.seek(position)
        header = file.read(HEADER.size)
        if len(header) < HEADER.size:
            raise RecordFileError(f"{path} is truncated: it ends within record {index}")
        length, crc = HEADER.unpack(header)
        if crc != masked_crc(header[:8]):
            what = "is not a TFRecord file" if index == 0 else f"is damaged in front of record {index}"
            raise RecordFileError(f"{path} {what} (the checksum of a length differs)")
        position += HEADER.size + length + FOOTER.size
        if position > size_bytes:
            raise RecordFileError(f"{path} is truncated: it ends within record {index}")
        yield length
        index += 1
