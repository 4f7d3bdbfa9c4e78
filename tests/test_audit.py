"""`scripts/audit.py`: a vulnerable version ends the checks, a network that isn't there doesn't."""

import importlib.util
import json
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def load_script():
    spec = importlib.util.spec_from_file_location("audit", ROOT / "scripts/audit.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


audit = load_script()

SOUND = {"name": "numpy", "version": "2.4", "vulns": []}
UNKNOWN = {"name": "rich", "skip_reason": "Dependency not found on PyPI"}


def vulnerable(*fix_versions):
    return {"name": "pillow", "version": "9.0.0", "vulns": [{"id": "CVE-1", "fix_versions": list(fix_versions)}]}


@pytest.mark.parametrize(
    ("dependencies", "status", "line"),
    [
        ([SOUND], 0, "1 versions of constraints.txt: no known vulnerability"),
        ([SOUND, vulnerable("9.0.1")], 1, "pillow 9.0.0: CVE-1, mended in 9.0.1"),
        ([vulnerable()], 0, "pillow 9.0.0: CVE-1, no version mends it yet"),
        ([SOUND, UNKNOWN], 0, "not audited, not known to the service: rich"),
        ([UNKNOWN], 0, "not audited, the service that pip-audit asks knows none of 1 versions"),
        (None, 0, "not audited, pip-audit could not ask: no route to host"),
    ],
)
def test_what_pip_audit_answers_is_told(dependencies, status, line, monkeypatch, capsys):
    def answer(words, **_):
        if dependencies is not None:
            Path(words[words.index("--output") + 1]).write_text(json.dumps({"dependencies": dependencies}))
        return subprocess.CompletedProcess(words, 1, "", "Traceback\nno route to host\n")

    monkeypatch.setattr(subprocess, "run", answer)
    assert audit.main() == status
    assert capsys.readouterr().out == f"{line}\n"


def test_pip_audit_knows_the_words():
    words = audit.command(Path("answer.json"))
    help_text = subprocess.run([*words[:3], "--help"], capture_output=True, text=True, check=True).stdout
    assert [word for word in words[3:] if word.startswith("--") and word not in help_text] == []
