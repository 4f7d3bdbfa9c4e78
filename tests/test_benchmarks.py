"""The benchmarks: their flags, their tables, what they make of photographs; the cheapest of them end to end."""

import argparse
import importlib
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from image_files import write_class_folders
from PIL import Image

from finetune.commands import convert
from finetune.datasets.dataset_search import find_dataset
from finetune.datasets.tfrecord import read_records

BENCHMARKS = Path(__file__).parents[1] / "scripts" / "benchmarks"
SCRIPTS = sorted(path.name for path in BENCHMARKS.glob("*.py") if "__main__" in path.read_text(encoding="utf-8"))


@pytest.fixture
def shared_code(monkeypatch):
    """Modules beside the scripts, imported as the scripts import them."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module


def read_pixels(path):
    with Image.open(path) as image:
        return np.asarray(image, np.float32)


def run_script(*words):
    return subprocess.run([sys.executable, *map(str, words)], capture_output=True, text=True, check=True).stdout


def test_there_is_a_script_for_each_measurement():
    measured = {"head_only.py", "full.py", "input_pipeline.py", "convert.py", "evaluate.py", "start_up.py"}
    assert measured <= set(SCRIPTS)


@pytest.mark.parametrize("name", SCRIPTS)
def test_help_is_quick(name):
    """Neither TensorFlow nor Keras is imported for it."""
    code = (
        "import runpy, sys\n"
        "sys.path.insert(0, sys.argv[1])\n"
        "sys.argv[:] = [sys.argv[2], '--help']\n"
        "try:\n    runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "except SystemExit as end:\n    assert end.code == 0\n"
        "print({'tensorflow', 'keras'} & set(sys.modules))"
    )
    text = run_script("-c", code, BENCHMARKS, BENCHMARKS / name)
    assert text.startswith("usage: ")
    assert text.endswith("set()\n")


def test_figures_have_about_three_digits(shared_code):
    measuring = shared_code("measuring")
    assert [measuring.number(value) for value in (0.951, 9.9949, 9.996, 99.94, 99.96, 4567.8)] == [
        *("0.95", "9.99", "10.0", "99.9", "100", "4,568")
    ]
    assert measuring.times(45.0, of=18.0) == "2.50×"


def test_contenders_run_in_turn(shared_code):
    measuring = shared_code("measuring")
    calls = []

    def contender(name, figures):
        return lambda: calls.append(name) or figures[calls.count(name) - 1]

    results = measuring.in_turn({"a": contender("a", [1.0, 5.0, 3.0]), "b": contender("b", [2.0, 2.0, 8.0])}, repeats=3)
    assert calls == ["a", "b"] * 3
    assert measuring.medians(results) == {"a": 3.0, "b": 2.0}


def test_the_median_run_is_one_that_was_made(shared_code):
    measuring = shared_code("measuring")
    runs = [measuring.Finished(seconds, "") for seconds in (4.0, 1.0, 3.0, 2.0)]
    assert measuring.median_run(runs) is runs[3]
    assert measuring.median_run(runs[:3]) is runs[2]


def test_tables_are_aligned_markdown(shared_code):
    table = shared_code("measuring").markdown_table(
        ["network", "program", "images/s"], [["mobilenet_v2", "finetune", "1,234"], ["", "Keras", "98.5"]]
    )
    assert table.splitlines() == [
        "| network      | program  | images/s |",
        "| ------------ | -------- | -------: |",
        "| mobilenet_v2 | finetune |    1,234 |",
        "|              | Keras    |     98.5 |",
    ]


def test_the_machine_is_described(shared_code):
    versions, processor, cores = shared_code("measuring").describe_machine()
    python = ".".join(map(str, sys.version_info[:3]))
    expected = rf"\d{{4}}-\d\d-\d\d: finetune [\d.]+, TensorFlow [\d.]+, Keras 3[\d.]+, Python {re.escape(python)}"
    assert re.fullmatch(expected, versions)
    assert processor
    assert re.match(r"\d+ cores", cores)


def test_the_environment_is_the_default_one(shared_code, monkeypatch):
    monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", "1")
    code = "import os; print(os.environ.get('TF_ENABLE_ONEDNN_OPTS'))"
    run = shared_code("measuring").run
    assert run([sys.executable, "-c", code]).output == "None\n"
    assert run([sys.executable, "-c", code], TF_ENABLE_ONEDNN_OPTS="0").output == "0\n"


def test_a_program_that_fails_ends_the_benchmark(shared_code):
    with pytest.raises(SystemExit, match=r"(?s)ended with status 5.*why"):
        code = "import sys; print('why', file=sys.stderr); sys.exit(5)"
        shared_code("measuring").run([sys.executable, "-c", code])


def test_both_programs_get_the_same_split(shared_code, tmp_path):
    images = write_class_folders(tmp_path / "images", blue=9, red=13)
    shared_code("photographs").link_splits(images, tmp_path / "links")
    words = ["--images-dir", str(images), "--dataset-dir", str(tmp_path / "records"), "--workers", "1"]
    assert convert.main([*words, "--validation-fraction", "0.25"]) == 0
    for split in ("train", "validation"):
        linked = {path.read_bytes() for path in (tmp_path / "links" / split).glob("*/*.jpg")}
        dataset = find_dataset(tmp_path / "records", None, split)
        records = [record for shard in dataset.shards for record in read_records(shard.path)]
        assert len(records) == len(linked)
        assert all(any(content in record for record in records) for content in linked)


def test_copies_are_all_different(shared_code, tmp_path):
    photographs = shared_code("photographs")
    images = write_class_folders(tmp_path / "images", blue=2, red=1)
    assert photographs.write_shifted_copies(images, tmp_path / "many", 4) == 12
    assert len({path.read_bytes() for path in (tmp_path / "many").glob("*/*.jpg")}) == 12
    assert photographs.link_first_copies(tmp_path / "many", tmp_path / "few", 2) == 6
    assert {path.stem[-2:] for path in (tmp_path / "few").glob("*/*.jpg")} == {"_0", "_1"}


def test_enlarged_photographs_come_again_mirrored(shared_code, tmp_path):
    images = write_class_folders(tmp_path / "images", blue=2, red=1)
    shared_code("photographs").write_enlarged(images, tmp_path / "large", 5)
    paths = sorted((tmp_path / "large").glob("*/*.jpg"))
    assert [path.name for path in paths] == ["000_0.jpg", "000_1.jpg", "001_0.jpg", "001_1.jpg", "000_0.jpg"]
    first, again = map(read_pixels, paths[:2])
    assert first.shape == (400, 500, 3)
    assert np.abs(first[:, ::-1] - again).mean() < 2 < np.abs(first - again).mean()


def test_memory_is_of_all_processes(shared_code, tmp_path, monkeypatch):
    memory = shared_code("memory")
    look, was_seen = memory.bytes_of_tree, tmp_path / "seen"

    def look_and_tell(process_id):
        num_bytes = look(process_id)
        if num_bytes > 50_000_000:
            was_seen.touch()
        return num_bytes

    monkeypatch.setattr(memory, "bytes_of_tree", look_and_tell)
    # The child stays until it has been seen, however busy the machine is.
    child = (
        "import os, time; block = bytes(range(256)) * 200_000; deadline = time.monotonic() + 60\n"
        f"while not os.path.exists({str(was_seen)!r}) and time.monotonic() < deadline: time.sleep(0.01)"
    )
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    watched = memory.run_watched([sys.executable, "-c", parent])
    assert 50_000_000 < watched.peak_bytes < 150_000_000
    assert watched.seconds > 0


@pytest.fixture
def history(shared_code):
    return shared_code("history")


def arguments_of(folder):
    return argparse.Namespace(command="full.py --networks mobilenet_v2", history=folder / "history.csv")


def test_figures_are_appended_beside_those_before(history, tmp_path, capsys):
    arguments = arguments_of(tmp_path)
    history.record(arguments, [history.Figure("mobilenet_v2, finetune", 123.456789, "images/s")])
    assert capsys.readouterr().out.endswith("  mobilenet_v2, finetune: 123.46 images/s\n")
    history.record(arguments, [history.Figure("mobilenet_v2, finetune", 99.5, "images/s")])
    first, second = history.read(arguments.history)
    told = f"mobilenet_v2, finetune: 99.5 images/s; before, {first['date']} at {first['commit'] or 'no commit'}: 123.46"
    assert told in capsys.readouterr().out
    assert tuple(first) == history.COLUMNS
    assert (first["figure"], second["figure"]) == ("123.46", "99.5")
    assert {row["command"] for row in (first, second)} == {arguments.command}
    assert "TensorFlow 2" in first["versions"]
    assert [path.name for path in tmp_path.iterdir()] == ["history.csv"]


@pytest.mark.parametrize("column", ["processor", "command", "what", "unit"])
def test_only_like_is_compared_with_like(history, column):
    row = dict.fromkeys(history.COLUMNS, "1")
    assert "before" in history.compare(row, [row])
    assert "before" not in history.compare(row, [row | {column: "2"}])


def test_the_last_figure_is_the_one_before(history):
    row = dict.fromkeys(history.COLUMNS, "1")
    assert history.compare(row, [row, row | {"figure": "3"}, row | {"figure": "4", "unit": "s"}]).endswith(": 3")


def test_history_that_can_not_be_written_is_kept(history, tmp_path):
    arguments = arguments_of(tmp_path)
    history.record(arguments, [history.Figure("a", 1.0, "seconds")])
    before = arguments.history.read_bytes()
    with pytest.raises(AttributeError):
        history.record(arguments, [history.Figure("b", 2.0, "seconds"), None])
    assert arguments.history.read_bytes() == before


def test_the_commit_is_that_of_the_checkout(history, tmp_path, monkeypatch):
    def git(*words):
        identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", *identity, *words], cwd=tmp_path, check=True, capture_output=True)

    monkeypatch.setattr(history, "HERE", tmp_path)
    assert not history.current_commit()
    git("init")
    for name in ("code.py", "history.csv"):
        (tmp_path / name).write_text("1")
    git("add", ".")
    git("commit", "-m", "1")
    commit = history.current_commit()
    assert re.fullmatch("[0-9a-f]{7,}", commit)
    (tmp_path / "history.csv").write_text("2")
    assert history.current_commit() == commit
    (tmp_path / "code.py").write_text("2")
    assert history.current_commit() == f"{commit}+"


def test_without_git_there_is_no_commit(history, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert not history.current_commit()


def test_commands_are_the_same_on_every_machine(shared_code, monkeypatch):
    measuring = shared_code("measuring")
    words = ["full.py", "--history", "/h.csv", "--work-dir", "/w", "--images-dir", "/a/flower photos", "--repeats", "3"]
    monkeypatch.setattr(sys, "argv", [*words, "--checkpoint=/b/net.ckpt", "--networks", "mobilenet_v2"])
    command = shared_code("full").parse_arguments().command
    assert command == "full.py --images-dir 'flower photos' --checkpoint net.ckpt --networks mobilenet_v2"
    assert measuring.HISTORY.is_file()


def test_the_history_holds_commands_as_they_are_recorded(shared_code, monkeypatch):
    history = shared_code("history")
    rows = history.read(history.HISTORY)
    assert all(float(row["figure"]) > 0 for row in rows)
    commands = {row["command"] for row in rows if not row["command"].startswith("finetune-")}
    assert len(commands) > 5
    for command in commands:
        monkeypatch.setattr(sys, "argv", shlex.split(command))
        assert shared_code(sys.argv[0].removesuffix(".py")).parse_arguments().command == command


def test_what_a_kill_costs_is_counted_by_the_images_of_the_final_weights(shared_code):
    kills = shared_code("kills")
    unbroken = kills.Outcome([[0, 1], [2, 3], [1, 0]], {"w": np.float32([1, 2]), "step": np.int64(3)}, 0)
    assert set(kills.compare(unbroken, unbroken, num_images=5).values()) == {3, 0}
    killed = kills.Outcome([[0, 1], [1, 2], [2, 3], [3, 3]], {"w": np.float32([1, 2.5]), "step": np.int64(4)}, 1)
    assert list(kills.compare(unbroken, killed, num_images=5).values()) == [4, 3, 2, 3, 1, 0.5, 1]


def test_of_an_update_that_was_made_twice_the_last_one_counts(shared_code, tmp_path):
    kills = shared_code("kills")
    code = "import sys; open(sys.argv[1], 'a').write('[0, [1]]\\n[1, [2]]\\n[0, [3]]\\n')"
    words = [sys.executable, "-c", code, tmp_path / "run" / "seen"]
    program = kills.Program("echo", lambda folder: words, lambda folder: {})
    assert kills.train(program, tmp_path / "run", []).updates == [[3], [2]]
    assert kills.start([sys.executable, "-c", "import time; time.sleep(60)"], tmp_path / "none", 0) == -9


@pytest.mark.slow
def test_conversion_is_measured(history, tmp_path):
    images = write_class_folders(tmp_path / "images", blue=6, red=6)
    words = ["--images-dir", images, "--copies", "2", "--repeats", "1", "--history", tmp_path / "history.csv"]
    text = run_script(BENCHMARKS / "convert.py", *words)
    rows = re.findall(
        r"^\| (finetune-convert|slim's way) +\| +(\d+) \| +(\S+) \| +(\S+) \| +(\S+) \| +(\S+)× \|$", text, re.M
    )
    assert [row[:2] for row in rows] == [
        ("finetune-convert", "24"),
        ("slim's way", "24"),
        ("finetune-convert", "96"),
        ("slim's way", "96"),
    ]
    assert all(float(figure.replace(",", "")) > 0 for row in rows for figure in row[2:])
    assert max(map(len, text.splitlines())) <= 80
    recorded = history.read(tmp_path / "history.csv")
    names = ("finetune-convert", "slim's way")
    assert [row["what"] for row in recorded] == [f"{name}, {count} images" for count in (24, 96) for name in names]
    assert {row["command"] for row in recorded} == {"convert.py --images-dir images --repeats 1 --copies 2"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "num_steps"), [(["--steps", "4"], 4), (["--epochs", "3", "--target-accuracy", "0"], 3)]
)
def test_the_peer_trains(words, num_steps, shared_code, tmp_path):
    """Keras's script makes the steps that it is told, or stops after the first epoch that is good enough."""
    images = write_class_folders(tmp_path / "images", blue=8, red=8)
    shared_code("photographs").link_splits(images, tmp_path / "splits")
    measuring = shared_code("measuring")
    options = ["--image-size", "32", "--batch-size", "4", *words]
    result = measuring.run(measuring.script("keras_transfer.py", tmp_path / "splits", *options)).result
    assert len(result["step_ends"]) == num_steps
    assert result["step_ends"] == sorted(result["step_ends"])
    assert len(result["accuracies"]) == 1
