"""finetune-predict: the same figures as an evaluation, every file accounted for, in order, in bounded memory."""

import csv
import io
import json
import os
import random
import shutil
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from image_files import encode, picture, write_file
from tiny_runs import CLASSES, write_records

from finetune.commands import evaluate, predict
from finetune.commands.predict import _open_output
from finetune.errors import UserError
from finetune.prediction.find_images import find_images
from finetune.prediction.stream import _map_in_order


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    return write_records(tmp_path_factory.mktemp("data") / "records")


def predict_json(capsys, run, *words, status=0):
    assert predict.main([f"--checkpoint={run}", "--format=json", *map(str, words)]) == status
    return json.loads(capsys.readouterr().out)


def test_probabilities_are_those_of_an_evaluation(run, records, tmp_path):
    output = tmp_path / "eval"
    words = [f"--checkpoint={run}", f"--dataset-dir={records}", f"--output-dir={output}", "--no-report"]
    assert evaluate.main(words) == 0
    with (output / "predictions.csv").open() as file:
        expected = {row["filename"]: row for row in csv.DictReader(file)}
    table = tmp_path / "table.csv"
    words = [f"--checkpoint={run}", str(records / "images"), f"--output={table}", "--batch-size=5"]
    assert predict.main(words) == 0
    with table.open() as file:
        rows = list(csv.DictReader(file))
    assert [row["filename"] for row in rows] == [str(records / "images" / name) for name in sorted(expected)]
    for row in rows:
        same = expected[os.path.basename(row["filename"])]  # noqa: PTH119
        assert (row["prediction"], row["prediction_name"]) == (same["prediction"], same["prediction_name"])
        assert float(row["probability"]) == pytest.approx(float(same["probability"]), abs=1e-6)
    assert len({row["probability"] for row in rows}) == len(rows)


