"""Folders as they come: splits under any name, links, thumbnails, pipes; what is left out or guessed is told."""

import contextlib
import json
import os
import shlex
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from image_files import encode, picture, write_class_folders, write_file

from finetune.commands.convert import convert, main
from finetune.datasets.folders import scan_images
from finetune.datasets.image_walk import SYSTEM_NAMES
from finetune.datasets.remarks import Kind, Remark, changed_images, remarks_on
from finetune.datasets.split_folders import split_called
from finetune.datasets.split_words import SPLIT_WORDS
from finetune.errors import UserError
from finetune.prediction.find_images import find_images, left_out
from finetune.settings.convert import ConvertSettings


def write_splits(root: Path, **folders: int) -> Path:
    """Class folders cat and dog in each folder: `train=4` writes 4 images of each class."""
    for number, (folder, num_images) in enumerate(folders.items()):
        for index in range(num_images):
            for class_number, name in enumerate(("cat", "dog")):
                content = encode(picture(1000 * number + 100 * class_number + index))
                write_file(root / folder.replace("__", "/") / name / f"{index}.jpg", content)
    return root


def lines_of(root: Path, **options) -> list[str]:
    return [str(remark) for remark in scan_images(root, **options).remarks()]


def mistake(root: Path, **options) -> str:
    with pytest.raises(UserError) as caught:
        scan_images(root, **options)
    return str(caught.value)


def sizes(found) -> dict[str, dict[str, int]]:
    return {split: {name: len(files) for name, files in of.items()} for split, of in found.splits.items()}


# Splits under other names


@pytest.mark.parametrize(
    ("folders", "expected", "told"),
    [
        ({"Training": 3, "Testing": 2}, {"train": 3, "test": 2}, "2 folders are taken as splits (Training as train,"),
        ({"seg_train__seg_train": 3, "seg_test__seg_test": 1}, {"train": 3, "test": 1}, "(seg_train/seg_train as"),
        ({"training_set": 3, "test_set": 1}, {"train": 3, "test": 1}, "training_set as train"),
        ({"training": 3, "validation": 1}, {"train": 3, "validation": 1}, "1 folder is taken as a split (training as"),
        ({"Train": 3, "Valid": 2, "Test": 1}, {"train": 3, "validation": 2, "test": 1}, "Valid as validation"),
        ({"dataset__train": 3, "dataset__test": 1}, {"train": 3, "test": 1}, "dataset/train as train"),
        # Relatives that nobody had named.
        ({"TRAIN DATA": 3, "DEV DATA": 1}, {"train": 3, "validation": 1}, "TRAIN DATA as train"),
        (
            {"train-images__images": 3, "test-images__images": 1},
            {"train": 3, "test": 1},
            "train-images/images as train",
        ),
        ({"train": 3, "val": 2}, {"train": 3, "validation": 2}, "val as validation"),
    ],
    ids=str,
)
def test_splits_are_known_by_any_usual_name(tmp_path, folders, expected, told):
    found = scan_images(write_splits(tmp_path, **folders))
    assert sizes(found) == {split: {"cat": number, "dog": number} for split, number in expected.items()}
    assert any(line.startswith("Guessed: ") and told in line for line in map(str, found.remarks()))


def test_the_usual_names_are_no_guess(tmp_path):
    assert lines_of(write_splits(tmp_path, train=2, validation=1, test=1)) == []


def test_each_known_word_stands_for_one_split():
    for split, words in SPLIT_WORDS.items():
        assert {split_called(word.upper()) for word in words} == {split}
    assert [split_called(name) for name in ("bus", "train station", "images", "", "test2train")] == [None] * 5


def test_test_images_without_classes_are_left_out_and_counted(tmp_path):
    write_splits(tmp_path, train=3)
    for name in ("test/1.jpg", "test/2.jpg", "pred/pred/3.jpg"):
        write_file(tmp_path / name, encode(picture()))
    write_file(tmp_path / "valid/unknown/4.jpg", encode(picture()))
    found = scan_images(tmp_path)
    assert sizes(found) == {"train": {"cat": 3, "dog": 3}}
    assert [str(remark) for remark in found.remarks()] == [
        "Left out: 4 images of splits without class folders (pred/pred/3.jpg, test/1.jpg, test/2.jpg and 1 more)"
    ]


