"""`scripts/quickstart.sh`, its commands replaced by lines in a log: where the published weights can't be had, too."""

import os
import subprocess

import pytest
from pages import ROOT

SCRIPTS = ("scripts/quickstart.sh", "scripts/environment.sh", "pyproject.toml", "constraints.txt")
# What each command leaves behind, in place of the work.
COMMANDS = {
    "finetune-download": "exit $DOWNLOAD_STATUS",
    "finetune-import": 'mkdir -p "$(dirname "${@: -1}")"; touch "${@: -1}.index"',
    "finetune-convert": "mkdir -p quickstart/records; touch quickstart/records/dataset.json",
    "finetune-train": "mkdir -p quickstart/run; touch quickstart/run/model.ckpt-2000.index",
    "finetune-eval": "true",
    # pip download leaves the package, whose data the script unpacks.
    "python": """if [[ " $* " == *" download "* ]]; then
      cd quickstart/weights
      mkdir -p nudity-0.2.3/nudity/files
      touch nudity-0.2.3/nudity/files/retrained_graph.pb
      tar -czf nudity-0.2.3.tar.gz nudity-0.2.3
    fi""",
}


@pytest.fixture
def quickstart(tmp_path):
    """Runs the script in a folder of its own; gives its outcome and the commands that it ran."""
    for name in SCRIPTS:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text((ROOT / name).read_text(encoding="utf-8"), encoding="utf-8")
    (tmp_path / "bin").mkdir()
    for name, work in COMMANDS.items():
        program = tmp_path / "bin" / name
        program.write_text(f'#!/usr/bin/env bash\nset -e\necho "{name} $*" >>"$LOG"\n{work}\n')
        program.chmod(0o755)

    def run(download_status):
        log = tmp_path / "log"
        log.unlink(missing_ok=True)
        variables = {
            **{"PATH": f"{tmp_path}/bin:{os.defpath}", "VIRTUAL_ENV": str(tmp_path)},
            **{"LOG": str(log), "DOWNLOAD_STATUS": str(download_status)},
        }
        words = ["bash", str(tmp_path / SCRIPTS[0])]
        done = subprocess.run(words, env=variables, capture_output=True, text=True, check=False)
        return done, [line.split()[0] for line in log.read_text().splitlines()]

    return run


def test_weights_come_from_the_package_where_the_archive_can_not_be_had(quickstart):
    done, commands = quickstart(download_status=2)
    assert done.returncode == 0, done.stderr
    assert commands[-6:] == [
        *("finetune-download", "python", "finetune-import"),
        *("finetune-convert", "finetune-train", "finetune-eval"),
    ]
    assert "nudity 0.2.3 (MIT) instead" in done.stdout


def test_what_is_done_is_not_done_again(quickstart):
    quickstart(download_status=2)
    done, commands = quickstart(download_status=2)
    assert done.returncode == 0, done.stderr
    assert [command for command in commands if command != "python"] == ["finetune-eval"]


def test_published_weights_are_enough(quickstart):
    done, commands = quickstart(download_status=0)
    assert done.returncode == 0, done.stderr
    assert "finetune-import" not in commands
