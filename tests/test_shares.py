"""`--shard` and `--merge-shards`: what jobs did together is what one did, to the byte; what isn't whole is refused."""

import csv
import dataclasses
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys

import numpy as np
import pytest
from image_files import encode, picture, write_class_folders, write_file
from pages import PAGES, blocks
from PIL import Image
from tiny_runs import write_run

from finetune.commands import convert, evaluate, predict
from finetune.commands.convert import convert as convert_images
from finetune.commands.evaluate import evaluate as evaluate_split
from finetune.commands.predict import predict as predict_images
from finetune.datasets.dataset import SkippedRecord, without
from finetune.datasets.dataset_search import find_dataset
from finetune.datasets.record_ranges import records_within
from finetune.datasets.records import Record, encode_record
from finetune.datasets.tfrecord import RecordWriter, read_records
from finetune.errors import UserError
from finetune.evaluation.metrics import score_batch
from finetune.evaluation.score_rows import rows_of, scores_of
from finetune.files.shares import SHARES_FOLDER, Share, find_shares, whole_share, write_share
from finetune.model.checkpoint import Checkpoint, write_checkpoint
from finetune.settings.command_line import parse_flags, words_of
from finetune.settings.convert import ConvertSettings
from finetune.settings.evaluate import EvalSettings
from finetune.settings.predict import PredictSettings

CLASSES = ("blue", "green", "red")
MAINS = {"convert": convert.main, "eval": evaluate.main, "predict": predict.main}


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """Class folders with what a conversion has something to say of."""
    root = write_class_folders(tmp_path_factory.mktemp("photographs"), blue=13, green=9, red=8)
    write_file(root / "red" / "as_blue.jpg", (root / "blue" / "000.jpg").read_bytes())
    write_file(root / "green" / "clear.png", encode(picture(77).convert("RGBA").rotate(30), "PNG"))
    deep = np.linspace(0, 4000, 32 * 40).reshape(32, 40).astype(np.uint16)
    for place in ("blue/deep.png", "red/deep.png"):
        write_file(root / place, encode(Image.fromarray(deep + len(place)), "PNG"))
    write_file(root / "blue" / "torn.jpg", encode(picture(5))[:300])
    write_file(root / "notes.txt", b"none")
    return root


@pytest.fixture(scope="module")
def data(photographs, tmp_path_factory):
    """Twelve images or so to validate on, in five files, and a run that knows their classes."""
    folder = tmp_path_factory.mktemp("data") / "records"
    settings = ConvertSettings(folder, photographs, validation_fraction=0.4, on_corrupt="skip", workers=1)
    convert_images(settings)
    return folder


def contents(folder):
    """All files beneath a folder, by their names, and what they hold, but for the time that a report was written."""
    found = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return {name: re.sub(rb"<time>[^<]*</time>", b"", content) for name, content in found.items()}


def eval_words(run, data, output, *more):
    return [f"--checkpoint={run}", f"--dataset-dir={data}", f"--output-dir={output}", "--batch-size=1", *more]


def do_shares(command, words, count, numbers=None):
    for number in numbers or range(1, count + 1):
        assert MAINS[command]([*map(str, words), f"--shard={number}/{count}"]) == 0


# The share


def test_shares_are_counted_from_one():
    assert Share.of_text("3/8") == Share(3, 8)
    assert str(Share(3, 8)) == "3/8"


@pytest.mark.parametrize("text", ["0/4", "5/4", "a/b", "", "1", "1/", "/4", "-1/4", "1/0", "1.0/4", "1/100001", "١/٤"])
def test_what_names_no_share_is_refused(text):
    with pytest.raises(UserError) as refused:
        Share.of_text(text)
    message = str(refused.value)
    assert repr(text) in message
    assert "I/N" in message
    assert "--shard $((SLURM_ARRAY_TASK_ID + 1))/" in message


@pytest.mark.parametrize("num_items", [8, 9, 100, 1001])
def test_shares_hold_each_item_once_and_are_of_one_size(num_items):
    parts = [Share(number, 8).part_of(num_items) for number in range(1, 9)]
    assert [item for part in parts for item in part] == list(range(num_items))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    turns = [Share(number, 8).turns(range(num_items)) for number in range(1, 9)]
    assert sorted(item for turn in turns for item in turn) == list(range(num_items))


