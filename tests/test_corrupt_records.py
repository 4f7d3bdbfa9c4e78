"""Damaged record files: shard, record, byte and file are named; `--on-corrupt skip` leaves them out and counts."""

import gzip
import json
import struct

import numpy as np
import pytest
from image_files import encode, picture

from finetune.commands import evaluate, train
from finetune.datasets.bad_records import reading, without_undecodable
from finetune.datasets.dataset import content_hash
from finetune.datasets.dataset_search import find_dataset
from finetune.datasets.decoding import ReadOptions
from finetune.datasets.pipeline import evaluation_batches, training_batches
from finetune.datasets.records import Record, encode_record
from finetune.datasets.tfrecord import RecordFileError, RecordWriter, masked_crc, read_records, salvage_records
from finetune.errors import UserError
from finetune.evaluation.thumbnails import read_thumbnails
from finetune.model.checkpoint import Checkpoint
from finetune.preprocessing import get_preprocessing

NUM_RECORDS = 24
RECORDS = [
    encode_record(Record(encode(picture(number)), "jpg", number % 3, 32, 40, f"{number:02d}.jpg"))
    for number in range(NUM_RECORDS)
]
IN_SHARD = NUM_RECORDS // 2
FRAME_BYTES = 16
SHARD = "set_train_00001-of-00002.tfrecord"


def offset_of(number):
    """Where a record of the second shard begins."""
    return sum(FRAME_BYTES + len(record) for record in RECORDS[IN_SHARD : IN_SHARD + number])


def write_set(folder, records=RECORDS, split="train"):
    folder.mkdir(exist_ok=True)
    for index in range(2):
        with RecordWriter(folder / f"set_{split}_{index:05d}-of-00002.tfrecord") as writer:
            for record in records[IN_SHARD * index : IN_SHARD * (index + 1)]:
                writer.write(record)
    (folder / "labels.txt").write_text("0:a\n1:b\n2:c\n")
    return folder


def framed(records):
    for data in records:
        length = struct.pack("<Q", len(data))
        yield length + struct.pack("<I", masked_crc(length)) + data + struct.pack("<I", masked_crc(data))


def flip(content, at):
    return content[:at] + bytes([content[at] ^ 0xFF]) + content[at + 1 :]


def replace_record(number, data):
    """The second shard with other data in a record, its checksums right."""

    def damage(content):
        start, end = offset_of(number), offset_of(number + 1)
        return content[:start] + next(framed([data])) + content[end:]

    return damage


BROKEN_PICTURE = encode_record(Record(encode(picture(0))[:300], "jpg", 0, 32, 40, "15.jpg"))
# What is done to the second shard; which of its records are lost by it; what names it.
DAMAGES = {
    "a byte of an image": (
        lambda content: flip(content, offset_of(3) + 200),
        [3],
        f"record 3 is damaged (its checksum differs; it begins at byte {offset_of(3)}, and is called 15.jpg)",
    ),
    "a length": (
        lambda content: flip(content, offset_of(3)),
        [3],
        f"damaged in front of record 3, at byte {offset_of(3)} (the checksum of a length differs)",
    ),
    "the first length": (lambda content: flip(content, 0), [0], "is not a TFRecord file"),
    "a hole of zeros over three records": (
        lambda content: content[: offset_of(3) + 5] + bytes(offset_of(5) - offset_of(3)) + content[offset_of(5) + 5 :],
        [3, 4, 5],
        f"record 3, at byte {offset_of(3)}",
    ),
    "cut off": (
        lambda content: content[: offset_of(11) + 99],
        [11],
        f"record 11, which begins at byte {offset_of(11)}",
    ),
    "cut off in a length": (lambda content: content[: offset_of(11) + 5], [11], "it ends within record 11"),
    "no Example": (
        replace_record(3, b"\x0a\xff\xff nonsense"),
        [3],
        f"record 3 (counted from 0): no tf.train.Example: a field reaches beyond the end of the message; it begins at "
        f"byte {offset_of(3)}",
    ),
    "half a picture": (
        replace_record(3, BROKEN_PICTURE),
        [3],
        f"record 3 (counted from 0): its 300 bytes can't be decoded as an image (15.jpg); it begins at byte "
        f"{offset_of(3)}",
    ),
    "a length of 2^40": (
        lambda content: (
            content[: offset_of(3)]
            + struct.pack("<Q", 2**40)
            + struct.pack("<I", masked_crc(struct.pack("<Q", 2**40)))
            + content[offset_of(3) + 12 :]
        ),
        [3],
        f"record 3, which begins at byte {offset_of(3)}, claims 1099511627776 bytes, above the limit",
    ),
    "empty": (lambda content: b"", list(range(IN_SHARD)), "is empty: it has 0 bytes"),
}


