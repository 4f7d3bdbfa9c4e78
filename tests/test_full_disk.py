"""Every command on a full disk: nothing is lost that was whole, and what is told names the file and the mend."""

import contextlib
import errno
import gc
import io
import json
import multiprocessing.synchronize
import os
import re
import resource
import shutil
import subprocess
import tarfile
import urllib.parse
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from broken_server import serving
from image_files import encode, picture

from finetune.commands import convert, download, evaluate, export, import_weights, inspect, predict, train
from finetune.errors import UserError
from finetune.files.whole_files import append_line, sha256, whole_folder, whole_set, write_json, write_text
from finetune.files.write_errors import naming, with_room, write_errors_told
from finetune.model.checkpoint import Checkpoint, checkpoints_by_step, write_checkpoint
from finetune.published import cache, http_download
from finetune.published.catalogue import get_published
from finetune.runs.spare_files import delete_spare_files

NO_SPACE = "can't be written: No space left on device."
MIB = 1 << 20


class Disk:
    """A file system of its own that can be filled to the last byte."""

    def __init__(self, folder):
        self.folder = folder

    def fill(self, left=0):
        """Until no more than so many bytes can be written."""
        with contextlib.suppress(OSError), (self.folder / "filling").open("wb", buffering=0) as file:
            while file.write(bytes(4096)):
                pass
        with (self.folder / "filling").open("rb+") as file:
            file.truncate(file.seek(0, os.SEEK_END) - left)

    def make_room(self):
        (self.folder / "filling").unlink()