def test_an_empty_test_folder_is_told(tmp_path):
    (write_splits(tmp_path, train=2) / "test").mkdir()
    assert lines_of(tmp_path) == ["Left out: 1 folder that holds no images (test/)"]


def test_a_class_without_images_says_what_it_holds(tmp_path):
    write_splits(tmp_path, train=2)
    write_file(tmp_path / "train/bird/photo.psd", b"8BPS")
    assert "No images for class bird in train.\n  Left out: 1 file that is no image (train/bird/photo.psd)" in mistake(
        tmp_path
    )
    with pytest.raises(UserError, match=r"holds no images.\n  Left out: 1 file that is no image"):
        find_images([str(tmp_path / "train/bird")])


def test_a_misspelt_class_of_one_is_no_unlabelled_folder(tmp_path):
    write_splits(tmp_path, train=2)
    write_file(tmp_path / "val/cats/1.jpg", encode(picture()))
    assert "Did you mean cat?" in mistake(tmp_path)


def test_splits_under_unknown_names_are_refused_with_the_known_words(tmp_path):
    write_splits(tmp_path, learn=2, exam=2)
    message = mistake(tmp_path)
    assert all(part in message for part in ("exam, learn", "cat, dog", "training", "valid", "--layout classes"))
    (tmp_path / "learn").rename(tmp_path / "Train")
    assert "beside them, exam" in mistake(tmp_path)
    assert sizes(scan_images(tmp_path, layout="splits")) == {"train": {"cat": 2, "dog": 2}}
    assert lines_of(tmp_path, layout="splits")[0].startswith("Left out: 1 folder that is called like no split (exam/)")
    (tmp_path / "exam").rename(tmp_path / "TEST")
    assert set(scan_images(tmp_path).splits) == {"train", "test"}


def test_the_same_folders_in_every_class_are_classes_when_the_user_says_so(tmp_path):
    for name in ("cat/2020/1.jpg", "cat/2021/2.jpg", "dog/2020/3.jpg", "dog/2021/4.jpg"):
        write_file(tmp_path / name, encode(picture()))
    assert "cat, dog, which hold folders only, and the same ones: 2020, 2021" in mistake(tmp_path)
    assert sizes(scan_images(tmp_path, layout="classes")) == {"train": {"cat": 2, "dog": 2}}
    assert "no folder" in mistake(tmp_path, layout="splits")


def test_classes_that_hold_splits(tmp_path):
    for name in ("cat/train/1.jpg", "cat/test/2.jpg", "dog/train/3.jpg", "dog/test/4.jpg"):
        write_file(tmp_path / name, encode(picture()))
    assert "cat, dog, and each of them folders for splits: test, train" in mistake(tmp_path)
    assert sizes(scan_images(tmp_path, layout="classes")) == {"train": {"cat": 2, "dog": 2}}


@pytest.mark.parametrize(
    "files",
    [
        ("cat/anna/1.jpg", "cat/ben/2.jpg", "dog/carl/3.jpg", "dog/dora/4.jpg"),
        ("cat/monday/1.jpg", "cat/tuesday/2.jpg", "dog/friday/3.jpg", "dog/monday/4.jpg"),
        ("cat/images/1.jpg", "cat/images/2.jpg", "dog/images/3.jpg", "dog/images/4.jpg"),
        ("cat/left/1.jpg", "cat/right/2.jpg", "dog/left/3.jpg", "dog/4.jpg"),
        ("cat/left/1.jpg", "cat/right/2.jpg", "dog/3.jpg", "dog/4.jpg"),
    ],
    ids=str,
)
def test_classes_that_hold_folders_are_classes(tmp_path, files):
    for name in files:
        write_file(tmp_path / name, encode(picture()))
    found = scan_images(tmp_path)
    assert sizes(found) == {"train": {"cat": 2, "dog": 2}}
    assert found.remarks() == ()


def test_classes_called_like_splits(tmp_path):
    write_class_folders(tmp_path / "a", train=2, bus=2)
    assert scan_images(tmp_path / "a").classes == ("bus", "train")
    write_class_folders(tmp_path / "b", valid=2, invalid=2)
    assert scan_images(tmp_path / "b").classes == ("invalid", "valid")
    write_class_folders(tmp_path / "c", train=2, test=2)
    assert "no class folders are in" in mistake(tmp_path / "c")
    assert scan_images(tmp_path / "c", layout="classes").classes == ("test", "train")


