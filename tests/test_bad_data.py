"""Bad records, images, folders and files of data sets: each ends with status 2 and says what was found; none hangs."""

import csv
import gzip
import json
import os
import re
import shutil
import socket
import struct
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from image_files import encode, picture, write_class_folders, write_file
from PIL import Image

from finetune.commands import convert, predict
from finetune.datasets import images
from finetune.datasets.dataset_search import find_dataset
from finetune.datasets.decoding import decode_image
from finetune.datasets.description import FILE_NAME, LABELS_FILE
from finetune.datasets.image_rules import ImageRules
from finetune.datasets.images import BrokenImageError, prepare_image, read_image_file
from finetune.datasets.records import Record, encode_record
from finetune.datasets.tfrecord import RecordWriter, masked_crc
from finetune.errors import UserError

MIB = 1 << 20
MOST_MEMORY = 300 * MIB
JPEG = encode(picture())


def link(path, target):
    path.symlink_to(target)


def listen(path):
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(os.path.relpath(path))


# Folders of images, tables and flags that convert refuses


def with_table(content):
    def damage(folder):
        (folder / "labels.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
        return ["--labels-csv", str(folder / "labels.csv")]

    return damage


def special_table(make):
    def damage(folder):
        make(folder / "labels.csv")
        return ["--labels-csv", str(folder / "labels.csv")]

    return damage


def with_file(name, content):
    def damage(folder):
        write_file(folder / name, content() if callable(content) else content)
        return []

    return damage


def only(name, make):
    """The class a holds nothing else."""

    def damage(folder):
        shutil.rmtree(folder / "a")
        (folder / "a").mkdir()
        make(folder / "a" / name)
        return []

    return damage


def sparse(path):
    with path.open("wb") as file:
        file.truncate(1 << 40)


def png_of(width, height, bits=8, colour=2):
    """A PNG file that claims a size, and holds no pixels of it."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def bomb():
    """A text of 200 MB in a chunk of 200 KB: Pillow's limit on texts, and the pixels are there all the same."""
    content = encode(picture(), "PNG")
    text = b"comment\0\0" + zlib.compress(bytes(200 << 20), 9)
    chunk = struct.pack(">I", len(text)) + b"zTXt" + text + struct.pack(">I", zlib.crc32(b"zTXt" + text))
    return content[:33] + chunk + content[33:]


BAD_FOLDERS = {
    "a class of pipes": (only("x.jpg", os.mkfifo), "No images for class a.*1 pipe, socket or device"),
    "a class of links to devices": (only("x.jpg", lambda path: link(path, "/dev/zero")), "1 pipe, socket or device"),
    "a class of sockets": (only("x.jpg", listen), "1 pipe, socket or device"),
    "a class of links that lead nowhere": (only("x", lambda path: link(path, "nowhere")), "1 link that leads nowhere"),
    "an image that leads nowhere": (only("x.jpg", lambda path: link(path, "nowhere")), "can't be read: No such file"),
    "a file of a terabyte": (only("x.jpg", sparse), "its 1,099,511,627,776 bytes are more than an image of 90 megapix"),
    "an empty image": (with_file("a/x.jpg", b""), "a/x.jpg: the file is empty"),
    "a text": (with_file("a/x.jpg", b"a text"), "a/x.jpg: not an image of a known format"),
    "half a JPEG": (with_file("a/x.jpg", JPEG[:300]), "a/x.jpg: the JPEG file is "),
    "half a PNG": (with_file("a/x.png", lambda: encode(picture(), "PNG")[:300]), "a/x.png: "),
    "a PNG of 13000 x 13000": (
        with_file("a/x.png", png_of(13000, 13000)),
        "a/x.png: its 13000 x 13000 pixels are 169 megapixels, above the limit of 90 .--max-megapixels",
    ),
    "a PNG of 2^31 pixels each way": (with_file("a/x.png", png_of(2**31 - 1, 2**31 - 1)), "a/x.png: "),
    "a PNG of no width": (with_file("a/x.png", png_of(0, 10)), "a/x.png: "),
    "a PNG of 16 bits a sample": (
        with_file("a/x.png", png_of(6000, 6000, bits=16)),
        "6000 x 6000 pixels are 36 megapixels, which count 3 times, of 16 bits a sample, above the limit of 90",
    ),
    "a name with a line break": (lambda folder: ["--dataset-name=a\nb"], r"--dataset-name is 'a\\nb'; .* no line br"),
    "a name with an escape": (lambda folder: ["--dataset-name=a\x1b[31m"], r"--dataset-name is 'a\\x1b\[31m'; "),
    "a name with a folder": (lambda folder: ["--dataset-name=../a"], "--dataset-name is '../a'; "),
    "a class with a line break": (with_file("c\nd/x.jpg", JPEG), r"The class 'c\\nd' has a line break in its name"),
    "a class with a line separator": (with_file("c\u2028d/x.jpg", JPEG), "has a line break in its name"),
    "a table that is a pipe": (special_table(os.mkfifo), "labels.csv is a pipe, a socket or a device"),
    "a table that is a device": (special_table(lambda path: link(path, "/dev/zero")), "is a pipe, a socket or a dev"),
    "a table that is a folder": (special_table(Path.mkdir), "labels.csv can't be read: Is a directory"),
    "a table of a terabyte": (special_table(sparse), "has 1,099,511,627,776 bytes, above the limit of 67,108,864"),
    "an empty table": (with_table(""), "labels.csv is empty"),
    "a table of bytes": (with_table(bytes(range(256)) * 9), "labels.csv is no text"),
    "a table of one endless field": (with_table("filename,label\n" + "x" * 200_000), "line 2: field larger than field"),
    "a table with an endless name": (with_table("x" * 200_000 + ",label\n"), "line 1: field larger than field limit"),
    "a table that names no image": (with_table("filename,label\n../../etc/passwd,a\n"), "1 of the 1 rows .* no image"),
    "a table that names a pipe": (
        lambda folder: (os.mkfifo(folder / "a/p.jpg"), with_table("filename,label\na/p.jpg,a\n")(folder))[1],
        "1 of the 1 rows .* name no image",
    ),
    "a table with a class on two lines": (
        with_table('filename,label\na/000.jpg,"x\ny"\n'),
        "has a line break in its name",
    ),
    "a table of other columns": (with_table("colour,size,shape\nred,1,round\n"), "it isn't known which of them names"),
    "a table without classes": (with_table("filename,label\na/000.jpg,\n"), "1 of the 1 rows .* have no class"),
}


@pytest.mark.parametrize("case", BAD_FOLDERS)
def test_what_convert_refuses(tmp_path, capsys, monkeypatch, case):
    damage, message = BAD_FOLDERS[case]
    folder = write_class_folders(tmp_path / "images", a=2, b=2)
    monkeypatch.chdir(tmp_path)
    words = [f"--images-dir={folder}", f"--dataset-dir={tmp_path}/records", "--workers=1", *damage(folder)]
    assert_refused(convert.main, words, message, capsys)
    assert not (tmp_path / "records").exists()


def assert_refused(main, words, message, capsys):
    tracemalloc.start()
    try:
        status = main(words)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    said = capsys.readouterr().err
    assert status == 2, said
    assert re.search(message, said, re.DOTALL), said
    assert "Traceback" not in said
    assert most < MOST_MEMORY


def test_special_files_are_left_out_and_counted(tmp_path, capsys):
    folder = write_class_folders(tmp_path / "images", a=2, b=2)
    os.mkfifo(folder / "a/x.jpg")
    os.mkfifo(folder / "a/no_suffix")
    link(folder / "b/zero.png", "/dev/zero")
    os.mkfifo(folder / "loose.jpg")
    assert convert.main([f"--images-dir={folder}", f"--dataset-dir={tmp_path}/records", "--workers=1"]) == 0
    said = capsys.readouterr()
    assert "Left out: 4 pipes, sockets and devices (a/no_suffix, a/x.jpg, b/zero.png and 1 more)" in said.out + said.err


# Files of a data set


def write_set(folder, *, described=True):
    """Two shards of three records each, and what stands beside them."""
    folder.mkdir()
    shards = []
    for index in range(2):
        with RecordWriter(folder / f"set_train_{index:05d}-of-00002.tfrecord") as writer:
            for number in range(3):
                writer.write(encode_record(Record(JPEG, "jpg", number, 32, 40, f"{number}.jpg")))
        size = {"num_records": 3, "num_bytes": writer.num_bytes, "sha256": writer.sha256()}
        shards.append({"file": f"set_train_{index:05d}-of-00002.tfrecord", **size})
    (folder / LABELS_FILE).write_text("0:a\n1:b\n2:c\n")
    if described:
        splits = {"train": {"num_examples": 6, "shards": shards}}
        description = {"version": 1, "name": "set", "classes": ["a", "b", "c"], "splits": splits}
        (folder / FILE_NAME).write_text(json.dumps(description))
    return folder


def described(*keys, value):
    """Another value in dataset.json."""

    def damage(folder):
        description = json.loads((folder / FILE_NAME).read_text())
        within = description
        for key in keys[:-1]:
            within = within[key]
        within[keys[-1]] = value
        (folder / FILE_NAME).write_text(json.dumps(description))

    return damage


SHARDS = ("splits", "train", "shards")


def counts(num_records):
    """A number of records that dataset.json believes in all of its places."""

    def damage(folder):
        described(*SHARDS, 1, "num_records", value=num_records)(folder)
        described("splits", "train", "num_examples", value=3 + num_records)(folder)

    return damage


def file_of(name, content):
    def damage(folder):
        (folder / name).unlink(missing_ok=True)
        if callable(content):
            content(folder / name)
        else:
            (folder / name).write_bytes(content)

    return damage


def without_description(damage):
    def both(folder):
        (folder / FILE_NAME).unlink()
        damage(folder)

    return both


def without_labels(damage):
    def both(folder):
        (folder / LABELS_FILE).unlink()
        (folder / FILE_NAME).unlink()
        damage(folder)

    return both


def shard_of(*records):
    """The first shard with other records."""

    def damage(folder):
        with RecordWriter(folder / "set_train_00000-of-00002.tfrecord") as writer:
            for record in records:
                writer.write(record)

    return damage


def framed(length):
    header = struct.pack("<Q", length)
    return header + struct.pack("<I", masked_crc(header))


ONE_OF_MANY = "set_train_00000-of-999999999999.tfrecord"
FIRST = "set_train_00000-of-00002.tfrecord"
BAD_SETS = {
    "a number of records too small": (counts(2), r"holds 3 records, but dataset\.json says 2"),
    "a number of records too large": (counts(4), r"holds 3 records, but dataset\.json says 4"),
    "a number of records of 10^18": (counts(10**18), r"holds 3 records, but dataset\.json says 1000000000000000000"),
    "a number of records below 0": (counts(-3), "dataset.json"),
    "a number of records in words": (described(*SHARDS, 0, "num_records", value="three"), "dataset.json"),
    "a sum that isn't": (described("splits", "train", "num_examples", value=7), "says that train has 7 images"),
    "a shard elsewhere": (
        described(*SHARDS, 0, "file", value="../x.tfrecord"),
        r"describes a shard '\.\./x\.tfrecord'",
    ),
    "a shard at the root": (described(*SHARDS, 0, "file", value="/etc/passwd"), "describes a shard '/etc/passwd'"),
    "a hash that is none": (described(*SHARDS, 0, "sha256", value="xyz"), "64 hexadecimal digits were expected"),
    "a class with a line break": (described("classes", value=["a", "b\nc", "d"]), r"has a class 'b\\nc'"),
    "classes that are a number": (described("classes", value=3), "dataset.json"),
    "splits that are a list": (described("splits", value=[]), "dataset.json"),
    "images that are a list": (described("images", value=[1, 2]), "dataset.json"),
    "another version": (described("version", value=99), "has version 99"),
    "a list for dataset.json": (file_of(FILE_NAME, b"[1, 2, 3]"), "dataset.json"),
    "an empty dataset.json": (file_of(FILE_NAME, b""), "dataset.json"),
    "a dataset.json of bytes": (file_of(FILE_NAME, bytes(range(256))), "dataset.json"),
    "a dataset.json 100,000 lists deep": (file_of(FILE_NAME, b"[" * 100_000 + b"]" * 100_000), "dataset.json"),
    "a dataset.json that is a pipe": (file_of(FILE_NAME, os.mkfifo), "dataset.json is a pipe, a socket or a device"),
    "a labels.txt that is a pipe": (file_of(LABELS_FILE, os.mkfifo), "labels.txt is a pipe, a socket or a device"),
    "a labels.txt that leaves out": (
        without_description(file_of(LABELS_FILE, b"0:a\n99999999:b\n")),
        "names 2 classes, but the highest number is 99999999: 99999998 are left out",
    ),
    "a labels.txt with a number of 5,000 digits": (
        without_description(file_of(LABELS_FILE, b"0:a\n" + b"9" * 5000 + b":b\n")),
        "labels.txt, line 2: ",
    ),
    "a labels.txt of bytes": (
        without_description(file_of(LABELS_FILE, bytes(range(1, 256)))),
        "labels.txt, line 1: .* holds control characters",
    ),
    "a labels.txt of zeros": (without_description(file_of(LABELS_FILE, bytes(99))), "is no text in UTF-8"),
    "an empty shard": (
        without_description(file_of(FIRST, b"")),
        rf"{FIRST} is empty: it has 0 bytes.*--on-corrupt skip",
    ),
    "a missing shard": (lambda folder: (folder / FIRST).unlink(), f"{FIRST} is missing"),
    "a shard that is a pipe": (file_of(FIRST, os.mkfifo), f"{FIRST} is missing"),
    "a shard cut off": (
        without_description(file_of(FIRST, framed(99) + b"x")),
        "it ends within record 0, which beg",
    ),
    "a record of 2^40 bytes": (without_description(file_of(FIRST, framed(1 << 40))), "claims 1099511627776 bytes"),
    "a packed record of 2^40 bytes": (
        without_description(file_of(FIRST, gzip.compress(framed(1 << 40)))),
        "record 0, which begins at byte 0, claims 1099511627776 bytes, above the limit of 536870912",
    ),
    "a packed record of 8 GiB of zeros": (
        without_description(file_of(FIRST, gzip.compress(framed(1 << 33) + bytes(10 << 20)))),
        "claims 8589934592 bytes",
    ),
    "a number of shards of 12 digits": (
        without_description(lambda folder: (folder / FIRST).rename(folder / ONE_OF_MANY)),
        "two sets of shards",
    ),
    "one of 10^12 shards": (
        without_description(
            lambda folder: [
                (folder / FIRST).rename(folder / ONE_OF_MANY),
                (folder / "set_train_00001-of-00002.tfrecord").unlink(),
            ]
        ),
        "999999999998 of 999999999999 shards of the train split are missing .* the first is number 00001",
    ),
    "a label of 2^40": (
        without_labels(shard_of(encode_record(Record(JPEG, "jpg", 2**40, 1, 1, "x.jpg")))),
        "The highest label in .* is 1099511627776, but only 4 different labels are found",
    ),
    "a label of 2^40 among classes": (
        without_description(shard_of(encode_record(Record(JPEG, "jpg", 2**40, 1, 1, "x.jpg")))),
        r"record 0 \(counted from 0\): the label is 1099511627776 \(x\.jpg\), but the classes are 0 to 2; it begins at",
    ),
    "a label below 0": (
        without_description(shard_of(encode_record(Record(JPEG, "jpg", -1, 1, 1, "a\nb.jpg")))),
        r"the label is -1 \(a\\nb\.jpg\), but the classes are 0 to 2",
    ),
    "a label of 5,000 digits": (
        without_description(
            shard_of(
                tf.train.Example(
                    features=tf.train.Features(
                        feature={
                            "image/encoded": tf.train.Feature(bytes_list=tf.train.BytesList(value=[JPEG])),
                            "image/class/label": tf.train.Feature(bytes_list=tf.train.BytesList(value=[b"9" * 5000])),
                        }
                    )
                ).SerializeToString()
            )
        ),
        "the label under image/class/label is the text '999",
    ),
    "no Example": (without_description(shard_of(b"\xff" * 100)), "no tf.train.Example: .* it begins at byte 0"),
    "an empty record": (without_description(shard_of(b"")), "there is no image under image/encoded; found: no keys"),
    "raw pixels": (
        without_description(shard_of(encode_record(Record(bytes(3072), "raw", 0, 32, 32, "x")))),
        "the 3072 bytes under image/encoded are no JPEG",
    ),
}


@pytest.mark.parametrize("case", BAD_SETS)
def test_what_reading_a_data_set_refuses(tmp_path, case):
    damage, message = BAD_SETS[case]
    folder = write_set(tmp_path / "set")
    assert find_dataset(folder, None, "train").num_examples == 6
    damage(folder)
    tracemalloc.start()
    try:
        with pytest.raises(UserError) as caught:
            find_dataset(folder, None, "train")
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert re.search(message, str(caught.value), re.DOTALL), caught.value
    assert most < MOST_MEMORY


def test_special_files_among_shards_are_counted(tmp_path, caplog):
    folder = write_set(tmp_path / "set")
    os.mkfifo(folder / "set_validation_00000-of-00001.tfrecord")
    link(folder / "zero", "/dev/zero")
    assert find_dataset(folder, None, "train").num_examples == 6
    assert (
        f"{folder}: left out, 2 pipes, sockets or devices: set_validation_00000-of-00001.tfrecord, zero." in caplog.text
    )


# Images to predict


def test_special_files_are_never_opened_by_prediction(tmp_path, run, capsys):
    from finetune.prediction.find_images import find_images, left_out

    write_file(tmp_path / "images/x.jpg", JPEG)
    os.mkfifo(tmp_path / "images/p.jpg")
    link(tmp_path / "images/zero.jpg", "/dev/zero")
    for word in (str(tmp_path / "images"), f"{tmp_path}/images/*.jpg"):
        assert list(find_images([word])) == [str(tmp_path / "images/x.jpg")]
        assert [str(remark) for remark in left_out([word])] == [
            f"Left out: 2 pipes, sockets and devices ({tmp_path}/images/p.jpg, {tmp_path}/images/zero.jpg)"
        ]
    assert predict.main([str(tmp_path / "images/p.jpg"), f"--checkpoint={run}"]) == 2
    assert "is a pipe, a socket or a device" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (os.mkfifo, "can't be read: it is a pipe, a socket or a device"),
        (listen, "can't be read: it is a pipe, a socket or a device"),
        (lambda path: link(path, "/dev/zero"), "can't be read: it is a pipe, a socket or a device"),
        (lambda path: link(path, path.name), "can't be read: "),
        (Path.mkdir, "can't be read: Is a directory"),
        (sparse, "bytes are more than an image of 90 megapixels takes"),
    ],
)
def test_what_is_no_ordinary_file_is_a_failed_image(tmp_path, monkeypatch, make, message):
    monkeypatch.chdir(tmp_path)
    make(tmp_path / "x.jpg")
    with pytest.raises(BrokenImageError, match=message):
        read_image_file(tmp_path / "x.jpg", ImageRules())