@pytest.fixture(scope="module")
def mounted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("disk")
    command = ["mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("a small file system can't be mounted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture
def disk(mounted):
    yield Disk(mounted)
    for path in mounted.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Image files of two classes, ten of each."""
    folder = tmp_path_factory.mktemp("images")
    for index in range(20):
        path = folder / ("red", "blue")[index % 2] / f"{index:02}.jpg"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(encode(picture(index, width=40 + index)))
    return folder


def contents(folder):
    """The hash of each file in a folder and below, by path, hidden ones too."""
    return {str(path.relative_to(folder)): sha256(path) for path in folder.rglob("*") if path.is_file()}


def convert_words(run, records, images, folder, workers=1):
    return [f"--images-dir={images}", f"--dataset-dir={folder}", f"--workers={workers}", "--overwrite"]


# The command, its words, and a pattern of the file that is named. Each writes into the folder that it is given.
COMMANDS = {
    "convert": (convert.main, convert_words, "*.tfrecord"),
    "convert, two processes": (convert.main, lambda *a: convert_words(*a, workers=2), "*.tfrecord"),
    "evaluate": (
        evaluate.main,
        lambda run, records, images, folder: [
            f"--checkpoint={run}",
            f"--dataset-dir={records}",
            f"--output-dir={folder}",
            "--write-logits",
        ],
        "metrics.json",
    ),
    "predict": (
        predict.main,
        lambda run, records, images, folder: [
            f"--checkpoint={run}",
            f"--output={folder / 'predictions.csv'}",
            str(images),
        ],
        "predictions.csv",
    ),
    **{
        f"export {name}": (
            export.main,
            lambda run, records, images, folder, name=name: [
                f"--checkpoint={run}",
                f"--format={name}",
                f"--output-dir={folder / 'export'}",
                "--overwrite",
            ],
            "labels.txt",  # The first to be written.
        )
        for name in ("saved_model", "tflite")
    },
}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_full_disk_keeps_what_was_there_and_is_told_in_two_lines(name, run, records, images, disk, capsys):
    main, words, named = COMMANDS[name]
    folder = disk.folder / "out"
    folder.mkdir()
    assert main(words(run, records, images, folder)) == 0
    before = contents(folder)
    disk.fill()
    capsys.readouterr()
    assert main(words(run, records, images, folder)) == 2
    complaint, mend = capsys.readouterr().err.splitlines()[-2:]
    file = Path(complaint.split(": ")[1].removesuffix(" can't be written"))
    assert file.match(named)
    assert file.is_relative_to(folder)
    assert complaint.endswith(NO_SPACE)
    assert mend == "  Make room there, and give the command again."
    assert contents(folder) == before
    assert not list(folder.rglob("*.partial*"))


@pytest.mark.parametrize("name", ["convert", "evaluate", "export tflite"])
def test_the_first_time_nothing_is_left(name, run, records, images, disk):
    main, words, _ = COMMANDS[name]
    disk.fill(left=8192)
    assert main(words(run, records, images, disk.folder / "out")) == 2
    assert [path.name for path in disk.folder.iterdir()] == ["filling"]


def test_weights_that_there_is_no_room_for(run, disk, tmp_path, capsys):
    exported = tmp_path / "weights.npz"
    checkpoint = Checkpoint(str(run / "model.ckpt-7"))
    np.savez(exported, **{name: checkpoint.read(name) for name in checkpoint.shapes if name != "global_step"})
    disk.fill(left=100_000)
    words = [str(exported), "--model=cifarnet", f"--output={disk.folder / 'imported.ckpt'}"]
    assert import_weights.main(words) == 2
    assert f"{disk.folder / 'imported.ckpt'} {NO_SPACE}" in capsys.readouterr().err
    assert [path.name for path in disk.folder.iterdir()] == ["filling"]


def train_words(run, records, folder, *words):
    return [
        f"--checkpoint={run}",
        f"--dataset-dir={records}",
        f"--train-dir={folder}",
        "--model=cifarnet",
        "--trainable-scopes=CifarNet/logits",
        "--cache-features=off",
        "--batch-size=4",
        "--log-every=1",
        "--eval-every=2",
        "--save-interval-seconds=0",
        "--precision=float32",
        *words,
    ]


def resume(folder, *words):
    return train.main([f"--train-dir={folder}", "--resume", *words])


def figures(folder):
    """Of a run's metrics, without those that are of the clock."""
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [{key: value for key, value in line.items() if key != "images_per_second"} for line in lines]


def values(prefix):
    checkpoint = Checkpoint(str(prefix))
    return {name: checkpoint.read(name).tobytes() for name in checkpoint.shapes}


@pytest.fixture(scope="module")
def unbroken(run, records, tmp_path_factory):
    """A run of six steps that had room."""
    folder = tmp_path_factory.mktemp("unbroken") / "run"
    assert train.main(train_words(run, records, folder, "--max-steps=6", "--max-to-keep=2")) == 0
    return folder


def assert_same_run(folder, unbroken):
    assert values(folder / "model.ckpt-6") == values(unbroken / "model.ckpt-6")
    assert figures(folder) == figures(unbroken)
    assert json.loads((folder / "best.json").read_text()) == json.loads((unbroken / "best.json").read_text())
    assert not list(folder.rglob("*.partial*"))


def test_a_run_whose_disk_fills_goes_on_when_there_is_room(run, records, unbroken, disk, capsys):
    folder = disk.folder / "run"
    size = (unbroken / "model.ckpt-6.data-00000-of-00001").stat().st_size
    disk.fill(left=int(1.7 * size))
    capsys.readouterr()
    assert train.main(train_words(run, records, folder, "--max-steps=6", "--max-to-keep=2")) == 2
    complaint, mend = capsys.readouterr().err.splitlines()[-2:]
    assert complaint == f"finetune-train: {folder / 'model.ckpt-2'} {NO_SPACE}"
    assert mend == f"  Make room there. Go on by finetune-train --resume --train-dir {folder}"
    assert checkpoints_by_step(folder) == [str(folder / "model.ckpt-1")]
    assert not (folder / "best.json").exists()  # The best was to be model.ckpt-2.
    assert not list(folder.rglob("*.partial*"))
    before = contents(folder)

    disk.fill()
    assert resume(folder) == 2
    assert f"{folder / 'metrics.jsonl'} {NO_SPACE}" in capsys.readouterr().err
    assert contents(folder) == before

    disk.make_room()
    assert resume(folder) == 0
    assert_same_run(folder, unbroken)


def test_a_run_removes_what_it_can_do_without_before_it_gives_up(run, records, unbroken, disk, capsys):
    folder = disk.folder / "run"
    assert train.main(train_words(run, records, folder, "--max-steps=4", "--max-to-keep=4")) == 0
    best = json.loads((folder / "best.json").read_text())["checkpoint"]
    spare = {"model.ckpt-1", "model.ckpt-2", "model.ckpt-3"} - {best}
    disk.fill()
    capsys.readouterr()
    assert resume(folder, "--max-steps=6", "--max-to-keep=1") == 0
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("There was no room left")]
    assert told == [f"There was no room left in {folder}: to make some, {', '.join(sorted(spare))} went."]
    assert_same_run(folder, unbroken)


def test_a_run_without_room_for_its_first_checkpoint_leaves_nothing(run, records, disk, capsys):
    disk.fill(left=100_000)
    assert train.main(train_words(run, records, disk.folder / "run", "--max-steps=1")) == 2
    assert [path.name for path in disk.folder.iterdir()] == ["filling"]
    assert capsys.readouterr().err.endswith(
        "  Make room there. There is no checkpoint yet: begin by the same command again.\n"
    )


