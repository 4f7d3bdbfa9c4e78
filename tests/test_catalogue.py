"""Which files of a folder are taken for records of which split, and what is said of all others."""

import shutil
from pathlib import Path

import pytest

from finetune.datasets.catalogue import find_shards, in_order, parse_shard_name
from finetune.errors import UserError, nearest_siblings


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def mistake(folder: Path, name: str | None = None) -> str:
    with pytest.raises(UserError) as caught:
        find_shards(folder, name)
    return str(caught.value)


@pytest.mark.parametrize(
    ("file", "dataset", "split", "index", "count"),
    [
        ("flowers_train_00000-of-00005.tfrecord", "flowers", "train", 0, 5),
        ("flowers_validation_00004-of-00005.tfrecord", "flowers", "validation", 4, 5),
        ("train-00000-of-00002", "", "train", 0, 2),
        ("val.record-00001-of-00003", "", "val", 1, 3),
        ("tf_flowers-train.tfrecord-00001-of-00002", "tf_flowers", "train", 1, 2),
        ("cifar10_train.tfrecord", "cifar10", "train", 0, 1),
        ("train.tfrecord", "", "train", 0, 1),
        ("train.record", "", "train", 0, 1),
        ("train.tfrecords", "", "train", 0, 1),
        ("flowers.train.tfrecord", "flowers", "train", 0, 1),
        ("TRAIN.TFRECORD", "", "TRAIN", 0, 1),
        ("Training.tfrec", "", "Training", 0, 1),
        ("pets-dev.tfrecords", "pets", "dev", 0, 1),
        ("train_pets.tfrecord", "pets", "train", 0, 1),
        ("train_flowers-00001-of-00002.tfrecord", "flowers", "train", 1, 2),
        ("flowers_train_00000-of-00005.tfrecord.gz", "flowers", "train", 0, 5),
        ("train_03.tfrecord", "", "train", 3, None),
        ("pets_val7.tfrec", "pets", "val", 7, None),
        ("pets_fold1.tfrecord", "pets", "fold1", 0, 1),
        ("test_train_00000-of-00001.tfrecord", "test", "train", 0, 1),
    ],
)
def test_names_of_files(file, dataset, split, index, count):
    shard = parse_shard_name(Path(file))
    assert shard is not None
    assert (shard.dataset, shard.split, shard.index, shard.count) == (dataset, split, index, count)


@pytest.mark.parametrize(
    "file",
    ["x.tfrecords", "data.record", "pets_01.tfrecord", "labels.txt", "train.csv", "model.ckpt-5.data-00000-of-00001"],
)
def test_names_that_tell_no_split(file):
    assert parse_shard_name(Path(file)) is None


@pytest.mark.parametrize("split", ["train", "training", "Train"])
def test_any_word_for_a_split_finds_it(tmp_path, split):
    touch(tmp_path / "Training.tfrec", tmp_path / "eval.tfrecord")
    found = find_shards(tmp_path, None)
    assert (found.dataset, found.choose_split(split)) == ("", "Training")
    assert found.choose_split("validation") == "eval"
    touch(tmp_path / "dev.tfrecord")
    found = find_shards(tmp_path, None)
    assert found.choose_split("dev") == "dev"
    with pytest.raises(UserError, match="files of dev and of eval for the validation split"):
        found.choose_split("validation")


def test_folders_of_splits(tmp_path):
    touch(*(tmp_path / "train" / f"part-0000{index}-of-00002" for index in (0, 1)))
    touch(*(tmp_path / "valid" / f"{index}-512x512-798.tfrec" for index in ("00", "01", "02")))
    touch(tmp_path / "train" / "_SUCCESS", tmp_path / "train" / "model.ckpt-5.data-00000-of-00001")
    found = find_shards(tmp_path, "pets")
    assert (found.folder, found.dataset, set(found.splits)) == (tmp_path, "", {"train", "valid"})
    assert [(s.path.name, s.index, s.count) for s in found.splits["train"]] == [
        ("part-00000-of-00002", 0, 2),
        ("part-00001-of-00002", 1, 2),
    ]
    assert [(s.index, s.count) for s in found.splits["valid"]] == [(0, 3), (1, 3), (2, 3)]
    touch(tmp_path / "train" / "pets_test_00000-of-00001.tfrecord")
    assert "is of the split test by its name, but lies in the folder train" in mistake(tmp_path)


