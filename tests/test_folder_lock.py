"""Two programs at work in one folder: the second is refused, and a crash leaves nothing that refuses the next."""

import contextlib
import errno
import fcntl
import re
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from image_files import write_class_folders
from tiny_runs import write_records, write_run

import finetune
from finetune.commands import convert, evaluate, export, import_weights, predict, train
from finetune.errors import UserError
from finetune.files.folder_lock import sole_use, sole_writer

HOLD = """
import sys, time
from pathlib import Path
from finetune.files.folder_lock import sole_use
with sole_use(Path(sys.argv[1]), flag="--train-dir", program="finetune-train"):
    print("held", flush=True)
    time.sleep(600)
"""


@contextlib.contextmanager
def written_by_another(path: Path, seconds: float):
    """Another program writes a file for so long."""
    held = threading.Event()

    def write():
        with sole_writer(path, flag="--output", program="another"):
            held.set()
            time.sleep(seconds)

    with ThreadPoolExecutor(1) as executor:
        writing = executor.submit(write)
        held.wait()
        yield
        writing.result()


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


def test_a_second_writer_of_the_same_export_predictions_or_weights_is_refused(run, records, tmp_path, capsys):
    out = tmp_path / "made" / "for" / "it"
    commands = {
        export: [f"--checkpoint={run}", f"--output-dir={out}"],
        predict: [f"--checkpoint={run}", f"--output={out}", "--format=csv", str(records / "images")],
        import_weights: ["--model=mobilenet_v2", f"--output={out}", "weights.npz"],
    }
    for module, words in commands.items():
        with sole_writer(out, flag="--output", program="the first"):
            assert module.main(words) == 2
        assert re.search(rf"--output(-dir)?: another finetune-\w+ is writing {out}", capsys.readouterr().err)
        assert list(out.parent.iterdir()) == []


def test_of_two_evaluations_into_one_folder_the_second_writes_when_the_first_has(run, records, tmp_path, capsys):
    words = [f"--checkpoint={run}", f"--dataset-dir={records}", f"--output-dir={tmp_path}", "--no-report"]
    with written_by_another(tmp_path / "metrics", seconds=3):
        assert evaluate.main(words) == 0
        assert "waiting for its end" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *("confusion_matrix.csv", "metrics.json", "predictions.csv"),
    ]