@pytest.mark.parametrize(
    ("settings_class", "given", "message"),
    [
        (EvalSettings, {"dataset_dir": "d", "shard": "1/2", "merge_shards": 2}, "don't go together"),
        (EvalSettings, {"dataset_dir": "d", "shard": "1/2", "watch": True}, "--shard and --watch don't go together"),
        (EvalSettings, {"dataset_dir": "d", "merge_shards": 2, "max_num_batches": 1}, "--merge-shards and --max-num"),
        (EvalSettings, {"dataset_dir": "d", "shard": "0/2"}, "--shard is '0/2'"),
        (ConvertSettings, {"dataset_dir": "d", "shard": "3/2"}, "--shard is '3/2'"),
        (PredictSettings, {"checkpoint": "c", "shard": "1/2"}, "--shard needs --output"),
        (PredictSettings, {"checkpoint": "c", "merge_shards": 2}, "--merge-shards needs --output"),
    ],
)
def test_what_goes_with_shares(settings_class, given, message):
    with pytest.raises(UserError, match=re.escape(message)):
        settings_class(**given)


@pytest.mark.parametrize(
    ("settings_class", "words"),
    [
        (EvalSettings, ["--dataset-dir", "a b", "--checkpoint", "x", "--checkpoint", "y", "--no-report", "--tta=flip"]),
        (EvalSettings, ["--dataset-dir=-d", "--compare", "a", "b", "--gpu=none", "--moving-average"]),
        (ConvertSettings, ["--dataset-dir=d", "--seed=-3", "--strict", "--validation-fraction=0.3"]),
        (PredictSettings, ["--checkpoint=c", "--gpu=0,1", "--output=o.csv", "--top-k=3", "some folder", "-"]),
    ],
)
def test_settings_are_written_as_the_command_that_they_are(settings_class, words):
    settings = parse_flags(settings_class, words, prog="", description="")
    assert parse_flags(settings_class, words_of(settings), prog="", description="") == settings


# What shares have in common


def keep(place, number, count, facts, rows=({"a": 1},)):
    with whole_share(place, Share(number, count), flag="--there", program="this") as folder:
        write_share(folder, Share(number, count), facts=facts, own={}, rows=iter(rows))


def found_in(place, count, facts=None):
    return find_shares(place, count, facts or {}, lambda share: f"this --shard {share}")


def test_missing_shares_are_named_and_how_they_are_made(tmp_path):
    keep(tmp_path, 2, 4, {})
    with pytest.raises(UserError) as refused:
        found_in(tmp_path, 4)
    assert str(refused.value) == (
        f"--merge-shards: of 4 shares in {tmp_path}, 3 shares are missing: 1, 3, 4.\n"
        "  Make what is missing first: this --shard 1/4  (and likewise 3/4, 4/4)"
    )


def test_a_share_that_is_there_twice_is_told(tmp_path):
    keep(tmp_path, 1, 2, {})
    shutil.copytree(tmp_path / "1-of-2", tmp_path / "2-of-2")
    with pytest.raises(UserError, match=r"holds share 1/2, not 2/2: one share is there twice.*\n.*this --shard 2/2"):
        found_in(tmp_path, 2)


def test_shares_of_another_number_are_told(tmp_path):
    keep(tmp_path, 1, 2, {})
    keep(tmp_path, 2, 2, {})
    keep(tmp_path, 3, 3, {})
    with pytest.raises(UserError, match=r"holds a share 3 of 3, and 2 are to be put together.\n.*--merge-shards 3"):
        found_in(tmp_path, 2)


