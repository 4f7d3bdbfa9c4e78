"""Images with a table of labels beside them."""

import shlex
from pathlib import Path

import pytest
from image_files import encode, picture, write_class_folders, write_file

from finetune.commands.convert import convert, main
from finetune.datasets.label_table import read_label_table
from finetune.errors import UserError
from finetune.settings.convert import ConvertSettings

CLASSES = {"a": "cat", "b": "dog", "c": "cat", "d": "dog"}


@pytest.fixture
def images(tmp_path) -> Path:
    for number, name in enumerate(CLASSES):
        write_file(tmp_path / f"images/{name}.jpg", encode(picture(number)))
    return tmp_path / "images"


def write_table(images: Path, text: str, encoding: str = "utf-8", name: str = "labels.csv") -> Path:
    return write_file(images.parent / name, text.encode(encoding))


def read(images: Path, text: str, encoding: str = "utf-8"):
    return read_label_table(write_table(images, text, encoding), images)


def mistake(images: Path, text: str) -> str:
    with pytest.raises(UserError) as caught:
        read(images, text)
    return str(caught.value)


def rows(separator: str = ",", form: str = "{}.jpg") -> str:
    return "".join(f"{form.format(name)}{separator}{label}\n" for name, label in CLASSES.items())


BOTH = {"train": {"cat": ["a.jpg", "c.jpg"], "dog": ["b.jpg", "d.jpg"]}}


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("filename,label\n" + rows(), "utf-8"),
        ("filename,label\r\n" + rows().replace("\n", "\r\n\r\n"), "utf-8-sig"),
        ("File Name;Class\n" + rows(";"), "utf-16"),
        ("image_id\tbreed\n" + rows("\t", "{}"), "utf-8"),
        ("id|category|x\n" + rows("|", "{}").replace("\n", "|,;\n"), "utf-8"),
        ('"path","x","label"\n' + rows(form='"images/{}.jpg","1;2,3"'), "utf-8"),
        ("path,label\n" + rows(form="images\\{}.jpg"), "utf-8"),
        ("path,label\n" + rows(form="./{}.jpg"), "utf-8"),
        ("ID,Weight,Species\n" + rows(form="{},3.5"), "utf-8"),
        ("filename, label\n" + rows(", "), "latin-1"),
    ],
    ids=str,
)
def test_dialects(images, text, encoding):
    found = read(images, text, encoding)
    assert found.splits == BOTH
    assert found.remarks() == ()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (rows(), "Guessed: the table has no column names; column 1 names the file"),
        ("".join(f"{label},{name}\n" for name, label in CLASSES.items()), "column 2 names the file"),
        ("filename,what\n" + rows(), "Guessed: the column filename names the file, what the class"),
        ("scan,label\n" + rows(), "Guessed: the column scan names the file, label the class"),
        ("id,image,label\n" + rows(form="7,{}.jpg"), "Guessed: the column image names the file, label the class"),
        ("image,label,class_name\n" + rows(form="{},0"), "the column image names the file, class_name the class"),
        ("path,label\n" + rows(form="/kaggle/input/{}.jpg"), "Guessed: 4 rows name paths that are not here"),
        ("path,label\n" + rows() + "a.jpg,cat\n", "Left out: 1 row that repeats another (line 6)"),
        ("path,label\na,cat\nb,dog\nc,cat\n", "Left out: 1 image that the table of labels doesn't name (d.jpg)"),
    ],
    ids=str,
)
def test_what_is_guessed_or_left_out_is_told(images, text, told):
    found = read(images, text)
    assert found.splits["train"]["cat"] == BOTH["train"]["cat"]
    assert [told in str(remark) for remark in found.remarks()] == [True]


def test_a_table_that_is_not_utf_8_is_read_as_latin_1(images):
    found = read(images, "path,label\n" + rows().replace("dog", "chien bâtard"), "latin-1")
    assert found.classes == ("cat", "chien bâtard")
    assert ["read as Latin-1" in str(remark) for remark in found.remarks()] == [True]


def test_splits_in_a_column(images):
    table = "id,label,split\na,cat,Training\nb,dog,train\nc,cat,val\nd,dog,TEST\n"
    found = read(images, table)
    assert found.splits == {
        "train": {"cat": ["a.jpg"], "dog": ["b.jpg"]},
        "validation": {"cat": ["c.jpg"]},
        "test": {"dog": ["d.jpg"]},
    }
    assert found.is_split
    assert "'1'" in mistake(images, table.replace("val", "1"))
    assert read(images, "id,label,dataset\n" + rows(form="{}").replace("\n", ",web\n")).splits == BOTH
    assert "class that train lacks: bird" in mistake(images, table.replace("c,cat", "c,bird"))
    assert "no image of the train split" in mistake(images, "id,label,split\na,cat,test\nb,dog,val\n")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", ["is empty"]),
        ("x,y,z\n1,2,3\n", ["the columns x, y, z", "filename and label"]),
        ("id,label\n" + rows(form="{}9"), ["4 of the 4 rows", "name no image in", "line 2: a9", "It holds a.jpg"]),
        ("id,label\n" + rows(form="{}.png"), ["Did you mean a.jpg?"]),
        ("id,label\n" + rows(form="{}.JPG").upper(), ["Did you mean a.jpg?"]),
        ("id,label\n", ["no rows"]),
        ("image,MEL,NV\na,1.0,0.0\nb,0.0,1.0\n", ["MEL, NV hold 0 and 1 only", "into one column, label"]),
        ("id,label\na,cat\nb\nc,\n", ["2 of the 3 rows", "have no class (line 3: b; line 4: c)"]),
        ("id,label\n,cat\nb,dog\n", ["1 of the 2 rows", "name no file (line 2: ?)"]),
        ("id,label\n" + rows(form="{}") + "a.jpg,dog\n", ["to 1 image (a.jpg: cat in line 2, dog in line 6)"]),
        ("id,label\na,cat\nb,cat\n", ["one class only, cat"]),
        ('id,label\n"a\nb",cat\n', ["name no image"]),
        ("PK\0\3", ["no text", "UTF-8"]),
    ],
    ids=str,
)
def test_mistakes(images, text, parts):
    message = mistake(images, text)
    assert all(part in message for part in ("labels.csv", *parts))


