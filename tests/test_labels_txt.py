"""labels.txt as editors and other programs save it."""

import codecs

import pytest

from finetune.datasets.description import read_labels
from finetune.errors import UserError


def write(folder, content: bytes):
    (folder / "labels.txt").write_bytes(content)
    return folder / "labels.txt"


def mistake(folder, content: bytes) -> str:
    with pytest.raises(UserError) as caught:
        read_labels(write(folder, content))
    return str(caught.value)


LINES = "0:daisy\n1:größer\n"


@pytest.mark.parametrize(
    "content",
    [
        LINES.encode(),
        codecs.BOM_UTF8 + LINES.encode(),
        codecs.BOM_UTF16_LE + LINES.encode("utf-16-le"),
        codecs.BOM_UTF16_BE + LINES.encode("utf-16-be"),
        codecs.BOM_UTF32_LE + LINES.encode("utf-32-le"),
        codecs.BOM_UTF32_BE + LINES.encode("utf-32-be"),
        LINES.replace("\n", "\r\n").encode(),
        b"0 : daisy\n1\t:\tgr\xc3\xb6\xc3\x9fer  \n",
        b"\n  0:daisy\n\n \t \n1: gr\xc3\xb6\xc3\x9fer\n\n",
        b"1:gr\xc3\xb6\xc3\x9fer\n0:daisy",
        codecs.BOM_UTF8 + b"daisy\r\ngr\xc3\xb6\xc3\x9fer \r\n",
    ],
)
def test_whatever_saved_it(tmp_path, content):
    assert read_labels(write(tmp_path, content)) == ("daisy", "größer")


def test_one_name_a_line_is_said(tmp_path, caplog):
    with caplog.at_level("INFO", "finetune"):
        names = read_labels(write(tmp_path, b"background\ntench\nn01440764: a fish\n"))
    assert names == ("background", "tench", "n01440764: a fish")
    assert "no line is of the form id:name, so they are taken for names in order: 0 is background." in caplog.text


def test_numbers_left_out_and_namesakes_are_said(tmp_path, caplog):
    with caplog.at_level("INFO", "finetune"):
        assert read_labels(write(tmp_path, b"0:crane\n1:b\n3:crane\n")) == ("crane", "b", "2", "crane")
    assert "leaves out 1 of the numbers to 3, the first is 2" in caplog.text
    assert "calls both 0 and 3 'crane'" in caplog.text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"0:a\n99999999:b\n", "names 2 classes, but the highest number is 99999999: 99999998 are left out"),
        (b"7:a\n8:b\n", "names 2 classes, but the highest number is 8: 7 are left out"),
        (b"0:a\nb\n", "line 2: 'b' is not of the form id:name"),
        (b"0 daisy\n1 rose\n", "line 1: '0 daisy' is not of the form id:name"),
        (b"0,daisy\n1,rose\n", "line 1: '0,daisy' is not of the form id:name"),
        (b"daisy,0\nrose,1\n", "line 1: 'daisy,0' is not of the form id:name"),
        (b"daisy: 0\nrose: 1\n", "line 1: 'daisy: 0' is not of the form id:name"),
        (b'{"0": "daisy",\n"1": "rose"}\n', "is not of the form id:name"),
        (b'["daisy", "rose"]', "is not of the form id:name"),
        (b"item {\n  id: 1\n  name: 'cat'\n}\n", "line 1: 'item {' is not of the form id:name"),
        (b"0:a\n1:\n", "line 2: the class 1 has no name"),
        (b"0:a\n0:b\n", "line 2: the class 0 was named before"),
        ("0:a\n1:b\n".encode("utf-16-le"), "holds zero bytes, as UTF-16 without a byte-order mark does"),
    ],
)
def test_what_cannot_be_right_is_refused(tmp_path, content, message):
    assert message in mistake(tmp_path, content)


def test_bytes_that_are_no_utf8_are_kept(tmp_path):
    assert read_labels(write(tmp_path, b"0:caf\xe9\n1:b\n"))[0].encode("utf-8", "surrogateescape") == b"caf\xe9"