def test_shares_that_are_not_of_one_piece_are_told_with_both_sides(tmp_path):
    same = {"--split": "test", "classes": ["a", "b" * 200, "c"]}
    keep(tmp_path, 1, 3, {"weights": "12ab", "step": 7, **same})
    keep(tmp_path, 2, 3, {"step": 7, "weights": "12ab", **same})
    keep(tmp_path, 3, 3, {"weights": "34cd", **same, "classes": ["a", "b" * 200, "d"]})
    with pytest.raises(UserError) as refused:
        found_in(tmp_path, 3)
    first, *lines = str(refused.value).splitlines()
    assert first == "The shares can't be put together, for they are not of one piece:"
    assert lines[0] == "  weights: 12ab (share 1/3), 34cd (share 3/3)"
    assert lines[1] == "  step: 7 (share 1/3), null (share 3/3)"
    assert re.fullmatch('  classes: …b+", "c"] \\(share 1/3\\), …b+", "d"] \\(share 3/3\\)', lines[2])
    assert lines[3:] == ["  Make again those that are out of date, by this --shard I/3"]
    keep(tmp_path, 3, 3, {"weights": "12ab", "step": 7, **same})
    assert len(found_in(tmp_path, 3, {"--split": "test"})) == 3
    with pytest.raises(UserError, match=r"--split: test \(the shares\), train \(--merge-shards\)"):
        found_in(tmp_path, 3, {"--split": "train"})


@pytest.mark.parametrize("content", ["", "{", "[]", '{"share": 1, "of": 1, "facts": 3}', '{"share": "1", "of": 1}'])
def test_a_share_that_holds_something_else_is_told(content, tmp_path):
    keep(tmp_path, 1, 1, {})
    (tmp_path / "1-of-1" / "share.json").write_text(content)
    with pytest.raises(UserError, match=r"share\.json can't be read.*\n.*this --shard 1/1"):
        found_in(tmp_path, 1)


def test_a_job_that_fails_leaves_the_share_that_was_there(tmp_path):
    keep(tmp_path / "place", 1, 1, {"a": 1})
    with pytest.raises(ZeroDivisionError):
        keep(tmp_path / "place", 1, 1, {"a": 2}, (1 / n for n in (1, 0)))
    assert found_in(tmp_path / "place", 1)[0].facts == {"a": 1}
    with pytest.raises(ZeroDivisionError):
        keep(tmp_path / "new", 1, 1, {}, (1 / n for n in (1, 0)))
    assert [path.name for path in tmp_path.iterdir()] == ["place"]


def test_what_would_not_be_read_back_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"takes 1,048,5.. bytes, and may take 1,048,576"):
        keep(tmp_path, 1, 1, {}, [{"long": "x" * 2**20}])
    assert not list(tmp_path.glob("1-of-1*"))


# Evaluation


def test_scores_survive_as_rows():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=[9, 4]).astype(np.float32), rng.integers(0, 4, 9)
    names = [f"{n}\udcff.jpg" for n in range(9)]
    scores = score_batch(logits, labels, names, keep_logits=True)
    again = scores_of(json.loads(json.dumps(list(rows_of(scores)))), 4, has_logits=True)
    for name in ("labels", "predictions", "probabilities", "ranks", "losses", "logits"):
        np.testing.assert_array_equal(getattr(again, name), getattr(scores, name), strict=True)
    assert again.filenames == names
    for name, value in {"label": 4, "prediction": 9, "rank": 4, "logits": "AAAA", "filename": "x"}.items():
        rows = [{**row, name: value} for row in rows_of(scores)]
        if name == "filename":
            assert scores_of(rows, 4, has_logits=True).filenames == ["x"] * 9
        else:
            with pytest.raises(ValueError, match=r"classes|logits"):
                scores_of(rows, 4, has_logits=True)


def test_parts_of_a_split_are_its_records(data):
    whole = find_dataset(data, None, "validation")
    assert len(whole.shards) == 5
    part = records_within(whole, range(3, 7))
    assert part.num_examples == 4
    assert len(part.shards) < 5
    assert part.whole == whole
    shard = whole.shards[0]
    damaged = without(shard, [SkippedRecord(0, 0, "")])
    (kept,) = records_within(whole, range(1, shard.num_records)).shards
    assert kept.chosen == bytes([0] + [1] * (shard.num_records - 1))
    whole = dataclasses.replace(whole, shards=(damaged, *whole.shards[1:]))
    (kept,) = records_within(whole, range(1)).shards
    assert kept.chosen == bytes([0, 1] + [0] * (shard.num_records - 2))


