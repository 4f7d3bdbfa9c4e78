"""`finetune data-service`: a run with input workers is the run without, to the bit; and what they refuse."""

import contextlib
import gc
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from tiny_runs import write_records, write_run

import finetune
from finetune.commands import train
from finetune.commands.data_service import serving
from finetune.datasets import service_watch
from finetune.datasets.data_service import wait_for_service
from finetune.datasets.service_watch import THREAD_NAME
from finetune.errors import UserError
from finetune.model.checkpoint import Checkpoint
from finetune.runs.run_folder import RunFolder

NETWORK = ["--model=lenet", "--image-size=8", "--batch-size=4", "--precision=float32", "--augmentation=flip"]
STEPS = ["--log-every=1", "--eval-every=0", "--max-to-keep=99", "--save-interval-seconds=0"]


def addresses(number):
    """Of ports whose next ones are free as well."""
    found = []
    while len(found) < 2 * number:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port + 1)):
            if not {port, port + 1} & set(found):
                found += [port, port + 1]
    return tuple(f"127.0.0.1:{port}" for port in found[::2])


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = write_records(tmp_path_factory.mktemp("served") / "records", num_images=6)
    write_records(folder, num_images=14, split="train")
    (folder.parent / "weights").mkdir()
    write_run(folder.parent / "weights", "lenet", image_size=8)
    return folder


@pytest.fixture(scope="module")
def workers():
    """Three input workers of this process."""
    named = addresses(3)
    with contextlib.ExitStack() as stack:
        for address in named:
            stack.enter_context(serving(address))
        yield ",".join(named)
        gc.collect()  # A server that is stopped waits for who is just asking it, within the same process for long.
        for thread in threading.enumerate():
            if thread.name == THREAD_NAME:
                thread.join(10)


def begin(data, run, *words):
    given = [f"--dataset-dir={data}", f"--train-dir={run}", f"--checkpoint={data.parent / 'weights'}"]
    return train.main([*given, *NETWORK, *STEPS, *words])


def assert_equal_runs(run, expected, step):
    ours, theirs = (Checkpoint(str(folder / f"model.ckpt-{step}")) for folder in (run, expected))
    for name in theirs.shapes:
        np.testing.assert_array_equal(ours.read(name), theirs.read(name), err_msg=name)
    chains = [
        [row["data_chain"] for row in RunFolder(folder).read_metrics() if "data_chain" in row]
        for folder in (run, expected)
    ]
    assert chains[0] == chains[1]


@pytest.mark.parametrize(
    "more", [[], ["--num-clones=2", "--accumulate-steps=2", "--batch-size=2"]], ids=["one", "two devices"]
)
def test_a_run_with_input_workers_is_the_run_without_also_when_resumed(data, workers, tmp_path, more):
    """Over the end of an epoch, and from a step on that is not of the first worker's."""
    plain = tmp_path / "plain"
    assert begin(data, plain, "--max-steps=9", *more) == 0
    served = tmp_path / "served"
    assert begin(data, served, "--max-steps=4", *more, f"--data-service={workers}") == 0
    assert train.main(["--resume", f"--train-dir={served}", "--max-steps=9", f"--data-service={workers}"]) == 0
    assert_equal_runs(served, plain, 9)


def test_a_stage_of_features_needs_none(data, workers, tmp_path, capsys):
    words = ["--exclude-scopes=LeNet/fc4", "--stages=head:30:0.1,all:3:0.01", f"--data-service={workers}"]
    assert begin(data, tmp_path / "run", *words) == 0
    assert "--data-service has nothing to do here" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--balanced-sampling"], "--data-service doesn't go with --balanced-sampling"),
        (["--data-service=here"], "--data-service: 'here' is no HOST:PORT"),
        (["--data-service=a:1,a:1"], "--data-service names a:1 twice"),
        (["--data-service=a:65535"], "a:65535 has the last port"),
    ],
)
def test_what_is_refused(data, workers, tmp_path, capsys, words, message):
    assert begin(data, tmp_path / "run", f"--data-service={workers}", *words) == 2
    assert message in capsys.readouterr().err


