"""README, CONTRIBUTING and the pages of docs/ are true: commands parse, blocks are sound, what they name exists."""

import ast
import importlib
import re
import shlex
import subprocess
import sys
import tomllib

import pytest
from pages import PAGES, PROJECT, ROOT, blocks, simple_commands

from finetune.commands.verbs import VERBS
from finetune.settings.command_line import parse_flags
from finetune.settings.settings_file import read_toml
from finetune.settings.train import TrainSettings

SCRIPTS = PROJECT["project"]["scripts"]
EXTRAS = PROJECT["project"]["optional-dependencies"]
BENCHMARKS = ROOT / "scripts" / "benchmarks"
ALL_TEXT = "\n".join(PAGES.values())
COMMANDS = [words for block in blocks("bash") for words in simple_commands(block)]
# Programs of others that the pages call, but for `pip`, `python` and `bash`, whose words are looked at.
OTHER_PROGRAMS = {"eval", "find", "mkdocs", "pre-commit", "source", "tensorboard"}
OTHER_FLAGS = {"--logdir", "--matrix"}
FOLDERS, FILES_AT_THE_TOP = (
    r"(?:finetune|scripts|configs|tests|docs|\.ci)/",
    r"[A-Z]+\.md|pyproject\.toml|constraints\.txt",
)
FILES = sorted({*re.findall(rf"`({FOLDERS}[\w./]*|{FILES_AT_THE_TOP})`", ALL_TEXT)})
BENCHMARK_COMMANDS = sorted({*re.findall(r"`(?:scripts/benchmarks/)?(\w+\.py (?:-|\.\.\.).*?)`", ALL_TEXT)})


def own_commands():
    return [words for words in COMMANDS if words[0] in SCRIPTS]


def test_there_are_commands():
    assert {words[0] for words in own_commands()} == {*SCRIPTS}
    assert len(BENCHMARK_COMMANDS) >= 8


@pytest.mark.parametrize("words", own_commands(), ids=shlex.join)
def test_commands_parse(words, monkeypatch):
    program, *words = words
    verb = words.pop(0) if program == "finetune" else program.removeprefix("finetune-")
    module = importlib.import_module(f"finetune.commands.{VERBS[verb].module}")
    parsed = []

    def parse_only(settings_class, function, *, prog, **options):
        parsed.append(parse_flags(settings_class, words, prog=prog, description=""))

    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(module, "run_command", parse_only)
    module.main(words)
    assert parsed


@pytest.mark.parametrize("words", [words for words in COMMANDS if words[0] not in SCRIPTS], ids=shlex.join)
def test_other_commands_are_known(words):
    program, *rest = words
    name = program.rsplit("/", 1)[-1]
    if name in ("bash", "python", "python3"):
        files = [word for word in rest if "/" in word and not word.startswith(".venv")]
        assert all((ROOT / file).is_file() for file in files)
        assert files or rest[:2] == ["-m", "venv"]
    elif name == "pip":
        extras = [extra for word in rest for extra in re.findall(r"\.\[(.*)\]", word)]
        assert all(extra in EXTRAS for extra in ",".join(extras).split(",") if extra)
        assert rest[0] in ("install", "freeze")
    else:
        assert name in OTHER_PROGRAMS


@pytest.mark.parametrize("block", blocks("bash"))
def test_shell_is_sound(block):
    subprocess.run(["bash", "-n", "-c", block], check=True)


@pytest.mark.parametrize("command", BENCHMARK_COMMANDS)
def test_benchmarks_take_their_flags(command, monkeypatch):
    name, *words = shlex.split(command.replace("...", "--images-dir I --checkpoint C"))
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.setattr(sys, "argv", [name, *words])
    assert importlib.import_module(name.removesuffix(".py")).parse_arguments()


def flags_in(*texts):
    return {flag.replace("_", "-") for text in texts for flag in re.findall(r"--\w[\w-]*", text)}


def test_flags_that_are_named_exist(capsys):
    helps = []
    for verb in VERBS.values():
        with pytest.raises(SystemExit, match=r"^0$"):
            verb.load_main()(["--help"])
        helps.append(capsys.readouterr().out)
    sources = [path.read_text(encoding="utf-8") for path in BENCHMARKS.glob("*.py")]
    parsed = [word for words in own_commands() for word in words]  # Also old flags that no help text shows.
    known = flags_in(*helps, *sources, *parsed)
    named = flags_in(*re.findall(r"`([^`\n]+)`", ALL_TEXT))
    assert len(named) >= 40
    assert named - known == OTHER_FLAGS


@pytest.mark.parametrize("block", blocks("python"))
def test_python_is_sound(block):
    for node in ast.walk(ast.parse(block)):
        if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] == "finetune":
            module = importlib.import_module(node.module)
            assert all(hasattr(module, name.name) for name in node.names)


@pytest.mark.parametrize("block", blocks("toml"))
def test_settings_are_read(block, tmp_path):
    path = tmp_path / "settings.toml"
    path.write_text(block, encoding="utf-8")
    assert set(read_toml(TrainSettings, path)) == set(tomllib.loads(block))


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.toml")), ids=lambda path: path.stem)
def test_settings_files_are_read(path):
    read_toml(TrainSettings, path)


@pytest.mark.parametrize("name", FILES)
def test_files_that_are_named_exist(name):
    assert (ROOT / name).exists()


@pytest.mark.parametrize("step", re.findall(r"^\d\. (.*(?:\n   .*)*)", PAGES["CONTRIBUTING.md"], re.MULTILINE))
def test_names_of_the_steps_stand_in_their_files(step):
    codes = re.findall(r"`(.*?)`", step)
    paths = [ROOT / code for code in codes if code in FILES]
    files = [file for path in paths for file in (path.rglob("*.py") if path.is_dir() else [path])]
    words = set(re.findall(r"\w+", "\n".join(file.read_text(encoding="utf-8") for file in files)))
    assert paths
    assert {code for code in codes if code.isidentifier()} <= words


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_links_lead_somewhere(page):
    """Those between the pages of docs/ are tried when the site is built."""
    for target in re.findall(r"\]\((?!https?:)(.*?)\)", PAGES[page]):
        path, _, anchor = target.partition("#")
        assert (ROOT / path).is_file()
        headings = re.findall(r"^#+ (.*)$", (ROOT / path).read_text(encoding="utf-8"), re.MULTILINE) if anchor else []
        assert not anchor or anchor in [re.sub(r"[^\w -]", "", one).lower().replace(" ", "-") for one in headings]


def test_the_readme_is_short():
    assert len(PAGES["README.md"].splitlines()) <= 150


def test_the_table_of_keras_networks_is_that_of_the_records():
    from finetune.nets.keras_networks.table import APPLICATIONS

    rows = re.findall(
        r"^\| `(keras/\w+)` \| ([\d,]+) \| (\d+) \| ([\d.]+) \| `(\w+)` \|$", PAGES["docs/networks.md"], re.MULTILINE
    )
    assert rows == [
        (name, f"{one.num_parameters:,}", str(one.image_size), str(one.top_1), one.preprocessing)
        for name, one in APPLICATIONS.items()
    ]


def test_the_table_of_networks_is_that_of_the_records():
    from finetune.commands.inspect import describe_model
    from finetune.nets import MODELS

    rows = re.findall(
        r"^\| `(\w+)` \| ([\d,]+) \| (\d+) \| ([\d.]*) \| (.*?) \| (\S*) ?\|$", PAGES["docs/networks.md"], re.MULTILINE
    )
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