@pytest.mark.parametrize("others", [("train", "test", "docs"), ("val", "test"), ("Training", "Validation", "x", "y")])
def test_two_folders_called_like_splits_are_no_classes_in_silence(tmp_path, others):
    write_class_folders(tmp_path, **dict.fromkeys(others, 2))
    assert "holds folders for splits" in mistake(tmp_path)
    assert scan_images(tmp_path, layout="classes").classes == tuple(sorted(others))


def test_an_image_beside_the_classes_of_train_makes_no_class_of_it(tmp_path):
    write_class_folders(write_splits(tmp_path, train=2, test=1), docs=1)
    write_file(tmp_path / "train/sample.jpg", encode(picture()))
    assert "holds folders for splits and, beside them, docs" in mistake(tmp_path)
    assert sizes(scan_images(tmp_path, layout="splits"))["train"] == {"cat": 2, "dog": 2}


def test_splits_within_a_folder_that_is_not_the_only_one(tmp_path):
    write_class_folders(write_splits(tmp_path, **{"my animals__Train": 2, "my animals__test": 1}), results=1)
    message = mistake(tmp_path)
    assert "my animals holds folders for splits: Train, test" in message
    assert sizes(scan_images(tmp_path, layout="classes")) == {"train": {"my animals": 6, "results": 1}}
    advised = Path(shlex.split(message.split("Give --images-dir ")[1].split(", or")[0])[0])
    assert sizes(scan_images(advised)) == {"train": {"cat": 2, "dog": 2}, "test": {"cat": 1, "dog": 1}}


def test_a_train_folder_of_one_class_is_not_taken_apart(tmp_path):
    for name in ("train/cat/monday/1.jpg", "train/cat/tuesday/2.jpg"):
        write_file(tmp_path / name, encode(picture()))
    assert "one class only, cat" in mistake(tmp_path)


# Links


def test_folders_behind_links_belong_to_the_class(tmp_path):
    images = write_class_folders(tmp_path / "images", a=2, b=2)
    for index in range(3):
        write_file(tmp_path / f"elsewhere/deep/{index}.jpg", encode(picture(50 + index)))
    (images / "a/more").symlink_to(tmp_path / "elsewhere")
    (images / "c").symlink_to(tmp_path / "elsewhere/deep")
    assert "in two classes, by a link" in mistake(images)
    (images / "c").unlink()
    assert sizes(scan_images(images)) == {"train": {"a": 5, "b": 2}}
    result = convert(ConvertSettings(tmp_path / "out", images, validation_fraction=0))
    assert (result.counts, result.remarks) == ({"train": (5, 2)}, ())
    names = [Path(file).relative_to(images).as_posix() for file in find_images([str(images)])]
    assert sorted(names) == sorted(file for files in scan_images(images).splits["train"].values() for file in files)


def test_loops_of_links_end(tmp_path):
    images = write_class_folders(tmp_path / "images", a=2, b=2)
    (images / "a/self").symlink_to(images / "a")
    (images / "a/up").symlink_to(images)
    (images / "all").symlink_to(images)
    (images / "a/round").symlink_to(tmp_path / "x")
    (tmp_path / "x").mkdir()
    (tmp_path / "y").mkdir()
    (tmp_path / "x/to_y").symlink_to(tmp_path / "y")
    (tmp_path / "y/to_x").symlink_to(tmp_path / "x")
    (images / "b/itself").symlink_to(images / "b/itself")
    found = scan_images(images)
    assert sizes(found) == {"train": {"a": 2, "b": 2}}
    assert [str(remark) for remark in found.remarks()] == [
        "Left out: 1 link that leads nowhere (b/itself)",
        "Left out: 4 links to folders that are walked already (a/round/to_y/to_x/, a/self/, a/up/ and 1 more)",
    ]
    assert len(list(find_images([str(images)]))) == 4