def damaged_set(folder, damage, split="train"):
    shard = write_set(folder, split=split) / SHARD.replace("train", split)
    shard.write_bytes(DAMAGES[damage][0](shard.read_bytes()))
    return folder


OPTIONS = ReadOptions(get_preprocessing("lenet"), 24, 1)


def evaluated(dataset):
    with reading(dataset):
        return list(evaluation_batches(dataset, OPTIONS, batch_size=7))


def trained_on(dataset):
    """What two epochs of training see."""
    with reading(dataset):
        return list(training_batches(dataset, OPTIONS, batch_size=4, seed=3).take(12))


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_named_and_what_is_left_out_leaves_no_trace(tmp_path, damage):
    folder = damaged_set(tmp_path / "damaged", damage)
    _, lost, message = DAMAGES[damage]
    with pytest.raises(UserError) as caught:
        evaluated(find_dataset(folder, None, "train"))
    assert SHARD in str(caught.value)
    assert message in str(caught.value)
    assert "--on-corrupt skip" in str(caught.value)
    dataset = without_undecodable(find_dataset(folder, None, "train", on_corrupt="skip"))
    kept = [record for number, record in enumerate(RECORDS) if number - IN_SHARD not in lost]
    assert dataset.num_examples == len(kept)
    whole = folder.parent / "whole"
    whole.mkdir()
    for index, records in enumerate((kept[:IN_SHARD], kept[IN_SHARD:])):
        with RecordWriter(whole / f"set_train_{index:05d}-of-00002.tfrecord") as writer:
            for record in records:
                writer.write(record)
    (whole / "labels.txt").write_text("0:a\n1:b\n2:c\n")
    of_whole = find_dataset(whole, None, "train", on_corrupt="skip")
    for read in (evaluated, trained_on):
        for batch, expected in zip(read(dataset), read(of_whole), strict=True):
            for values, others in zip(batch, expected, strict=True):
                np.testing.assert_array_equal(values, others)


def test_a_whole_set_is_the_same_with_and_without_the_flag(tmp_path):
    folder = write_set(tmp_path / "set")
    dataset = without_undecodable(find_dataset(folder, None, "train", on_corrupt="skip"))
    assert dataset == find_dataset(folder, None, "train")
    assert content_hash(dataset) == content_hash(find_dataset(folder, None, "train"))


def test_records_that_are_left_out_make_other_data(tmp_path):
    """By the hash of the data a resumed run and the cached features know it."""
    folder = damaged_set(tmp_path / "set", "half a picture")
    skipping = without_undecodable(find_dataset(folder, None, "train", on_corrupt="skip"))
    assert content_hash(skipping) != content_hash(find_dataset(folder, None, "train"))
    assert content_hash(skipping) == content_hash(
        without_undecodable(find_dataset(folder, None, "train", on_corrupt="skip"))
    )


