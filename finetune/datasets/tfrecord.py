"""TFRecord files: records framed by their length and checksums, read and written without TensorFlow.

The format (tensorflow/core/lib/io/record_writer.h): length as little-endian uint64, masked CRC32-C of the length, the
data, masked CRC32-C of the data. TensorFlow also writes the whole of it through GZIP or ZLIB; that is read, too.
"""

import hashlib
import io
import mmap
import re
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, NamedTuple, Self

import google_crc32c

from finetune.datasets.records import file_name_of
from finetune.files.whole_files import flush_to_disk, sha256
from finetune.files.write_errors import naming

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


# No image needs more; what is claimed is taken from memory before it can be seen to be wrong.
MOST_RECORD_BYTES = 1 << 29
# A length is eight bytes, the upper four of them zero.
ZEROS_OF_LENGTH = re.compile(rb"\0{4,}")


class RecordFileError(ValueError):
    """A file that is truncated, damaged, or no TFRecord file; the message says which and where.

    Attributes:
        number: Of the record that can't be read, counted from 0.
        offset: Byte at which it begins, in the file without compression.
        next_offset: Byte at which the next one begins; None where that can't be told.
    """

    def __init__(self, message: str, number: int = 0, offset: int = 0, next_offset: int | None = None) -> None:
        super().__init__(message)
        self.number = number
        self.offset = offset
        self.next_offset = next_offset


class StoredRecord(NamedTuple):
    """A record and its place: its number, counted from 0, and the byte at which it begins, without compression."""

    number: int
    offset: int
    data: bytes


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
            with naming(self._path):
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
        with naming(self._path):
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
    return sum(1 for _ in (stored_records(path) if find_compression(path) else record_offsets(path)))


def record_offsets(path: Path) -> Iterator[int]:
    """The byte at which each record of a file begins that isn't compressed; only the 12 bytes in front of it are read.

    Raises:
        RecordFileError: The file is truncated or no TFRecord file.
    """
    number = offset = 0
    size_bytes = path.stat().st_size
    with path.open("rb", buffering=0) as file:
        while offset < size_bytes:
            file.seek(offset)
            length = _checked_length(file.read(HEADER.size), path, number, offset)
            end = offset + HEADER.size + length + FOOTER.size
            if end > size_bytes:
                raise _truncated(path, number, offset)
            yield offset
            number, offset = number + 1, end


def read_records(path: Path) -> Iterator[bytes]:
    """The data of each record, checksums compared; of a compressed file, too.

    Raises:
        RecordFileError: The file is truncated or no TFRecord file, or a record's data is damaged.
    """
    return (record.data for record in stored_records(path))


def stored_records(path: Path) -> Iterator[StoredRecord]:
    """As `read_records`, each record with its place."""
    for found in salvage_records(path):
        if isinstance(found, RecordFileError):
            raise found
        yield found


def salvage_records(path: Path) -> Iterator[StoredRecord | RecordFileError]:
    """All records that can be read, and in place of each stretch that can't the error that `stored_records` raises.

    A damaged length leaves open where the next record begins: it is looked for, by a length whose checksum holds, and
    so the rest of the file isn't lost. What lies behind damage to a compressed stream can't be found.

    Raises:
        RecordFileError: The file is compressed in a way that isn't read.
    """
    compression = find_compression(path)
    size_bytes = None if compression else path.stat().st_size
    number = offset = 0
    with path.open("rb") as raw:
        file = io.BufferedReader(_Inflated(raw), READ_BUFFER_BYTES) if compression else raw
        while (found := _read_record(file, path, number, offset, size_bytes)) is not None:
            yield found
            number += 1
            if isinstance(found, StoredRecord):
                offset += HEADER.size + len(found.data) + FOOTER.size
            elif found.next_offset is not None:
                offset = found.next_offset
            elif compression:
                return
            else:
                offset = _find_record(raw, offset + 1)
                raw.seek(offset)


