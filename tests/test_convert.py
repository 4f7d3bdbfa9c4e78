"""finetune-convert: what becomes of folders of images."""

import io
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
import unicodedata
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from image_files import encode, picture, write_class_folders, write_file
from PIL import Image, ImageOps

from finetune.commands.convert import convert, main
from finetune.datasets.dataset_search import find_dataset
from finetune.datasets.images import BrokenImageError, prepare_image
from finetune.datasets.splits import name_hash, share_by_size
from finetune.errors import UserError
from finetune.settings.convert import ConvertSettings

SCRIPT = Path(__file__).parents[1] / "scripts/download_and_convert_data.py"


def records_of(dataset_dir: Path, split: str) -> list[dict]:
    """All records of a split, read by TensorFlow."""
    records = []
    for path in sorted(dataset_dir.glob(f"*_{split}_*.tfrecord")):
        for serialized in tf.data.TFRecordDataset(str(path)):
            features = tf.train.Example.FromString(serialized.numpy()).features.feature
            records.append(
                {
                    "shard": path.name,
                    "encoded": features["image/encoded"].bytes_list.value[0],
                    "format": features["image/format"].bytes_list.value[0].decode(),
                    "label": features["image/class/label"].int64_list.value[0],
                    "height": features["image/height"].int64_list.value[0],
                    "width": features["image/width"].int64_list.value[0],
                    "filename": features["image/filename"].bytes_list.value[0].decode("utf-8", "surrogateescape"),
                }
            )
    return records


def description_of(dataset_dir: Path) -> dict:
    return json.loads((dataset_dir / "dataset.json").read_text())


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def decoded(encoded: bytes, channels: int = 3) -> np.ndarray:
    return tf.io.decode_image(encoded, channels=channels, expand_animations=False).numpy()


# The whole


def test_class_folders_become_a_data_set(tmp_path):
    images_dir = write_class_folders(tmp_path / "images", tulip=12, daisy=8)
    result = convert(ConvertSettings(tmp_path / "flowers", images_dir, validation_fraction=0.25))
    assert result.classes == ("daisy", "tulip")
    assert result.counts == {"train": (6, 9), "validation": (2, 3)}
    assert (tmp_path / "flowers/labels.txt").read_text() == "0:daisy\n1:tulip\n"
    train, validation = (records_of(tmp_path / "flowers", split) for split in ("train", "validation"))
    assert Counter(record["label"] for record in train) == {0: 6, 1: 9}
    assert len({record["shard"] for record in train}) == 5
    assert train[0]["shard"] == "flowers_train_00000-of-00005.tfrecord"
    assert {r["filename"] for r in train + validation} == {
        path.relative_to(images_dir).as_posix() for path in images_dir.rglob("*.jpg")
    }
    for record in train + validation:
        assert record["encoded"] == (images_dir / record["filename"]).read_bytes()
        assert (record["format"], record["height"], record["width"]) == ("jpg", 32, 40)
        assert record["label"] == ["daisy", "tulip"].index(record["filename"].split("/")[0])


def test_dataset_json_describes_it(tmp_path):
    images_dir = write_class_folders(tmp_path / "images", a=10, b=10)
    write_file(images_dir / "a/notes.txt", b"not an image, nor called like one")
    convert(ConvertSettings(tmp_path / "out", images_dir, dataset_name="mine", validation_size=4, seed=3, num_shards=2))
    description = description_of(tmp_path / "out")
    assert (description["name"], description["seed"], description["classes"]) == ("mine", 3, ["a", "b"])
    assert description["splits"]["train"]["num_examples_per_class"] == {"a": 8, "b": 8}
    shards = description["splits"]["validation"]["shards"]
    assert [(s["file"], s["num_records"]) for s in shards] == [
        ("mine_validation_00000-of-00002.tfrecord", 2),
        ("mine_validation_00001-of-00002.tfrecord", 2),
    ]
    for shard in shards:
        printed = subprocess.run(["sha256sum", tmp_path / "out" / shard["file"]], capture_output=True, check=True)
        assert printed.stdout.decode().split()[0] == shard["sha256"]
    assert description["formats"] == {"jpg": 20}
    assert description["ignored"] == ["a/notes.txt"]
    assert str(tmp_path) not in (tmp_path / "out/dataset.json").read_text()


