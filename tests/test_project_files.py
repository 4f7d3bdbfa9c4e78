"""What stands around the code: the site of the pages, the versions that were tested, the checks before a commit."""

import re
import subprocess
import sys

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from pages import PROJECT, ROOT

import finetune


def read(name):
    return (ROOT / name).read_text(encoding="utf-8")


def test_the_site_is_built_without_a_complaint(tmp_path):
    build = [sys.executable, "-m", "mkdocs", "build", "--strict"]
    places = ["--config-file", ROOT / "mkdocs.yml", "--site-dir", tmp_path]
    process = subprocess.run([*build, *places], capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    pages = {path.parent.name for path in tmp_path.rglob("index.html")}
    assert {path.stem for path in (ROOT / "docs").glob("*.md")} - {"index"} <= pages
    for page in tmp_path.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert not re.findall(r"<(?:script|link|img)[^>]*(?:src|href)=\"(?:https?:)?//", text)


def requirements():
    """Of the package and of the extras that the scripts install."""
    extras = PROJECT["project"]["optional-dependencies"]
    chosen = {**extras, "base": PROJECT["project"]["dependencies"], "gpu": ()}
    found = [Requirement(line) for lines in chosen.values() for line in lines]
    return [one for one in found if one.name != "slim-finetune"]


def test_there_are_requirements():
    assert len(requirements()) > 20


@pytest.mark.parametrize("requirement", requirements(), ids=str)
def test_a_version_within_the_bounds_was_tested(requirement):
    tested = dict(line.split("==") for line in read("constraints.txt").splitlines())
    versions = {canonicalize_name(name): version for name, version in tested.items()}
    assert requirement.specifier.contains(versions[canonicalize_name(requirement.name)])


def test_the_scripts_install_what_was_tested(tmp_path):
    """Anew where either file changed, and not again."""
    for name in ("scripts/environment.sh", "pyproject.toml", "constraints.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(read(name))
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.write_text('#!/bin/sh\necho "$@" >>installed\n')
    python.chmod(0o755)

    def install():
        program = "set -eu; source scripts/environment.sh; make_environment dev,demo"
        variables = {"VIRTUAL_ENV": str(tmp_path), "PATH": f"{python.parent}:/usr/bin:/bin"}
        subprocess.run(["bash", "-c", program], cwd=tmp_path, env=variables, check=True, capture_output=True)
        return (tmp_path / "installed").read_text().splitlines()

    (words,) = install()
    assert words == "-m pip install --quiet --constraint constraints.txt --editable .[dev,demo]"
    assert len(install()) == 1
    for number, name in enumerate(("constraints.txt", "pyproject.toml"), start=2):
        with (tmp_path / name).open("a") as file:
            file.write("\n")
        assert len(install()) == number
        assert len(install()) == number


def test_commits_are_checked_as_the_tests_do():
    hooks = [hook for repo in yaml.safe_load(read(".pre-commit-config.yaml"))["repos"] for hook in repo["hooks"]]
    checks = read("scripts/test.sh").splitlines()
    assert [hook["entry"].split()[0] for hook in hooks] == ["ruff", "ruff", "mypy"]
    for hook in hooks:
        assert any(line.startswith(hook["entry"].removesuffix(" --force-exclude")) for line in checks)


def test_the_version_is_in_the_changelog():
    headings = re.findall(r"^## (.*)$", read("CHANGELOG.md"), re.MULTILINE)
    assert headings[0] == "Unreleased"
    assert re.fullmatch(rf"{re.escape(finetune.__version__)} \(\d{{4}}-\d\d-\d\d\)", headings[1])


def test_no_line_installs_the_other_project_of_this_name():
    """`finetune` on the public index is somebody else's: here pip is given the folder, or the name of this one."""
    assert PROJECT["project"]["name"] == "slim-finetune"
    named = re.compile(r"""pip3? install[^\n]*[\s"']finetune(?![\w/.-])|["']finetune\[""")
    folders = [ROOT / name for name in ("docs", "finetune", "scripts", "configs")]
    files = [path for folder in folders for path in folder.rglob("*") if path.suffix in (".py", ".md", ".sh", ".toml")]
    for path in (*files, *ROOT.glob("*.md"), *ROOT.glob("*.t*")):
        if path.name != "CHANGELOG.md":
            assert not named.search(path.read_text(encoding="utf-8")), path