@pytest.mark.slow
def test_figures_of_a_new_run_that_there_is_no_room_for(run, records, disk, capsys):
    named = set()
    for left in range(12, 32, 4):  # A page more at a time.
        disk.fill(left=1024 * left)
        assert train.main(train_words(run, records, disk.folder / "run", "--max-steps=1")) == 2
        error = capsys.readouterr().err
        assert "function_node" not in error
        named.add(Path(error.splitlines()[-2].split()[1]).name.split(".tfevents")[0])
        assert [path.name for path in disk.folder.iterdir()] == ["filling"]
        disk.make_room()
    assert named >= {"events.out", "metrics.jsonl"}


def test_features_of_a_run_that_goes_on_are_not_done_without(run, records, disk, capsys):
    words = ["--exclude-scopes=CifarNet/logits", "--cache-features=1", "--cache-memory=0", "--eval-every=0"]
    folder = disk.folder / "run"
    assert train.main(train_words(run, records, folder, *words, "--max-steps=2")) == 0
    shutil.rmtree(folder / "features")
    before = contents(folder)
    disk.fill()
    capsys.readouterr()
    assert resume(folder, "--max-steps=3") == 2
    complaint, mend = capsys.readouterr().err.splitlines()[-2:]
    assert complaint.startswith(f"finetune-train: {folder / 'features'} can't be written: No space left on device: ")
    assert mend.startswith("  Make room there. Go on by ")
    assert contents(folder) == before


@pytest.fixture
def spare_run(tmp_path):
    """Checkpoints of five steps, of which the second is the best and the last is damaged, and features of two views."""
    for step in range(1, 6):
        write_checkpoint(tmp_path / f"model.ckpt-{step}", {"w": np.ones(9, np.float32), "global_step": np.int64(step)})
    write_json(tmp_path / "best.json", {"checkpoint": "model.ckpt-2"})
    (tmp_path / "model.ckpt-5.data-00000-of-00001").write_bytes(b"")
    for view in ("view_0", "view_1"):
        (tmp_path / "features" / view).mkdir(parents=True)
    return tmp_path


@pytest.mark.parametrize(("num_kept", "kept"), [(0, [2, 4]), (2, [2, 4, 5]), (4, [2, 3, 4, 5]), (5, [1, 2, 3, 4, 5])])
def test_the_last_whole_checkpoint_and_the_best_are_never_spare(spare_run, num_kept, kept):
    assert delete_spare_files(spare_run, num_kept, ["view_0", "view_1"]) == (len(kept) < 5)
    # The damaged one holds nothing: it goes where no place is left for it.
    assert checkpoints_by_step(spare_run) == [str(spare_run / f"model.ckpt-{step}") for step in kept]


def test_features_that_are_read_are_not_spare(spare_run, caplog):
    assert delete_spare_files(spare_run, 5, ["view_0"])
    assert [path.name for path in (spare_run / "features").iterdir()] == ["view_0"]
    assert "to make some, features/view_1 went" in caplog.text
    assert not delete_spare_files(spare_run, 5, ["view_0"])


def test_a_line_is_appended_whole_or_not_at_all(disk):
    path = disk.folder / "lines.jsonl"
    append_line(path, "x" * 4000)
    disk.fill()
    with pytest.raises(OSError, match=r"No space left.*lines\.jsonl"):
        append_line(path, "y" * 4000)  # Of which 95 bytes find room.
    assert path.read_text() == "x" * 4000 + "\n"


