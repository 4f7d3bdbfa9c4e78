"""docs/from_tutorials.md: our lines run as they stand, in the notebook made of them; the tutorial's are sound."""

import ast
import importlib.util
import json
import os
import re
import subprocess
import sys

import pytest
import tensorflow as tf
import tf_slim
from pages import PAGES, ROOT, blocks
from test_tour import write_published_files

from finetune.model.checkpoint import write_checkpoint
from finetune.model.model import Model
from finetune.nets import get_spec


def load_script():
    spec = importlib.util.spec_from_file_location("make_notebook", ROOT / "scripts/make_notebook.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


make_notebook = load_script()
NOTEBOOK = make_notebook.NOTEBOOK
PAGE = PAGES["docs/from_tutorials.md"]
# Reads a notebook as a kernel does: one cell of code after the other, in one namespace.
RUN = """
import json, sys
cells = json.load(open(sys.argv[1], encoding="utf-8"))["cells"]
names = {}
for number, cell in enumerate(cells):
    if cell["cell_type"] == "code":
        exec(compile("".join(cell["source"]), f"<cell {number}>", "exec"), names)
"""


def test_the_notebook_is_made_of_the_page():
    assert NOTEBOOK.read_text(encoding="utf-8") == make_notebook.notebook_text(PAGE), (
        "Run python scripts/make_notebook.py."
    )


def test_its_code_is_our_lines_and_its_text_all_else():
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    code = ["".join(cell["source"]) + "\n" for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert code == blocks("python", PAGE)
    text = "\n\n".join("".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "markdown")
    assert all(block in text for block in blocks("py", PAGE))
    for path in re.findall(r"\]\((?!https?:)([^)#]*)", text):
        assert (NOTEBOOK.parent / path).is_file()
    assert len({cell["id"] for cell in notebook["cells"]}) == len(notebook["cells"])


def write_keras_weights(folder):
    """What Keras's download leaves behind: here weights that know nothing."""
    model = Model(get_spec("keras/inception_v3"), 1000)
    values = {name: variable.numpy() for name, variable in model.model_variables.items()}
    write_checkpoint(folder / "keras" / "inception_v3" / "inception_v3.ckpt", values)


@pytest.mark.slow
def test_the_notebook_runs(tmp_path):
    """Every cell as it stands, without Jupyter; what would be downloaded is in the cache already."""
    write_published_files(tmp_path / "cache" / "finetune")
    write_keras_weights(tmp_path / "cache" / "finetune")
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    ran = subprocess.run(
        [sys.executable, "-c", RUN, str(NOTEBOOK)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    counts, *plan, loss, accuracy, report, first, second, third, head, blocks_ = ran.stdout.splitlines()
    assert ast.literal_eval(counts) == {"train": (15,) * 5, "validation": (5,) * 5}
    assert [row.split()[:2] for row in plan] == [["restored", "frozen"], ["initialised", "trained"]]
    assert 0 < float(loss.removeprefix("final loss ")) < 1
    assert float(accuracy.removeprefix("accuracy ")) >= 0.9
    assert (tmp_path / report).is_file()
    guesses = [line.split() for line in (first, second, third)]
    assert guesses[0][0] in ("daisy", "dandelion", "roses", "sunflowers", "tulips")
    assert float(guesses[0][1]) >= float(guesses[1][1]) >= float(guesses[2][1])
    assert head.startswith("head ") and 0 <= float(head.removeprefix("head ")) <= 1
    assert blocks_.startswith("blocks ") and 0 <= float(blocks_.removeprefix("blocks ")) <= 1
    assert "step 500/500" in ran.stderr  # What the first cell has set.


def attributes(block):
    """The dotted names of a program, such as `slim.learning.train`."""
    names = {ast.unparse(node) for node in ast.walk(ast.parse(block)) if isinstance(node, ast.Attribute)}
    return {name for name in names if re.fullmatch(r"(tf|slim)(\.\w+)+", name)}


@pytest.mark.parametrize("name", sorted(set().union(*map(attributes, blocks("py", PAGE)))))
def test_what_the_tutorial_calls_exists(name):
    thing = {"tf": tf.compat.v1, "slim": tf_slim}[name.split(".")[0]]
    for part in name.split(".")[1:]:
        thing = getattr(thing, part)
    assert thing