def test_an_evaluation_in_shares_is_the_evaluation(run, data, tmp_path, capsys):
    whole, shared = tmp_path / "whole", tmp_path / "shared"
    words = ["--write-logits", "--assert-accuracy-at-least=1"]
    assert evaluate.main(eval_words(run, data, whole, *words)) == evaluate.EXIT_BELOW_ACCURACY
    told = capsys.readouterr().out.replace(str(whole), str(shared))
    do_shares("eval", eval_words(run, data, shared, *words), 3, [3, 1, 2, 1])
    printed = capsys.readouterr().out
    assert "share 1/3 of validation: " in printed
    assert f"kept in {shared / SHARES_FOLDER / '2-of-3'}; when all are there: --merge-shards 3" in printed
    assert {path.name for path in shared.iterdir()} == {SHARES_FOLDER}
    status = evaluate.main(eval_words(run, data, shared, *words, "--merge-shards=3"))
    assert status == evaluate.EXIT_BELOW_ACCURACY
    assert capsys.readouterr().out == told
    assert contents(shared) == contents(whole)
    assert "logit_2" in (whole / "predictions.csv").read_text()


def test_batches_of_a_share_change_no_count(run, data, tmp_path):
    output = tmp_path / "out"
    whole = evaluate_split(EvalSettings(dataset_dir=data, checkpoint=(run,), output_dir=tmp_path / "w", report=False))
    given = {"dataset_dir": data, "checkpoint": (run,), "output_dir": output, "report": False, "batch_size": 2}
    parts = [evaluate_split(EvalSettings(**given, shard=f"{number}/4")) for number in range(1, 5)]
    merged = evaluate_split(EvalSettings(**given, merge_shards=4))
    assert merged.scores.filenames == whole.scores.filenames
    assert sum(part.scores.num_examples for part in parts) == whole.scores.num_examples
    np.testing.assert_array_equal(merged.scores.ranks, whole.scores.ranks)
    np.testing.assert_allclose(merged.scores.losses, whole.scores.losses, rtol=1e-5)


def test_a_job_reads_no_file_without_records_of_its_share(run, data, tmp_path):
    """Damage in the last file is no affair of the first job."""
    copy = shutil.copytree(data, tmp_path / "records")
    last = sorted(copy.glob("*_validation_*"))[-1]
    content = bytearray(last.read_bytes())
    content[-20] ^= 1
    last.write_bytes(content)
    words = eval_words(run, copy, tmp_path / "out")
    assert evaluate.main([*words, "--shard=1/3"]) == 0
    assert evaluate.main([*words, "--shard=3/3"]) == 2


def test_records_that_can_not_be_read_are_left_out_as_by_one_job(run, data, tmp_path, capsys):
    records = list(read_records(sorted(data.glob("*_validation_*"))[0]))
    folder = tmp_path / "records"
    folder.mkdir()
    for number in range(3):
        with RecordWriter(folder / f"tiny_validation_{number:05d}-of-00003.tfrecord") as writer:
            for record in records:
                writer.write(record)
            writer.write(encode_record(Record(b"no image", "jpg", 1, 32, 32, "bad.jpg", None)))
            writer.write(b"no example" if number == 1 else records[0])
    shutil.copy(data / "labels.txt", folder)
    whole, shared = tmp_path / "whole", tmp_path / "shared"
    words = ["--on-corrupt=skip", "--no-report"]
    assert evaluate.main(eval_words(run, folder, whole, *words)) == 0
    told = capsys.readouterr()
    assert "skipped 4 records" in told.out
    (skipped,) = re.findall("4 of .* can't be read and are left out:\n.*", told.err)
    do_shares("eval", eval_words(run, folder, shared, *words), 4)
    capsys.readouterr()
    assert evaluate.main(eval_words(run, folder, shared, *words, "--merge-shards=4")) == 0
    told = capsys.readouterr()
    assert "skipped 4 records" in told.out
    assert skipped in told.err
    assert contents(shared) == contents(whole)


