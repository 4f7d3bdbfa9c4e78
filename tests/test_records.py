"""Records as bytes: what is written here is what TensorFlow writes and reads."""

import bz2
import contextlib
import gzip
import hashlib
import lzma
import re
import struct
import zlib

import numpy as np
import pytest
import tensorflow as tf

from finetune.datasets.records import Feature, Record, encode_record, read_feature, read_features
from finetune.datasets.schema import LabelError, RecordSchema, find_schema, parse_record
from finetune.datasets.tfrecord import (
    RecordFileError,
    RecordWriter,
    count_records,
    find_compression,
    hash_content,
    masked_crc,
    read_records,
)

SLIM = RecordSchema()

RECORDS = [
    Record(b"\xff\xd8 bytes of an image", "jpg", label=3, height=224, width=200, filename="daisy/a.jpg"),
    Record(b"\x00" * 300, "png", label=0, height=1, width=70000, filename="größe/ü.png"),
    Record(b"", "jpg", label=-1, height=0, width=127, filename=""),
]


def tensorflow_example(record: Record) -> tf.train.Example:
    def of_bytes(value: bytes) -> tf.train.Feature:
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))

    def of_int(value: int) -> tf.train.Feature:
        return tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))

    features = {
        "image/encoded": of_bytes(record.encoded),
        "image/format": of_bytes(record.format.encode()),
        "image/class/label": of_int(record.label),
        "image/height": of_int(record.height),
        "image/width": of_int(record.width),
        "image/filename": of_bytes(record.filename.encode()),
    }
    return tf.train.Example(features=tf.train.Features(feature=features))


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.filename or "empty")
def test_bytes_are_those_of_tensorflow(record):
    encoded = encode_record(record)
    assert tf.train.Example.FromString(encoded) == tensorflow_example(record)
    assert encoded == tensorflow_example(record).SerializeToString(deterministic=True)


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.filename or "empty")
def test_parse_record_reads_what_was_written(record):
    parsed = parse_record(encode_record(record), SLIM)
    assert parsed.encoded.numpy() == record.encoded
    assert parsed.label.numpy() == record.label
    assert parsed.filename.numpy().decode() == record.filename


def test_a_missing_label_is_an_error_and_a_missing_file_name_none():
    slim = tf.train.Example()
    slim.features.feature["image/encoded"].bytes_list.value.append(b"image")
    with pytest.raises(tf.errors.InvalidArgumentError, match="image/class/label"):
        parse_record(slim.SerializeToString(), SLIM)
    slim.features.feature["image/class/label"].int64_list.value.append(4)
    parsed = parse_record(slim.SerializeToString(), SLIM)
    assert (parsed.encoded.numpy(), parsed.label.numpy(), parsed.filename.numpy()) == (b"image", 4, b"")


def test_a_file_name_that_is_no_text_keeps_its_bytes():
    record = Record(b"", "jpg", 0, 1, 1, filename=b"caf\xe9.jpg".decode("utf-8", "surrogateescape"))
    assert parse_record(encode_record(record), SLIM).filename.numpy() == b"caf\xe9.jpg"


@pytest.mark.parametrize("label", [0, 1, 127, 128, 1000, 2**40, -1])
def test_read_label(label):
    example = tensorflow_example(Record(b"x" * 200, "jpg", label, 1, 1, "f"))
    assert SLIM.read_label(example.SerializeToString()) == label


def test_read_label_of_unpacked_list_and_of_none():
    # Written by hand as a list of single numbers, which protobuf allows beside the packed form.
    feature = b"\x1a\x02\x08\x05"
    entry = b"\x0a\x11image/class/label\x12" + bytes([len(feature)]) + feature
    serialized = b"\x0a" + bytes([len(entry) + 2]) + b"\x0a" + bytes([len(entry)]) + entry
    assert tf.train.Example.FromString(serialized).features.feature["image/class/label"].int64_list.value[:] == [5]
    assert read_feature(serialized, "image/class/label") == Feature("int64", (5,))
    assert SLIM.read_label(serialized) == 5
    assert read_feature(b"", "image/class/label") is None


@pytest.mark.parametrize("damaged", [b"\x0a\x05ab", b"\x0a", b"\x0f\x00", b"\x08" + b"\xff" * 11])
def test_read_label_refuses_what_is_no_example(damaged):
    with pytest.raises(ValueError, match=r"message|wire|number"):
        SLIM.read_label(damaged)


