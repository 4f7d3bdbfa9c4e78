"""What is written is there whole, or what was there before is: after an error, and after a kill at any moment."""

import contextlib
import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from finetune.files import whole_files
from finetune.files.whole_files import (
    append_line,
    complete_sets,
    make_writable,
    sha256,
    uncompleted_sets,
    whole_file,
    whole_folder,
    whole_set,
    write_bytes,
    write_json,
    write_text,
)
from finetune.model.checkpoint import Checkpoint, write_checkpoint
from finetune.runs.run_folder import RunFolder


def contents(folder: Path) -> dict[str, str]:
    """Of all files in a folder and below, by path."""
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def write_set(folder: Path, **files: str) -> None:
    replaced = [path for path in folder.glob("*") if path.is_file()]
    with whole_set(folder, "set", last="index", replaced=replaced) as staging:
        for name, text in files.items():
            (staging / name).write_text(text)


# After an error


@pytest.mark.parametrize("write", [write_text, lambda path, text: write_bytes(path, text.encode()), write_json])
def test_a_file_is_written_beside_its_place(tmp_path, monkeypatch, write):
    path = tmp_path / "file"
    write(path, "old")
    before = path.read_bytes()
    monkeypatch.setattr(Path, "replace", None)  # The last step: whoever calls it fails.
    with pytest.raises(TypeError):
        write(path, "new")
    assert contents(tmp_path) == {"file": before.decode()}


def test_a_file_that_is_left_by_an_error_is_the_old_one(tmp_path):
    (tmp_path / "file").write_text("old")
    with pytest.raises(ZeroDivisionError), whole_file(tmp_path / "file") as file:
        file.write("half of the new")
        file.flush()
        1 / 0  # noqa: B018
    assert contents(tmp_path) == {"file": "old"}


def test_a_device_is_written_to_and_stays_one(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    write_text(pipe, "text")
    assert os.read(reader, 100) == b"text"
    os.close(reader)
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_no_set_and_no_folder_takes_the_place_of_a_device(tmp_path):
    os.mkfifo(tmp_path / "index")
    with pytest.raises(FileExistsError, match="pipe or a device"):
        write_set(tmp_path, index="new", data="new")
    with pytest.raises(FileExistsError, match="pipe or a device"), whole_folder(tmp_path / "index"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["index"]
    assert stat.S_ISFIFO((tmp_path / "index").stat().st_mode)


def test_a_file_is_on_the_disk_before_it_gets_its_name(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: seen.append(sorted(contents(tmp_path))))
    write_text(tmp_path / "file", "text")
    write_set(tmp_path / "set", index="1", data="2")
    staged = ["file", "set/.set.partial/data", "set/.set.partial/index"]
    renames = "set/.set.partial/.renames.json"
    listing = [sorted([*staged, f"{renames}.partial"]), sorted([*staged, renames])]
    assert seen[:6] == [["file.partial"], ["file"], staged, staged, *listing]
    assert seen[6:] == [sorted(["file", "set/data", "set/index", renames])]  # The names too, of the folder.


def test_a_set_takes_the_place_of_another(tmp_path):
    write_set(tmp_path, index="old", data="old", more="old")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").write_text("not of the set")
    write_set(tmp_path, index="new", data="new")
    assert contents(tmp_path) == {"index": "new", "data": "new", "other/file": "not of the set"}


def test_a_set_does_not_take_the_place_of_a_folder(tmp_path):
    write_set(tmp_path, index="old")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "file").write_text("not of the set")
    with pytest.raises(IsADirectoryError):
        write_set(tmp_path, index="new", data="new")
    assert contents(tmp_path) == {"index": "old", "data/file": "not of the set"}


@pytest.mark.parametrize("num_renames", range(5))
def test_an_error_among_the_renames_of_a_set_undoes_them(tmp_path, monkeypatch, num_renames):
    write_set(tmp_path, index="old", data="old", more="old")
    original, renames = Path.rename, []

    def rename(path, target):
        if len(renames) == num_renames:
            monkeypatch.undo()
            raise KeyboardInterrupt
        renames.append(path)
        original(path, target)

    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(KeyboardInterrupt):
        write_set(tmp_path, index="new", data="new")
    assert contents(tmp_path) == {"index": "old", "data": "old", "more": "old"}


def test_an_error_at_the_end_leaves_the_old_folder(tmp_path, monkeypatch):
    folder = tmp_path / "folder"
    with whole_folder(folder) as partial:
        (partial / "file").write_text("old")
    original = Path.rename

    def fail_for_the_new_one(path, target):
        if path.name.endswith(".partial"):
            raise OSError("no")
        return original(path, target)

    monkeypatch.setattr(Path, "rename", fail_for_the_new_one)
    with pytest.raises(OSError, match="no"), whole_folder(folder) as partial:
        (partial / "file").write_text("new")
    assert contents(tmp_path) == {"folder/file": "old"}
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_what_fails_leaves_no_new_folders(tmp_path):
    for whole in (whole_folder, lambda folder: whole_set(folder, "set", last="index")):
        with pytest.raises(ZeroDivisionError), whole(tmp_path / "a" / "b") as partial:
            (partial / "file").write_text("text")
            1 / 0  # noqa: B018
        assert list(tmp_path.iterdir()) == []


def test_the_probe_leaves_nothing_and_tells_of_a_file_in_the_way(tmp_path):
    make_writable(tmp_path / "a" / "b")
    assert list((tmp_path / "a" / "b").iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="exists"):
        make_writable(tmp_path / "file")


# After a kill

KILLED = """
import os, signal, sys
from pathlib import Path
from finetune.files.whole_files import whole_set, write_text

number, folder = int(sys.argv[1]), Path(sys.argv[2])

def countdown(call):
    def counted(*arguments):
        global number
        if number == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        number -= 1
        return call(*arguments)
    return counted

os.fsync, Path.rename, Path.replace = map(countdown, (os.fsync, Path.rename, Path.replace))
{}
"""

NEW_SET = """
with whole_set(folder, "set", last="index", replaced=[folder / "more"]) as staging:
    for name in ("index", "data"):
        (staging / name).write_text("new")
"""

NEW_FOLDER = """
from finetune.files.whole_files import whole_folder
with whole_folder(folder) as partial:
    (partial / "file").write_text("new")
"""


def killed_at(step: int, folder: Path, code: str) -> bool:
    """Runs code in a process that is killed before one of its renames and waits for the disk; False: it had none."""
    words = [sys.executable, "-c", KILLED.format(code), str(step), str(folder)]
    status = subprocess.run(words, cwd=Path(whole_files.__file__).parents[2], check=False).returncode
    assert status in (0, -signal.SIGKILL)
    return status != 0


def visible(folder: Path) -> dict[str, str]:
    return {name: text for name, text in contents(folder).items() if "partial" not in name}


def test_a_kill_leaves_the_old_file(tmp_path):
    write_text(tmp_path / "file", "old")
    states = []
    while killed_at(len(states), tmp_path, "write_text(folder / 'file', 'new')"):
        states.append(visible(tmp_path)["file"])
    assert states == ["old", "old", "new"]
    assert contents(tmp_path) == {"file": "new"}


def test_a_kill_leaves_the_old_set_or_the_new_one_to_be_completed(tmp_path):
    old, new = {"index": "old", "data": "old", "more": "old"}, {"index": "new", "data": "new"}
    states, completed = [], []
    for steps in range(100):
        folder = tmp_path / str(steps)
        write_set(folder, **old)
        if not killed_at(steps, folder, NEW_SET):
            break
        states.append(visible(folder))
        again = tmp_path / f"again_{steps}"
        shutil.copytree(folder, again)
        complete_sets(folder)
        completed.append(visible(folder))
        assert uncompleted_sets(folder) == []
        write_set(again, index="newer", data="newer")  # What the killed one left is no hindrance.
        assert contents(again) == {"index": "newer", "data": "newer"}
    # Before the list of renames has its name the old set is the whole one, from then on the new one.
    away = [{"data": "old", "more": "old"}, {"more": "old"}, {}]
    assert states == [old] * 6 + [*away, {"data": "new"}, new]
    assert completed == [old] * 4 + [new] * 7
    assert contents(folder) == new


def test_a_kill_among_the_renames_of_a_folder_leaves_one_of_the_two(tmp_path):
    states = []
    for steps in range(100):
        folder = tmp_path / str(steps) / "set"
        with whole_folder(folder) as partial:
            (partial / "file").write_text("old")
        if not killed_at(steps, folder, NEW_FOLDER):
            break
        states.append(contents(folder) if folder.exists() else None)
        with contextlib.suppress(ZeroDivisionError), whole_folder(folder):
            1 / 0  # noqa: B018
        assert [path.name for path in folder.parent.iterdir()] == ["set"]
        assert contents(folder) == {"file": "old" if states[-1] == {"file": "old"} else "new"}
    assert states == [{"file": "old"}, None, {"file": "new"}]


# What is written so


def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before(tmp_path, monkeypatch):
    prefix = tmp_path / "model.ckpt-1"
    write_checkpoint(prefix, {"a": np.float32(1)})
    monkeypatch.setattr(os, "fsync", None)
    with pytest.raises(TypeError):
        write_checkpoint(prefix, {"a": np.float32(2)})
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "model.ckpt-1.data-00000-of-00001",
        "model.ckpt-1.index",
    ]
    assert Checkpoint(str(prefix)).read("a") == 1


