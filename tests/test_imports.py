"""Who may import whom, what packages hand on, and what is loaded without need."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = sorted(path.parent.name for path in (ROOT / "finetune").glob("*/__init__.py"))


def test_imports_go_one_way():
    """In a process of its own: the linter sets up logging anew, and with it silences ours."""
    script = "from importlinter.cli import lint_imports; raise SystemExit(lint_imports(no_cache=True))"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_at_the_top_lie_eight_modules_at_most():
    assert len(list((ROOT / "finetune").glob("*.py"))) <= 8


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_says_what_lives_there_and_hands_on_what_it_names(package):
    module = importlib.import_module(f"finetune.{package}")
    assert len(module.__doc__.strip().splitlines()) <= 8
    for name in getattr(module, "__all__", ()):
        assert not (ROOT / "finetune" / package / f"{name}.py").exists()  # Or it would hide the module.
        assert getattr(module, name).__module__.startswith(f"finetune.{package}.")


def test_packages_load_no_tensorflow():
    names = ", ".join(f"finetune.{package}" for package in (*PACKAGES, "api", "model.scopes", "training.schedules"))
    script = f"import sys, {names}; print('tensorflow' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_the_import_paths_of_the_readme_work():
    from finetune.api import train
    from finetune.nets.spec import NetSpec

    assert callable(train)
    assert NetSpec.__name__ == "NetSpec"
