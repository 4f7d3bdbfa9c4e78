"""The record schema: one tf.train.Example for an image, its label and where it came from.

The keys are those of slim's data sets; `image/filename`, `image/weight` and `image/group` are ours, and slim's readers
ignore them.
Writing needs no TensorFlow, so that a converter's worker processes start in a tenth of a second: an Example is a small
protobuf message, written here field by field, and read so where a look at single records is enough. Reading for
training is TensorFlow's own parser (see schema.py).
"""

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from finetune.notices import on_one_line
from finetune.settings.choices import IMAGE_KEY, LABEL_KEY

ENCODED = IMAGE_KEY
FORMAT = "image/format"
LABEL = LABEL_KEY
TEXT = "image/class/text"
HEIGHT = "image/height"
WIDTH = "image/width"
FILENAME = "image/filename"
WEIGHT = "image/weight"
GROUP = "image/group"

# Protobuf's wire types, and the field numbers of tensorflow/core/example/{example,feature}.proto.
VARINT, FIXED64, LENGTH_DELIMITED, FIXED32 = 0, 1, 2, 5
EXAMPLE_FEATURES = 1
FEATURES_ENTRY = 1
ENTRY_KEY, ENTRY_VALUE = 1, 2
FEATURE_BYTES_LIST, FEATURE_FLOAT_LIST, FEATURE_INT64_LIST = 1, 2, 3
LIST_VALUE = 1

BYTES, FLOAT, INT64 = "bytes", "float", "int64"
KINDS = {FEATURE_BYTES_LIST: BYTES, FEATURE_FLOAT_LIST: FLOAT, FEATURE_INT64_LIST: INT64}


@dataclass(frozen=True)
class Record:
    """One image as it stands in a record file.

    Attributes:
        encoded: The bytes of a JPEG or PNG file.
        format: "jpg" or "png", slim's words.
        label: The class, counted from 0; of a data set of several labels an image all of its classes, perhaps none.
        height: In pixels.
        width: In pixels.
        filename: The source file relative to the image folder, with forward slashes.
        weight: How much the image counts in training, as float32; None: images have no weights.
        group: Images of one group stay together wherever images are divided; '': it is by itself.
        texts: Of several labels an image the names of its classes.
    """

    encoded: bytes
    format: str
    label: int | tuple[int, ...]
    height: int
    width: int
    filename: str
    weight: float | None = None
    group: str = ""
    texts: tuple[str, ...] = ()

    @property
    def labels(self) -> tuple[int, ...]:
        """All of its classes."""
        return self.label if isinstance(self.label, tuple) else (self.label,)


class Feature(NamedTuple):
    """What stands under a key: values of one `kind`, "bytes", "float" or "int64"; "" where it holds nothing."""

    kind: str
    values: tuple[bytes | float | int, ...]


def encode_record(record: Record) -> bytes:
    """The record as a serialized tf.train.Example, keys sorted: the same record always gives the same bytes."""
    features = {
        ENCODED: _bytes_feature([record.encoded]),
        FORMAT: _bytes_feature([record.format.encode()]),
        LABEL: _int64_feature(record.labels),
        HEIGHT: _int64_feature([record.height]),
        WIDTH: _int64_feature([record.width]),
        # A file name that is no valid Unicode keeps the bytes it has on disk.
        FILENAME: _bytes_feature([record.filename.encode("utf-8", "surrogateescape")]),
    }
    if record.weight is not None:
        features[WEIGHT] = _float_feature(record.weight)
    if record.group:
        features[GROUP] = _bytes_feature([record.group.encode("utf-8", "surrogateescape")])
    if isinstance(record.label, tuple):
        features[TEXT] = _bytes_feature(text.encode("utf-8", "surrogateescape") for text in record.texts)
    entries = [
        _delimited(ENTRY_KEY, key.encode()) + _delimited(ENTRY_VALUE, feature)
        for key, feature in sorted(features.items())
    ]
    return _delimited(EXAMPLE_FEATURES, b"".join(_delimited(FEATURES_ENTRY, entry) for entry in entries))


def read_features(serialized: bytes) -> dict[str, Feature]:
    """All that a serialized tf.train.Example holds, by key.

    Raises:
        ValueError: These bytes are no Example.
    """
    return {
        bytes(key).decode("utf-8", "replace"): _feature(entry)
        for entry in _entries(serialized)
        for key in _sub_messages(entry, ENTRY_KEY)
    }