def test_the_same_bytes_everywhere(tmp_path):
    """Neither the place, nor the order of creation, nor the number of processes changes a byte."""
    write_class_folders(tmp_path / "one/images", a=9, b=9, c=9)
    for path in sorted((tmp_path / "one/images").rglob("*.jpg"), reverse=True):
        write_file(tmp_path / "two" / path.relative_to(tmp_path / "one"), path.read_bytes())
    for place, workers in (("one", 1), ("two", 2)):
        settings = ConvertSettings(
            tmp_path / place / "out", tmp_path / place / "images", num_shards=2, workers=workers, test_fraction=0.2
        )
        assert convert(settings).counts == {"train": (5, 5, 5), "validation": (2, 2, 2), "test": (2, 2, 2)}
    assert contents(tmp_path / "one/out") == contents(tmp_path / "two/out")


def test_another_seed_divides_differently(tmp_path):
    images_dir = write_class_folders(tmp_path / "images", a=20, b=20)
    held_out = set()
    for seed in (0, 1):
        convert(ConvertSettings(tmp_path / str(seed), images_dir, seed=seed))
        held_out.add(tuple(sorted(r["filename"] for r in records_of(tmp_path / str(seed), "validation"))))
    assert len(held_out) == 2


def test_images_in_the_data_set_folder(tmp_path, capsys):
    write_class_folders(tmp_path / "pets", cat=6, dog=6)
    argv = [f"--dataset_dir={tmp_path / 'pets'}", "--dataset_name=pets"]  # as slim's script spells it
    assert main(argv) == 0
    assert main([*argv, "--overwrite"]) == 0  # its own output is not taken for images
    table = capsys.readouterr().out
    assert "cat" in table
    assert max(map(len, table.splitlines())) <= 80
    assert not [path for path in (tmp_path / "pets").iterdir() if path.name.startswith(".")]


def test_records_within_the_image_folder_are_no_class(tmp_path):
    images_dir = write_class_folders(tmp_path / "images", a=5, b=5)
    for _ in range(2):
        result = convert(ConvertSettings(images_dir / "records", images_dir, overwrite=True))
        assert result.classes == ("a", "b")


@pytest.mark.parametrize("validation", ["validation", "val"])
def test_folder_that_is_split(tmp_path, capsys, validation):
    write_class_folders(tmp_path / "images/train", a=4, b=4)
    write_class_folders(tmp_path / f"images/{validation}", a=2, b=1)
    write_class_folders(tmp_path / "images/test", a=1, b=1)
    assert main([f"--dataset-dir={tmp_path / 'out'}", f"--images-dir={tmp_path / 'images'}"]) == 0
    counts = {
        split: part["num_examples_per_class"] for split, part in description_of(tmp_path / "out")["splits"].items()
    }
    assert counts == {"train": {"a": 4, "b": 4}, "validation": {"a": 2, "b": 1}, "test": {"a": 1, "b": 1}}
    assert {r["filename"].split("/")[0] for r in records_of(tmp_path / "out", "validation")} == {validation}
    said = "Guessed: 1 folder is taken as a split (val as validation)" in capsys.readouterr().out
    assert said == (validation == "val")


def test_validation_out_of_a_train_folder(tmp_path):
    write_class_folders(tmp_path / "images/train", a=8, b=8)
    write_class_folders(tmp_path / "images/test", a=1, b=1)
    assert convert(ConvertSettings(tmp_path / "as_is", tmp_path / "images")).counts["train"] == (8, 8)
    result = convert(ConvertSettings(tmp_path / "divided", tmp_path / "images", validation_fraction=0.25))
    assert result.counts == {"train": (6, 6), "validation": (2, 2), "test": (1, 1)}


def test_a_class_called_train_is_a_class(tmp_path):
    images_dir = write_class_folders(tmp_path / "images", train=4, bus=4)
    assert convert(ConvertSettings(tmp_path / "out", images_dir)).classes == ("bus", "train")