def test_many_links_to_many_folders_are_walked_once_each(tmp_path):
    for name in "abcdefghijkl":
        write_file(tmp_path / f"pool/{name}/1.jpg", encode(picture()))
        for other in "abcdefghijkl":
            (tmp_path / f"pool/{name}/to_{other}").symlink_to(tmp_path / "pool" / other)
    write_class_folders(tmp_path / "images", x=1, y=1)
    (tmp_path / "images/x/pool").symlink_to(tmp_path / "pool/a")
    assert sizes(scan_images(tmp_path / "images")) == {"train": {"x": 13, "y": 1}}


def test_a_file_is_in_its_class_once_under_its_own_name(tmp_path):
    images = write_class_folders(tmp_path / "images", a=2, b=2)
    (images / "a/000_again.jpg").symlink_to(images / "a/001.jpg")
    (images / "a/0.jpg").symlink_to(images / "a/000.jpg")
    found = scan_images(images)
    assert found.splits["train"]["a"] == ["a/000.jpg", "a/001.jpg"]
    told = "Left out: 2 links to images that the class has already (a/0.jpg, a/000_again.jpg)"
    assert [str(remark) for remark in found.remarks()] == [told]
    assert len(list(find_images([str(images / "a")]))) == 4  # Who names a folder of links wants a row for each.


def test_links_that_lead_nowhere_are_named(tmp_path):
    images = write_class_folders(tmp_path / "images", a=2, b=2)
    (images / "a/year").symlink_to(tmp_path / "gone")
    (images / "c").symlink_to(tmp_path / "gone")
    assert lines_of(images) == ["Left out: 2 links that lead nowhere (a/year, c)"]
    assert "Left out: 2 links that lead nowhere" in str(left_out([str(images)])[0])


# What is no image


@pytest.mark.parametrize("name", [*sorted(SYSTEM_NAMES), "@eaDir", "Thumbs.db", ".DS_Store"])
def test_what_programs_leave_beside_images_is_none(tmp_path, name):
    images = write_class_folders(tmp_path / "images", a=1, b=1)
    write_file(images / "a" / name / "1.jpg", encode(picture(9)))
    write_file(images / "b" / name, encode(picture(9)))
    found = scan_images(images)
    assert sizes(found) == {"train": {"a": 1, "b": 1}}
    assert [str(remark).split(" (")[0] for remark in found.remarks()] == [
        "Left out: 2 files and folders of file managers"
    ]
    assert len(list(find_images([str(images)]))) == 2
    assert list(find_images([f"{images}/**/*.jpg"])) == [f"{images}/a/000.jpg", f"{images}/b/000.jpg"]


def test_thumbnails_beside_the_classes_are_no_class(tmp_path):
    images = write_class_folders(tmp_path / "images", a=1, b=1)
    write_file(images / "__MACOSX/a/._1.jpg", b"")
    write_file(images / "@eaDir/a/1.jpg", encode(picture()))
    write_file(images / "a/._000.jpg", b"Mac OS X")
    found = scan_images(images)
    assert found.classes == ("a", "b")
    assert found.ignored == ("@eaDir/", "__MACOSX/", "a/._000.jpg")


def test_pipes_and_sockets_are_never_opened(tmp_path, capsys):
    images = write_class_folders(tmp_path / "images", a=1, b=1)
    os.mkfifo(images / "a/pipe.jpg")
    os.mkfifo(images / "a/unnamed")
    (images / "b/zero.png").symlink_to("/dev/zero")
    with contextlib.chdir(images / "b"), socket.socket(socket.AF_UNIX) as server:
        server.bind("socket.jpg")
    told = "4 pipes, sockets and devices"
    assert lines_of(images)[0].startswith(f"Left out: {told} (a/pipe.jpg, a/unnamed, b/socket.jpg and 1 more)")
    assert told in str(left_out([str(images)])[0])
    assert len(list(find_images([str(images)]))) == len(list(find_images([f"{images}/*/*"]))) == 2
    with pytest.raises(UserError, match="is a pipe, a socket or a device"):
        find_images([str(images / "a/pipe.jpg")])


def test_a_folder_that_cannot_be_read_is_an_error(tmp_path, monkeypatch):
    images = write_class_folders(tmp_path / "images", a=1, b=1)
    write_file(images / "a/locked/1.jpg", encode(picture()))
    scandir = os.scandir

    def refuse(path):
        if Path(path).name == "locked":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert "a/locked can't be read: Permission denied" in mistake(images)