def test_what_is_missing_is_made_by_the_command_that_is_told(run, data, tmp_path, capsys):
    output = tmp_path / "an output"
    words = eval_words(run, data, output, "--no-report")
    do_shares("eval", words, 3, [1, 3])
    assert evaluate.main([*words, "--merge-shards=3"]) == 2
    told = capsys.readouterr().err
    assert "1 share is missing: 2." in told
    assert [path.name for path in output.iterdir()] == [SHARES_FOLDER]
    program, *again = shlex.split(told.partition("Make what is missing first: ")[2])
    assert program == "finetune-eval"
    assert evaluate.main(again) == 0
    assert evaluate.main([*words, "--merge-shards=3"]) == 0
    assert {path.name for path in output.iterdir()} == {"metrics.json", "predictions.csv", "confusion_matrix.csv"}


def test_shares_of_other_weights_data_or_settings_are_no_whole(run, data, tmp_path, capsys):
    other = write_run(tmp_path / "other")
    checkpoint = Checkpoint(str(other / "model.ckpt-7"))
    values = {name: checkpoint.read(name) for name in checkpoint.shapes}
    write_checkpoint(other / "model.ckpt-7", {**values, "CifarNet/logits/biases": np.float32([0, 1, 0])})
    words = eval_words(run, data, tmp_path / "out", "--no-report")
    do_shares("eval", words, 2, [1])
    do_shares("eval", [f"--checkpoint={other}", *words[1:]], 2, [2])
    assert evaluate.main([*words, "--merge-shards=2"]) == 2
    told = capsys.readouterr().err
    assert re.search(r"weights \(sha256\): \w+ \(share 1/2\), \w+ \(share 2/2\)", told)
    assert "step" not in told
    do_shares("eval", words, 2, [2])
    assert evaluate.main([*words, "--tta=flip", "--merge-shards=2"]) == 2
    assert "--tta: none (the shares), flip (--merge-shards)" in capsys.readouterr().err
    assert evaluate.main([words[0], f"--dataset-dir={data}", "--split=train", *words[2:], "--merge-shards=2"]) == 2
    assert "--split: validation (the shares), train (--merge-shards)" in capsys.readouterr().err
    more = shutil.copytree(data, tmp_path / "more")
    (more / "dataset.json").unlink()
    first = sorted(more.glob("*_validation_*"))[0]
    first.write_bytes(first.read_bytes() * 2)
    assert evaluate.main([words[0], f"--dataset-dir={more}", *words[2:], "--merge-shards=2"]) == 2
    told = capsys.readouterr().err
    assert re.search(r"data set: .* \(the shares\), .* \(--dataset-dir\)\n", told) is None
    assert re.search(r"records of the files: .* \(the shares\), .* \(--dataset-dir\)\n", told)
    assert "Give the records that the shares are of." in told
    assert not (tmp_path / "out" / "metrics.json").exists()


def test_figures_that_were_changed_since_are_refused(run, data, tmp_path, capsys):
    words = eval_words(run, data, tmp_path / "out", "--no-report")
    do_shares("eval", words, 2)
    rows = tmp_path / "out" / SHARES_FOLDER / "1-of-2" / "rows.jsonl"
    rows.write_bytes(rows.read_bytes()[:-5])
    assert evaluate.main([*words, "--merge-shards=2"]) == 2
    assert "isn't what its job wrote" in capsys.readouterr().err
    do_shares("eval", words, 2, [1])
    assert evaluate.main([*words, "--merge-shards=2"]) == 0


def test_more_shares_than_images_are_refused(run, data, tmp_path, capsys):
    num_images = find_dataset(data, None, "validation").num_examples
    words = eval_words(run, data, tmp_path / "out")
    assert evaluate.main([*words, f"--shard=1/{num_images + 1}"]) == 2
    assert f"there are {num_images} images in the split validation" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


# Prediction