def test_names_that_several_images_have(images):
    write_file(images / "more/a.jpg", encode(picture(20)))
    write_file(images / "b.png", encode(picture(21), "PNG"))
    message = mistake(images, "id,label\n" + rows(form="{}"))
    assert "1 of the 4 rows" in message
    assert "name more than one image" in message
    assert "line 3: b" in message
    found = read(images, "id,label\n" + rows() + "more/a,cat\nb.png,dog\n")
    assert found.splits["train"] == {"cat": ["a.jpg", "c.jpg", "more/a.jpg"], "dog": ["b.jpg", "b.png", "d.jpg"]}


def advice(capsys) -> list[str]:
    line = capsys.readouterr().err.splitlines()[-1]
    return shlex.split(line.split("Read them from it: give ")[1])


@pytest.mark.parametrize(
    ("files", "images_dir", "table"),
    [
        (["images/{}.jpg"], "", "labels.csv"),
        (["images/{}.jpg"], "images", "labels.csv"),
        (["images/{}.jpg"], "images", "images/it's.csv"),
        (["train/{}.jpg", "test/{}.jpg"], "", "train.csv"),
        (["{}.jpg"], "", "labels.csv"),
    ],
    ids=str,
)
def test_the_advice_is_followed(tmp_path, capsys, files, images_dir, table):
    root = tmp_path / "data set"
    for form in files:
        for number, name in enumerate("abcdef"):
            write_file(root / form.format(name), encode(picture(number + 10 * files.index(form))))
    rows = "".join(f"{name},{label}\n" for name, label in zip("abcdef", ["cat", "dog"] * 3, strict=True))
    write_file(root / table, f"id,label\n{rows}".encode())
    write_file(root / "another.csv", b"x,y,z\n1,2,3\n")
    out = tmp_path / "out"
    words = ["--images-dir", str(root / images_dir), "--dataset-dir", str(out), "--dataset-name", "pets"]
    assert main(words) == 2
    advised = advice(capsys)
    assert not out.exists()
    assert main([*words, *advised]) == 0
    assert sorted(path.name for path in out.iterdir())[:3] == [
        "dataset.json",
        "labels.txt",
        "pets_train_00000-of-00004.tfrecord",
    ]
    assert (out / "labels.txt").read_text() == "0:cat\n1:dog\n"


def test_images_in_the_data_set_folder_itself(tmp_path):
    for number, name in enumerate("abcdef"):
        write_file(tmp_path / f"{name}.jpg", encode(picture(number)))
    table = write_file(tmp_path / "labels.csv", b"id,label\na,x\nb,y\nc,x\nd,y\ne,x\nf,y\n")
    for _ in range(2):
        result = convert(ConvertSettings(tmp_path, labels_csv=table, overwrite=True, validation_fraction=0))
        assert (result.counts, result.remarks) == ({"train": (3, 3)}, ())


def test_no_table_no_advice(tmp_path, capsys):
    write_class_folders(tmp_path / "images", only=3)
    write_file(tmp_path / "prices.csv", b"item,price\nbread,3\n")
    assert main(["--images-dir", str(tmp_path / "images"), "--dataset-dir", str(tmp_path / "out")]) == 2
    assert "--labels-csv" not in capsys.readouterr().err


def test_the_table_counts_where_there_are_class_folders_too(tmp_path):
    images = write_class_folders(tmp_path / "images", old_a=2, old_b=2)
    table = write_file(
        tmp_path / "labels.csv",
        b"path,label\nold_a/000.jpg,x\nold_a/001.jpg,y\nold_b/000.jpg,y\nold_b/001.jpg,x\n",
    )
    result = convert(ConvertSettings(tmp_path / "out", images, labels_csv=table, validation_fraction=0.5))
    assert (result.classes, result.counts) == (("x", "y"), {"train": (1, 1), "validation": (1, 1)})
    with pytest.raises(UserError, match="--layout and --labels-csv"):
        convert(ConvertSettings(tmp_path / "out2", images, labels_csv=table, layout="classes"))
    with pytest.raises(UserError, match=r"none\.csv can't be read"):
        convert(ConvertSettings(tmp_path / "out2", images, labels_csv=tmp_path / "none.csv"))
