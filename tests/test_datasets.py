"""Finding data sets in folders of record files, ours and slim's."""

import gzip
import hashlib
import json
import os
import shutil
from pathlib import Path

import pytest
import tensorflow as tf
from image_files import encode, picture, write_class_folders

from finetune.commands.convert import convert
from finetune.datasets.dataset import content_hash
from finetune.datasets.dataset_search import find_dataset, find_splits
from finetune.datasets.tfrecord import read_records
from finetune.errors import UserError
from finetune.settings.convert import ConvertSettings

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
    ("name", "files", "num_classes"),
    [
        ("flowers", ["flowers_train_00000-of-00002.tfrecord", "flowers_train_00001-of-00002.tfrecord"], 5),
        ("flowers", ["flowers_train-00000-of-00001.tfrecord"], 5),
        ("cifar10", ["cifar10_train.tfrecord"], 10),
        ("mnist", ["mnist_train.tfrecord"], 10),
        ("my-own", ["my-own_train_00000-of-00001.tfrecord"], 5),
        ("mine", ["mine-train.tfrecord-00000-of-00001"], 5),
    ],
)
def test_slims_files(tmp_path, name, files, num_classes):
    for file in files:
        write_slim_shard(tmp_path / file, [0, 4, 3])
    for asked in (name, None):
        dataset = find_dataset(tmp_path, asked, "train")
        assert [shard.path.name for shard in dataset.shards] == files
        assert dataset.num_examples == 3 * len(files)
        assert (dataset.name, dataset.num_classes, dataset.class_names) == (name, num_classes, None)


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
    assert "is empty: it has 0 bytes" in mistake(shard.parent)


# What the records say


@pytest.mark.parametrize("name", ["flowers", "cifar10", "mnist", "pets"])
@pytest.mark.parametrize("has_labels_txt", [True, False])
def test_a_missing_label_is_an_error_at_once(tmp_path, name, has_labels_txt):
    records = [example_of(image__encoded=JPEG, image__label=number % 3) for number in range(3)]
    shard = write_shard(tmp_path / f"{name}_train.tfrecord", records)
    if has_labels_txt:
        (tmp_path / "labels.txt").write_text("0:a\n1:b\n2:c\n")
    assert mistake(tmp_path) == (
        f"{shard}, record 0 (counted from 0): there is no label under image/class/label; found: "
        "image/encoded (1 x bytes), image/label (1 x int64); it begins at byte 0.\n"
        "  If it is the label, give --label-key image/label."
    )
    assert find_dataset(tmp_path, None, "train", label_key="image/label").num_examples == 3


def test_a_label_that_only_a_later_record_lacks(tmp_path):
    records = [
        example_of(image__encoded=JPEG, image__class__label=1),
        example_of(image__encoded=JPEG, image__class__text=b"rose"),
    ]
    shard = write_shard(tmp_path / "flowers_train.tfrecord", records)
    assert f"{shard}, record 1 (counted from 0): there is no label under image/class/label" in mistake(tmp_path)


def test_a_test_split_without_labels_doesnt_keep_training_from_it(tmp_path):
    write_slim_shard(tmp_path / "train.tfrecord", [0, 1, 2])
    write_shard(tmp_path / "test.tfrecord", [example_of(image__encoded=JPEG, id=b"0a1b")])
    assert find_dataset(tmp_path, None, "train").num_classes == 3
    assert "test.tfrecord, record 0 (counted from 0): there is no label" in mistake(tmp_path, split="test")


@pytest.mark.parametrize(
    "files", [["train-00000-of-00002", "train-00001-of-00002"], ["train.record-00000-of-00001"], ["train.tfrecord"]]
)
def test_shards_without_a_name_are_no_known_data_sets(tmp_path, files, caplog):
    for file in files:
        write_slim_shard(tmp_path / file, [0, 1, 2])
    with caplog.at_level("INFO", "finetune"):
        dataset = find_dataset(tmp_path, None, "train")
    assert (dataset.name, dataset.num_classes, dataset.num_examples) == (tmp_path.name, 3, 3 * len(files))
    assert "3 classes by the labels; ImageNet's 1,001 only with --dataset-name imagenet" in caplog.text
    assert find_dataset(tmp_path, "imagenet", "train").num_classes == 1001
    assert find_dataset(tmp_path, "birds", "train").name == "birds"
    (tmp_path / "labels.txt").write_text("a\nb\nc\nd\n")
    assert find_dataset(tmp_path, None, "train").class_names == ("a", "b", "c", "d")


