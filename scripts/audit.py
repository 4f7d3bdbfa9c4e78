"""Looks the tested versions up among known vulnerabilities, by pip-audit; says where that can't be done.

    python scripts/audit.py

Ends with 1 where a version is vulnerable and a newer one isn't: raise it in constraints.txt. What has no mend yet, and
what could not be looked up, is said.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
VERSIONS = ROOT / "constraints.txt"
SECONDS_FOR_AN_ANSWER = 5


def main() -> int:
    """The command."""
    with tempfile.TemporaryDirectory() as folder:
        # pip-audit ends with 1 for a finding and for a network that isn't there: only what it writes tells them apart.
        answer = Path(folder) / "answer.json"
        audited = subprocess.run(command(answer), capture_output=True, text=True, check=False)
        if not answer.exists():
            reason = (audited.stderr.strip().splitlines() or ["it gave no answer"])[-1]
            print(f"not audited, pip-audit could not ask: {reason[:200]}")
            return 0
        dependencies = json.loads(answer.read_text())["dependencies"]
    lines = [*map(in_words, findings(dependencies)), *not_found(dependencies)]
    print("\n".join(lines) or f"{len(dependencies)} versions of {VERSIONS.name}: no known vulnerability")
    return int(any(finding["fix_versions"] for _, finding in findings(dependencies)))


def command(answer: Path) -> list[str]:
    """pip-audit's, whose answer goes into a file."""
    where = ["--requirement", str(VERSIONS), "--no-deps", "--disable-pip"]
    how = ["--format", "json", "--output", str(answer), "--timeout", str(SECONDS_FOR_AN_ANSWER)]
    return [sys.executable, "-m", "pip_audit", *where, *how, "--progress-spinner", "off"]


def findings(dependencies: list[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Each version with each vulnerability that is known of it."""
    return ((dependency, found) for dependency in dependencies for found in dependency.get("vulns", []))


def in_words(finding: tuple[dict[str, Any], dict[str, Any]]) -> str:
    """A line on one of them."""
    dependency, found = finding
    mend = f"mended in {', '.join(found['fix_versions'])}" if found["fix_versions"] else "no version mends it yet"
    return f"{dependency['name']} {dependency['version']}: {found['id']}, {mend}"


def not_found(dependencies: list[dict[str, Any]]) -> list[str]:
    """A line on those that the service doesn't know; none where it knows all."""
    names = [dependency["name"] for dependency in dependencies if "skip_reason" in dependency]
    if len(names) == len(dependencies):
        return [f"not audited, the service that pip-audit asks knows none of {len(names)} versions"]
    return [f"not audited, not known to the service: {', '.join(names)}"] if names else []


if __name__ == "__main__":
    sys.exit(main())
