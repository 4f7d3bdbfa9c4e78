"""Finding data sets in folders of record files, ours and slim's."""

import hashlib
import json
import os
import shutil
from pathlib import Path

import pytest
import tensorflow as tf
from image_files import encode, picture, write_class_folders

from finetune.convert import ConvertSettings, convert
from finetune.datasets.dataset import content_hash, find_dataset, find_splits
from finetune.datasets.tfrecord import read_records
from finetune.errors import UserError

JPEG = encode(picture())


def example_of(**features: object) -> bytes:
    """An Example of these values, each alone or a list; `__` in a name stands for a slash."""
    example = tf.train.Example()
    for name, values in features.items():
        feature = example.features.feature[name.replace("__", "/")]
        for value in values if isinstance(values, list) else [values]:
            kind = {bytes: "bytes_list", float: "float_list", int: "int64_list"}[type(value)]
            getattr(feature, kind).value.append(value)
    return example.SerializeToString()


def write_shard(path: Path, records: list[bytes], compression: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tf.io.TFRecordWriter(str(path), compression) as writer:
        for record in records:
            writer.write(record)
    return path


def write_slim_shard(path: Path, labels: list[int], compression: str = "") -> Path:
    """A shard as slim's converters write it: by TensorFlow, without file names."""
    records = [example_of(image__encoded=JPEG, image__format=b"jpg", image__class__label=label) for label in labels]
    return write_shard(path, records, compression)


@pytest.fixture
def converted(tmp_path) -> Path:
    images_dir = write_class_folders(tmp_path / "images", daisy=10, rose=10)
    convert(ConvertSettings(tmp_path / "flowers_two", images_dir, dataset_name="flowers_two", num_shards=2))
    return tmp_path / "flowers_two"


def mistake(dataset_dir: Path, name: str | None = None, split: str = "train") -> str:
    with pytest.raises(UserError) as caught:
        find_dataset(dataset_dir, name, split)
    return str(caught.value)


# Our own


def test_converted_folder(converted):
    dataset = find_dataset(converted, None, "validation")
    assert (dataset.name, dataset.split, dataset.num_examples) == ("flowers_two", "validation", 4)
    assert (dataset.class_names, dataset.num_classes) == (("daisy", "rose"), 2)
    assert [shard.path.name for shard in dataset.shards] == [
        "flowers_two_validation_00000-of-00002.tfrecord",
        "flowers_two_validation_00001-of-00002.tfrecord",
    ]
    assert dataset == find_dataset(converted, "flowers_two", "validation")
    assert dataset.num_bytes == sum(shard.path.stat().st_size for shard in dataset.shards)
    assert find_splits(converted, None) == ("train", "validation")


def test_dataset_json_only_spares_work(converted):
    described = find_dataset(converted, None, "train")
    hashed = content_hash(described)
    (converted / "dataset.json").unlink()
    counted = find_dataset(converted, None, "train")
    assert (counted.num_examples, counted.class_names) == (described.num_examples, described.class_names)
    assert content_hash(counted) == hashed


def test_content_hash_follows_the_bytes(converted):
    train = find_dataset(converted, None, "train")
    assert content_hash(train) != content_hash(find_dataset(converted, None, "validation"))
    (converted / "dataset.json").unlink()
    before = content_hash(find_dataset(converted, None, "train"))
    shard = train.shards[1].path
    records = [record.replace(b"daisy/", b"dizzy/") for record in read_records(shard)]
    write_shard(shard, records)
    assert content_hash(find_dataset(converted, None, "train")) != before
    digests = b"".join(hashlib.sha256(s.path.read_bytes()).digest() for s in train.shards)
    assert content_hash(find_dataset(converted, None, "train")) == hashlib.sha256(digests).hexdigest()


def test_a_shard_changed_after_dataset_json_is_hashed_anew(converted):
    train = find_dataset(converted, None, "train")
    shard = train.shards[1].path
    before = shard.stat().st_mtime_ns
    shard.write_bytes(shard.read_bytes().replace(b"daisy/", b"dizzy/"))
    os.utime(shard, ns=(before + 10**10, before + 10**10))
    assert content_hash(find_dataset(converted, None, "train")) != content_hash(train)


def test_damaged_folder(converted):
    shard = find_dataset(converted, None, "train").shards[0].path
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-1])
    assert f"{shard} is truncated: {len(whole) - 1} bytes, dataset.json says {len(whole)}" in mistake(converted)
    shard.unlink()
    assert f"{shard} is missing" in mistake(converted)
    (converted / "dataset.json").write_text("{}")
    assert "dataset.json can't be read" in mistake(converted)
    (converted / "dataset.json").write_text(json.dumps({"version": 99}))
    assert "version 99" in mistake(converted)
    (converted / "dataset.json").unlink()
    assert "1 of 2 shards of the train split are missing" in mistake(converted)