@pytest.fixture
def file_limit():
    """Files may hold 64 KiB."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def write_in_folder(path):
    with whole_folder(path.parent / "new") as folder:
        (folder / path.name).write_bytes(bytes(MIB))


def write_in_set(path):
    with whole_set(path.parent, "set", last=path.name) as folder:
        (folder / path.name).write_bytes(bytes(MIB))


@pytest.mark.parametrize(
    "write",
    [
        lambda path: write_text(path, "x" * MIB),
        lambda path: append_line(path, "x" * MIB),
        lambda path: write_checkpoint(path, {"w": np.zeros(MIB, np.float32)}),
        write_in_folder,
        write_in_set,
    ],
    ids=["text", "line", "checkpoint", "folder", "set"],
)
def test_a_file_too_large_for_its_limit_is_named(write, tmp_path, file_limit):
    with pytest.raises(UserError) as caught, write_errors_told():
        write(tmp_path / "file")
    complaint, mend = str(caught.value).splitlines()
    assert re.fullmatch(rf"{tmp_path}(/file|/new)? can't be written: File too large\.", complaint)
    assert "ulimit -f" in mend
    assert not [path for path in tmp_path.rglob("*") if path.stat().st_size]


@pytest.mark.parametrize(
    ("error", "name"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "F"),
        (OSError(errno.ENOSPC, "No space left on device", "F.partial"), "F"),
        (OSError(errno.ENOSPC, "No space left on device", "F.partial/a/b"), "F/a/b"),
        (OSError(errno.EDQUOT, "Disk quota exceeded", "/tmp/other"), "/tmp/other"),
        (OSError("Can't write data (error message = 'No space left on device', buf = 0x1)"), "F"),
        (
            tf.errors.ResourceExhaustedError(None, None, "{{function_node __wrapped__X}} F; No space left on device"),
            "F",
        ),
        (
            tf.errors.ResourceExhaustedError(None, None, "{{node X}} /tmp/a b; No space left on device [Op:X]"),
            "/tmp/a b",
        ),
        (
            tf.errors.FailedPreconditionError(None, None, "/x/F.partial/part-0; Read-only file system"),
            "/x/F.partial/part-0",
        ),
    ],
)
def test_errors_of_all_writers_name_the_file_and_the_reason(error, name):
    with pytest.raises(OSError, match=r"^\[Errno") as caught, naming(Path("F"), Path("F.partial")):
        raise error
    assert caught.value.filename == name
    assert caught.value.strerror == os.strerror(caught.value.errno)


def test_other_errors_pass():
    for error in (
        ValueError("no"),
        FileNotFoundError(errno.ENOENT, "No such file", "x"),
        UserError("No space left on device"),
    ):
        with pytest.raises(type(error)) as caught, naming(Path("F")):
            raise error
        assert caught.value is error


@pytest.mark.parametrize(
    ("number", "is_freed", "num_tries"), [(errno.ENOSPC, True, 2), (errno.ENOSPC, False, 1), (errno.EROFS, True, 1)]
)
def test_room_is_made_once_and_where_it_helps(number, is_freed, num_tries):
    tries = []

    def write():
        tries.append(1)
        raise OSError(number, os.strerror(number), "F")

    with pytest.raises(OSError, match="F"):
        with_room(write, lambda: is_freed)
    assert len(tries) == num_tries


def test_a_log_file_that_takes_no_more_is_told_and_the_work_goes_on(run, records, disk, capsys):
    disk.fill()
    words = train_words(run, records, disk.folder / "run", "--max-steps=1", f"--log-dir={disk.folder}")
    assert train.main(words) == 2
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if "Its lines come here from now on" in line] == lines[:1]
    assert lines[-2].endswith(NO_SPACE)


def test_standard_output_on_a_full_disk(monkeypatch, capsys):
    if not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full here")
    with Path("/dev/full").open("wb", buffering=0) as full:
        monkeypatch.setattr("sys.stdout", io.TextIOWrapper(full, write_through=True))
        assert inspect.main(["--models"]) == 2
    assert f"finetune-inspect: Standard output {NO_SPACE}" in capsys.readouterr().err


def test_a_download_goes_on_when_there_is_room(disk, capsys, monkeypatch):
    monkeypatch.setattr(cache, "SHA256", {})
    content = os.urandom(3 * MIB)
    with serving() as server:
        server.files["/file.bin"], server.etags["/file.bin"] = content, '"first"'
        disk.fill(left=2 * MIB)
        with pytest.raises(UserError, match=r"file\.bin can't be written: No space left.*\n.*goes on where it stopped"):
            http_download.download(f"{server.url}/file.bin", disk.folder / "file.bin")
        assert not (disk.folder / "file.bin").exists()
        disk.make_room()
        http_download.download(f"{server.url}/file.bin", disk.folder / "file.bin")
        assert server.requests[-1][1] is not None  # Which part is missing.
    assert (disk.folder / "file.bin").read_bytes() == content


def test_what_was_downloaded_stays_where_there_is_no_room_to_unpack_it(disk, capsys, monkeypatch):
    monkeypatch.setattr(cache, "SHA256", {})
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as tar:
        member = tarfile.TarInfo("mobilenet_v1_1.0_224.ckpt.index")
        member.size = 8 * MIB
        tar.addfile(member, io.BytesIO(bytes(member.size)))
    url = get_published("mobilenet_v1").urls[0]
    with serving() as server:
        server.files[urllib.parse.urlsplit(url).path] = archive.getvalue()
        disk.fill(left=4 * MIB)
        words = ["mobilenet_v1", f"--output-dir={disk.folder / 'cache'}", f"--base-url={server.url}"]
        assert download.main(words) == 2
        assert NO_SPACE in capsys.readouterr().err
        assert [path.name for path in (disk.folder / "cache").iterdir()] == ["archives"]
        disk.make_room()
        assert download.main(words) == 0
        assert len(server.requests) == 1


def test_processes_that_failed_leave_no_semaphores(images, disk):
    def semaphores():
        return [thing for thing in gc.get_objects() if isinstance(thing, multiprocessing.synchronize.SemLock)]

    before = len(semaphores())
    disk.fill()
    gc.disable()  # The program ends before it would come to them.
    try:
        assert convert.main(convert_words(None, None, images, disk.folder / "out", workers=2)) == 2
        assert len(semaphores()) == before
    finally:
        gc.enable()
