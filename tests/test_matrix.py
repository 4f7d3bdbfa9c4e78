"""`scripts/test.sh --matrix`: which commands it makes, and what it says of Pythons that aren't here."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def load_script():
    spec = importlib.util.spec_from_file_location("matrix", ROOT / "scripts/matrix.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # Where dataclasses look for their module.
    spec.loader.exec_module(module)
    return module


matrix = load_script()


def test_every_python_that_pyproject_declares_is_in_it():
    declared = [
        line.rsplit(" ", 1)[-1].strip('",')
        for line in (ROOT / "pyproject.toml").read_text().splitlines()
        if "Programming Language :: Python :: 3." in line
    ]
    assert list(matrix.PYTHONS) == declared


def test_a_round_installs_its_versions_and_tests_in_an_environment_of_its_own(capsys):
    ran = []
    assert (
        matrix.run_all(["-k", "a b"], find=lambda version: f"/opt/python{version}", run=lambda c: ran.append(c) or 0)
        == 0
    )
    assert len(ran) == 3 * 3 * 2
    for each, (make, install, test) in zip(matrix.all_rounds(), zip(*[iter(ran)] * 3, strict=True), strict=True):
        python = str(each.environment / "bin/python")
        assert make[:2] == ["uv", "venv"]
        assert make[-2:] == [f"/opt/python{each.python}", str(each.environment)]
        assert install[install.index("--resolution") + 1] == each.resolution
        assert install[install.index("--python") + 1] == python
        assert install[-1] == f"{ROOT}[dev,demo]"
        assert test[:3] == [python, "-m", "pytest"]
        assert test[-2:] == ["-k", "a b"]
    assert len({each.environment for each in matrix.all_rounds()}) == 6
    assert capsys.readouterr().out.count(": passed\n") == 6


def test_what_is_not_here_is_skipped_with_a_word(capsys):
    assert matrix.run_all([], find=lambda version: "/py" if version == "3.12" else None, run=lambda command: 0) == 0
    said = capsys.readouterr().out
    assert said.count("skipped: there is no Python 3.11 here (uv python install 3.11)") == 2
    assert said.count(": passed\n") == 2
    assert matrix.run_all([], find=lambda version: None, run=lambda command: 0) == 2


def test_a_round_that_failed_ends_there_and_others_go_on(capsys):
    ran = []

    def run(command):
        ran.append(command)
        return 7 if "lowest-direct" in command else 0

    assert matrix.run_all([], find=lambda version: "/py", run=run) == 1
    assert len(ran) == 3 * (3 + 2)
    assert capsys.readouterr().out.count("lowest-direct versions: failed: uv pip install ended with 7") == 3


@pytest.mark.parametrize("words", [["--matrix"], ["--matrix", "--dry-run"]])
def test_without_uv_nothing_is_claimed(words, tmp_path):
    (tmp_path / "python3.13").symlink_to(sys.executable)
    path = f"{tmp_path}:/usr/bin:/bin"
    if any((Path(folder) / "uv").exists() for folder in path.split(":")):
        pytest.skip("uv is in a folder of the system")
    done = subprocess.run(
        ["bash", "scripts/test.sh", *words],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={**os.environ, "PATH": path},
    )
    assert done.returncode == 2
    assert done.stderr == "--matrix needs uv, which is not on PATH: pip install uv. Nothing was tested.\n"
    assert not done.stdout
