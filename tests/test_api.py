"""The Python API: light to import, and its example does what it says."""

import ast
import inspect
import json
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from test_commands import write_colour_folders
from tiny_runs import write_run

from finetune import api
from finetune.commands import convert

EXAMPLE = textwrap.dedent(re.search(r"(?m)((?:^    .*\n|^\n)+)", api.__doc__.split("\n\n", 1)[1] + "\n")[1]).strip()

# The example fine-tunes a published network on photographs; these stand in for both.
TINY = {
    "mobilenet_v2_1.0_224.ckpt": "pretrained",
    "mobilenet_v2": "cifarnet",
    "MobilenetV2/Logits": "CifarNet/logits",
    "max_steps=100": 'max_steps=40, batch_size=8, optimizer="adam", learning_rate=0.01',
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working folder with records, photos and pretrained weights under the names that the example has."""
    write_colour_folders(tmp_path / "photos")
    settings = api.ConvertSettings(dataset_dir=tmp_path / "records", images_dir=tmp_path / "photos", workers=1)
    assert sum(map(sum, convert.convert(settings).counts.values())) == 72
    write_run(tmp_path / "pretrained")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_example_is_short_and_learns(folder, capsys):
    code = EXAMPLE
    assert len(ast.parse(code).body) <= 10
    for name, stand_in in TINY.items():
        assert name in code
        code = code.replace(name, stand_in)
    names = {}
    exec(code, names)
    plan, accuracy, *predictions = capsys.readouterr().out.splitlines()
    assert "('restored', 'frozen', 8, " in plan
    assert "('initialised', 'trained', 2, " in plan
    assert float(accuracy) >= 0.8
    assert len(predictions) == 72
    right = [line.split()[1] == Path(line.split()[0]).parts[-2] for line in predictions]
    assert sum(right) / len(right) >= 0.8


def test_the_plan_is_that_of_the_run(folder):
    settings = api.TrainSettings(
        dataset_dir=folder / "records",
        train_dir=folder / "run",
        model="lenet",
        max_steps=1,
        batch_size=4,
        trainable_scopes=("LeNet/fc3", "LeNet/fc4"),
        exclude_scopes=("LeNet/fc4",),
        checkpoint=write_run(folder / "lenet", model="lenet", use_grayscale=True),
        use_grayscale=True,
    )
    plan = api.plan(settings)
    trained = api.train(settings)
    written = json.loads((folder / "run/plan.json").read_text())["variables"]
    assert [
        [variable.name, list(variable.shape), variable.source, variable.is_trained] for variable in plan.variables
    ] == [[one["name"], one["shape"], one["source"], one["is_trained"]] for one in written]
    of_step, of_validation = map(json.loads, (folder / "run/metrics.jsonl").read_text().splitlines())
    assert trained.final_loss == of_step["loss"] != of_validation["loss"]


def test_mistakes_are_user_errors(folder):
    with pytest.raises(api.UserError, match="cifarnet"):
        api.plan(api.TrainSettings(dataset_dir=folder / "records", model="cifarent"))
    with pytest.raises(api.UserError, match="no file or folder"):
        api.predict(api.PredictSettings(checkpoint=folder / "pretrained", images=("nowhere.jpg",)))


def test_importing_loads_no_tensorflow():
    script = "import sys, finetune.api; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_all_that_is_offered_is_documented():
    for name in api.__all__:
        assert inspect.getdoc(getattr(api, name)), name


def test_the_page_shows_the_same_example():
    page = (Path(__file__).parents[1] / "docs/python.md").read_text(encoding="utf-8")
    first, of_photographs = [block.strip() for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL)]
    assert first == EXAMPLE
    one_line = (Path(__file__).parents[1] / "docs/one_line.md").read_text(encoding="utf-8")
    assert of_photographs in one_line