def test_file_is_that_of_tensorflow(tmp_path):
    records = [b"", b"one", b"x" * 100_000]
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    with RecordWriter(ours) as writer:
        for record in records:
            writer.write(record)
    with tf.io.TFRecordWriter(str(theirs)) as tensorflow_writer:
        for record in records:
            tensorflow_writer.write(record)
    assert ours.read_bytes() == theirs.read_bytes()
    assert [r.numpy() for r in tf.data.TFRecordDataset(str(ours))] == records
    assert list(read_records(ours)) == records
    assert count_records(ours) == writer.num_records == 3
    assert writer.num_bytes == ours.stat().st_size


def test_masked_crc_of_a_known_value():
    # "123456789" has the CRC32-C 0xE3069283 (RFC 3720).
    crc = 0xE3069283
    assert masked_crc(b"123456789") == ((crc >> 15 | crc << 17) + 0xA282EAD8) % 2**32


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: data[:-1], "truncated: it ends within record 1"),
        (lambda data: data[:-15], "truncated: it ends within record 1"),
        (lambda data: data + b"\x01", "truncated: it ends within record 2"),
        (lambda data: b"no records, but enough text" + data, "not a TFRecord file"),
        (lambda data: data[:19] + b"\x7f" + data[20:], "damaged in front of record 1"),
    ],
)
def test_damaged_files_are_told(tmp_path, damage, message):
    path = tmp_path / "shard"
    with RecordWriter(path) as writer:
        writer.write(b"abc")
        writer.write(b"def")
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(RecordFileError, match=message):
        count_records(path)


def test_damaged_data_is_told_by_its_record(tmp_path):
    path = tmp_path / "shard"
    with RecordWriter(path) as writer:
        writer.write(b"abc")
        writer.write(b"def")
    path.write_bytes(path.read_bytes().replace(b"def", b"dxf"))
    assert count_records(path) == 2
    with pytest.raises(RecordFileError, match="record 1 is damaged"):
        list(read_records(path))


def test_length_is_little_endian_uint64(tmp_path):
    with RecordWriter(tmp_path / "shard") as writer:
        writer.write(b"x" * 300)
    assert struct.unpack("<Q", (tmp_path / "shard").read_bytes()[:8]) == (300,)


# Compression


def packed(content: bytes, compression: str) -> bytes:
    return {"GZIP": gzip.compress, "ZLIB": zlib.compress, "": bytes}[compression](content)


@pytest.mark.parametrize("compression", ["GZIP", "ZLIB"])
def test_compressed_files_are_read_as_tensorflow_writes_them(tmp_path, compression):
    records = [b"", b"one", b"x" * 1_000_000, np.random.RandomState(0).bytes(700_000)]
    plain, compressed = tmp_path / "plain", tmp_path / "compressed"
    for path, how in ((plain, ""), (compressed, compression)):
        with tf.io.TFRecordWriter(str(path), how) as writer:
            for record in records:
                writer.write(record)
    assert (find_compression(plain), find_compression(compressed)) == ("", compression)
    assert list(read_records(compressed)) == records
    assert count_records(compressed) == 4
    assert hash_content(compressed) == hash_content(plain) == hashlib.sha256(plain.read_bytes()).hexdigest()


def test_a_file_of_several_gzip_streams(tmp_path):
    with RecordWriter(tmp_path / "plain") as writer:
        writer.write(b"abc")
    stream = gzip.compress((tmp_path / "plain").read_bytes())
    (tmp_path / "twice").write_bytes(stream + stream)
    assert list(read_records(tmp_path / "twice")) == [b"abc", b"abc"]


@pytest.mark.parametrize("length", [0x8B1F, 0x9C78])
def test_a_length_that_looks_like_a_compressed_file(tmp_path, length):
    with RecordWriter(tmp_path / "shard") as writer:
        writer.write(b"x" * length)
    assert find_compression(tmp_path / "shard") == ""
    assert count_records(tmp_path / "shard") == 1


@pytest.mark.parametrize("compression", ["GZIP", "ZLIB"])
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: data[: len(data) // 2], "is truncated: its {} stream breaks off at record"),
        (lambda data: data[:-3], "is truncated: its {} stream breaks off at record 2"),
        (lambda data: data[:40] + bytes(30) + data[70:], "(is damaged: the {} stream breaks off at|damaged)"),
    ],
)
def test_damaged_compressed_files_are_told(tmp_path, compression, damage, message):
    with RecordWriter(tmp_path / "plain") as writer:
        for seed in (1, 2):
            writer.write(np.random.RandomState(seed).bytes(500))
    path = tmp_path / "shard"
    path.write_bytes(damage(packed((tmp_path / "plain").read_bytes(), compression)))
    with pytest.raises(RecordFileError, match=message.format(compression)):
        count_records(path)