# Division


def test_name_hash_is_pinned():
    """Every machine and every later version must divide a folder in the same way."""
    assert name_hash("daisy/a.jpg", seed=0).hex().startswith("a13aab455aa43c46")
    composed, decomposed = (unicodedata.normalize(form, "café/é.jpg") for form in ("NFC", "NFD"))
    assert name_hash(composed, 0) == name_hash(decomposed, 0)


def test_share_by_size_is_exact_and_in_proportion():
    assert share_by_size({"a": 100, "b": 50, "c": 2}, 30) == {"a": 20, "b": 10, "c": 0}
    assert share_by_size({"a": 3, "b": 3, "c": 3}, 4) == {"a": 2, "b": 1, "c": 1}
    assert share_by_size({"a": 10, "b": 2, "c": 1}, 10) == {"a": 9, "b": 1, "c": 0}
    with pytest.raises(UserError, match="only 10 images can be spared"):
        share_by_size({"a": 10, "b": 2, "c": 1}, 11)


def test_every_class_keeps_an_image_to_train_on(tmp_path, capsys):
    images_dir = write_class_folders(tmp_path / "images", a=1, b=2, c=10)
    argv = [f"--images-dir={images_dir}", f"--dataset-dir={tmp_path / 'out'}"]
    assert main([*argv, "--validation-fraction=0.5", "--test-fraction=0.4"]) == 0
    splits = description_of(tmp_path / "out")["splits"]
    assert {split: list(part["num_examples_per_class"].values()) for split, part in splits.items()} == {
        "train": [1, 1, 1],
        "validation": [0, 0, 5],
        "test": [0, 1, 4],
    }
    told = "Doubtful: 3 classes have no image in a split (a in validation, b in validation, a in test)"
    assert told in capsys.readouterr().out
    assert main([*argv, "--overwrite", "--validation-fraction=0.01"]) == 0
    assert "Doubtful: there is no validation split: no class has enough images" in capsys.readouterr().out


# Formats

KEPT = {
    "baseline": encode(picture()),
    "progressive": encode(picture(), progressive=True),
    "grey": encode(picture(mode="L")),
    "with EXIF": encode(picture(), exif=b"Exif\x00\x00MM\x00*\x00\x00\x00\x08\x00\x00"),
    "more pictures behind": encode(picture(), "MPO", save_all=True, append_images=[picture(1)]),
    "PNG": encode(picture(), "PNG"),
    "palette PNG": encode(picture().quantize(9), "PNG"),
    "transparent PNG": encode(picture(mode="RGBA"), "PNG"),
    "bilevel PNG": encode(picture(mode="1"), "PNG"),
}


@pytest.mark.parametrize("name", KEPT)
def test_jpeg_and_png_bytes_are_kept(name):
    prepared = prepare_image(KEPT[name])
    assert prepared.encoded == KEPT[name]
    assert not prepared.reencoded_from
    assert prepared.format == ("png" if "PNG" in name else "jpg")
    assert decoded(prepared.encoded).shape == (prepared.height, prepared.width, 3) == (32, 40, 3)


REENCODED = {
    "BMP": (picture(), encode(picture(), "BMP")),
    "GIF": (picture().quantize(30), encode(picture().quantize(30), "GIF")),
    "TIFF": (picture(), encode(picture(), "TIFF", compression="tiff_lzw")),
    "WEBP": (picture(), encode(picture(), "WEBP", lossless=True)),
    "PPM": (picture(mode="L"), encode(picture(mode="L"), "PPM")),
    "CMYK JPEG": (None, encode(picture(mode="CMYK"))),
}


@pytest.mark.parametrize("kind", REENCODED)
def test_other_formats_are_encoded_anew_without_loss(kind):
    source, data = REENCODED[kind]
    source = source or Image.open(io.BytesIO(data))
    prepared = prepare_image(data)
    assert (prepared.reencoded_from, prepared.format) == (kind, "png")
    np.testing.assert_array_equal(decoded(prepared.encoded), np.asarray(source.convert("RGB")))