def test_a_file_for_a_folder(tmp_path):
    assert "Unpack it" in mistake(write_file(tmp_path / "photos.zip", b"PK"))
    assert "is a file" in mistake(write_file(tmp_path / "cat.jpg", b""))
    for number in range(30):
        (tmp_path / f"unlike_{number}").mkdir()
    assert "unlike" not in mistake(tmp_path / "photographs")


# Names that are no text


def latin_1_folder(images: Path) -> Path:
    folder = Path(os.fsdecode(bytes(images) + b"/caf\xe9"))
    try:
        write_file(folder / "0.jpg", encode(picture(70)))
    except OSError:
        pytest.skip("this file system takes Unicode names alone")
    return folder


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1", "ascii"])
def test_names_of_classes_are_text_that_every_output_takes(tmp_path, encoding):
    images = write_class_folders(tmp_path / "images", 日本=2, b=2)
    folder = latin_1_folder(images)
    write_file(Path(os.fsdecode(bytes(folder) + b"/\xff.jpg")), encode(picture(71)))
    (Path(os.fsdecode(bytes(folder) + b"/\xfe.txt"))).write_text("no image")
    words = ["--images-dir", str(images), "--dataset-dir", str(tmp_path / "out"), "--validation-fraction", "0"]
    command = "import sys; from finetune.commands.convert import main; sys.exit(main())"
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    done = subprocess.run([sys.executable, "-c", command, *words], env=environment, capture_output=True, check=False)
    assert (done.returncode, b"Traceback" in done.stderr) == (0, False)
    assert (tmp_path / "out/labels.txt").read_bytes().decode("utf-8") == "0:b\n1:caf\\xe9\n2:日本\n"
    description = json.loads((tmp_path / "out/dataset.json").read_text("utf-8"))
    assert description["classes"] == ["b", "caf\\xe9", "日本"]
    assert description["ignored"] == ["caf\\xe9/\\xfe.txt"]
    json.dumps(description, ensure_ascii=False).encode("utf-8")
    table = done.stdout.decode(encoding.split(":")[0])
    assert "Changed: 1 class name that is not UTF-8: its bytes are written as escapes (caf\\xe9 for what reads" in table
    records = b"".join(path.read_bytes() for path in (tmp_path / "out").glob("*.tfrecord"))
    assert b"caf\xe9/\xff.jpg" in records  # A file's name is bytes, and keeps them.


def test_two_names_that_become_one_are_refused(tmp_path):
    images = write_class_folders(tmp_path / "images", b=1)
    latin_1_folder(images)
    write_file(images / "caf\\xe9/1.jpg", encode(picture(3)))
    assert "two folders for the class caf\\xe9" in mistake(images)


# Remarks


def test_remarks_are_lines():
    assert remarks_on(Kind.LEFT_OUT, [], "file", "files") == ()
    (remark,) = remarks_on(Kind.LEFT_OUT, [f"{n}\n.txt" for n in range(1234)], "file", "files")
    assert str(remark) == "Left out: 1,234 files (0\\n.txt, 1\\n.txt, 2\\n.txt and 1,231 more)"
    assert len(remark.as_json()["examples"]) == 10
    assert list(map(str, changed_images({"transparency laid on white": 2}))) == [
        "Changed: 2 images, transparency laid on white"
    ]
    assert str(Remark(Kind.DOUBTFUL, "there is none")) == "Doubtful: there is none"


def messy_folder(root: Path) -> Path:
    write_splits(root, Training=3, Testing=1)
    turned = picture(90).getexif()
    turned[0x0112] = 6
    write_file(root / "Training/cat/turned.jpg", encode(picture(90), exif=turned))
    write_file(root / "Training/cat/old.bmp", encode(picture(91), "BMP"))
    write_file(root / "Training/cat/notes.txt", b"text")
    write_file(root / "Training/cat/.hidden.jpg", b"")
    write_file(root / "Training/dog/Thumbs.db", b"")
    write_file(root / "Training/dog/cut.jpg", encode(picture(92))[:-40])
    write_file(root / "Testing/dog/same.jpg", (root / "Training/dog/0.jpg").read_bytes())
    write_file(root / "Testing/loose.jpg", encode(picture(93)))
    return root