def test_predictions_in_shares_are_the_predictions(run, photographs, tmp_path, capsys):
    whole, shared = tmp_path / "whole", tmp_path / "shared"
    whole.mkdir()
    shared.mkdir()
    words = [f"--checkpoint={run}", "--top-k=2", "--batch-size=1", "--sample-bits=12", str(photographs)]

    def lines_of(*more):
        assert predict.main([*words, *more]) == predict.EXIT_UNREADABLE_IMAGES
        lines = capsys.readouterr().err.splitlines()
        return [line for line in lines if re.match("Changed|Left out|.* predicted", line)]

    expected = lines_of(f"--output={whole / 'out.csv'}")
    assert [line.split()[0] for line in expected] == ["Changed:", "Changed:", "Left", "34"]
    lines_of(f"--output={whole / 'out.json'}")
    do_shares("predict", [*words, f"--output={shared / 'out.csv'}"], 4, [2, 1, 4, 3])
    assert "Share 2/4 of 35 images: 8 images predicted, 1 could not be read.\n" in capsys.readouterr().err
    assert [path.name for path in shared.iterdir()] == [f"{SHARES_FOLDER}-out.csv"]
    shutil.copytree(shared / f"{SHARES_FOLDER}-out.csv", shared / f"{SHARES_FOLDER}-out.json")
    for name in ("out.csv", "out.json"):
        assert lines_of(f"--output={shared / name}", "--merge-shards=4") == expected
    assert contents(shared) == contents(whole)


def test_shares_of_a_list_on_standard_input(run, photographs, tmp_path, monkeypatch):
    names = sorted(str(path) for path in photographs.rglob("*.jpg"))[:7]
    words = [f"--checkpoint={run}", f"--output={tmp_path / 'out.csv'}", "-"]
    for number in (1, 2):
        monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(names)))
        do_shares("predict", words, 2, [number])
    monkeypatch.setattr("sys.stdin", None)
    assert predict.main([*words, "--merge-shards=2"]) in (0, predict.EXIT_UNREADABLE_IMAGES)
    with (tmp_path / "out.csv").open() as file:
        assert [row["filename"] for row in csv.DictReader(file)] == names


def test_jobs_that_found_other_images_are_told(run, photographs, tmp_path, capsys):
    images = shutil.copytree(photographs / "green", tmp_path / "images")
    words = [f"--checkpoint={run}", f"--output={tmp_path / 'out.csv'}", str(images)]
    do_shares("predict", words, 2, [1])
    write_file(images / "new.jpg", encode(picture(3)))
    do_shares("predict", words, 2, [2])
    assert predict.main([*words, "--merge-shards=2"]) == 2
    told = capsys.readouterr().err
    assert re.search(r'images: \{"number": 10, .* \(share 1/2\), .*"number": 11', told)
    assert not (tmp_path / "out.csv").exists()
    assert predict.main([*words, "--merge-shards=3"]) == 2
    assert "Give --merge-shards 2" in capsys.readouterr().err
    do_shares("predict", words, 2, [1])
    settings = PredictSettings(checkpoint=run, output=tmp_path / "out.csv", images=(str(images),), merge_shards=2)
    assert len(list(predict_images(settings))) == 11
    rows = tmp_path / f"{SHARES_FOLDER}-out.csv" / "1-of-2" / "rows.jsonl"
    rows.write_bytes(rows.read_bytes().replace(b".jpg", b".jpe"))
    with pytest.raises(UserError, match="isn't what its job wrote"):
        list(predict_images(settings))


