"""What stands in one place stays there: names of flags, networks, data sets and files, the version, what is cited."""

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_flag_rules import ALL_FLAGS

import finetune
from finetune.nets import MODELS
from finetune.preprocessing import FAMILIES
from finetune.published.known_datasets import KNOWN_DATASETS
from finetune.settings.absl_flags import LOG_FLAGS
from finetune.settings.choices import PUBLISHED_DATASETS
from finetune.settings.flags import dashed

PACKAGE = Path(finetune.__file__).parent
ROOT = PACKAGE.parent
TREES = {str(path.relative_to(PACKAGE)): ast.parse(path.read_text("utf-8")) for path in sorted(PACKAGE.rglob("*.py"))}

FLAGS = [flag for _, flag in ALL_FLAGS]
# Of all commands, and what the documentation of flags calls any.
COMMON_FLAGS = {"--help", "--version", "--config", "--flag", "--no-flag", "--noflag"}
# absl's, beside those for logging; `--v` is absl's short name of `--verbosity`.
ABSL_FLAGS = {"--flagfile", "--undefok", "--v"}


def strings(tree: ast.AST) -> Iterator[ast.Constant]:
    """String literals, docstrings and the constant parts of f-strings among them."""
    return (node for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str))


def test_flags_are_called_by_their_names():
    """Not by slim's names of them either, which are no use where `--help` is looked at."""
    known = COMMON_FLAGS | ABSL_FLAGS | {flag.option for flag in LOG_FLAGS} | {dashed(flag.name) for flag in FLAGS}
    known |= {f"--no-{dashed(flag.name)[2:]}" for flag in FLAGS if flag.kind is bool}
    unknown = {
        (name, word)
        for name, tree in TREES.items()
        for literal in strings(tree)
        for word in re.findall(r"(?<![\w-])--[a-z][\w-]*", literal.value)
        if word not in known
    }
    slims = {("nets/spec.py", "--model_name"), ("training/moving_averages.py", "--moving_average_decay")}
    of_tensorboard = {("training/profile.py", "--logdir")}
    assert unknown == slims | of_tensorboard  # They are said to be.


# Files of slim and of TensorFlow's examples, which are cited as theirs.
FILES_OF_OTHERS = {
    *("cifarnet_preprocessing.py", "inception_preprocessing.py", "lenet_preprocessing.py", "vgg_preprocessing.py"),
    *("train_image_classifier.py", "nets/mobilenet_v1.md", "retrain.py"),
}


def test_documents_and_programs_that_are_cited_are_there():
    cited = re.compile(r"(?<![\w*/.-])[\w/.-]+\.(?:md|rst|py|sh)\b")
    lost = set()
    for name in TREES:
        folders = (ROOT, PACKAGE, (PACKAGE / name).parent)
        for file in set(cited.findall((PACKAGE / name).read_text("utf-8"))) - FILES_OF_OTHERS:
            if not any((folder / file).is_file() for folder in folders):
                lost.add((name, file))
    assert lost == set()


def decisions(tree: ast.AST) -> Iterator[str]:
    """The strings that something is compared with, or is asked to begin or end with."""
    for node in ast.walk(tree):
        parts: list[ast.expr] = []
        if isinstance(node, ast.Compare):
            parts = [node.left, *node.comparators]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            parts = node.args if node.func.attr in ("startswith", "endswith", "removeprefix") else []
        elif isinstance(node, ast.match_case):
            parts = [node.pattern]  # type: ignore[list-item]
        for part in parts:
            yield from (literal.value for literal in strings(part))


# Begins the names of some preprocessings, and is that of a program, of a kind of file, and of an augmentation.
KERAS = "keras"


def test_nothing_is_decided_by_the_name_of_a_network_a_preprocessing_or_a_data_set():
    """What sets one apart stands in its own file, or in a table under its name."""
    names = {*MODELS, *FAMILIES, *KNOWN_DATASETS}

    def is_about_one(word: str) -> bool:
        return word in names or (len(word) > 2 and word != KERAS and any(name.startswith(word) for name in names))

    found = {name: [word for word in decisions(tree) if is_about_one(word)] for name, tree in TREES.items()}
    assert {name: words for name, words in found.items() if words} == {}


def test_a_data_set_can_be_downloaded_if_it_has_addresses():
    assert [name for name, known in KNOWN_DATASETS.items() if known.urls] == list(PUBLISHED_DATASETS)


@pytest.mark.parametrize("name", ["labels.txt", "dataset.json", "config.toml", "metrics.jsonl", "best.json"])
def test_the_name_of_a_file_stands_once(name):
    places = [place for place, tree in TREES.items() for literal in strings(tree) if literal.value == name]
    assert len(places) == 1


def test_the_version_stands_once():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    assert "version" not in project["project"]
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "finetune.__version__"}
