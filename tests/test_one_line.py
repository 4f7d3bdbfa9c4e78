"""`finetune-train PHOTOS`: from a folder or a table of photographs to an accuracy and a report, in one line."""

import json
import os
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from broken_server import serving
from image_files import encode, picture, write_class_folders, write_file
from test_download import tar_of

from finetune import api
from finetune.commands import final_evaluation, photographs, train
from finetune.errors import UserError
from finetune.files.folder_lock import sole_writer
from finetune.published import cache, http_download
from finetune.settings.settings_file import read_toml
from finetune.settings.train import TrainSettings

NETWORK = ["--model=lenet", "--image-size=8", "--learning-rate=0.001", "--precision=float32"]
SCRATCH = ["--checkpoint=none"]
STEPS = ["--batch-size=2", "--max-steps=2", "--eval-every=0"]
TINY = [*NETWORK, *SCRATCH, *STEPS]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty current folder with `photos`: two classes of six pictures."""
    monkeypatch.chdir(tmp_path)
    write_class_folders(tmp_path / "photos", blue=6, red=6)
    return tmp_path


@pytest.fixture
def conversions(monkeypatch):
    """What is converted, in the order of the calls."""
    calls = []

    def counted(settings):
        calls.append(settings)
        return convert(settings)

    convert = photographs.convert
    monkeypatch.setattr(photographs, "convert", counted)
    return calls


@pytest.fixture
def untrained(monkeypatch):
    """Nothing is trained: what would be is what the function gives."""
    trained = []
    monkeypatch.setattr(train, "train_run", lambda settings, *_, **__: trained.append(settings) or _result(settings))
    return trained


def _result(settings):
    return train.TrainResult(settings.run.folder, 0, "", None, None)


def run_of(words, capsys):
    """What a command that ends well prints and logs."""
    assert train.main([str(word) for word in words]) == 0
    said = capsys.readouterr()
    return said.out, said.err


def refusal_of(words, capsys):
    """What a command that refuses says; it leaves nothing behind."""
    assert train.main([str(word) for word in words]) == 2
    said = capsys.readouterr().err
    assert not Path("runs").exists()
    return said


def records_in(folder):
    (records,) = (path for path in (folder / "records").iterdir() if not path.name.startswith("."))
    return records


def config_of(run):
    return read_toml(TrainSettings, run / "config.toml")


def test_from_photographs_to_a_report_and_again(here, capsys, conversions):
    out, err = run_of(["photos", *TINY], capsys)
    run, records = Path("runs/photos-1"), records_in(Path("runs"))
    assert f"The run's folder: {run}\n" in err
    assert f"photos: to be converted; its records will be {records}\n" in err
    assert "images per class" in err
    assert re.search("0 │ blue +│ +5 │ +1 │", err)
    assert "accuracy" in out
    assert "95 % interval" in out
    assert out.endswith(f"written to {run}/eval_validation/report.html\n")
    assert (run / "eval_validation/report.html").is_file()
    assert json.loads((run / "eval_validation/metrics.json").read_text())["num_examples"] == 2
    config = config_of(run)
    assert (config["dataset_dir"], config["train_dir"], config["report"]) == (records, run, True)
    assert not {"images_dir", "photographs", "validation_fraction", "checkpoint"} & set(config)
    again = here / "again"
    api.evaluate(api.EvalSettings(checkpoint=(run,), dataset_dir=records, output_dir=again, report=False))
    for name in ("metrics.json", "predictions.csv"):
        assert (run / "eval_validation" / name).read_bytes() == (again / name).read_bytes()

    out, err = run_of(["--images-dir=photos/", *TINY, "--seed=5", "--no-report"], capsys)
    assert len(conversions) == 1
    assert f"nothing has changed since it was converted, its records are {records}\n" in err
    assert config_of(Path("runs/photos-2"))["dataset_dir"] == records


def change_a_file(photos):
    write_file(photos / "blue/001.jpg", encode(picture(99)))
    return "1 changed (blue/001.jpg)"


def touch_a_file(photos):
    os.utime(photos / "red/002.jpg", ns=(1, 1))
    return "1 changed (red/002.jpg)"


def remove_a_file(photos):
    (photos / "blue/000.jpg").unlink()
    return "1 gone (blue/000.jpg)"


def add_files(photos):
    for number in range(5):
        write_file(photos / f"red/new{number}.jpg", encode(picture(50 + number)))
    return "5 new (red/new0.jpg, red/new1.jpg, red/new2.jpg and 2 more)"


def move_to_another_class(photos):
    (photos / "red/000.jpg").rename(photos / "blue/moved.jpg")
    return "1 new (blue/moved.jpg), 1 gone (red/000.jpg)"


@pytest.mark.parametrize(
    "change", [change_a_file, touch_a_file, remove_a_file, add_files, move_to_another_class], ids=lambda c: c.__name__
)
def test_what_changed_is_said_and_converted_anew(here, capsys, conversions, untrained, change):
    run_of(["photos", *TINY], capsys)
    said = change(here / "photos")
    _, err = run_of(["photos", *TINY], capsys)
    assert len(conversions) == 2
    assert f"photos: to be converted anew, since of its images are {said}; its records" in err
    assert untrained[0].data.dataset_dir == untrained[1].data.dataset_dir
    run_of(["photos", *TINY], capsys)
    assert len(conversions) == 2


def damage_a_shard(records):
    path = next(records.glob("*train_00000*"))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def remove_a_shard(records):
    next(records.glob("*.tfrecord")).unlink()


def remove_the_description(records):
    (records / "dataset.json").unlink()


def remove_what_it_was_made_of(records):
    (records / photographs.MADE_OF_FILE).unlink()


def damage_what_it_was_made_of(records):
    (records / photographs.MADE_OF_FILE).write_text('{"photographs": []}')


def remove_the_records(records):
    shutil.rmtree(records)


@pytest.mark.parametrize(
    "damage",
    [
        damage_a_shard,
        remove_a_shard,
        remove_the_description,
        remove_what_it_was_made_of,
        damage_what_it_was_made_of,
        remove_the_records,
    ],
    ids=lambda damage: damage.__name__,
)
def test_records_that_are_not_as_they_were_made_are_made_again(here, capsys, conversions, untrained, damage):
    run_of(["photos", *TINY], capsys)
    records = records_in(Path("runs"))
    before = {path.name: path.read_bytes() for path in records.glob("*.tfrecord")}
    damage(records)
    _, err = run_of(["photos", *TINY], capsys)
    assert len(conversions) == 2
    assert "photos: to be converted" in err
    assert {path.name: path.read_bytes() for path in records.glob("*.tfrecord")} == before


def test_other_settings_of_the_conversion_have_records_of_their_own(here, capsys, conversions, untrained):
    run_of(["photos", *TINY], capsys)
    run_of(["photos", *TINY, "--validation-fraction=0.5"], capsys)
    run_of(["photos", *TINY], capsys)
    assert len(conversions) == 2
    assert len({settings.data.dataset_dir for settings in untrained}) == 2


def test_a_killed_conversion_is_begun_anew(here, capsys, conversions, untrained, monkeypatch):
    def killed(*_):
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(photographs, "write_json", killed)
        with pytest.raises(MemoryError):
            train.main(["photos", *TINY])
    run_of(["photos", *TINY], capsys)
    assert len(conversions) == 2


def test_a_second_training_waits_for_the_conversion_of_the_first(here, capsys, conversions, untrained):
    run_of(["photos", *TINY], capsys)
    records = records_in(Path("runs"))
    with sole_writer(records, flag="--train-dir", program="finetune-train"):
        other = threading.Thread(target=api.train, args=[settings_of("photos")])
        other.start()
        other.join(0.5)
        assert other.is_alive()
    other.join()
    assert len(conversions) == 1
    assert [settings.run.folder for settings in untrained] == [Path("runs/photos-1"), Path("runs/photos-2")]


def settings_of(photos, **values):
    return TrainSettings(
        **{"images_dir": Path(photos), "model": "lenet", "checkpoint": Path("none"), "max_steps": 2, **values}
    )


def test_a_table_of_photographs(here, capsys, conversions, untrained):
    for number in range(6):
        write_file(here / f"pictures/{number}.jpg", encode(picture(number)))
    rows = [f"pictures/{n}.jpg,{'ab'[n % 2]},{'train' if n < 4 else 'validation'},{n}.5\n" for n in range(6)]
    (here / "labels.csv").write_text("".join(["path,label,split,weight\n", *rows]))
    _, err = run_of(["labels.csv", *TINY], capsys)
    assert "labels.csv: the column weight says how much each image counts in training." in err
    assert untrained[0].run.folder == Path("runs/labels-1")
    description = json.loads((records_in(Path("runs")) / "dataset.json").read_text())
    assert {split: part["num_examples"] for split, part in description["splits"].items()} == {
        "train": 4,
        "validation": 2,
    }
    run_of(["labels.csv", *TINY], capsys)
    assert len(conversions) == 1
    (here / "labels.csv").write_text("".join(["path,label,split,weight\n", *rows]).replace("0.jpg,a", "0.jpg,b"))
    _, err = run_of(["labels.csv", *TINY], capsys)
    assert "1 changed (pictures/0.jpg)" in err
    assert len(conversions) == 2


def test_folders_of_splits(here, capsys, untrained):
    for split, seed in (("train", 0), ("validation", 70)):
        for name in ("blue", "red"):
            for number in range(3):
                write_file(here / f"own/{split}/{name}/{number}.jpg", encode(picture(seed + number + len(name) * 9)))
    run_of(["own", *TINY], capsys)
    description = json.loads((untrained[0].data.records / "dataset.json").read_text())
    assert {split: part["num_examples"] for split, part in description["splits"].items()} == {
        "train": 6,
        "validation": 6,
    }
    said = refusal_after(["own", *TINY, "--validation-fraction=0.5"], capsys)
    assert "Leave out the flag" in said
    assert "of finetune-convert" not in said


def refusal_after(words, capsys):
    assert train.main(words) == 2
    return capsys.readouterr().err


def test_without_a_validation_split_there_is_no_report(here, capsys):
    _, err = run_of(["photos", *TINY, "--validation-fraction=0"], capsys)
    assert "There is no validation split to evaluate on: the run gets no report" in err
    assert not list(Path("runs").rglob("report.html"))


def test_report_is_a_flag_of_all_runs(here, capsys, monkeypatch):
    evaluated = []
    monkeypatch.setattr(final_evaluation, "evaluate", evaluated.append)
    run_of(["photos", *TINY, "--no-report"], capsys)
    records = records_in(Path("runs"))
    run_of([f"--dataset-dir={records}", "--train-dir=plain", *NETWORK, *STEPS], capsys)
    assert "report" not in config_of(Path("plain"))
    assert not evaluated
    run_of([f"--dataset-dir={records}", "--train-dir=told", *NETWORK, *STEPS, "--report"], capsys)
    assert [(settings.checkpoint, settings.split) for settings in evaluated] == [((Path("told"),), "validation")]


def test_an_evaluation_that_fails_at_the_end_leaves_the_run_and_says_how_to_repeat_it(here, capsys, monkeypatch):
    def fail(settings):
        raise UserError("The disk is full.")

    monkeypatch.setattr(final_evaluation, "evaluate", fail)
    said = refusal_after(["photos", *TINY], capsys)
    assert "The training is done and kept in runs/photos-1, but its evaluation failed: The disk is full." in said
    assert "finetune-eval --checkpoint runs/photos-1 --dataset-dir runs/records/photos-" in said
    assert Path("runs/photos-1/model.ckpt-2.index").exists()


def test_a_run_goes_on_with_its_own_records(here, capsys, conversions, monkeypatch):
    words = ["photos", *TINY]
    run_of([*words, "--no-report"], capsys)
    evaluated = []
    monkeypatch.setattr(final_evaluation, "evaluate", evaluated.append)
    run = Path("runs/photos-1")
    add_files(here / "photos")
    _, err = run_of([*words, "--train-dir=runs/photos-1", "--resume", "--max-steps=4", "--report"], capsys)
    assert f"The run goes on with its own records, {records_in(Path('runs'))}: photos is not looked at." in err
    assert len(conversions) == 1
    assert (run / "model.ckpt-4.index").exists()
    run_of(["--resume", "--train-dir=runs/photos-1"], capsys)
    assert [settings.checkpoint for settings in evaluated] == [(run,), (run,)]  # At last by its own config.toml.
    write_class_folders(here / "others", blue=3, red=3)
    assert "was not begun from others" in refusal_after(["others", "--resume", f"--train-dir={run}", *TINY], capsys)
    assert "--train-dir" in refusal_after(["photos", "--resume", *TINY], capsys)
    assert "--train-dir" in refusal_after(["--resume"], capsys)


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        ([], ["nothing to train on", "--images-dir", "--dataset-dir"]),
        (["photos", "--dataset-dir=d"], ["photos", "--dataset-dir d", "both given"]),
        (["--images-dir=photos", "--dataset-dir=d"], ["photos", "--dataset-dir d", "both given"]),
        (["photos", "--images-dir=photos"], ["--images-dir photos are both given"]),
        (["photos", "stray"], ["takes one folder or table of photographs, not 2: photos, stray"]),
        (["--dataset-dir=d", "--validation-fraction=0.5"], ["finetune-convert --validation-fraction"]),
        (["photso"], ["photso doesn't exist", "Did you mean photos?"]),
    ],
    ids=lambda value: " ".join(value) or "nothing",
)
def test_contradictions(here, capsys, words, parts):
    said = refusal_of([*words, *TINY], capsys)
    for part in parts:
        assert part in said


def test_a_settings_file_may_name_the_photographs(here, capsys, untrained):
    (here / "one.toml").write_text('images_dir = "photos"\nmodel = "lenet"\ncheckpoint = "none"\n')
    run_of(["--config=one.toml"], capsys)
    assert untrained[0].data.dataset_dir == records_in(Path("runs"))


def test_damaged_photographs_are_refused_or_left_out_with_one_flag(here, capsys, untrained):
    write_file(here / "photos/blue/bad.jpg", b"\xff\xd8\xff no image")
    said = refusal_of(["photos", *TINY], capsys)
    assert "blue/bad.jpg" in said
    assert "leave them out with --on-corrupt skip" in said
    _, err = run_of(["photos", *TINY, "--on-corrupt=skip"], capsys)
    assert "bad.jpg" in err


def test_advice_that_is_of_finetune_convert_says_so(here, capsys):
    write_file(here / "flat/0.jpg", encode(picture(0)))
    write_file(here / "flat/1.jpg", encode(picture(1)))
    (here / "flat/labels.csv").write_text("filename,label\n0.jpg,a\n1.jpg,b\n")
    said = refusal_of(["flat", *TINY], capsys)
    assert "--labels-csv: of finetune-convert. Run finetune-convert --images-dir flat --dataset-dir RECORDS" in said
    assert "finetune-train --dataset-dir RECORDS" in said


@pytest.mark.parametrize("words", [["."], [".", "--train-dir=run"], ["photos", "--train-dir=photos/blue/run"]])
def test_a_run_among_its_photographs_is_refused(here, capsys, words):
    said = refusal_of([*words, *TINY], capsys)
    assert "among the photographs" in said
    assert "--train-dir" in said


def test_from_python_in_three_lines(here):
    run = api.train(api.TrainSettings(**vars_of_readme()))
    assert 0 <= run.best_accuracy <= 1
    assert run.report == Path("runs/photos-1/eval_validation/report.html")
    assert run.report.is_file()
    assert run.evaluation.scores.num_examples == 2
    assert api.plan(settings_of("photos")).counts()
    assert api.train(settings_of("photos", report=False, batch_size=2)).report is None


def vars_of_readme():
    return {
        "images_dir": Path("photos"),
        "model": "lenet",
        "checkpoint": Path("none"),
        "max_steps": 2,
        "batch_size": 2,
    }


def test_a_script_of_three_lines_converts_in_several_processes(here):
    write_class_folders(here / "many", blue=260, red=260)  # Enough for two.
    script = write_file(
        here / "three_lines.py",
        b"from pathlib import Path\nfrom finetune.commands import photographs\n"
        b"from finetune.settings.train import TrainSettings\n"
        b"print(photographs.on_records(TrainSettings(images_dir=Path('many'))).data.dataset_dir)\n",
    )
    path = os.pathsep.join([str(Path(__file__).resolve().parents[1]), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, script],
        check=False,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{records_in(Path('runs'))}\n"


# Weights by name


@pytest.fixture
def weights_folder(here, monkeypatch):
    """Where finetune-download keeps what it gets."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(here / "cache"))
    return here / "cache/finetune"