@pytest.mark.parametrize("file_format", ["PNG", "TIFF", "PPM"])
def test_sixteen_bits_keep_the_high_byte(file_format):
    values = np.random.RandomState(0).randint(0, 2**16, [32, 40]).astype(np.uint16)
    prepared = prepare_image(encode(Image.fromarray(values), file_format))
    np.testing.assert_array_equal(decoded(prepared.encoded, channels=1)[..., 0], values >> 8)


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "TIFF"])
@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_turned_photographs_are_set_upright(orientation, file_format):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(picture(), file_format, exif=exif, quality=95, subsampling=0)
    prepared = prepare_image(data)
    seen = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    assert prepared.format == ("jpg" if file_format == "JPEG" else "png")
    assert (prepared.height, prepared.width) == seen.shape[:2]
    assert np.abs(decoded(prepared.encoded).astype(int) - seen).mean() < 2


def test_jpeg_that_only_pillow_reads_is_encoded_anew():
    """Lossless JPEG, 8 by 8 and grey: every sample's difference from its neighbour is 0, coded as one bit."""
    data = bytes.fromhex(
        "ffd8 ffc3000b080008000801011100 ffc400140001000000000000000000000000000000 00 ffda00080101000100 00"
        "0000000000000000 ffd9"
    )
    with pytest.raises(tf.errors.InvalidArgumentError):
        decoded(data)
    prepared = prepare_image(data)
    assert prepared.reencoded_from == "rare JPEG coding"
    np.testing.assert_array_equal(decoded(prepared.encoded), np.full([8, 8, 3], 128))


def test_the_content_counts_not_the_ending(tmp_path):
    images_dir = write_class_folders(tmp_path / "images", a=3, b=3)
    write_file(images_dir / "a/really_png.jpg", encode(picture(50), "PNG"))
    write_file(images_dir / "a/really_bmp.png", encode(picture(51), "BMP"))
    write_file(images_dir / "b/deep/er/no_ending", encode(picture(52)))
    write_file(images_dir / "b/.hidden.jpg", b"")
    result = convert(ConvertSettings(tmp_path / "out", images_dir, validation_fraction=0))
    assert result.counts == {"train": (5, 4)}
    assert result.reencoded == {"BMP": 1}
    assert description_of(tmp_path / "out")["formats"] == {"jpg": 7, "png": 2}


# Corrupt files

PNG = encode(picture(), "PNG")
CORRUPT = {
    "empty": b"",
    "text": b"<html>404</html>",
    "truncated JPEG": encode(picture())[:-30],
    "JPEG with a damaged end marker": encode(picture())[:-1] + b"\xcc",
    "truncated progressive JPEG": encode(picture(), progressive=True)[:-30],
    "truncated PNG": PNG[:-30],
    "PNG without its last bytes": PNG[:-3],
    "PNG with a wrong checksum": PNG.replace(b"IDAT", b"IDAT\x00", 1)[: len(PNG)],
    "float TIFF": encode(picture(mode="F"), "TIFF"),
    "truncated GIF": encode(picture().quantize(30), "GIF")[:-200],
}


@pytest.mark.parametrize("kind", CORRUPT)
def test_broken_images_are_known(kind):
    with pytest.raises(BrokenImageError, match=r"\w"):
        prepare_image(CORRUPT[kind])


def test_what_passes_can_be_decoded():
    """Files damaged at random: TensorFlow decodes whatever was let through."""
    random = np.random.RandomState(0)
    originals = [encode(picture(width=90, height=70)), encode(picture(), progressive=True), PNG]
    num_passed = 0
    for number in range(600):
        data = bytearray(originals[number % 3])
        if number % 2:
            del data[random.randint(len(data)) :]
        else:
            data[random.randint(len(data))] = random.randint(256)
        try:
            prepared = prepare_image(bytes(data))
        except BrokenImageError:
            continue
        num_passed += 1
        assert decoded(prepared.encoded).shape == (prepared.height, prepared.width, 3)
    assert num_passed > 50


