"""Records as bytes: what is written here is what TensorFlow writes and reads."""

import struct

import pytest
import tensorflow as tf

from finetune.datasets.records import Feature, Record, encode_record, read_feature
from finetune.datasets.schema import RecordSchema, parse_record
from finetune.datasets.tfrecord import RecordFileError, RecordWriter, count_records, masked_crc, read_records

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