@pytest.mark.parametrize("name", ["x" * 300 + ".jpg", "a\0b.jpg"])
def test_names_that_no_file_has(tmp_path, name):
    with pytest.raises(BrokenImageError, match="can't be read: "):
        read_image_file(tmp_path / name, ImageRules())


def test_line_breaks_in_names_stay_in_their_row(tmp_path):
    from finetune.prediction.writers import Asked, Prediction, write_csv, write_lines

    predictions = [Prediction("a\nb\t.jpg", (), "no image"), Prediction("c.jpg", (), "no image")]
    with (tmp_path / "lines").open("w+", newline="") as file:
        write_lines(predictions, file, Asked())
        file.seek(0)
        assert file.read().splitlines() == ["a\\nb\\t.jpg\terror: no image", "c.jpg\terror: no image"]
    with (tmp_path / "csv").open("w+", newline="") as file:
        write_csv(predictions, file, Asked())
        file.seek(0)
        assert [row["filename"] for row in csv.DictReader(file)] == ["a\nb\t.jpg", "c.jpg"]


# What convert lets pass


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_blocks": 4}, {"subsampling": 0}])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_what_convert_passes_tensorflow_decodes(options, mode):
    """A byte of the scan set to FF makes markers where there are none: the two decoders must agree."""
    content = encode(picture(1, width=64, height=48, mode=mode), quality=60, **options)
    start = content.index(b"\xff\xda") + 2
    num_passed = 0
    for at in range(start, len(content) - 2):
        damaged = content[:at] + b"\xff" + content[at + 1 :]
        try:
            prepared = prepare_image(damaged)
        except BrokenImageError:
            continue
        num_passed += 1
        for channels in (1, 3):
            decode_image(tf.constant(prepared.encoded), channels)
        decode_halves(prepared)
    assert num_passed < 0.2 * (len(content) - start)


def decode_halves(prepared):
    if prepared.format == "jpg":
        window = [prepared.height // 8, prepared.width // 8, prepared.height // 4, prepared.width // 4]
        for ratio in (1, 2):
            tf.io.decode_and_crop_jpeg(prepared.encoded, window, channels=3, ratio=ratio)


def test_a_text_that_unpacks_to_200_mib_is_no_harm():
    tracemalloc.start()
    prepared = prepare_image(bomb())
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert images.METADATA_IGNORED in prepared.changes
    assert most < MOST_MEMORY


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGB", "RGBA"])
def test_bands_are_no_other_picture(monkeypatch, mode):
    image = picture(3, width=30, height=70, mode="L" if mode == "LA" else "RGB")
    if mode in ("LA", "RGBA"):
        image.putalpha(Image.fromarray(np.arange(2100, dtype=np.uint32).astype(np.uint8).reshape(70, 30)))
    content = encode(image.convert(mode), "PNG")
    whole = prepare_image(content)
    monkeypatch.setattr(images, "BAND_ROWS", 16)
    assert prepare_image(content) == whole