def test_corrupt_files_stop_it_with_all_their_names(tmp_path, capsys):
    images_dir = write_class_folders(tmp_path / "images", a=4, b=4)
    write_file(images_dir / "a/cut.jpg", CORRUPT["truncated JPEG"])
    write_file(images_dir / "b/page.png", CORRUPT["text"])
    (images_dir / "b/gone.jpg").symlink_to(tmp_path / "nowhere")
    assert main(["--images-dir", str(images_dir), "--dataset-dir", str(tmp_path / "new/out")]) == 2
    message = capsys.readouterr().err
    assert "3 of 11 files" in message
    assert all(name in message for name in ("a/cut.jpg: the JPEG file is truncated", "b/page.png", "b/gone.jpg"))
    assert "--on-corrupt skip" in message
    assert "Traceback" not in message
    assert not (tmp_path / "new").exists()


def test_corrupt_files_can_be_left_out(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("finetune"), "propagate", True)
    caplog.set_level(logging.INFO, "finetune")
    images_dir = write_class_folders(tmp_path / "images", a=4, b=4)
    write_file(images_dir / "a/cut.jpg", CORRUPT["truncated JPEG"])
    result = convert(ConvertSettings(tmp_path / "out", images_dir, validation_fraction=0, on_corrupt="skip"))
    assert result.counts == {"train": (4, 4)}
    assert [corrupt["file"] for corrupt in description_of(tmp_path / "out")["corrupt"]] == ["a/cut.jpg"]
    assert len(records_of(tmp_path / "out", "train")) == 8
    assert "Converted 8 images" in caplog.text


# The same picture twice


def test_a_picture_in_two_splits_is_reported(tmp_path, capsys):
    train, validation = tmp_path / "images/train", tmp_path / "images/validation"
    write_class_folders(train, a=4, b=4)
    write_file(validation / "a/same_bytes.jpg", (train / "a/000.jpg").read_bytes())
    write_file(validation / "a/same_pixels.jpg", encode(picture(1), comment=b"saved again"))
    write_file(validation / "b/other.jpg", encode(picture(77)))
    # Two colours of the same brightness: alike at first sight, but not the same picture.
    for file, colour in ((train / "a/grey.jpg", (90, 90, 90)), (validation / "b/purple.jpg", (110, 80, 89))):
        write_file(file, encode(Image.new("RGB", (64, 64), colour)))
    prints = [
        prepare_image(file.read_bytes()).fingerprint for file in (train / "a/grey.jpg", validation / "b/purple.jpg")
    ]
    assert prints[0] == prints[1]
    assert main(["--images-dir", str(tmp_path / "images"), "--dataset-dir", str(tmp_path / "out")]) == 0
    duplicates = description_of(tmp_path / "out")["duplicates"]
    assert duplicates == {
        "count": 2,
        "pictures": [
            {"train": ["train/a/000.jpg"], "validation": ["validation/a/same_bytes.jpg"]},
            {"train": ["train/a/001.jpg"], "validation": ["validation/a/same_pixels.jpg"]},
        ],
    }
    assert "Doubtful: 2 pictures are in more than one split" in capsys.readouterr().out


def test_many_copies_of_a_picture_make_a_short_line(tmp_path, capsys):
    write_class_folders(tmp_path / "images", a=4, b=4)
    for index in range(40):
        write_file(tmp_path / f"images/a/copy_{index}.jpg", encode(picture(99)))
    assert main(["--images-dir", str(tmp_path / "images"), "--dataset-dir", str(tmp_path / "out")]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "more than one split" in line]
    assert line.endswith(".jpg (validation) = 38 more)")
    assert len(line) < 200


# All or nothing


def test_existing_records_are_kept(tmp_path):
    images_dir = write_class_folders(tmp_path / "images", a=5, b=5)
    settings = ConvertSettings(tmp_path / "out", images_dir, dataset_name="mine")
    convert(settings)
    before = contents(tmp_path / "out")
    with pytest.raises(UserError, match="holds a data set already"):
        convert(settings)
    with pytest.raises(UserError, match="holds another data set, mine"):
        convert(ConvertSettings(tmp_path / "out", images_dir, dataset_name="other", overwrite=True))
    assert contents(tmp_path / "out") == before


