"""The examples of launchers: what they start, by stand-ins of Slurm and ssh; Ray itself, on this machine."""

import json
import os
import re
import shlex
import subprocess
import sys

import pytest
import yaml
from pages import ROOT
from tiny_runs import write_records

from finetune.commands import train
from finetune.runs.run_folder import RunFolder
from finetune.settings.command_line import parse_flags
from finetune.settings.train import TrainSettings

LAUNCH = ROOT / "scripts" / "launch"
FLAGS = ["--dataset-dir", "the records", "--model", "lenet"]
# In place of the command: who it is by its flags and its environment, and what it is told.
NOTES_ITSELF = f"""#!{sys.executable}
import json, os, sys
sys.path.insert(0, {str(ROOT)!r})
from finetune.cluster.discovery import find_workers
from finetune.settings.command_line import parse_flags
from finetune.settings.train import TrainSettings
settings = parse_flags(TrainSettings, sys.argv[1:], prog="finetune-train", description="")
found = find_workers(settings.cluster, os.environ, is_resumed=settings.run.resume)
told = [found.index, found.number, *found.chief, str(settings.run.train_dir), str(settings.data.dataset_dir)]
with open(os.environ["NOTES"], "a") as notes:
    notes.write(json.dumps([*told, settings.run.resume]) + "\\n")
sys.exit(int(os.environ.get("STATUS", "0")))
"""
SRUN = """#!/usr/bin/env bash
set -e
[[ $1 == --kill-on-bad-exit=1 ]]
shift
export SLURM_STEP_NUM_TASKS=2 SLURM_STEP_NODELIST='node[4-5]' SLURM_JOB_ID=3
for SLURM_PROCID in 0 1; do export SLURM_PROCID; "$@"; done
"""
SSH = """#!/usr/bin/env bash
[[ "$1 $2" == '-o BatchMode=yes' ]] && cd / && eval "${@:4}"
"""


@pytest.fixture
def stand_ins(tmp_path, monkeypatch):
    """A folder of programs that PATH begins with; what was started is noted in a file."""
    programs = {"finetune-train": NOTES_ITSELF, "srun": SRUN, "ssh": SSH}
    (tmp_path / "bin").mkdir()
    for name, text in programs.items():
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("NOTES", str(tmp_path / "notes"))

    def started():
        lines = [json.loads(line) for line in (tmp_path / "notes").read_text().splitlines()]
        (tmp_path / "notes").unlink()
        return sorted(lines)

    return started


def begin_run(folder):
    folder.mkdir()
    (folder / "checkpoint").write_text("")


def test_slurm(stand_ins, tmp_path):
    command = ["bash", LAUNCH / "slurm.sh", tmp_path / "run", *FLAGS]
    subprocess.run(command, check=True)
    told = [2, "node4", 20_021, str(tmp_path / "run"), "the records"]
    assert stand_ins() == [[0, *told, False], [1, *told, False]]
    begin_run(tmp_path / "run")
    subprocess.run(command, check=True)
    assert stand_ins() == [[0, *told, True], [1, *told, True]]


def test_ssh(stand_ins, tmp_path, monkeypatch):
    run = tmp_path / "a run"
    command = ["bash", LAUNCH / "ssh.sh", "node1,node2,node3", run, *FLAGS]
    subprocess.run(command, check=True, cwd=tmp_path)
    told = [3, "node1", 29_400, str(run), "the records"]
    assert stand_ins() == [[index, *told, False] for index in range(3)]
    begin_run(run)
    monkeypatch.setenv("STATUS", "2")
    monkeypatch.setenv("RESTARTS", "1")
    monkeypatch.setenv("PORT", "3000")
    ended = subprocess.run(command, check=False, cwd=tmp_path, capture_output=True, text=True)
    assert ended.returncode == 2
    assert ended.stderr.count("a process ended with status 2: all are started again") == 1
    told[2] = 3000
    assert stand_ins() == sorted([[index, *told, True] for index in range(3)] * 2)


def test_kubernetes():
    service, job = yaml.safe_load_all((LAUNCH / "kubernetes.yaml").read_text())
    assert (service["spec"]["clusterIP"], job["spec"]["completionMode"]) == ("None", "Indexed")
    assert service["spec"]["selector"] == {"job-name": job["metadata"]["name"]}
    pod = job["spec"]["template"]["spec"]
    assert pod["subdomain"] == service["metadata"]["name"]
    (container,) = pod["containers"]
    script, name = container["args"]
    subprocess.run(["bash", "-n", "-c", script], check=True)
    words = shlex.split(script.replace("\\\n", " ").partition("exec finetune-train ")[2])
    settings = parse_flags(TrainSettings, words[: words.index("$@")], prog="finetune-train", description="")
    assert settings.cluster.worker_replicas == job["spec"]["completions"] == job["spec"]["parallelism"]
    (mount,) = container["volumeMounts"]
    assert all(str(path).startswith(mount["mountPath"]) for path in (settings.data.dataset_dir, "/data/runs/all"))
    assert name == job["metadata"]["name"]


def test_headers_name_what_is_there():
    for path in LAUNCH.iterdir():
        if path.is_file():
            assert f"scripts/launch/{path.name}" in path.read_text(), path
    page = (ROOT / "docs" / "scale.md").read_text()
    assert set(re.findall(r"`(\w+\.(?:sh|py|yaml))`", page)) == {
        path.name for path in LAUNCH.iterdir() if path.is_file()
    }


@pytest.mark.slow
def test_ray(tmp_path):
    """Ray Train on two workers of a local cluster makes the steps that one process makes."""
    data = write_records(tmp_path / "records", num_images=6)
    write_records(data, num_images=10, split="train")
    network = ["--model=lenet", "--image-size=8", "--learning-rate=0.001", "--precision=float32"]
    words = [f"--dataset-dir={data}", *network, "--global-batch-size=4", "--max-steps=6", "--log-every=1"]
    ray = [
        sys.executable,
        LAUNCH / "ray_train.py",
        "--num-workers=2",
        "--max-failures=0",
        f"--storage={tmp_path / 'ray'}",
    ]
    process = subprocess.run(
        [*ray, "--", f"--train-dir={tmp_path / 'two'}", *words],
        env={
            **os.environ,
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_memory_monitor_refresh_ms": "0",
            "PYTHONWARNINGS": "ignore",
            "PYTHONPATH": str(ROOT),
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert process.returncode == 0, process.stderr + process.stdout
    assert train.main([f"--train-dir={tmp_path / 'one'}", *words]) == 0
    two, one = (RunFolder(tmp_path / name).read_metrics() for name in ("two", "one"))
    for of_two, of_one in zip(two, one, strict=True):
        assert of_two.get("data_chain") == of_one.get("data_chain")
        assert of_two["loss"] == pytest.approx(of_one["loss"], rel=1e-5)