def test_a_merge_of_predictions_needs_no_tensorflow(run, photographs, tmp_path):
    words = [f"--checkpoint={run}", f"--output={tmp_path / 'out.csv'}", str(photographs / "green")]
    do_shares("predict", words, 2)
    code = (
        "import sys; from finetune.commands.predict import main; status = main(sys.argv[1:]);"
        "sys.exit(status or 'tensorflow' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, *words, "--merge-shards=2"], check=True, capture_output=True)
    assert (tmp_path / "out.csv").is_file()


# Conversion


CONVERT = ["--validation-fraction=0.25", "--test-fraction=0.2", "--num-shards=3", "--on-corrupt=skip", "--workers=1"]


def test_a_conversion_in_shares_is_the_conversion(photographs, tmp_path, capsys):
    whole, shared = tmp_path / "whole" / "set", tmp_path / "shared" / "set"
    words = [f"--images-dir={photographs}", *CONVERT]
    assert convert.main([f"--dataset-dir={whole}", *words]) == 0
    table = capsys.readouterr().out
    assert all(word in table for word in ("Left out: 1 file that can't", "Guessed", "Doubtful", "more than one class"))
    do_shares("convert", [f"--dataset-dir={shared}", *words], 4, [4, 2, 1, 3])
    assert "record files, 1 can't be read\n" in capsys.readouterr().out
    write_file(shared / SHARES_FOLDER / "3-of-4.partial" / "half", b"of a job that was killed")
    assert [path.name for path in shared.iterdir()] == [SHARES_FOLDER]
    assert convert.main([f"--dataset-dir={shared}", *words, "--merge-shards=4"]) == 0
    assert capsys.readouterr().out == table
    assert contents(shared) == contents(whole)


def test_images_in_the_folder_of_the_records(photographs, tmp_path):
    """What jobs keep there is nothing that lies among the images."""
    whole, shared = (shutil.copytree(photographs, tmp_path / place / "set") for place in ("whole", "shared"))
    assert convert.main([f"--dataset-dir={whole}", *CONVERT]) == 0
    do_shares("convert", [f"--dataset-dir={shared}", *CONVERT], 2)
    assert convert.main([f"--dataset-dir={shared}", *CONVERT, "--merge-shards=2"]) == 0
    assert contents(shared) == contents(whole)


def test_where_files_have_one_name_only_they_are_copied(photographs, tmp_path, monkeypatch):
    monkeypatch.setattr("os.link", lambda *paths: (_ for _ in ()).throw(PermissionError))
    words = [f"--dataset-dir={tmp_path / 'set'}", f"--images-dir={photographs}", *CONVERT]
    do_shares("convert", words, 2)
    assert convert.main([*words, "--merge-shards=2"]) == 0
    assert find_dataset(tmp_path / "set", None, "train").num_examples


def test_one_damaged_image_fails_its_own_job(photographs, tmp_path, capsys):
    words = [f"--dataset-dir={tmp_path / 'set'}", f"--images-dir={photographs}", "--workers=1"]
    statuses = [convert.main([*words, f"--shard={number}/3"]) for number in (1, 2, 3)]
    assert sorted(statuses) == [0, 0, 2]
    assert "blue/torn.jpg" in capsys.readouterr().err
    assert convert.main([*words, "--merge-shards=3"]) == 2
    assert f"1 share is missing: {statuses.index(2) + 1}" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "set").iterdir()] == [SHARES_FOLDER]


def test_a_merge_is_as_strict_as_the_conversion(photographs, tmp_path, capsys):
    words = [f"--dataset-dir={tmp_path / 'set'}", f"--images-dir={photographs}", *CONVERT]
    do_shares("convert", words, 2)
    assert convert.main([*words, "--merge-shards=2", "--strict"]) == 2
    assert "--strict: nothing was written" in capsys.readouterr().err
    assert convert.main([*words, "--merge-shards=2"]) == 0
    assert convert.main([*words, "--shard=1/2"]) == 2
    assert "Give --overwrite" in capsys.readouterr().err


def test_images_that_changed_between_jobs_are_told(photographs, tmp_path, capsys):
    images = shutil.copytree(photographs, tmp_path / "images")
    words = [f"--dataset-dir={tmp_path / 'set'}", f"--images-dir={images}", *CONVERT]
    do_shares("convert", words, 2)
    write_file(images / "red" / "new.jpg", encode(picture(3)))
    assert convert.main([*words, "--merge-shards=2"]) == 2
    told = capsys.readouterr().err
    assert re.search(r"number of images: 35 \(the shares\), 36 \(--merge-shards\)\n", told)
    do_shares("convert", words, 2, [2])
    assert convert.main([*words, "--merge-shards=2"]) == 2
    assert "number of images: 35 (share 1/2), 36 (share 2/2)" in capsys.readouterr().err
    do_shares("convert", [*words, "--seed=1"], 2)
    assert convert.main([*words, "--merge-shards=2"]) == 2
    assert "--seed: 1 (the shares), 0 (--merge-shards)" in capsys.readouterr().err
    place = tmp_path / "set" / SHARES_FOLDER
    next(iter((place / "1-of-2").glob("*.tfrecord"))).write_bytes(b"")
    assert convert.main([*words, "--seed=1", "--merge-shards=2"]) == 2
    assert "has not the" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "set").iterdir()] == [SHARES_FOLDER]