def test_a_checkpoint_replaces_one_of_more_files(tmp_path):
    prefix = tmp_path / "model.ckpt"
    (tmp_path / "model.ckpt.data-00001-of-00002").touch()
    write_checkpoint(prefix, {"a": np.float32(1)})
    assert len(list(tmp_path.iterdir())) == 2
    assert Checkpoint(str(prefix)).read("a") == 1


def test_a_line_that_broke_off_is_passed_over(tmp_path):
    run = RunFolder(tmp_path)
    run.write_metrics(1, {"loss": 2.0})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "lo')
    assert run.read_metrics() == [{"step": 1, "loss": 2.0}]
    run.forget_metrics_after(1)
    append_line(tmp_path / "metrics.jsonl", json.dumps({"step": 2}))
    assert run.read_metrics() == [{"step": 1, "loss": 2.0}, {"step": 2}]


def test_the_hash_is_that_of_sha256sum(tmp_path):
    (tmp_path / "file").write_bytes(b"abc")
    assert sha256(tmp_path / "file") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_nothing_else_writes_files_in_their_places():
    root = Path(whole_files.__file__).parents[1]
    writing = re.compile(r"\.write_text\(|\.write_bytes\(|open\(\"[wax]b?\"|\.rename\(|\bos\.replace\(|shutil\.move\(")
    found = {
        str(path.relative_to(root)): writing.findall(path.read_text(encoding="utf-8"))
        for path in sorted(root.rglob("*.py"))
        if path.name != "whole_files.py"
    }
    assert {name: calls for name, calls in found.items() if calls} == {
        # Into folders that get their names when they are whole.
        "datasets/tfrecord.py": ['open("wb"'],
        "exports/tflite_model.py": [".write_bytes("],
        "files/shares.py": ['open("wb"'],
        "published/archives.py": ['open("wb"'],
        "trunk/features.py": ['open("wb"', ".write_bytes("],
        # To what is put in its place when all has come.
        "published/http_download.py": ['open("ab"'],
    }