def test_the_only_folder_of_records_within(tmp_path, caplog):
    touch(*(tmp_path / "flowers" / f"train-0000{index}-of-00004.tfrecord" for index in range(4)))
    touch(tmp_path / "images" / "rose" / "1.jpg")
    with caplog.at_level("INFO", "finetune"):
        assert find_shards(tmp_path, None).folder == tmp_path / "flowers"
    assert f"Records are read from {tmp_path / 'flowers'}: {tmp_path} itself holds none." in caplog.messages
    assert "is not read" not in caplog.text
    touch(tmp_path / "labels.txt")
    with caplog.at_level("INFO", "finetune"):
        find_shards(tmp_path, None)
    assert f"{tmp_path / 'labels.txt'} is not read" in caplog.text
    touch(tmp_path / "pets" / "train.tfrecord")
    assert find_shards(tmp_path, "pets").folder == tmp_path / "pets"
    message = mistake(tmp_path)
    assert "several folders do: flowers, pets" in message
    assert message.endswith(f"--dataset-dir {tmp_path / 'flowers'}.")


def test_files_without_a_split_are_shown_and_the_advice_mends(tmp_path):
    for number in range(5):
        touch(tmp_path / f"x{number}y.tfrecords")
    message = mistake(tmp_path)
    assert "names tell no split: x0y.tfrecords, x1y.tfrecords, x2y.tfrecords and 2 more" in message
    assert "NAME_train_00000-of-00005.tfrecord" in message
    (tmp_path / "train").mkdir()
    for path in list(tmp_path.glob("*.tfrecords")):
        shutil.move(path, tmp_path / "train")
    assert len(find_shards(tmp_path, None).splits["train"]) == 5


def test_a_file_or_an_archive_in_place_of_a_folder(tmp_path):
    touch(tmp_path / "data" / "train.tfrecord", tmp_path / "flowers.tar.gz", tmp_path / "zipped" / "flowers.zip")
    message = mistake(tmp_path / "data" / "train.tfrecord")
    assert "is a file" in message
    assert message.endswith(f"Give --dataset-dir {tmp_path / 'data'}.")
    assert "is an archive, not a folder.\n  Unpack it" in mistake(tmp_path / "flowers.tar.gz")
    assert "holds no files of records, but flowers.zip.\n  Unpack it" in mistake(tmp_path / "zipped")


def test_shards_that_are_numbered_without_their_count(tmp_path):
    touch(*(tmp_path / f"train_{index}.tfrecord" for index in (1, 2, 4)))
    with pytest.raises(UserError, match=r"1 of 4 shards of the train split are missing .* number 00003"):
        in_order(find_shards(tmp_path, None).splits["train"])


def test_hidden_files_are_no_shards(tmp_path):
    touch(tmp_path / "._train-00000-of-00001", tmp_path / "train-00000-of-00001")
    assert [shard.path.name for shard in find_shards(tmp_path, None).splits["train"]] == ["train-00000-of-00001"]


# Paths that aren't there


def test_a_missing_path_is_never_answered_by_a_listing(tmp_path):
    for name in ("photos", "photographs", "photo", "photos2", "music", "mail"):
        (tmp_path / name).mkdir()
    touch(tmp_path / "photosx")
    words = nearest_siblings(tmp_path / "fotos", only_folders=True)
    assert words is not None
    assert words.startswith("Did you mean photos")
    assert words.count(" or ") <= 2
    assert "photosx" not in words
    assert nearest_siblings(tmp_path / "zzzzqqqq") is None
    deeper = nearest_siblings(tmp_path / "fotos" / "deep" / "er", only_folders=True)
    assert deeper is not None
    assert deeper.startswith(f"There is no {tmp_path / 'fotos'}. Did you mean {tmp_path / 'photos'}")


@pytest.mark.parametrize("path", ["/qqzz-nowhere", "/qqzz-nowhere/data"])
def test_a_missing_folder_at_the_root_lists_nothing_of_it(path):
    from finetune.datasets.folders import scan_images
    from finetune.prediction.find_images import find_images

    for ask in (lambda: find_shards(Path(path), None), lambda: scan_images(Path(path)), lambda: find_images([path])):
        with pytest.raises(UserError) as caught:
            ask()
        assert "Known:" not in str(caught.value)
        assert "usr" not in str(caught.value)
        assert "None" not in str(caught.value)
