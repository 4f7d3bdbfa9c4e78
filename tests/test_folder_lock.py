"""Two programs at work in one folder: the second is refused, and a crash leaves nothing that refuses the next."""

import errno
import fcntl
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from image_files import write_class_folders
from tiny_runs import write_records, write_run

import finetune
from finetune.commands import convert, train
from finetune.errors import UserError
from finetune.files.folder_lock import sole_use

HOLD = """
import sys, time
from pathlib import Path
from finetune.files.folder_lock import sole_use
with sole_use(Path(sys.argv[1]), flag="--train-dir", program="finetune-train"):
    print("held", flush=True)
    time.sleep(600)
"""


def locked(folder: Path):
    return sole_use(folder, flag="--train-dir", program="finetune-train")


def test_a_killed_program_leaves_no_lock(tmp_path):
    root = Path(finetune.__file__).parents[1]
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], cwd=root, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"held\n"
        with pytest.raises(UserError, match="another finetune-train is at work") as refused, locked(tmp_path):
            pass
        assert "give another --train-dir" in str(refused.value)
        process.send_signal(signal.SIGKILL)
    with locked(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_second_trainer_and_a_second_resumption_are_refused(tmp_path, capsys):
    data = write_records(tmp_path / "data", split="train")
    run = write_run(tmp_path / "run", dataset_dir=str(data), batch_size=4)
    before = sorted(run.iterdir())
    with locked(run):
        assert train.main(["--resume", f"--train-dir={run}", "--max-steps=8"]) == 2
    assert "another finetune-train is at work in" in capsys.readouterr().err
    assert sorted(run.iterdir()) == before
    (tmp_path / "new").mkdir()
    words = [f"--dataset-dir={data}", f"--train-dir={tmp_path / 'new'}", "--model=lenet", "--max-steps=1"]
    with locked(tmp_path / "new"):
        assert train.main([*words, "--batch-size=4"]) == 2
    assert "another finetune-train is at work in" in capsys.readouterr().err


def test_a_second_conversion_is_refused_and_the_first_keeps_its_files(tmp_path, capsys):
    images, out = write_class_folders(tmp_path / "images", a=2, b=2), tmp_path / "out"
    (out / ".out.partial").mkdir(parents=True)
    (out / ".out.partial" / "shard").write_text("being written")
    words = [f"--images-dir={images}", f"--dataset-dir={out}", "--workers=1"]
    with locked(out):
        assert convert.main(words) == 2
    assert "another finetune-convert is at work in" in capsys.readouterr().err
    assert (out / ".out.partial" / "shard").read_text() == "being written"
    assert convert.main(words) == 0


def test_a_file_system_without_locks_is_named_and_worked_in(tmp_path, monkeypatch, caplog):
    def no_locks(*arguments):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with locked(tmp_path):
        assert "file system without locks: nothing keeps a second finetune-train out" in caplog.text


def test_what_cannot_be_written_is_told(tmp_path):
    (tmp_path / ".lock").mkdir()
    with pytest.raises(UserError, match="can't be written"), locked(tmp_path):
        pass