# Slim's


@pytest.mark.parametrize(
    ("name", "files", "num_classes", "channels"),
    [
        ("flowers", ["flowers_train_00000-of-00002.tfrecord", "flowers_train_00001-of-00002.tfrecord"], 5, 3),
        ("flowers", ["flowers_train-00000-of-00001.tfrecord"], 5, 3),
        ("cifar10", ["cifar10_train.tfrecord"], 10, 3),
        ("mnist", ["mnist_train.tfrecord"], 10, 1),
        ("my-own", ["my-own_train_00000-of-00001.tfrecord"], 5, 3),
        ("mine", ["mine-train.tfrecord-00000-of-00001"], 5, 3),
    ],
)
def test_slims_files(tmp_path, name, files, num_classes, channels):
    for file in files:
        write_slim_shard(tmp_path / file, [0, 4, 3])
    for asked in (name, None):
        dataset = find_dataset(tmp_path, asked, "train")
        assert [shard.path.name for shard in dataset.shards] == files
        assert dataset.num_examples == 3 * len(files)
        assert (dataset.name, dataset.num_classes, dataset.class_names) == (name, num_classes, None)
        assert dataset.channels == channels


def test_labels_txt_says_the_classes(tmp_path):
    write_slim_shard(tmp_path / "flowers_train_00000-of-00001.tfrecord", [0])
    (tmp_path / "labels.txt").write_bytes("0:daisy\r\n1:a:b\n3:größer\n\n".encode())
    dataset = find_dataset(tmp_path, None, "train")
    assert (dataset.class_names, dataset.num_classes) == (("daisy", "a:b", "2", "größer"), 4)
    (tmp_path / "labels.txt").write_text("0:daisy\nrose\n")
    assert "labels.txt, line 2: 'rose' is not of the form id:name" in mistake(tmp_path)
    (tmp_path / "labels.txt").write_text("0:daisy\n0:rose\n")
    assert "line 2: the class 0 was named before" in mistake(tmp_path)


def test_highest_label_of_all_splits_says_how_many_classes(tmp_path):
    write_slim_shard(tmp_path / "pets_train_00000-of-00001.tfrecord", [0, 1, 11])
    write_slim_shard(tmp_path / "pets_validation_00000-of-00001.tfrecord", [0, 1])
    assert find_dataset(tmp_path, None, "validation").num_classes == 12


def test_val_is_validation(tmp_path):
    write_slim_shard(tmp_path / "val.record-00000-of-00001", [0, 1])
    assert find_dataset(tmp_path, "visualwakewords", "validation").split == "val"
    assert find_splits(tmp_path, None) == ("validation",)


def test_several_data_sets_in_one_folder(tmp_path):
    write_slim_shard(tmp_path / "cifar10_train.tfrecord", [1])
    write_slim_shard(tmp_path / "mnist_train.tfrecord", [1, 2])
    message = mistake(tmp_path)
    assert "several data sets: cifar10, mnist" in message
    assert "--dataset-name" in message
    assert find_dataset(tmp_path, "mnist", "train").num_examples == 2
    assert "Did you mean mnist?" in mistake(tmp_path, "minst")


# Mistakes


def test_no_such_folder_or_split(converted):
    assert "Did you mean flowers_two?" in mistake(converted.parent / "flower_two")
    assert "There is no test split of flowers_two in" in mistake(converted, split="test")
    assert "found: train, validation" in mistake(converted, split="test")
    assert "holds no data set flowers_too, but flowers_two" in mistake(converted, "flowers_too")
    assert "finetune-convert" in mistake(converted.parent / "images")


def test_shards_that_cannot_be_right(tmp_path):
    shard = write_slim_shard(tmp_path / "a" / "pets_train_00000-of-00001.tfrecord", [0, 1])
    shutil.copytree(shard.parent, tmp_path / "two")
    shutil.copy(shard, tmp_path / "two" / "pets_train_00000-of-00002.tfrecord")
    assert "two sets of shards" in mistake(tmp_path / "two")
    shutil.copytree(shard.parent, tmp_path / "cut")
    (tmp_path / "cut" / shard.name).write_bytes(shard.read_bytes()[:-2])
    assert f"{shard.name} is truncated: it ends within record 1" in mistake(tmp_path / "cut")
    shard.write_bytes(b"this is a text, but no file of records")
    assert "not a TFRecord file" in mistake(shard.parent)
    shard.write_bytes(b"")
    assert "has no records" in mistake(shard.parent)
