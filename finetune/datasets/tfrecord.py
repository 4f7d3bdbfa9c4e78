"""TFRecord files: records framed by their length and checksums, read and written without TensorFlow.

The format (tensorflow/core/lib/io/record_writer.h): length as little-endian uint64, masked CRC32-C of the length, the
data, masked CRC32-C of the data. TensorFlow also writes the whole of it through GZIP or ZLIB; that is read, too.
"""

import hashlib
import io
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import google_crc32c

from finetune.whole_files import flush_to_disk, sha256

HEADER = struct.Struct("<QI")
FOOTER = struct.Struct("<I")
CRC_MASK_DELTA = 0xA282EAD8
WRITE_BUFFER_BYTES = 1 << 20
READ_BUFFER_BYTES = 1 << 18

GZIP_MAGIC = b"\x1f\x8b"
ZLIB_FIRST_BYTE = 0x78  # Deflate with the largest window, as TensorFlow and all others write it.
ZLIB_CHECK = 31  # Divides the first two bytes of a ZLIB stream.
GZIP_OR_ZLIB = 32 + zlib.MAX_WBITS
OTHER_MAGICS = {b"BZh": "bzip2", b"\x28\xb5\x2f\xfd": "zstd", b"\xfd7zXZ\x00": "xz", b"PK\x03\x04": "zip"}


class RecordFileError(ValueError):
    """A file that is truncated, damaged, or no TFRecord file; the message says which and where."""


class RecordWriter:
    """Writes a TFRecord file; a context manager.

    Attributes:
        num_records: Written so far.
        num_bytes: Written so far.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
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
        self._file.close()
        if kind is None:
            flush_to_disk(self._path)  # Here, beside other processes' work: it is on the disk by the time all are done.


def masked_crc(data: bytes) -> int:
    """CRC32-C, rotated and offset: a checksum of bytes that hold their own checksum would be weak."""
    crc = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + CRC_MASK_DELTA) & 0xFFFFFFFF


def find_compression(path: Path) -> str:
    """How the file is compressed, in TensorFlow's words: "GZIP", "ZLIB" or "", not at all.

    Raises:
        RecordFileError: It is compressed in a way that TensorFlow doesn't read.
    """
    with path.open("rb") as file:
        start = file.read(HEADER.size)
    # A record's length may look like the first bytes of a compressed file; its checksum then settles it.
    if len(start) == HEADER.size and HEADER.unpack(start)[1] == masked_crc(start[:8]):
        return ""
    if start.startswith(GZIP_MAGIC):
        return "GZIP"
    if len(start) > 1 and start[0] == ZLIB_FIRST_BYTE and int.from_bytes(start[:2]) % ZLIB_CHECK == 0:
        return "ZLIB"
    for magic, what in OTHER_MAGICS.items():
        if start.startswith(magic):
            raise RecordFileError(f"{path} is compressed as {what}; records are read plain, as GZIP or as ZLIB")
    return ""


def count_records(path: Path) -> int:
    """How many records the file holds.

    Of a plain file only the 12 bytes in front of each record are read; a compressed one is read whole.

    Raises:
        RecordFileError: The file is truncated or no TFRecord file.
    """
    if find_compression(path):
        return sum(1 for _ in read_records(path))
    with path.open("rb", buffering=0) as file:
        return sum(1 for _ in _data_lengths(file, path))


def read_records(path: Path) -> Iterator[bytes]:
    """The data of each record, checksums compared; of a compressed file, too.

    Raises:
        RecordFileError: The file is truncated or no TFRecord file, or a record's data is damaged.
    """
    if compression := find_compression(path):
        yield from _read_compressed(path, compression)
        return
    with path.open("rb") as file:
        for index, length in enumerate(_data_lengths(file, path)):
            yield _checked(file.read(length), file.read(FOOTER.size), path, index)


def hash_content(path: Path) -> str:
    """SHA-256 of the file as it is without compression; of one whose compressed stream is damaged, as it is."""
    if not find_compression(path):
        return sha256(path)
    try:
        with path.open("rb") as raw:
            return hashlib.file_digest(io.BufferedReader(_Inflated(raw)), "sha256").hexdigest()
    except (EOFError, zlib.error):
        return sha256(path)


def _read_compressed(path: Path, compression: str) -> Iterator[bytes]:
    index = 0
    try:
        with path.open("rb") as raw, io.BufferedReader(_Inflated(raw), READ_BUFFER_BYTES) as file:
            while header := file.read(HEADER.size):
                length = _checked_length(header, path, index)
                yield _checked(file.read(length), file.read(FOOTER.size), path, index)
                index += 1
    except (EOFError, zlib.error) as error:
        what = "is truncated: its" if isinstance(error, EOFError) else "is damaged: the"
        raise RecordFileError(f"{path} {what} {compression} stream breaks off at record {index}") from error


def _checked_length(header: bytes, path: Path, index: int) -> int:
    if len(header) < HEADER.size:
        raise RecordFileError(f"{path} is truncated: it ends within record {index}")
    length, crc = HEADER.unpack(header)
    if crc != masked_crc(header[:8]):
        what = "is not a TFRecord file" if index == 0 else f"is damaged in front of record {index}"
        raise RecordFileError(f"{path} {what} (the checksum of a length differs)")
    return int(length)


def _checked(data: bytes, footer: bytes, path: Path, index: int) -> bytes:
    if len(footer) < FOOTER.size:
        raise RecordFileError(f"{path} is truncated: it ends within record {index}")
    if FOOTER.unpack(footer)[0] != masked_crc(data):
        raise RecordFileError(f"{path}: record {index} is damaged (its checksum differs)")
    return data


def _data_lengths(file: BinaryIO, path: Path) -> Iterator[int]:
    """The length of each record's data; the file is positioned at that data while its length is yielded."""
    size_bytes = path.stat().st_size
    position = index = 0
    while position < size_bytes:
        file.seek(position)
        length = _checked_length(file.read(HEADER.size), path, index)
        position += HEADER.size + length + FOOTER.size
        if position > size_bytes:
            raise RecordFileError(f"{path} is truncated: it ends within record {index}")
        yield length
        index += 1


class _Inflated(io.RawIOBase):
    """What GZIP or ZLIB made of a file, unpacked as it is read; several streams in a file are read as one.

    Raises, when read:
        EOFError: The file ends within a stream.
        zlib.error: It is damaged.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._stream = zlib.decompressobj(GZIP_OR_ZLIB)
        self._has_begun = False
        self._packed = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = b""
        while not data:
            if self._stream.eof:
                self._packed, self._has_begun = self._stream.unused_data, False
                self._stream = zlib.decompressobj(GZIP_OR_ZLIB)
            packed = self._stream.unconsumed_tail or self._next_packed()
            if not packed:
                if self._has_begun:
                    raise EOFError
                return 0
            self._has_begun = True
            data = self._stream.decompress(packed, len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def _next_packed(self) -> bytes:
        packed, self._packed = self._packed or self._file.read(READ_BUFFER_BYTES), b""
        return packed