@pytest.mark.parametrize("compress", [bz2.compress, lzma.compress])
def test_other_compression_is_named(tmp_path, compress):
    (tmp_path / "shard").write_bytes(compress(b"records"))
    with pytest.raises(RecordFileError, match=f"is compressed as {compress.__module__.replace('lzma', 'xz')[:2]}"):
        count_records(tmp_path / "shard")


# Labels of all kinds

NAMES = ("daisy", "rose", "tulip")
LABELS = {
    "int64": (1, 1),
    "float": (1.0, 1),
    "digits": (b" 2 ", 2),
    "name": (b"rose", 1),
    "one-hot int64": ([0, 0, 1], 2),
    "one-hot float": ([1.0, 0.0, 0.0], 0),
}
BAD_LABELS = {
    "no whole number": ([1.0], [1.5]),
    "the label under label is nan": ([1.0], [float("nan")]),
    "'lily', the name of no class": ([b"rose"], [b"lily"]),
    "no one-hot list": ([0, 1, 0], [1, 1, 0]),
    "are no one-hot": ([0.0, 1.0, 0.0], [0.2, 0.8, 0.0]),
    "holds 2 x int64, in the first record 1 x int64": ([1], [1, 2]),
    "holds 1 x float, in the first record 1 x int64": ([1], [1.0]),
    "there is no label under label; found: image": ([1], []),
}


def example_of(label, key: str = "label") -> bytes:
    example = tf.train.Example()
    example.features.feature["image"].bytes_list.value.append(b"\xff\xd8\xff image")
    values = label if isinstance(label, list) else [label]
    if values:
        kind = {bytes: "bytes_list", float: "float_list", int: "int64_list"}[type(values[0])]
        getattr(example.features.feature[key], kind).value.extend(values)
    return example.SerializeToString()


@pytest.mark.parametrize("kind", LABELS)
def test_both_readers_read_labels_of_every_kind(kind):
    value, label = LABELS[kind]
    serialized = example_of(value)
    schema = find_schema(read_features(serialized), "image", "label", NAMES)
    assert schema.read_label(serialized) == label
    parsed = parse_record(serialized, schema)
    assert (int(parsed.label), parsed.label.dtype) == (label, tf.int64)
    assert parsed.encoded.numpy() == b"\xff\xd8\xff image"


@pytest.mark.parametrize("message", BAD_LABELS)
def test_both_readers_refuse_what_is_no_label(message):
    first, bad = BAD_LABELS[message]
    schema = find_schema(read_features(example_of(first)), "image", "label", NAMES)
    with pytest.raises(LabelError, match=message):
        schema.read_label(example_of(bad))
    with contextlib.suppress(tf.errors.InvalidArgumentError):
        assert int(parse_record(example_of(bad), schema).label) == -1


def test_digits_that_are_another_classs_name_are_refused():
    features = read_features(example_of(b"7"))
    with pytest.raises(LabelError, match="a label '7' may be the class 7 or 1"):
        find_schema(features, "image", "label", ("0", "7"))
    assert find_schema(features, "image", "label", tuple("0123456789")).read_label(example_of(b"7")) == 7


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (
            {"image": [0.5] * 784, "label": 1},
            "image holds 784 x float, not a JPEG or PNG file's bytes: raw pixels",
        ),
        ({"image": [7] * 12, "label": 1}, "image holds 12 x int64, not a JPEG or PNG file's bytes: raw pixels"),
        (
            {"image": bytes(12), "height": 2, "width": 2, "label": 1},
            "the 12 bytes under image are no JPEG, PNG, GIF, BMP file: raw pixels of 2 x 2, which are not read",
        ),
        (
            {"image/encoded": b"\x89PNG", "label": 1},
            "there is no image under image; found: image/encoded (1 x bytes), lab",
        ),
    ],
)
def test_what_is_no_image_is_refused_by_name(features, message):
    example = tf.train.Example()
    for key, value in features.items():
        values = value if isinstance(value, list) else [value]
        kind = {bytes: "bytes_list", float: "float_list", int: "int64_list"}[type(values[0])]
        getattr(example.features.feature[key], kind).value.extend(values)
    with pytest.raises(LabelError, match=re.escape(message)):
        find_schema(read_features(example.SerializeToString()), "image", "label", None)