def test_labels_beyond_what_the_name_says(tmp_path, caplog):
    shard = write_slim_shard(tmp_path / "flowers_train.tfrecord", [0, 1, 11])
    message = mistake(tmp_path)
    assert f"{shard}, record 2 (counted from 0): the label is 11, but the classes are 0 to 4" in message
    (tmp_path / "labels.txt").write_text("".join(f"{label}:class {label}\n" for label in range(12)))
    assert find_dataset(tmp_path, None, "train").num_classes == 12
    (tmp_path / "labels.txt").unlink()
    write_slim_shard(shard, [0, 1, 2])
    with caplog.at_level("INFO", "finetune"):
        assert find_dataset(tmp_path, None, "train").num_classes == 5
    assert "flowers has 5 classes, but the labels of train end at 2." in caplog.text


def test_labels_that_are_no_numbers_of_classes(tmp_path):
    write_slim_shard(tmp_path / "train.tfrecord", [0, 1, 2**40])
    assert "The highest label in" in mistake(tmp_path)
    assert "is 1099511627776, but only 3 different labels are found" in mistake(tmp_path)
    write_slim_shard(tmp_path / "train.tfrecord", [0, -1])
    assert "The lowest label in" in mistake(tmp_path)


def test_labels_from_1(tmp_path, caplog):
    write_slim_shard(tmp_path / "train.tfrecord", [1, 2, 3])
    with caplog.at_level("INFO", "finetune"):
        assert find_dataset(tmp_path, None, "train", labels_offset=1).num_classes == 4
        assert "--labels-offset 1" not in caplog.text
        assert find_dataset(tmp_path, None, "train").num_classes == 4
    assert "no record has the label 0, which gets an output all the same without --labels-offset 1." in caplog.text
    (tmp_path / "labels.txt").write_text("a\nb\nc\n")
    message = mistake(tmp_path)
    assert "the label is 3, but the classes are 0 to 2" in message
    assert "Where labels begin at 1, labels.txt must, too (1:daisy); then give --labels-offset 1." in message
    (tmp_path / "labels.txt").write_text("1:a\n2:b\n3:c\n")
    assert find_dataset(tmp_path, None, "train", labels_offset=1).class_names == ("0", "a", "b", "c")
    write_slim_shard(tmp_path / "train.tfrecord", [0, 1, 2])
    with pytest.raises(UserError, match="the label is 0, but the classes are 1 to 3"):
        find_dataset(tmp_path, None, "train", labels_offset=1)


@pytest.mark.parametrize(
    ("labels", "num_classes", "said"),
    [
        ([0, 1, 2], 3, None),
        ([0.0, 2.0], 3, "of the kind float: read as whole numbers"),
        ([b"0", b"3"], 4, "are texts: digits are the number of a class"),
        ([[0, 1, 0, 0], [1, 0, 0, 0]], 4, "are one-hot lists: 4 numbers, so many classes"),
    ],
)
def test_other_keys_and_kinds(tmp_path, labels, num_classes, said, caplog):
    write_shard(tmp_path / "train.tfrecord", [example_of(image=JPEG, target=label) for label in labels])
    assert "there is no image under image/encoded" in mistake(tmp_path)
    assert "Read it with --image-key image." in mistake(tmp_path)
    with caplog.at_level("INFO", "finetune"):
        dataset = find_dataset(tmp_path, None, "train", image_key="image", label_key="target")
    assert dataset.num_classes == num_classes
    assert said is None or said in caplog.text
    assert (dataset.schema.image_key, dataset.schema.label_key) == ("image", "target")


def test_class_names_as_labels_need_labels_txt(tmp_path):
    write_shard(tmp_path / "train.tfrecord", [example_of(image=JPEG, label=name) for name in (b"rose", b"daisy")])

    def find():
        return find_dataset(tmp_path, None, "train", image_key="image", label_key="label")

    with pytest.raises(UserError, match=r"is the text 'rose', and there is no labels\.txt to look it up in"):
        find()
    (tmp_path / "labels.txt").write_text("0:daisy\n1:rose\n")
    assert find().num_classes == 2
    (tmp_path / "labels.txt").write_text("0:daisy\n1:roses\n")
    with pytest.raises(UserError, match=r"'rose', the name of no class in labels\.txt; .*\n  Did you mean roses\?"):
        find()