def test_overwrite_leaves_nothing_of_the_old(tmp_path):
    images_dir = write_class_folders(tmp_path / "images", a=9, b=9)
    convert(ConvertSettings(tmp_path / "out", images_dir, num_shards=3, test_fraction=0.2))
    convert(ConvertSettings(tmp_path / "out", images_dir, num_shards=1, overwrite=True))
    assert sorted(contents(tmp_path / "out")) == [
        "dataset.json",
        "labels.txt",
        "out_train_00000-of-00001.tfrecord",
        "out_validation_00000-of-00001.tfrecord",
    ]


def test_a_failure_leaves_the_old_as_it_was(tmp_path):
    images_dir = write_class_folders(tmp_path / "images", a=5, b=5)
    convert(ConvertSettings(tmp_path / "out", images_dir))
    before = contents(tmp_path / "out")
    write_file(images_dir / "a/cut.jpg", CORRUPT["truncated JPEG"])
    with pytest.raises(UserError, match=r"a/cut\.jpg"):
        convert(ConvertSettings(tmp_path / "out", images_dir, overwrite=True))
    assert contents(tmp_path / "out") == before


@pytest.mark.usefixtures("signals_of_a_terminal")
@pytest.mark.parametrize(
    ("signal_number", "is_clean"), [(signal.SIGINT, True), (signal.SIGTERM, True), (signal.SIGKILL, False)]
)
def test_a_stopped_run_leaves_no_half_data_set(tmp_path, signal_number, is_clean):
    images_dir = write_class_folders(tmp_path / "images", a=10, b=10)
    large = write_file(images_dir / "a/large_0.png", encode(Image.new("L", (2000, 2000)), "PNG"))
    for number in range(1, 2000):  # Half a minute of decoding: not done before the signal on any machine.
        os.link(large, images_dir / f"a/large_{number}.png")
    out = tmp_path / "out"
    # Of many shards a worker that has lost its parent writes but one to its end.
    argv = [f"--images-dir={images_dir}", f"--dataset-dir={out}", "--workers=2", "--num-shards=100"]
    # As a terminal does, the signal is sent to all processes of the group.
    process = subprocess.Popen([sys.executable, SCRIPT, *argv], stderr=subprocess.PIPE, start_new_session=True)
    deadline = time.monotonic() + 300
    while not list(out.glob(".out.partial/*")) and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(process.pid, signal_number) if signal_number == signal.SIGKILL else os.killpg(process.pid, signal_number)
    message = process.communicate(timeout=300)[1].decode()
    assert "Traceback" not in message
    if is_clean:
        assert process.returncode == 128 + signal_number
        assert not out.exists()
        return
    assert {path.name for path in out.iterdir()} == {".out.partial", ".lock"}
    for path in images_dir.glob("a/large_*"):
        path.unlink()
    convert(ConvertSettings(out, images_dir, num_shards=1))
    assert not {".out.partial", ".lock"}.intersection(path.name for path in out.iterdir())


def test_a_conversion_killed_among_its_renames_is_refused_to_readers_and_completed_by_the_next(tmp_path, capsys):
    images_dir, out = write_class_folders(tmp_path / "images", a=2, b=2), tmp_path / "out"
    convert(ConvertSettings(out, images_dir, dataset_name="tiny", seed=1, num_shards=1))
    new = tmp_path / "new"
    convert(ConvertSettings(new, images_dir, dataset_name="tiny", seed=2, num_shards=2))
    staging = out / ".tiny.partial"
    shutil.copytree(new, staging)
    going = sorted(path.name for path in out.iterdir() if path.is_file())
    (staging / ".renames.json").write_text(json.dumps({"last": "dataset.json", "going": going}))
    (staging / ".replaced").mkdir()
    (out / "dataset.json").rename(staging / ".replaced" / "dataset.json")
    with pytest.raises(UserError, match="killed while its files got their places"):
        find_dataset(out, None, "train")
    with pytest.raises(UserError, match="holds a data set already"):
        convert(ConvertSettings(out, images_dir, dataset_name="tiny"))
    assert contents(out) == contents(new)
    assert not staging.exists()
    assert find_dataset(out, None, "train").num_examples


# Mistakes


