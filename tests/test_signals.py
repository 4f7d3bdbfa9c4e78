"""Ctrl-C and SIGTERM at every stage of every command: its status, one line, no traceback, nothing half written."""

import os
import pkgutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from broken_server import serving
from image_files import write_class_folders
from test_download import MOBILENET, tar_of
from tiny_runs import write_run

from finetune.commands import convert, download, evaluate, export, predict, train
from finetune.published import cache
from finetune.signals import ended_by_signals, stop_request

STATUS = {signal.SIGINT: 130, signal.SIGTERM: 143}
STOPPED = "stopped; nothing is half written\n"
TINY = ["--batch-size=4", "--max-steps=9", "--eval-every=0"]
HEAD = ["--exclude-scopes=CifarNet/logits", "--trainable-scopes=CifarNet/logits", "--model=cifarnet"]


pytestmark = pytest.mark.usefixtures("signals_of_a_terminal")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def stopped_at(monkeypatch, capsys):
    """Runs a command that gets a signal where it calls a function, and gives what it said on standard error."""

    def run(module, words, function, number=signal.SIGTERM):
        with monkeypatch.context() as patch:
            called = pkgutil.resolve_name(function)
            once = iter([number])  # A second one, from another thread that calls it, would end this process.

            def signalled(*arguments, **options):
                for signal_number in once:
                    os.kill(os.getpid(), signal_number)
                return called(*arguments, **options)

            patch.setattr(function, signalled)
            assert module.main(list(map(str, words))) == STATUS[number]
        said = capsys.readouterr().err
        assert "Traceback" not in said
        return said

    return run


@pytest.mark.parametrize("number", STATUS)
@pytest.mark.parametrize(
    "function",
    [
        "finetune.model.model.Model.freeze",
        "finetune.commands.prepared_run.make_inputs",
        "finetune.trunk.features._rows",
        "finetune.trunk.features.write_json",
        "finetune.runs.run_folder.RunFolder.write_settings",
    ],
)
def test_a_training_before_its_first_step(run, records, tmp_path, stopped_at, function, number):
    new = tmp_path / "new"
    words = [f"--dataset-dir={records}", f"--train-dir={new}", f"--checkpoint={run}", *HEAD, *TINY]
    said = stopped_at(train, [*words, "--cache-features=2", "--cache-memory=0"], function, number)
    assert said.endswith(f"finetune-train: {STOPPED}  There is no checkpoint yet: begin by the same command again.\n")
    kept = [path.name for path in new.rglob("*")]
    assert kept == [] or {path.name for path in new.iterdir()} == {"features"}
    assert not any(name.endswith(".partial") for name in kept)


def test_a_resumption_before_its_first_step(records, tmp_path, stopped_at):
    run = write_run(tmp_path / "a run", dataset_dir=str(records), batch_size=4)
    before = contents(run)
    said = stopped_at(train, ["--resume", f"--train-dir={run}"], "finetune.model.model.Model.freeze")
    assert said.endswith(f"finetune-train: {STOPPED}  Go on by finetune-train --resume --train-dir '{run}'\n")
    assert contents(run) == before


@pytest.mark.parametrize("number", STATUS)
@pytest.mark.parametrize(
    "function", ["finetune.evaluation.scoring.score", "finetune.commands.evaluation_files.write_confusion_matrix"]
)
def test_an_evaluation(run, records, tmp_path, stopped_at, function, number):
    words = [f"--checkpoint={run}", f"--dataset-dir={records}", f"--output-dir={tmp_path / 'out'}", "--no-report"]
    assert stopped_at(evaluate, words, function, number).endswith(f"finetune-eval: {STOPPED}")
    assert not (tmp_path / "out").exists()
    assert evaluate.main(words) == 0
    before = contents(tmp_path)
    assert stopped_at(evaluate, [*words, "--tta=flip"], function, number).endswith(f"finetune-eval: {STOPPED}")
    assert contents(tmp_path) == before


def test_a_prediction(run, records, tmp_path, stopped_at):
    words = [f"--checkpoint={run}", f"--output={tmp_path / 'out.csv'}", records / "images"]
    (tmp_path / "out.csv").write_text("before")
    for function in ("finetune.prediction.stream.prepare_image", "finetune.prediction.writers._cells"):
        assert stopped_at(predict, words, function).endswith(f"finetune-predict: {STOPPED}")
        assert contents(tmp_path) == {"out.csv": b"before"}


def test_an_export(run, tmp_path, stopped_at):
    out = tmp_path / "out"
    out.mkdir()
    (out / "export.json").write_text("before")
    words = [f"--checkpoint={run}", f"--output-dir={out}", "--overwrite"]
    assert stopped_at(export, words, "finetune.exports.measure.measure").endswith(f"finetune-export: {STOPPED}")
    assert contents(tmp_path) == {"out/export.json": b"before"}


def test_a_conversion(tmp_path, stopped_at):
    images = write_class_folders(tmp_path / "images", a=2, b=2)
    out = tmp_path / "out"
    words = [f"--images-dir={images}", f"--dataset-dir={out}", "--workers=1", "--overwrite"]
    for _ in range(2):
        before = contents(tmp_path)
        for function in ("finetune.datasets.shards.encode_record", "finetune.commands.convert._describe"):
            assert stopped_at(convert, words, function).endswith(f"finetune-convert: {STOPPED}")
            assert contents(tmp_path) == before
        assert convert.main(words) == 0


def test_a_download_goes_on_where_it_was_stopped(tmp_path, stopped_at, monkeypatch):
    monkeypatch.setattr(cache, "SHA256", {})
    monkeypatch.setattr("finetune.published.http_download.CHUNK_BYTES", 50_000)
    content = os.urandom(100_000)
    with serving() as server:
        server.files[MOBILENET], server.etags[MOBILENET] = tar_of(**{"net.ckpt.index": content}), '"first"'
        words = ["mobilenet_v1", f"--base-url={server.url}", f"--output-dir={tmp_path}"]
        function = "finetune.published.obtain._unpack"
        assert stopped_at(download, words, function).endswith(f"finetune-download: {STOPPED}")
        assert {path.name for path in tmp_path.iterdir()} == {"archives"}
        assert download.main(words) == 0
        assert len(server.requests) == 1
    assert (tmp_path / "mobilenet_v1" / "net.ckpt.index").read_bytes() == content


# A second one

STOP_TWICE = """
import os, signal, time
from finetune.signals import ended_by_signals
with ended_by_signals():
    try:
        os.kill(os.getpid(), signal.SIGTERM)
    finally:  # What the first one has begun takes long.
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(600)
"""


def test_a_second_signal_ends_a_command_at_once():
    words = [sys.executable, "-c", STOP_TWICE]
    process = subprocess.run(words, cwd=Path(__file__).parents[1], capture_output=True, check=False)
    assert (process.returncode, process.stderr) == (STATUS[signal.SIGTERM], b"")


@pytest.mark.parametrize("handling", [ended_by_signals, stop_request])
def test_what_is_ignored_stays_so_and_what_was_done_is_done_again(handling):
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with handling():
        os.kill(os.getpid(), signal.SIGINT)
        assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