def test_one_hot_labels_of_another_length_than_labels_txt(tmp_path):
    write_shard(tmp_path / "train.tfrecord", [example_of(image__encoded=JPEG, image__class__label=[0, 1, 0])])
    (tmp_path / "labels.txt").write_text("0:a\n1:b\n")
    assert "are lists of 3 numbers, but there are names of 2 classes" in mistake(tmp_path)


# Compressed shards


@pytest.mark.parametrize("compressions", [["GZIP", "GZIP"], ["ZLIB", ""]])
def test_compressed_shards(tmp_path, compressions, caplog):
    plain = []
    for index, compression in enumerate(compressions):
        name = f"pets_train_0000{index}-of-00002.tfrecord"
        write_slim_shard(tmp_path / "plain" / name, [0, 1, index])
        write_slim_shard(tmp_path / "packed" / name, [0, 1, index], compression)
    with caplog.at_level("INFO", "finetune"):
        packed = find_dataset(tmp_path / "packed", None, "train")
    plain = find_dataset(tmp_path / "plain", None, "train")
    assert [shard.compression for shard in packed.shards] == compressions
    assert (packed.num_examples, packed.num_classes) == (plain.num_examples, plain.num_classes) == (6, 2)
    assert content_hash(packed) == content_hash(plain)
    num = sum(map(bool, compressions))
    assert f"{num} of 2 shards of train are compressed ({compressions[0]}): they are unpacked to count" in caplog.text


def test_truncated_gzip_is_named(tmp_path):
    shard = write_slim_shard(tmp_path / "train.tfrecord", [0, 1, 2], "GZIP")
    shard.write_bytes(shard.read_bytes()[:-4])
    assert f"The shard {shard} is truncated: its GZIP stream breaks off" in mistake(tmp_path)


def test_a_converted_shard_that_was_compressed_later(converted):
    shard = find_dataset(converted, None, "train").shards[0].path
    shard.write_bytes(gzip.compress(shard.read_bytes()))
    assert "is compressed (GZIP), other than the one that dataset.json describes" in mistake(converted)
    (converted / "dataset.json").unlink()
    assert find_dataset(converted, None, "train").num_examples == 16


# dataset.json is believed where it can be right


def edit_json(folder: Path, edit) -> None:
    path = folder / "dataset.json"
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


def test_dataset_json_that_contradicts_itself(converted):
    edit_json(converted, lambda content: content["splits"]["train"].update(num_examples=99))
    assert "says that train has 99 images, but its shards 16 records" in mistake(converted)


def test_labels_txt_beside_dataset_json(converted, caplog):
    (converted / "labels.txt").write_text("0:Gänseblümchen\n1:rose\n", encoding="utf-8")
    with caplog.at_level("INFO", "finetune"):
        assert find_dataset(converted, None, "train").class_names == ("Gänseblümchen", "rose")
    assert "calls the class 0 'Gänseblümchen', dataset.json 'daisy': labels.txt counts." in caplog.text
    (converted / "labels.txt").write_text("0:daisy\n1:rose\n2:tulip\n")
    assert "labels.txt names 3 classes, dataset.json beside it 2." in mistake(converted)
    (converted / "labels.txt").unlink()
    assert find_dataset(converted, None, "train").class_names == ("daisy", "rose")


def test_classes_of_dataset_json_against_the_first_label(converted):
    shards = [shard.path for shard in find_dataset(converted, None, "train").shards]
    for shard in shards:
        records = [record.replace(b"\x1a\x03\n\x01\x00", b"\x1a\x03\n\x01\x05") for record in read_records(shard)]
        write_shard(shard, [record.replace(b"\x1a\x03\n\x01\x01", b"\x1a\x03\n\x01\x05") for record in records])
    assert "record 0 (counted from 0): the label is 5" in mistake(converted)
    assert "but the classes are 0 to 1" in mistake(converted)


def test_labels_of_several_objects_are_refused(tmp_path):
    records = [example_of(image__encoded=JPEG, image__object__class__label=[3, 7])]
    shard = write_shard(tmp_path / "train.record", records)
    assert mistake(tmp_path).endswith("\n  Name the key of the label with --label-key.")
    with pytest.raises(UserError, match=r"holds 2 numbers \(3, 7\), which are no one-hot list") as caught:
        find_dataset(tmp_path, None, "train", label_key="image/object/class/label")
    assert f"{shard}, record 0" in str(caught.value)
