"""The README and the pages of docs/ are true: their commands parse, and the files that they name exist."""

import importlib
import re
import shlex
import tomllib
from pathlib import Path

import pytest

from finetune.settings.command_line import parse_flags
from finetune.settings.settings_file import read_toml

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = "\n".join([README, *(page.read_text(encoding="utf-8") for page in sorted((ROOT / "docs").glob("*.md")))])
SCRIPTS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]


def commands():
    blocks = re.findall(r"```bash\n(.*?)```", PAGES, re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line.startswith("finetune-")]


@pytest.mark.parametrize("line", commands())
def test_commands_parse(line, monkeypatch):
    command, *words = shlex.split(line, comments=True)
    module = importlib.import_module(SCRIPTS[command].split(":")[0])
    parsed = []

    def parse_only(settings_class, function, *, prog, **options):
        parsed.append(parse_flags(settings_class, words, prog=prog, description=""))

    monkeypatch.setattr(module, "run_command", parse_only)
    module.main(words)
    assert parsed


def test_there_are_commands():
    assert len(commands()) >= 5


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`((?:finetune|scripts|configs|tests|docs)/[\w./]+)`", PAGES))))
def test_files_that_are_named_exist(name):
    assert (ROOT / name).exists()


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.toml")), ids=lambda path: path.stem)
def test_settings_files_are_read(path):
    from finetune.settings.train import TrainSettings

    read_toml(TrainSettings, path)


def test_the_table_of_networks_is_that_of_the_records():
    from finetune.commands.inspect import describe_model
    from finetune.nets import MODELS

    rows = re.findall(r"^\| `(\w+)` \| ([\d,]+) \| (\d+) \| ([\d.]*) \| (.*?) \| (\S*) ?\|$", README, re.MULTILINE)
    described = [
        (
            model["name"],
            f"{model['num_parameters']:,}",
            str(model["image_size"]),
            "" if model["top_1"] is None else str(model["top_1"]),
            " ".join(f"`{scope}`" for scope in model["head_scopes"]),
            (model["published_file"] or "").rsplit("/", 1)[-1],
        )
        for model in map(describe_model, MODELS.values())
    ]
    assert rows == described