def test_photographs_begin_from_the_published_weights(weights_folder, capsys, untrained):
    write_file(weights_folder / "mobilenet_v1/w.ckpt.index", b"")
    run_of(["photos", "--model=mobilenet_v1"], capsys)
    run_of(["photos", "--model=mobilenet_v1", "--checkpoint=mobilenet_v1"], capsys)
    run_of(["photos", "--model=mobilenet_v1", "--checkpoint=none"], capsys)
    write_file(weights_folder / "mobilenet_v1_0.5_160/w.ckpt.index", b"")
    run_of([f"--dataset-dir={records_in(Path('runs'))}", "--checkpoint=mobilenet_v1_0.5_160"], capsys)
    run_of([f"--dataset-dir={records_in(Path('runs'))}"], capsys)
    published = weights_folder / "mobilenet_v1/w.ckpt"
    small = weights_folder / "mobilenet_v1_0.5_160/w.ckpt"
    assert [settings.network.checkpoint for settings in untrained] == [published, published, None, small, None]


@pytest.mark.parametrize("name", ["mobilenet_v1", "mobilenet_v1.index", "none"])
def test_a_path_comes_before_a_name(weights_folder, here, capsys, untrained, name):
    write_file(here / name, b"")
    word = name.removesuffix(".index")
    _, err = run_of(["photos", f"--checkpoint={word}"], capsys)
    assert f"--checkpoint {word}: the path of this name is taken" in err
    assert untrained[0].network.checkpoint == Path(word)


