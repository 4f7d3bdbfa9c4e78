"""From record shards to batches."""

import dataclasses
import gzip
import itertools
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from image_files import encode, picture
from PIL import Image

from finetune.datasets import record_streams
from finetune.datasets.bad_records import reading
from finetune.datasets.dataset import Dataset
from finetune.datasets.dataset_search import find_dataset
from finetune.datasets.decoding import ReadOptions, decode_image, decode_training_window
from finetune.datasets.pipeline import (
    BatchShare,
    evaluation_batches,
    in_batches,
    training_batches,
    training_examples,
    view_batches,
)
from finetune.datasets.record_index import RecordPlaces
from finetune.datasets.records import Record, encode_record
from finetune.datasets.tfrecord import RecordWriter, read_records
from finetune.errors import UserError
from finetune.evaluation.thumbnails import read_thumbnails
from finetune.preprocessing import get_preprocessing
from finetune.settings.augmentation import AugmentationSettings
from finetune.settings.choices import AUGMENTATIONS

SIZE = 16
NUM_RECORDS = 23


def write_shards(folder: Path, records: list[bytes], *, num_shards: int = 3) -> None:
    for index in range(num_shards):
        with RecordWriter(folder / f"set_train_{index:05d}-of-{num_shards:05d}.tfrecord") as writer:
            for record in records[len(records) * index // num_shards : len(records) * (index + 1) // num_shards]:
                writer.write(record)


def make_dataset(folder: Path, records: list[bytes], *, num_shards: int = 3, num_classes: int | None = None) -> Dataset:
    """Shards of these records, of which each is its own class where `num_classes` doesn't say otherwise."""
    write_shards(folder, records, num_shards=num_shards)
    labels = range(num_classes or len(records))
    (folder / "labels.txt").write_text("".join(f"{label}:class {label}\n" for label in labels))
    return find_dataset(folder, "set", "train")


def make_record(number: int, encoded: bytes | None = None) -> bytes:
    encoded = encoded or encode(picture(number))
    return encode_record(Record(encoded, "jpg", number, height=32, width=40, filename=f"{number}.jpg"))


@pytest.fixture
def dataset(tmp_path) -> Dataset:
    return make_dataset(tmp_path, [make_record(number) for number in range(NUM_RECORDS)])


def train_on(dataset: Dataset, num_batches: int, *, family: str = "inception", augmentation: str = "default", **more):
    """The first batches of training."""
    of_augmentation = ("crop_area", "randaugment", "random_erasing")
    details = {name: more.pop(name) for name in of_augmentation if name in more}
    of_reading = ("image_size", "channels", "labels_offset", "num_parallel_calls", "num_readers")
    read = {"image_size": SIZE, "channels": 3, **{name: more.pop(name) for name in of_reading if name in more}}
    options = ReadOptions(get_preprocessing(family, AugmentationSettings(augmentation=augmentation, **details)), **read)
    with reading(dataset, options.labels_offset):
        batches = training_batches(dataset, options, **{"batch_size": 4, "seed": 1, **more}).take(num_batches)
        return [(images.numpy(), labels.numpy()) for images, labels, _ in batches]


def labels_of(batches) -> list[int]:
    return [int(label) for _, labels in batches for label in labels]


def assert_equal(first, second) -> None:
    for (images, labels), (other_images, other_labels) in zip(first, second, strict=True):
        np.testing.assert_array_equal(labels, other_labels)
        np.testing.assert_array_equal(images, other_images)


# Training


def test_each_epoch_has_each_record_once_and_drops_none(dataset):
    batches = train_on(dataset, 3 * NUM_RECORDS // 4 + 1)
    assert {images.shape for images, _ in batches} == {(4, SIZE, SIZE, 3)}
    assert {images.dtype for images, _ in batches} == {np.dtype(np.float32)}
    labels = labels_of(batches)
    epochs = [labels[start : start + NUM_RECORDS] for start in range(0, 3 * NUM_RECORDS, NUM_RECORDS)]
    for epoch in epochs:
        assert sorted(epoch) == list(range(NUM_RECORDS))
    assert epochs[0] != epochs[1] != epochs[2]


@pytest.mark.parametrize("start_step", [1, 5, 6, 13])
def test_resumed_is_as_unbroken_to_the_bit(dataset, start_step):
    unbroken = train_on(dataset, 16)
    assert_equal(train_on(dataset, 16 - start_step, start_step=start_step), unbroken[start_step:])


@pytest.mark.parametrize("augmentation", AUGMENTATIONS)
def test_nothing_but_seed_epoch_and_example_matters(dataset, augmentation):
    how = {"augmentation": augmentation, "random_erasing": 0.5}
    first = train_on(dataset, 12, num_parallel_calls=1, num_readers=1, **how)
    tf.random.set_seed(77)
    assert_equal(train_on(dataset, 12, num_parallel_calls=8, **how), first)


def test_order_and_augmentation_follow_the_seed(tmp_path):
    dataset = make_dataset(tmp_path, [make_record(number) for number in range(12)], num_shards=1)
    (images, labels), (other_images, other_labels) = (train_on(dataset, 1, seed=s, batch_size=12)[0] for s in (1, 2))
    assert list(labels) != list(other_labels)
    for label in range(12):
        difference = images[list(labels).index(label)] - other_images[list(other_labels).index(label)]
        assert np.abs(difference).max() > 0.01


def test_an_example_is_augmented_alike_wherever_it_stands_in_the_epoch(dataset):
    def by_label(batches) -> dict[int, np.ndarray]:
        pairs = [(int(label), image) for images, labels in batches for image, label in zip(images, labels, strict=True)]
        return dict(pairs[:NUM_RECORDS])

    in_fours, in_ones = by_label(train_on(dataset, 6)), by_label(train_on(dataset, NUM_RECORDS, batch_size=1))
    later = by_label(train_on(dataset, NUM_RECORDS, batch_size=1, start_step=NUM_RECORDS))
    for label in range(NUM_RECORDS):
        np.testing.assert_array_equal(in_fours[label], in_ones[label])
        assert np.abs(in_ones[label] - later[label]).max() > 0.01


def test_order_when_the_data_set_is_larger_than_the_buffer(tmp_path, monkeypatch):
    dataset = make_dataset(tmp_path, [make_record(number) for number in range(60)], num_shards=12)
    monkeypatch.setattr(record_streams, "SHUFFLE_BUFFER_BYTES", 8 * dataset.num_bytes // 60)
    labels = labels_of(train_on(dataset, 30, augmentation="none"))
    assert sorted(labels[:60]) == sorted(labels[60:]) == list(range(60))
    assert_equal(
        train_on(dataset, 3, augmentation="none", start_step=17), train_on(dataset, 20, augmentation="none")[17:]
    )
    # Even the first few come from many shards.
    assert len({label // 5 for label in labels[:20]}) >= 5


def test_labels_offset(tmp_path):
    dataset = make_dataset(tmp_path, [make_record(number) for number in range(1, 9)], num_classes=9)
    assert sorted(labels_of(train_on(dataset, 2, labels_offset=1))) == list(range(8))


@pytest.mark.parametrize("family", ["inception", "vgg", "cifarnet", "lenet"])
@pytest.mark.parametrize("channels", [1, 3])
def test_all_preprocessing(dataset, family, channels):
    ((images, _),) = train_on(dataset, 1, family=family, channels=channels)
    assert images.shape == (4, SIZE, SIZE, channels)
    assert np.isfinite(images).all()
    assert images.std() > 0.01


# Decoding


@pytest.mark.parametrize("name", ["inception", "vgg"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("channels", [1, 3])
def test_window_is_that_of_the_decoded_image(name, mode, channels):
    """A JPEG of which only the window is decoded, and a PNG of the same pixels that is decoded whole and cut."""
    jpeg = encode(picture(3, width=120, height=90, mode=mode))
    pixels = decode_image(jpeg, 3 if mode == "RGB" else 1).numpy()
    png = tf.io.encode_png(pixels).numpy()
    options = ReadOptions(get_preprocessing(name), 299, channels)
    for number in range(8):
        seed = tf.constant([5, number], tf.int64)
        from_jpeg = decode_training_window(jpeg, options, seed).numpy().astype(int)
        from_png = decode_training_window(png, options, seed).numpy().astype(int)
        assert from_jpeg.shape == from_png.shape
        assert np.abs(from_jpeg - from_png)[:, :-1].max() <= (3 if channels < pixels.shape[-1] else 0)


@pytest.mark.parametrize(("image_size", "ratio"), [(101, 1), (100, 2), (50, 4), (26, 4), (25, 8), (5, 8)])
def test_a_large_jpeg_is_decoded_no_larger_than_is_needed(image_size, ratio):
    """Smooth pictures lose nothing by it: the window at a part of its size is the whole window, resized."""
    jpeg = encode(Image.linear_gradient("L").resize((400, 200)).convert("RGB"))

    class WholeImage:
        def training_window(self, shape, height, width, seed):
            return tf.stack([0, 0, shape[0], shape[1]])

    window = decode_training_window(
        jpeg, ReadOptions(WholeImage(), image_size, 3), tf.constant([1, 2], tf.int64)
    ).numpy()
    assert window.shape == (200 // ratio, 400 // ratio, 3)
    rows = window[:, :, 0].astype(float).mean(1)
    np.testing.assert_allclose(rows, np.linspace(0, 255, 200).reshape(-1, ratio).mean(1), atol=3)


@pytest.mark.parametrize("file_format", ["PNG", "GIF", "BMP", "JPEG"])
def test_formats_and_channels(file_format):
    grey = picture(mode="L")
    encoded = encode(grey, file_format)
    for channels in (1, 3):
        image = decode_image(encoded, channels).numpy()
        assert image.shape == (32, 40, channels)
        assert np.abs(image.astype(int) - np.asarray(grey)[..., None]).max() <= (30 if file_format == "JPEG" else 1)


# Evaluation


@pytest.mark.parametrize("batch_size", [1, 7, 1000])
def test_evaluation_has_each_record_once_in_order(dataset, batch_size):
    inception = get_preprocessing("inception")
    with reading(dataset):
        batches = list(evaluation_batches(dataset, ReadOptions(inception, SIZE, 3), batch_size=batch_size))
    assert {len(labels) for _, labels, _ in batches[:-1]} <= {batch_size}
    labels = list(itertools.chain.from_iterable(labels.numpy() for _, labels, _ in batches))
    assert labels == list(range(NUM_RECORDS))
    assert [name for _, _, names in batches for name in names.numpy()] == [b"%d.jpg" % label for label in labels]
    expected = inception.evaluate(decode_image(encode(picture(0)), 3), SIZE, SIZE)
    np.testing.assert_array_equal(batches[0][0][0], expected)


# Bad records

GOOD = [make_record(number) for number in range(6)]
BAD_RECORDS = {
    "no tf.train.Example": b"\x0a\xff\xff nonsense",
    "its 4 bytes can't be decoded as an image (4.jpg)": make_record(4, b"JPEG"),
    "the label is 6 (6.jpg), but the classes are 0 to 5": make_record(6),
    "there is no label under image/class/label; found: no keys at all": tf.train.Example().SerializeToString(),
}


@pytest.mark.parametrize("problem", BAD_RECORDS)
def test_bad_record_is_named(tmp_path, problem):
    dataset = make_dataset(tmp_path, [*GOOD[:4], GOOD[0], *GOOD[4:]], num_shards=2, num_classes=6)
    write_shards(tmp_path, [*GOOD[:4], BAD_RECORDS[problem], *GOOD[4:]], num_shards=2)  # After it was found.
    for read in (
        lambda: train_on(dataset, 2),
        lambda: list(evaluation_batches(dataset, ReadOptions(get_preprocessing("vgg"), 8, 1), batch_size=4)),
    ):
        with pytest.raises(UserError) as caught, reading(dataset):
            read()
        assert f"set_train_00001-of-00002.tfrecord, record 1 (counted from 0): {problem}" in str(caught.value)


def test_label_below_the_offset_is_named(tmp_path):
    dataset = make_dataset(tmp_path, GOOD)
    with pytest.raises(UserError, match=r"record 0 \(counted from 0\): the label is 0 .* but the classes are 1 to 5"):
        train_on(dataset, 3, labels_offset=1)


def test_damaged_and_vanished_shards_are_named(dataset):
    shard = dataset.shards[1].path
    shard.write_bytes(shard.read_bytes().replace(b"10.jpg", b"1x.jpg"))
    with pytest.raises(UserError, match=r"set_train_00001-of-00003\.tfrecord: record 3 is damaged"):
        train_on(dataset, 8)
    shard.unlink()
    with pytest.raises(UserError, match=r"set_train_00001-of-00003\.tfrecord"):
        train_on(dataset, 8)


@pytest.mark.parametrize("num_records", [22, 24])
def test_another_number_of_records_than_expected_is_noticed(dataset, num_records):
    records = [make_record(number % NUM_RECORDS) for number in range(num_records)]
    write_shards(dataset.shards[0].path.parent, records)
    vgg = ReadOptions(get_preprocessing("vgg"), 8, 3)
    for read in (
        lambda: train_on(dataset, 8),
        lambda: list(evaluation_batches(dataset, vgg, batch_size=4)),
        lambda: list(view_batches(dataset, vgg, batch_size=4, seed=0, view=0)),
    ):
        with pytest.raises(UserError, match=r"holds \d records, but \d were expected"), reading(dataset):
            read()


@pytest.mark.parametrize("compressions", [("GZIP",) * 3, ("", "ZLIB", "GZIP")])
def test_compressed_shards_give_the_same_batches(tmp_path, dataset, compressions):
    packed = tmp_path / "packed"
    packed.mkdir()
    (packed / "labels.txt").write_bytes((tmp_path / "labels.txt").read_bytes())
    for shard, compression in zip(dataset.shards, compressions, strict=True):
        with tf.io.TFRecordWriter(str(packed / shard.path.name), compression) as writer:
            for record in read_records(shard.path):
                writer.write(record)
    compressed = find_dataset(packed, "set", "train")
    assert_equal(train_on(compressed, 9), train_on(dataset, 9))
    options = ReadOptions(get_preprocessing("vgg"), SIZE, 3)
    for batches in zip(*(evaluation_batches(d, options, batch_size=5) for d in (compressed, dataset)), strict=True):
        for packed_values, values in zip(*batches, strict=True):
            np.testing.assert_array_equal(packed_values, values)
    assert read_thumbnails(compressed, [0, 9, 22], 16) == read_thumbnails(dataset, [0, 9, 22], 16)


def test_other_failures_are_not_the_datas(dataset):
    with pytest.raises(tf.errors.InvalidArgumentError), reading(dataset):
        tf.reshape(tf.zeros([3]), [2])


# Real photographs


def test_real_photographs(shared_dir, tmp_path):
    from finetune.commands.convert import convert
    from finetune.settings.convert import ConvertSettings

    images_dir = shared_dir / "data/flowers12/images"
    convert(ConvertSettings(tmp_path / "flowers12", images_dir, validation_fraction=0.25))
    dataset = find_dataset(tmp_path / "flowers12", None, "validation")
    batches = train_on(dataset, 6, batch_size=30, image_size=32)
    assert Counter(labels_of(batches)) == dict.fromkeys(range(12), 15)


# Several workers


def share_of(dataset, worker, num_workers, *, start_step=0, num_steps=9):
    """The labels and identities of a worker's part of the steps, 4 images for each worker in a step."""
    options = ReadOptions(get_preprocessing("inception"), SIZE, 3)
    share = BatchShare(worker, num_workers, 4) if num_workers > 1 else None
    num_before = start_step * 4 * num_workers
    with reading(dataset, 0):
        examples = training_examples(dataset, options, seed=1, num_before=num_before, share=share)
        batches = in_batches(examples, 4).take(num_steps)
        return [np.column_stack([labels.numpy(), identities.numpy()]) for _, labels, identities in batches]


def chosen_of(dataset, numbers):
    """The split with some of the records of each of its files."""
    shards = []
    for shard in dataset.shards:
        chosen = bytes(number in numbers for number in range(shard.num_records))
        shards.append(dataclasses.replace(shard, chosen=chosen, num_records=sum(chosen)))
    return dataclasses.replace(dataset, shards=tuple(shards), whole=dataset)


@pytest.mark.parametrize("kind", ["plain", "compressed", "part"])
@pytest.mark.parametrize("num_workers", [2, 3])
def test_workers_together_have_what_one_has(dataset, tmp_path, kind, num_workers):
    """In its order, from any step on, however the records are read."""
    if kind == "compressed":
        for shard in dataset.shards:
            shard.path.write_bytes(gzip.compress(shard.path.read_bytes()))
        dataset = find_dataset(tmp_path, "set", "train")
    elif kind == "part":
        dataset = chosen_of(dataset, (0, 2, 3, 5))
    whole = share_of(dataset, 0, 1, num_steps=27)
    in_steps = [np.concatenate(whole[first : first + num_workers]) for first in range(0, 18, num_workers)]
    for start_step in (0, 4):
        shares = [
            share_of(dataset, worker, num_workers, start_step=start_step, num_steps=5) for worker in range(num_workers)
        ]
        for step, of_workers in enumerate(zip(*shares, strict=True), start=start_step):
            if step < len(in_steps):
                np.testing.assert_array_equal(np.concatenate(of_workers), in_steps[step])


def test_a_worker_reads_no_other_records(dataset, monkeypatch):
    read, really = [], RecordPlaces.read
    monkeypatch.setattr(RecordPlaces, "read", lambda self, number: read.append(number) or really(self, number))
    own = np.concatenate(share_of(dataset, 1, 2, num_steps=3))[:, 1]
    others = np.concatenate(share_of(dataset, 0, 2, num_steps=3))[:, 1]
    assert set(own.tolist()) <= set(read)
    assert len(read) < 60  # A few batches ahead, not two epochs for each.
    assert not set(own.tolist()) & set(others.tolist())


def test_files_that_hold_less_than_they_are_said_to(dataset):
    shard = dataset.shards[0]
    said = dataclasses.replace(shard, num_records=shard.num_records + 1)
    dataset = dataclasses.replace(dataset, shards=(said, *dataset.shards[1:]))
    with pytest.raises(UserError, match=f"{shard.path.name} holds {shard.num_records} records, but"):
        share_of(dataset, 0, 2, num_steps=9)