def test_more_jobs_than_record_files_are_refused(photographs, tmp_path, capsys):
    words = [f"--dataset-dir={tmp_path / 'set'}", f"--images-dir={photographs}", *CONVERT]
    assert convert.main([*words, "--shard=1/10"]) == 2
    told = capsys.readouterr().err
    assert "there are 9 record files to write" in told
    assert "Give --shard I/9, or a smaller N, or a larger --num-shards." in told
    assert not list(tmp_path.iterdir())


def test_archives_are_not_unpacked_by_each_job(tmp_path, capsys):
    for name in ("train", "test"):
        for kind in ("images-idx3-ubyte", "labels-idx1-ubyte"):
            number = "t10k" if name == "test" else "train"
            write_file(tmp_path / "set" / f"{number}-{kind}.gz", b"")
    words = [f"--dataset-dir={tmp_path / 'set'}", "--dataset-name=mnist"]
    assert convert.main([*words, "--shard=1/2"]) == 2
    assert "--shard: each job would unpack" in capsys.readouterr().err


def test_jobs_side_by_side(photographs, tmp_path):
    """Four at once write beside each other, and no one waits for another."""
    words = [f"--dataset-dir={tmp_path / 'set'}", f"--images-dir={photographs}", *CONVERT]
    code = "import sys; from finetune.commands.convert import main; sys.exit(main(sys.argv[1:]))"
    jobs = [
        subprocess.Popen([sys.executable, "-c", code, *words, f"--shard={number}/4"], stdout=subprocess.DEVNULL)
        for number in range(1, 5)
    ]
    assert [job.wait() for job in jobs] == [0] * 4
    assert convert.main([*words, "--merge-shards=4"]) == 0


# The page


STUB = """#!/bin/bash
echo "$(basename "$0") $*" >>{calls}
"""
SBATCH = """#!/bin/bash
echo "sbatch $*" >>{calls}
for last; do true; done
if [ -f "$last" ]
then for i in 1 2 8; do SLURM_ARRAY_TASK_ID=$i bash "$last"; done; echo 77
else bash -c "$last"; fi
"""


def test_launchers_of_the_page_give_each_job_its_share(tmp_path, monkeypatch):
    """The page's scripts, run with programs that note their words."""
    calls, programs = tmp_path / "calls", tmp_path / "bin"
    settings = {"finetune-eval": EvalSettings, "finetune-predict": PredictSettings, "finetune-convert": ConvertSettings}
    for name in settings:
        write_file(programs / name, STUB.format(calls=calls).encode()).chmod(0o755)
    write_file(programs / "sbatch", SBATCH.format(calls=calls).encode()).chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "7")
    script, submission, xargs, indexed = blocks("sh", PAGES["docs/shards.md"])
    (tmp_path / "eval.sh").write_text(script)

    def called_by(block):
        """Which shares, or how many, each call of ours asks for; other calls as they are."""
        calls.write_text("")
        subprocess.run(["bash", "-euc", block], check=True)
        for line in calls.read_text().splitlines():
            program, *words = line.split()
            if program not in settings:
                yield line
                continue
            given = parse_flags(settings[program], words, prog="", description="")
            yield f"{program} {given.shard or given.merge_shards}"

    assert list(called_by(submission)) == [
        "sbatch --parsable eval.sh",
        *(f"finetune-eval {number}/8" for number in (1, 2, 8)),
        "sbatch --dependency=afterok:77 --wrap finetune-eval --checkpoint runs/head --dataset-dir records "
        "--merge-shards 8",
        "finetune-eval 8",
    ]
    *shares, merge = called_by(xargs)
    assert sorted(shares) == [f"finetune-predict {number}/8" for number in range(1, 9)]
    assert merge == "finetune-predict 8"
    assert list(called_by(indexed)) == ["finetune-convert 8/8"]