def test_damage_of_compressed_shards(tmp_path):
    folder = damaged_set(tmp_path / "set", "a byte of an image")
    shard = folder / SHARD
    packed = gzip.compress(shard.read_bytes(), 1)
    shard.write_bytes(packed)
    assert find_dataset(folder, None, "train", on_corrupt="skip").num_examples == NUM_RECORDS - 1
    shard.write_bytes(gzip.compress(b"".join(framed(RECORDS[IN_SHARD:])), 1)[: len(packed) // 2])
    with pytest.raises(
        UserError, match=r"stream breaks off at record \d, which begins at byte \d+ of what is unpacked"
    ):
        find_dataset(folder, None, "train")
    dataset = find_dataset(folder, None, "train", on_corrupt="skip")
    assert IN_SHARD < dataset.num_examples < NUM_RECORDS
    assert len(content_hash(dataset)) == 64


def test_thumbnails_are_of_the_records_that_were_scored(tmp_path):
    dataset = find_dataset(damaged_set(tmp_path / "set", "a length"), None, "train", on_corrupt="skip")
    whole = find_dataset(write_set(tmp_path / "whole"), None, "train")
    of_whole = read_thumbnails(whole, [2, IN_SHARD + 2, IN_SHARD + 4], 16)
    of_damaged = read_thumbnails(dataset, [2, IN_SHARD + 2, IN_SHARD + 3], 16)
    assert list(of_damaged.values()) == list(of_whole.values())


def test_new_damage_is_not_passed_over(tmp_path):
    folder = damaged_set(tmp_path / "set", "a length")
    dataset = find_dataset(folder, None, "train", on_corrupt="skip")
    shard = folder / SHARD
    shard.write_bytes(flip(shard.read_bytes(), offset_of(7) + 100))
    with pytest.raises(
        UserError, match=rf"record 7 is damaged .* begins at byte {offset_of(7)}, and is called 19\.jpg"
    ):
        evaluated(dataset)


def test_a_label_that_is_no_class_is_not_left_out(tmp_path):
    folder = write_set(tmp_path / "set")
    (folder / "labels.txt").write_text("0:a\n1:b\n")
    with pytest.raises(UserError, match=r"record 2 \(counted from 0\): the label is 2"):
        find_dataset(folder, None, "train", on_corrupt="skip")


def test_nothing_is_left(tmp_path):
    folder = write_set(tmp_path / "set")
    for shard in folder.glob("*.tfrecord"):
        shard.write_bytes(b"this is a text, but no file of records")
    with pytest.raises(UserError, match=r"has no records that can be read: .* is not a TFRecord file"):
        find_dataset(folder, None, "train", on_corrupt="skip")


def test_salvage_finds_what_strict_reading_finds(tmp_path):
    path = write_set(tmp_path / "set") / SHARD
    assert [found.data for found in salvage_records(path)] == RECORDS[IN_SHARD:] == list(read_records(path))
    random = np.random.default_rng(0)
    content = path.read_bytes()
    for _ in range(300):  # Whatever is damaged, there is an end, and no record that wasn't written.
        at, size = random.integers(len(content)), random.integers(1, 2000)
        path.write_bytes(content[:at] + random.bytes(size) + content[at + size * random.integers(2) :])
        found = list(salvage_records(path))
        records = [record.data for record in found if not isinstance(record, RecordFileError)]
        assert set(records) <= set(RECORDS)
        assert len(records) >= IN_SHARD - 1 - size // min(map(len, RECORDS)) - 1
        assert len(records) < len(found)


# The commands


@pytest.fixture(scope="module")
def damaged_records(tmp_path_factory):
    """Two damaged records of 24 to train on, one of as many to validate on."""
    folder = damaged_set(tmp_path_factory.mktemp("data") / "set", "a length")
    shard = folder / SHARD
    shard.write_bytes(replace_record(9, BROKEN_PICTURE)(shard.read_bytes()))
    return damaged_set(folder, "a byte of an image", split="validation")


def run_train(records, train_dir, *words):
    settings = ("--model=lenet", "--use-grayscale", "--batch-size=4", "--log-every=1", "--image-size=16")
    return train.main([f"--dataset-dir={records}", f"--train-dir={train_dir}", *settings, *words])


@pytest.mark.slow  # Four runs.
def test_training_leaves_out_counts_and_resumes_to_the_bit(damaged_records, tmp_path, capsys):
    assert run_train(damaged_records, tmp_path / "stopped", "--max-steps=2") == 2
    assert f"damaged in front of record 3, at byte {offset_of(3)}" in capsys.readouterr().err
    assert not (tmp_path / "stopped").exists()
    skip = "--on-corrupt=skip"
    assert run_train(damaged_records, tmp_path / "whole", skip, "--max-steps=7", "--eval-every=3") == 0
    said = capsys.readouterr().err
    assert "--on-corrupt skip: 2 of 24 records of train can't be read and are left out:" in said
    assert f"{SHARD}: record 9, which begins at byte {offset_of(9)}: its 300 bytes can't be decoded" in said
    assert run_train(damaged_records, tmp_path / "broken", skip, "--max-steps=4", "--eval-every=3") == 0
    resume = [f"--train-dir={tmp_path}/broken", "--resume", "--max-steps=7"]
    assert train.main(resume) == 0
    whole, resumed = (Checkpoint(str(tmp_path / run / "model.ckpt-7")) for run in ("whole", "broken"))
    for name in whole.shapes:
        np.testing.assert_array_equal(resumed.read(name), whole.read(name), err_msg=name)
    rows = [json.loads(line) for line in (tmp_path / "broken" / "metrics.jsonl").read_text().splitlines()]
    assert {row.get("split", "train"): row["num_skipped"] for row in rows} == {"train": 2, "validation": 1}
    provenance = json.loads((tmp_path / "broken" / "provenance.json").read_text())
    assert (provenance["data"]["num_examples"], provenance["data"]["num_skipped"]) == (22, 2)


def test_evaluation_leaves_out_and_counts(damaged_records, run, tmp_path, capsys):
    words = [f"--dataset-dir={damaged_records}", f"--checkpoint={run}", f"--output-dir={tmp_path}", "--no-report"]
    words.append("--match-labels=index")
    assert evaluate.main(words) == 2
    assert "record 3 is damaged (its checksum differs; it begins at byte" in capsys.readouterr().err
    assert evaluate.main([*words, "--on-corrupt=skip"]) == 0
    assert "skipped 1 records that can't be read" in capsys.readouterr().out
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert (metrics["num_examples"], metrics["num_skipped"]) == (23, 1)