MESSY_LINES = [
    "Left out: 1 file that is no image (Training/cat/notes.txt)",
    "Left out: 1 hidden file or folder (Training/cat/.hidden.jpg)",
    "Left out: 1 file or folder of a file manager (Training/dog/Thumbs.db)",
    "Left out: 1 image outside the class folders (Testing/loose.jpg)",
    "Left out: 1 file that can't be read (Training/dog/cut.jpg: ",
    "Changed: 1 image, turned upright and encoded anew as JPEG",
    "Guessed: 2 folders are taken as splits (Training as train, Testing as test)",
    "Doubtful: 1 picture is in more than one split, which makes scores look better than they are (Training/dog/0.jpg",
    "Doubtful: there is no validation split: --validation-fraction 0.2 takes one out of train, and leaves test alone",
]


def test_convert_ends_with_a_line_for_each_thing(tmp_path, capsys):
    words = ["--images-dir", str(messy_folder(tmp_path / "images")), "--dataset-dir", str(tmp_path / "out")]
    words += ["--on-corrupt", "skip"]
    assert main([*words, "--strict"]) == 2
    refused = capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert main(words) == 0
    lines = capsys.readouterr().out.splitlines()[-len(MESSY_LINES) :]
    for line, expected in zip(lines, MESSY_LINES, strict=True):
        assert line.startswith(expected)
        assert f"\n  {line}\n" in refused
    assert "nothing was written" in refused
    remarks = json.loads((tmp_path / "out/dataset.json").read_text())["remarks"]
    assert [remark["kind"] for remark in remarks] == [line.split(":")[0] for line in MESSY_LINES]
    assert remarks[0] == {
        "kind": "Left out",
        "what": "file that is no image",
        "count": 1,
        "examples": ["Training/cat/notes.txt"],
    }
    assert "old.bmp" not in str(remarks)  # Encoded anew without loss: that is stated, not remarked.
    assert main([*words, "--overwrite", "--validation-fraction", "0.2"]) == 0  # As the last line says.
    assert "there is no validation split" not in capsys.readouterr().out
    assert set(json.loads((tmp_path / "out/dataset.json").read_text())["splits"]) == {"train", "validation", "test"}


def test_strict_keeps_the_data_set_that_is_there(tmp_path, capsys):
    images = write_class_folders(tmp_path / "images", a=5, b=5)
    words = ["--images-dir", str(images), "--dataset-dir", str(tmp_path / "out"), "--strict"]
    assert main(words) == 0
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    write_file(images / "a/notes.txt", b"text")
    assert main([*words, "--overwrite"]) == 2
    assert "Left out: 1 file that is no image (a/notes.txt)" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def test_a_picture_in_two_classes_is_doubtful(tmp_path):
    images = write_class_folders(tmp_path / "images", cat=3, dog=3)
    write_file(images / "dog/copy.jpg", (images / "cat/000.jpg").read_bytes())
    result = convert(ConvertSettings(tmp_path / "out", images, validation_fraction=0))
    assert result.contradictions == ({"cat": ["cat/000.jpg"], "dog": ["dog/copy.jpg"]},)
    told = "Doubtful: 1 picture is in more than one class (cat/000.jpg (cat) = dog/copy.jpg (dog))"
    assert [str(remark) for remark in result.remarks] == [told]


def test_classes_that_differ_in_case_are_doubtful(tmp_path):
    images = write_class_folders(tmp_path / "images", cat=5, dog=5)
    write_class_folders(images, Cat=5)
    remarks = convert(ConvertSettings(tmp_path / "out", images)).remarks
    assert any("1 pair of classes whose names differ in case" in str(remark) for remark in remarks)


# Published files that are there already


def write_mnist_files(folder: Path, ending: str) -> None:
    import gzip
    import struct

    for number, split in enumerate(("train", "t10k")):
        pixels = encode_pixels(number)
        images = struct.pack(">4BIII", 0, 0, 8, 3, 40, 28, 28) + pixels
        labels = struct.pack(">4BI", 0, 0, 8, 1, 40) + bytes(index % 10 for index in range(40))
        for kind, content in (("images-idx3", images), ("labels-idx1", labels)):
            write_file(folder / f"{split}-{kind}-ubyte{ending}", gzip.compress(content) if ending else content)