def test_weights_are_fetched_by_finetune_downloads_own_code(weights_folder, capsys, untrained, monkeypatch):
    monkeypatch.setattr(cache, "SHA256", {})
    with serving() as server:
        path = "/models/mobilenet_v1_2018_02_22/mobilenet_v1_1.0_224.tgz"
        server.files[path] = tar_of(**{"m.ckpt.index": b"", "m.ckpt.data-00000-of-00001": b""})
        download = http_download.download
        monkeypatch.setattr(cache, "download", lambda url, to: download(server.url + path, to))
        run_of(["photos", "--model=mobilenet_v1"], capsys)
    assert untrained[0].network.checkpoint == weights_folder / "mobilenet_v1/m.ckpt"


def test_weights_that_cannot_be_had_are_told_with_an_advice_that_mends(
    weights_folder, here, capsys, untrained, monkeypatch
):
    def unreachable(url, path):
        raise UserError("download.tensorflow.org can't be reached: no such host.", "Name a mirror with --base-url.")

    monkeypatch.setattr(cache, "download", unreachable)
    said = refusal_of(["photos", "--model=mobilenet_v1"], capsys)
    assert "https://download.tensorflow.org/models/mobilenet_v1_2018_02_22/mobilenet_v1_1.0_224.tgz" in said
    assert "--checkpoint PATH" in said
    assert "--checkpoint none" in said
    assert "--base-url" not in said  # Which finetune-train hasn't.
    (advice,) = (line.partition("unpack it here: ")[2] for line in said.splitlines() if "unpack it here" in line)
    (here / "mobilenet_v1_1.0_224.tgz").write_bytes(tar_of(**{"m.ckpt.index": b""}))
    assert os.system(advice) == 0
    run_of(["photos", "--model=mobilenet_v1"], capsys)
    assert untrained[0].network.checkpoint == weights_folder / "mobilenet_v1/m.ckpt"


def test_a_network_without_published_weights_is_told(here, capsys):
    said = refusal_of(["photos", *NETWORK, *STEPS], capsys)
    assert "No weights of lenet were published" in said
    assert "--checkpoint none" in said