def test_what_pillow_reads_is_predicted_and_the_rest_are_error_rows(run, tmp_path, capsys):
    whole = encode(picture(1))
    write_file(tmp_path / "a_whole.jpg", whole)
    write_file(tmp_path / "b_truncated.jpg", whole[: len(whole) // 2])
    write_file(tmp_path / "c_text.jpg", b"no image at all")
    write_file(tmp_path / "d_empty.jpg", b"")
    sixteen_bits = picture(1, mode="L").convert("I;16").point(lambda value: value * 257)
    write_file(tmp_path / "e_16_bit.png", encode(sixteen_bits, "PNG"))
    write_file(tmp_path / "f_cmyk.jpg", encode(picture(1).convert("CMYK")))
    write_file(tmp_path / "g_grey.webp", encode(picture(1), "WEBP"))
    results = predict_json(capsys, run, tmp_path, "--batch-size=2", status=predict.EXIT_UNREADABLE_IMAGES)
    assert [result["filename"] for result in results] == [str(path) for path in sorted(tmp_path.iterdir())]
    assert ["guesses" in result for result in results] == [True, False, False, False, True, True, True]
    assert "truncated" in results[1]["error"].lower()
    assert "not an image" in results[2]["error"]
    assert "empty" in results[3]["error"]


def test_top_k_names_the_likeliest_classes_first(run, records, capsys):
    results = predict_json(capsys, run, records / "images", "--top-k=3")
    for result in results:
        probabilities = [guess["probability"] for guess in result["guesses"]]
        assert probabilities == sorted(probabilities, reverse=True)
        assert sum(probabilities) == pytest.approx(1.0)
        assert {guess["name"] for guess in result["guesses"]} == set(CLASSES)
        assert all(CLASSES[guess["class"]] == guess["name"] for guess in result["guesses"])


def test_the_three_formats_say_the_same(run, records, tmp_path, capsys):
    bad = write_file(tmp_path / "bad.jpg", b"")
    words = [records / "images/validation_03.jpg", bad]
    good_result, bad_result = predict_json(capsys, run, *words, "--top-k=2", status=4)
    for name in ("table.csv", "lines.txt"):
        arguments = [f"--checkpoint={run}", *map(str, words), "--top-k=2", f"--output={tmp_path / name}"]
        assert predict.main(arguments) == 4
    with (tmp_path / "table.csv").open() as file:
        good_row, bad_row = csv.DictReader(file)
    first, second = good_result["guesses"]
    assert [good_row["prediction"], good_row["prediction_2"]] == [str(first["class"]), str(second["class"])]
    assert [good_row["prediction_name"], good_row["prediction_name_2"]] == [first["name"], second["name"]]
    assert float(good_row["probability_2"]) == pytest.approx(second["probability"])
    assert (bad_row["error"], bad_row["prediction"]) == (bad_result["error"], "")
    assert (tmp_path / "lines.txt").read_text().splitlines() == [
        f"{words[0]}\t{first['name']} {first['probability']:.4f}\t{second['name']} {second['probability']:.4f}",
        f"{bad}\terror: {bad_result['error']}",
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.jpg", "lines.txt", "table.csv"]


def test_no_rows_are_still_json(run, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    assert predict_json(capsys, run, "-") == []


def test_words_stand_for_files_in_their_order(tmp_path, monkeypatch):
    for name in ("b/2.png", "b/1.jpg", "b/sub/3.jpg", "b/.hidden.jpg", "b/.git/4.jpg", "b/notes.txt", "a.jpg"):
        write_file(tmp_path / name, b"")
    write_file(tmp_path / "b/unnamed", encode(picture()))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.stdin", io.StringIO("from/input.jpg\n\nb/with space.jpg\n"))
    words = ["b", "a.jpg", "-", "b/*.jpg", "**/3.jpg"]
    assert list(find_images(words)) == [
        *["b/1.jpg", "b/2.png", "b/unnamed", "b/sub/3.jpg"],
        "a.jpg",
        *["from/input.jpg", "b/with space.jpg"],
        "b/1.jpg",
        "b/sub/3.jpg",
    ]


def test_a_file_whose_name_is_a_glob_is_itself(tmp_path, monkeypatch):
    write_file(tmp_path / "a[1].jpg", b"")
    monkeypatch.chdir(tmp_path)
    assert list(find_images(["a[1].jpg"])) == ["a[1].jpg"]


def test_what_a_folder_holds_beside_images_is_told(run, tmp_path, capsys):
    write_file(tmp_path / "real/1.jpg", encode(picture()))
    write_file(tmp_path / "images/@eaDir/1.jpg", encode(picture()))
    write_file(tmp_path / "images/notes.txt", b"text")
    (tmp_path / "images/linked").symlink_to(tmp_path / "real")
    (tmp_path / "real/loop").symlink_to(tmp_path)
    assert predict.main([f"--checkpoint={run}", str(tmp_path / "images")]) == 0
    told = capsys.readouterr()
    assert [line.split("\t")[0] for line in told.out.splitlines()] == [str(tmp_path / "images/linked/1.jpg")]
    for line in (
        f"Left out: 1 file that is no image ({tmp_path}/images/notes.txt)",
        f"Left out: 1 file or folder of a file manager ({tmp_path}/images/@eaDir)",
        f"Left out: 1 link to a folder that is walked already ({tmp_path}/images/linked/loop)",
    ):
        assert line in told.err


def test_a_pipe_on_standard_input_is_an_error_row(run, tmp_path, monkeypatch, capsys):
    os.mkfifo(tmp_path / "pipe.jpg")
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{tmp_path}/pipe.jpg\n"))
    (row,) = predict_json(capsys, run, "-", status=4)
    assert row["error"] == "can't be read: it is a pipe, a socket or a device"


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        ([], ["No images"]),
        (["picture.jpg"], ["picture.jpg", "pictures"]),
        (["*.tiff"], ["*.tiff"]),
        (["empty"], ["empty", "no images"]),
        (["pictures", "--output=table.xls"], ["--output", ".csv", "--format"]),
        (["pictures", "--top-k=0"], ["--top-k"]),
        (["pictures", "--output=nowhere/table.csv"], ["--output", "can't be written"]),
        (["pictures", "--labels=none.txt"], ["--labels", "none.txt"]),
        (["pictures", "--labels=two.txt"], ["2 classes", "3 outputs", "--labels"]),
        (["pictures", "--model=lenet"], ["another network"]),
        (["pictures", "--moving-average"], ["--moving-average", "no moving averages"]),
    ],
)
def test_mistakes(run, tmp_path, monkeypatch, capsys, words, parts):
    write_file(tmp_path / "pictures/0.jpg", encode(picture()))
    (tmp_path / "empty").mkdir()
    (tmp_path / "two.txt").write_text("0:a\n1:b\n")
    monkeypatch.chdir(tmp_path)
    assert predict.main([f"--checkpoint={run}", *words]) == 2
    error = capsys.readouterr().err
    assert "Traceback" not in error
    for part in parts:
        assert part in error


def test_a_missing_file_on_standard_input_is_an_error_row(run, records, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", io.StringIO(f"nowhere.jpg\n{records}/images/validation_00.jpg\n"))
    missing, found = predict_json(capsys, run, "-", status=4)
    assert "No such file" in missing["error"]
    assert found["guesses"]


def test_a_checkpoint_that_is_no_runs_is_recognised(run, records, tmp_path, capsys):
    expected = predict_json(capsys, run, records / "images")
    for path in run.glob("model.ckpt-7.*"):
        shutil.copy(path, tmp_path)
    found = predict_json(capsys, tmp_path / "model.ckpt-7", records / "images")
    assert [[guess["class"] for guess in result["guesses"]] for result in found] == [
        [guess["class"] for guess in result["guesses"]] for result in expected
    ]
    assert {guess["name"] for result in found for guess in result["guesses"]} <= {"0", "1", "2"}
    (tmp_path / "names.txt").write_text("0:background\n1:x\n2:y\n3:z\n")
    named = predict_json(
        capsys,
        tmp_path / "model.ckpt-7",
        records / "images",
        f"--labels={tmp_path}/names.txt",
        "--labels-offset=1",
    )
    assert all("xyz"[g["class"]] == g["name"] for result in named for g in result["guesses"])


def test_a_name_that_is_no_unicode_keeps_its_bytes(run, tmp_path):
    name = os.fsdecode(bytes(tmp_path) + b"/caf\xe9.png")
    try:
        write_file(type(tmp_path)(name), encode(picture(), "PNG"))
    except OSError:
        pytest.skip("this file system takes Unicode names alone")
    table = tmp_path / "table.csv"
    assert predict.main([f"--checkpoint={run}", name, f"--output={table}"]) == 0
    assert b"/caf\xe9.png,0" in table.read_bytes() or b"/caf\xe9.png," in table.read_bytes()


def test_a_reader_that_has_seen_enough_is_no_failure(monkeypatch):
    read_end, write_end = os.pipe()
    os.close(read_end)
    with os.fdopen(write_end, "w") as pipe:
        monkeypatch.setattr("sys.stdout", pipe)
        with _open_output(None) as file:
            file.write("x" * 100_000)


def test_files_are_read_ahead_but_not_far_and_kept_in_order():
    handed_out = []
    lock = threading.Lock()

    def items():
        for number in range(60):
            with lock:
                handed_out.append(number)
            yield number

    def slow(number):
        time.sleep(random.Random(number).random() / 200)
        return number

    for expected, outcome in enumerate(_map_in_order(slow, items(), num_threads=4, num_ahead=5)):
        assert outcome == expected
        assert len(handed_out) <= expected + 1 + 5


def test_a_failure_in_a_thread_is_told():
    def fail(number):
        raise UserError(f"number {number}")

    with pytest.raises(UserError, match="number 0"):
        list(_map_in_order(fail, range(100), num_threads=2, num_ahead=3))


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_images(run, tmp_path):
    peaks = []
    for number in (1_000, 8_000):
        folder = tmp_path / str(number)
        folder.mkdir()
        picture_file = write_file(tmp_path / "picture.jpg", encode(picture()))
        for index in range(number):
            (folder / f"{index:05d}.jpg").symlink_to(picture_file)
        command = "import sys; from finetune.commands.predict import main; sys.exit(main())"
        words = [f"--checkpoint={run}", str(folder), f"--output={tmp_path}/{number}.csv"]
        process = subprocess.Popen([sys.executable, "-c", command, *words], stderr=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = status
        assert status == 0
        peaks.append(usage.ru_maxrss)
        assert len((tmp_path / f"{number}.csv").read_text().splitlines()) == 1 + number
    assert peaks[1] == pytest.approx(peaks[0], rel=0.1)


def test_predictions_do_not_depend_on_the_batch_size(run, records, capsys):
    one, all_at_once = (predict_json(capsys, run, records / "images", f"--batch-size={size}") for size in (1, 100))
    for first, second in zip(one, all_at_once, strict=True):
        np.testing.assert_allclose(
            [guess["probability"] for guess in first["guesses"]],
            [guess["probability"] for guess in second["guesses"]],
            rtol=1e-5,
        )
