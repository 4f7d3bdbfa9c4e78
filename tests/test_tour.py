"""The README's tour, pasted into a shell: from download to accuracy."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
from image_files import encode, write_file
from pages import ROOT, blocks, section
from PIL import Image
from reference_networks import load_reference, reference_weight

from finetune.model.checkpoint import write_checkpoint

DOWNLOAD, INSTEAD, TOUR = blocks("bash", section("README.md", "Tour: from download to accuracy"))
COLOURS = {"daisy": "white", "dandelion": "gold", "roses": "crimson", "sunflowers": "darkorange", "tulips": "purple"}


def write_published_files(folder: Path) -> None:
    """What the tour's two downloads leave behind, made small: weights that know nothing, photographs of colours."""
    shapes = load_reference("mobilenet_v1")
    variables = {**shapes["trainable"], **shapes["non_trainable"]}
    values = {name: reference_weight(name, tuple(shape)) for name, shape in variables.items()}
    write_checkpoint(folder / "mobilenet_v1" / "mobilenet_v1_1.0_224.ckpt", values)
    random = np.random.RandomState(0)
    for flower, colour in COLOURS.items():
        for number in range(20):
            pixels = np.asarray(Image.new("RGB", (40, 40), colour)) * random.uniform(0.8, 1.0, [40, 40, 1])
            content = encode(Image.fromarray(pixels.astype(np.uint8)))
            write_file(folder / "flowers" / "flower_photos" / flower / f"{number}.jpg", content)


@pytest.mark.slow
def test_the_tour_ends_with_an_accuracy(tmp_path):
    """Every line as it stands, in a shell; what would be downloaded is in the cache already."""
    write_published_files(tmp_path / "cache" / "finetune")
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    environment = os.environ | {
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    shell = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", DOWNLOAD + TOUR],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert shell.returncode == 0, shell.stderr
    (accuracy,) = re.findall(r"^accuracy ([\d.]+) \(\d+ of 25 images", shell.stdout, re.MULTILINE)
    assert float(accuracy) >= 0.9
    assert re.findall(r"^(?:network|saved_model) .* MB +([\d.]+)", shell.stdout, re.MULTILINE) == [accuracy] * 2
    assert (tmp_path / "tour/run/eval_validation/report.html").is_file()
    assert len((tmp_path / "tour/predictions.csv").read_text().splitlines()) == 101


def test_where_nothing_can_be_downloaded_the_quick_starts_files_do():
    """The tour's other way names the files that the quick start makes."""
    quick_start, weights, images = INSTEAD.splitlines()
    settings = tomllib.loads((ROOT / "configs/quickstart.toml").read_text(encoding="utf-8"))
    script = (ROOT / quick_start.removeprefix("bash ")).read_text(encoding="utf-8")
    assert weights == f"weights={settings['checkpoint']}"
    work = re.search(r"^readonly work=(\w+)$", script, re.MULTILINE)[1]
    assert f'quickstart_data.py "{images.removeprefix("images=").replace(work, "$work", 1)}"' in script