def encode_pixels(seed: int) -> bytes:
    import numpy as np

    return np.random.RandomState(seed).bytes(40 * 28 * 28)


@pytest.fixture
def no_network(monkeypatch):
    from finetune.published import obtain

    def refuse(*arguments):
        raise AssertionError("nothing is to be downloaded")

    monkeypatch.setattr(obtain, "fetch", refuse)


def test_half_the_published_files_are_told(tmp_path, no_network, caplog, monkeypatch):
    write_mnist_files(tmp_path, ".gz")
    (tmp_path / "t10k-images-idx3-ubyte.gz").unlink()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("finetune.published.obtain.log.propagate", True)
    with pytest.raises(AssertionError), caplog.at_level("INFO"):
        convert(ConvertSettings(tmp_path, dataset_name="mnist"))
    assert "holds files of mnist, but not t10k-images-idx3-ubyte.gz." in caplog.text


@pytest.mark.parametrize("ending", [".gz", ""])
def test_mnist_is_converted_from_the_files_that_are_there(tmp_path, no_network, capsys, ending):
    write_mnist_files(tmp_path, ending)
    assert main([f"--dataset_dir={tmp_path}", "--dataset_name=mnist", "--num-shards=1"]) == 0
    description = json.loads((tmp_path / "dataset.json").read_text())
    assert {split: part["num_examples"] for split, part in description["splits"].items()} == {"train": 40, "test": 40}
    assert description["classes"] == list("0123456789")
    names = {path.name for path in tmp_path.iterdir()}
    assert f"train-images-idx3-ubyte{ending}" in names
    assert not [name for name in names if name.startswith(".")]


def test_flowers_and_cifar10_are_converted_from_the_archives_that_are_there(tmp_path, no_network):
    import io
    import tarfile

    import numpy as np

    def write_archive(path: Path, files: dict[str, bytes]) -> None:
        with tarfile.open(path, "w:gz") as tar:
            for name, content in files.items():
                member = tarfile.TarInfo(name)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))

    flowers, cifar = tmp_path / "f", tmp_path / "c"
    flowers.mkdir()
    cifar.mkdir()
    pictures = {
        f"flower_photos/{name}/{n}.jpg": encode(picture(n)) for name, n in (("rose", 1), ("rose", 2), ("lily", 3))
    }
    write_archive(flowers / "flower_photos.tgz", pictures)
    result = convert(ConvertSettings(flowers, dataset_name="flowers", validation_fraction=0))
    assert (result.classes, result.counts) == (("lily", "rose"), {"train": (1, 2)})
    record = [bytes([label]) + np.random.RandomState(label).bytes(3072) for label in (0, 1)]
    batches = {f"cifar-10-batches-bin/data_batch_{n}.bin": b"".join(record) for n in range(1, 6)}
    rest = {"cifar-10-batches-bin/test_batch.bin": record[0], "cifar-10-batches-bin/batches.meta.txt": b"boat\ncat\n"}
    write_archive(cifar / "cifar-10-binary.tar.gz", batches | rest)
    with pytest.raises(UserError, match="No images for class cat in test"):
        convert(ConvertSettings(cifar, dataset_name="cifar10"))
    assert [path.name for path in cifar.iterdir()] == ["cifar-10-binary.tar.gz"]
    rest["cifar-10-batches-bin/test_batch.bin"] = b"".join(record)
    write_archive(cifar / "cifar-10-binary.tar.gz", batches | rest)
    assert convert(ConvertSettings(cifar, dataset_name="cifar10")).counts == {"train": (5, 5), "test": (1, 1)}


def test_damaged_published_files_are_named(tmp_path, no_network):
    write_mnist_files(tmp_path, "")
    labels = tmp_path / "t10k-labels-idx1-ubyte"
    content = labels.read_bytes()
    for damaged in (content[:-1] + b"\x0b", content[:-3]):
        labels.write_bytes(damaged)
        with pytest.raises(UserError, match="t10k-labels-idx1-ubyte is not as it was published"):
            convert(ConvertSettings(tmp_path, dataset_name="mnist"))
    assert len(list(tmp_path.iterdir())) == 4