def test_records_by_a_path_of_this_folder(data, tmp_path, monkeypatch):
    """Which input workers, in processes of their own, don't stand in."""
    (address,) = addresses(1)
    serve = [sys.executable, "-m", "finetune", "data-service", f"--address={address}"]
    monkeypatch.chdir(data.parent)
    with subprocess.Popen(serve, stdout=subprocess.DEVNULL, cwd=tmp_path, env=elsewhere()) as worker:
        words = [f"--data-service={address}", "--dataset-dir=records", "--max-steps=2"]
        assert begin(data, tmp_path / "run", *words) == 0
        worker.terminate()


def elsewhere():
    return {**os.environ, "PYTHONPATH": str(Path(finetune.__file__).parents[1])}


def test_batches_that_do_not_come_are_told(monkeypatch, caplog):
    monkeypatch.setattr(service_watch, "SECONDS_WITHOUT_BATCH", 0.1)

    def late():
        time.sleep(0.5)
        yield "a batch"

    assert next(service_watch.watched(late(), [])) == "a batch"
    assert "no batch came for 0.1 s" in caplog.text


def test_who_is_not_there_is_named(capsys):
    (address,) = addresses(1)
    with pytest.raises(UserError, match=rf"input worker {address} can't be reached in time .*: port ") as told:
        wait_for_service((address,), 0.3)
    assert f"finetune data-service --address {address}" in str(told.value)


def test_a_damaged_image_is_named_as_without(data, workers, tmp_path, capsys):
    broken = write_records(tmp_path / "records", num_images=14, split="train")
    (shard,) = broken.glob("*train*.tfrecord")
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 255
    shard.write_bytes(content)
    words = ["--max-steps=9", f"--data-service={workers}", "--dataset-dir", str(broken)]
    assert begin(data, tmp_path / "run", *words) == 2
    assert shard.name in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "Give --address HOST:PORT"),
        (["--address=nowhere"], "--address: 'nowhere' is no HOST:PORT"),
        (["--address=here:65535"], "--address: here:65535 has the last port"),
    ],
)
def test_a_worker_refuses(words, message, capsys):
    from finetune.commands.data_service import main

    assert main(words) == 2
    assert message in capsys.readouterr().err


def test_a_port_that_is_taken_is_told(capsys):
    from finetune.commands.data_service import main

    with socket.create_server(("", 0)) as taken:
        port = taken.getsockname()[1]
        assert main([f"--address=127.0.0.1:{port}"]) == 2
    assert f"--address: port {port} can't be had" in capsys.readouterr().err


def test_the_command_serves_until_it_is_stopped():
    (address,) = addresses(1)
    program = [sys.executable, "-m", "finetune", "data-service", f"--address={address}"]
    with subprocess.Popen(program, stdout=subprocess.PIPE, text=True, env={**os.environ}) as process:
        assert process.stdout.readline() == f"Input worker at {address}; Ctrl-C ends it.\n"
        try:
            wait_for_service((address,), 10)
            process.terminate()
            assert process.wait(60) == 128 + 15
        finally:
            process.kill()


def test_a_worker_that_is_gone_ends_the_training(data, workers, tmp_path):
    """In a process of its own: TensorFlow's threads ask for the worker for as long as theirs lasts."""
    (address,) = addresses(1)
    serve = [sys.executable, "-m", "finetune", "data-service", f"--address={address}"]
    training = [sys.executable, "-m", "finetune", "train", f"--dataset-dir={data}", f"--train-dir={tmp_path / 'run'}"]
    training += [*NETWORK, "--max-steps=1000000", "--save-interval-seconds=0.5", f"--data-service={workers},{address}"]
    with (
        subprocess.Popen(serve, stdout=subprocess.DEVNULL) as worker,
        subprocess.Popen(training, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process,
    ):
        while not RunFolder(tmp_path / "run").has_checkpoint() and process.poll() is None:
            time.sleep(0.1)
        worker.kill()
        said = process.communicate(timeout=120)[1]
    assert process.returncode == 2, said
    assert f"--data-service: input worker {address} is gone" in said