def mistake(images_dir: Path, **settings) -> str:
    with pytest.raises(UserError) as caught:
        convert(ConvertSettings(images_dir.parent / "out", images_dir, **settings))
    assert not (images_dir.parent / "out").exists()
    return str(caught.value)


def test_mistakes_in_the_folder(tmp_path):
    images = tmp_path / "images"
    write_class_folders(images, a=2)
    assert "Did you mean images?" in mistake(tmp_path / "imagse")
    assert "one class only, a" in mistake(images)
    assert f"--images-dir {images}" in mistake(tmp_path)
    assert "no class folders" in mistake(images / "a")
    write_class_folders(images, b=0)
    (images / "b").mkdir()
    assert "No images for class b" in mistake(images)
    (tmp_path / "empty/a").mkdir(parents=True)
    assert "holds no images" in mistake(tmp_path / "empty")


def test_mistakes_in_a_folder_that_is_split(tmp_path):
    images = tmp_path / "images"
    write_class_folders(images / "train", rose=2, tulip=2)
    write_class_folders(images / "val", rose=1, tulpi=1)
    assert "Did you mean tulip?" in mistake(images)
    (images / "val/tulpi").rename(images / "val/tulip")
    assert "has its own validation split" in mistake(images, validation_fraction=0.5)
    write_class_folders(images / "valid", rose=1)
    assert "are both the validation split" in mistake(images)
    (images / "valid").rename(images / "extra")
    assert "beside them, extra" in mistake(images)


@pytest.mark.parametrize(
    "settings",
    [
        {"validation_fraction": 1.0},
        {"validation_fraction": -0.1},
        {"validation_fraction": 0.5, "test_fraction": 0.5},
        {"validation_fraction": 0.5, "validation_size": 2},
        {"validation_size": 7},
        {"num_shards": 0},
        {"workers": 0},
        {"on_corrupt": "ignore"},
        {"layout": "neither"},
        {"dataset_name": "a/b"},
    ],
    ids=str,
)
def test_mistakes_in_settings(tmp_path, settings):
    images = write_class_folders(tmp_path / "images", a=4, b=4)
    flag_name = next(iter(settings))
    assert flag_name.replace("_", "-") in mistake(images, **settings).replace("_", "-")


def test_folder_that_cannot_be_written(tmp_path):
    images = write_class_folders(tmp_path / "images", a=2, b=2)
    write_file(tmp_path / "file", b"")
    with pytest.raises(UserError, match="file/out failed"):
        convert(ConvertSettings(tmp_path / "file/out", images))


def test_no_tensorflow_to_convert(tmp_path):
    images = write_class_folders(tmp_path / "images", a=2, b=2)
    program = (
        "import sys; from pathlib import Path; from finetune.commands.convert import *;"
        f"convert(ConvertSettings(Path({str(tmp_path / 'out')!r}), Path({str(images)!r})));"
        "sys.exit('tensorflow' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_slims_name_for_it():
    printed = subprocess.run([sys.executable, SCRIPT, "--help"], capture_output=True, check=True, text=True).stdout
    assert "--dataset-name" in printed


def test_a_published_data_set_is_downloaded_and_converted(tmp_path, monkeypatch):
    from finetune.published import obtain

    def pretend(name, folder):
        return write_class_folders(tmp_path / name, daisy=6, rose=6)

    monkeypatch.setattr(obtain, "obtain", pretend)
    conversion = convert(ConvertSettings(tmp_path / "records", dataset_name="flowers", validation_size=2))
    assert (conversion.name, conversion.classes) == ("flowers", ("daisy", "rose"))
    assert list((tmp_path / "records").glob("flowers_train_*.tfrecord"))


def test_labels_of_imagenet_begin_at_one(tmp_path):
    images = write_class_folders(tmp_path / "images", n01440764=4, n01443537=4)
    conversion = convert(ConvertSettings(tmp_path / "records", images, dataset_name="imagenet", validation_size=2))
    assert conversion.classes == ("background", "n01440764", "n01443537")
    assert conversion.counts["train"][0] == 0
    assert min(conversion.counts["train"][1:]) > 0