def read_feature(serialized: bytes, key: str) -> Feature | None:
    """What a serialized tf.train.Example holds under one key; None where it hasn't got it.

    Raises:
        ValueError: These bytes are no Example.
    """
    encoded_key = key.encode()
    for entry in _entries(serialized):
        if encoded_key in _sub_messages(entry, ENTRY_KEY):
            return _feature(entry)
    return None


def file_name_of(serialized: bytes) -> str:
    """The name of the file that a serialized tf.train.Example was made of, on one line; '' where it has none.

    Raises:
        ValueError: These bytes are no Example.
    """
    feature = read_feature(serialized, FILENAME)
    name = feature.values[0] if feature and feature.values else b""
    return on_one_line(name.decode("utf-8", "replace")) if isinstance(name, bytes) else ""


def _bytes_feature(values: Iterable[bytes]) -> bytes:
    return _delimited(FEATURE_BYTES_LIST, b"".join(_delimited(LIST_VALUE, value) for value in values))


def _int64_feature(values: Iterable[int]) -> bytes:
    return _delimited(FEATURE_INT64_LIST, _delimited(LIST_VALUE, b"".join(map(_varint, values))))


def _float_feature(value: float) -> bytes:
    return _delimited(FEATURE_FLOAT_LIST, _delimited(LIST_VALUE, struct.pack("<f", value)))


def _delimited(field_number: int, payload: bytes) -> bytes:
    return _varint(field_number << 3 | LENGTH_DELIMITED) + _varint(len(payload)) + payload


def _varint(value: int) -> bytes:
    """Seven bits a byte, lowest first; a negative number as its 64-bit two's complement."""
    if 0 <= value <= 0x7F:  # Nearly all of them.
        return bytes((value,))
    value &= (1 << 64) - 1
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _entries(serialized: bytes) -> Iterator[memoryview]:
    for features in _sub_messages(memoryview(serialized), EXAMPLE_FEATURES):
        yield from _sub_messages(features, FEATURES_ENTRY)


def _feature(entry: memoryview) -> Feature:
    for feature in _sub_messages(entry, ENTRY_VALUE):
        for number, values in _fields(feature):
            if number in KINDS and isinstance(values, memoryview):
                return Feature(KINDS[number], tuple(_list_values(KINDS[number], values)))
    return Feature("", ())


def _list_values(kind: str, values: memoryview) -> Iterator[bytes | float | int]:
    """Packed lists come as one payload, unpacked ones as single numbers; both are valid protobuf."""
    for number, value in _fields(values):
        if number != LIST_VALUE:
            continue
        if isinstance(value, int):
            yield _signed(value)
        elif kind == BYTES:
            yield bytes(value)
        elif kind == FLOAT:
            yield from struct.unpack(f"<{len(value) // 4}f", value[: len(value) // 4 * 4])
        else:
            position = 0
            while position < len(value):
                raw, position = _read_varint(value, position)
                yield _signed(raw)


def _signed(raw: int) -> int:
    return raw - (1 << 64) if raw >> 63 else raw


def _sub_messages(message: memoryview, field_number: int) -> list[memoryview]:
    return [value for number, value in _fields(message) if number == field_number and isinstance(value, memoryview)]


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview | int]]:
    """The numbered fields of a protobuf message, in order; varints as int, all others as their bytes."""
    position = 0
    while position < len(message):
        key, position = _read_varint(message, position)
        wire_type = key & 7
        if wire_type == VARINT:
            number, position = _read_varint(message, position)
            yield key >> 3, number
            continue
        if wire_type == LENGTH_DELIMITED:
            length, position = _read_varint(message, position)
        elif wire_type in (FIXED64, FIXED32):
            length = 8 if wire_type == FIXED64 else 4
        else:
            raise ValueError(f"wire type {wire_type} is not used in an Example")
        if position + length > len(message):
            raise ValueError("a field reaches beyond the end of the message")
        yield key >> 3, message[position : position + length]
        position += length


def _read_varint(message: memoryview, position: int) -> tuple[int, int]:
    """The number that starts at `position`, and the position behind it."""
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(message):
            raise ValueError("the message ends within a number")
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise ValueError("a number is longer than 64 bits")