def read_record_at(path: Path, number: int, offset: int) -> bytes:
    """The data of one record of a file that isn't compressed, its checksums compared.

    Args:
        path: Of the file.
        number: Of the record in it, for messages.
        offset: Byte at which it begins.

    Raises:
        RecordFileError: There is none, or it is damaged.
    """
    with path.open("rb") as file:
        file.seek(offset)
        found = _read_record(file, path, number, offset, path.stat().st_size)
    if not isinstance(found, StoredRecord):
        raise found or _truncated(path, number, offset)
    return found.data


def hash_content(path: Path) -> str:
    """SHA-256 of the file as it is without compression; of one whose compressed stream is damaged, as it is."""
    if not find_compression(path):
        return sha256(path)
    try:
        with path.open("rb") as raw:
            return hashlib.file_digest(io.BufferedReader(_Inflated(raw)), "sha256").hexdigest()
    except (EOFError, zlib.error):
        return sha256(path)


def _read_record(
    file: BinaryIO, path: Path, number: int, offset: int, size_bytes: int | None
) -> StoredRecord | RecordFileError | None:
    """The record that begins where the file stands, or why it can't be read; None at the file's end.

    Args:
        file: Without compression.
        path: Of the file.
        number: Of the record.
        offset: Byte at which it begins.
        size_bytes: Of the file; None where it isn't known, of a compressed one.
    """
    try:
        header = file.read(HEADER.size)
        if not header:
            return None
        length = _checked_length(header, path, number, offset)
        if size_bytes is not None and offset + HEADER.size + length + FOOTER.size > size_bytes:
            return _truncated(path, number, offset)
        return StoredRecord(number, offset, _checked(file.read(length), file.read(FOOTER.size), path, number, offset))
    except RecordFileError as error:
        return error
    except (EOFError, zlib.error) as error:
        what = "is truncated: its" if isinstance(error, EOFError) else "is damaged: the"
        return RecordFileError(
            f"{path} {what} {find_compression(path)} stream breaks off at record {number}, which begins at byte "
            f"{offset} of what is unpacked",
            number,
            offset,
        )


def _find_record(file: BinaryIO, start: int) -> int:
    """Where a record may begin behind a damaged length: where the checksum of another length holds; or the file's end.

    By chance it holds once in 2^32 places.
    """
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        for zeros in ZEROS_OF_LENGTH.finditer(content, start):
            # The highest byte of the length that isn't zero, one of its lower four, lies in front of the zeros.
            for offset in range(max(start, zeros.start() - 4), zeros.start()):
                header = content[offset : offset + HEADER.size]
                if len(header) == HEADER.size and HEADER.unpack(header)[1] == masked_crc(header[:8]):
                    return offset
        return len(content)


def _checked_length(header: bytes, path: Path, number: int, offset: int) -> int:
    if len(header) < HEADER.size:
        raise _truncated(path, number, offset)
    length, crc = HEADER.unpack(header)
    if crc != masked_crc(header[:8]):
        what = "is not a TFRecord file" if number == 0 else f"is damaged in front of record {number}, at byte {offset}"
        raise RecordFileError(f"{path} {what} (the checksum of a length differs)", number, offset)
    if length > MOST_RECORD_BYTES:
        raise RecordFileError(
            f"{path}: record {number}, which begins at byte {offset}, claims {length} bytes, above the limit of "
            f"{MOST_RECORD_BYTES}",
            number,
            offset,
        )
    return int(length)


def _checked(data: bytes, footer: bytes, path: Path, number: int, offset: int) -> bytes:
    if len(footer) < FOOTER.size:
        raise _truncated(path, number, offset)
    if FOOTER.unpack(footer)[0] != masked_crc(data):
        name = _name_of(data)
        raise RecordFileError(
            f"{path}: record {number} is damaged (its checksum differs; it begins at byte {offset}"
            f"{f', and is called {name}' if name else ''})",
            number,
            offset,
            offset + HEADER.size + len(data) + FOOTER.size,
        )
    return data


def _truncated(path: Path, number: int, offset: int) -> RecordFileError:
    return RecordFileError(
        f"{path} is truncated: it ends within record {number}, which begins at byte {offset}", number, offset
    )


def _name_of(data: bytes) -> str:
    """What a damaged record is called, where that can still be read."""
    try:
        return file_name_of(data)
    except ValueError:
        return ""


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
