"""The report and its plots: what they say, and how a browser shows them."""

import dataclasses
import io
import re
import time

import numpy as np
import pytest
from browser import CHROMIUM, open_browser
from eval_results import make_result, random_scores
from PIL import Image

from finetune.evaluation import plots
from finetune.evaluation.metrics import confusion_matrix, score_batch
from finetune.evaluation.report import write_report
from finetune.model.scopes import NetworkVariable, plan_variables
from finetune.runs.run_folder import RunFolder
from finetune.settings.settings_file import to_toml_table
from finetune.settings.train import TrainSettings

HOSTILE_NAMES = [
    "<script>console.log('run')</script>",
    "a very long name of a class that goes on and on, Nomen longissimum var. interminabilis",
    "Donaudampfschiffahrtselektrizitätenhauptbetriebswerkbauunterbeamtengesellschaft" * 2,
    "costs $5$ & more",
    "向日葵",
    "_",
]


def make_run(folder):
    """A run's files beside its checkpoints."""
    run = RunFolder(folder)
    folder.mkdir(parents=True, exist_ok=True)
    variables = [
        NetworkVariable(name, (3, 3), is_statistic=False) for name in ("Net/trunk/weights", "Net/head/weights")
    ]
    shapes = {"Net/trunk/weights": (3, 3)}
    scopes = {"exclude_scopes": ["Net/head"], "trainable_scopes": ["Net/head"]}
    plan = plan_variables(variables, checkpoint_shapes=shapes, **scopes)
    run.write_settings(to_toml_table(TrainSettings(dataset_dir=folder / "d", learning_rate=0.123)), plan, None)
    for step in range(1, 21):
        run.write_metrics(step, {"loss": 3 / step, "weight_decay_loss": 0.01, "learning_rate": 0.1})
        if step % 5 == 0:
            run.write_metrics(step, {"split": "validation", "accuracy": step / 25, "loss": 2 / step})
    return folder


def text_of(result):
    return (result.output_dir / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile")
    scores = random_scores(len(HOSTILE_NAMES), 90, lead=1.0)
    scores = dataclasses.replace(scores, filenames=[f"{name[:5]}/{'x' * 150}.jpg" for name in scores.filenames])
    result = make_result(folder, scores, class_names=HOSTILE_NAMES, run_dir=make_run(folder / "run"))
    write_report(result)
    return result


def test_what_the_report_says(hostile):
    text = text_of(hostile)
    assert f"{hostile.scores.num_right} of 90 images" in text
    for what in ("learning_rate</dt><dd>0.123", "restored</td><td>frozen", "0" * 64, "tensorflow 2."):
        assert what in text
    assert "<script" not in text
    assert "&lt;script&gt;" in text
    assert text.count('<img src="data:image/jpeg') == min(24, 90 - hostile.scores.num_right)
    assert set(re.findall(r'(?:src|href|srcset)="(\w+:)', text)) == {"data:"}
    for name in ("confusion_matrix.png", "reliability_diagram.png", "learning_curves.png"):
        Image.open(hostile.output_dir / name).verify()


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium")
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("is_dark", [False, True], ids=["light", "dark"])
def test_a_browser_without_network_shows_all_of_it(hostile, width, is_dark, tmp_path):
    address = (hostile.output_dir / "report.html").as_uri()
    with open_browser() as page:
        page.open(address, width=width, is_dark=is_dark)
        for details in (False, True):
            page.evaluate(f"document.querySelectorAll('details').forEach(one => one.open = {str(details).lower()})")
            assert page.evaluate("document.scrollingElement.clientWidth") == width
            assert page.evaluate("document.scrollingElement.scrollWidth") <= width
        assert page.evaluate("document.images.length") > 3
        assert page.evaluate("[...document.images].every(image => image.complete && image.naturalWidth > 0)")
        assert page.evaluate("[...document.images].every(image => image.alt.length > 5)")
        beyond = "[...document.querySelectorAll('section *')].filter(one => !one.closest('.scroll') && "
        assert page.evaluate(beyond + f"one.getBoundingClientRect().right > {width}).map(one => one.outerHTML)") == []
        page.screenshot(tmp_path / "report.png")
        page.open(address, width=width, is_dark=is_dark, has_scripts=False)
        page.screenshot(tmp_path / "without_scripts.png")
    assert page.complaints == []
    assert {url.split(":")[0] for url in page.requests} == {"file", "data"}
    with_scripts, without = (np.asarray(Image.open(tmp_path / f"{name}.png")) for name in ("report", "without_scripts"))
    assert without.shape[0] > 2000
    assert (with_scripts[:400] == without[:400]).all()


def test_without_a_run_and_without_mistakes(tmp_path):
    right = score_batch(np.eye(3, dtype=np.float32), np.arange(3), ["a", "b", "c"])
    result = make_result(tmp_path, right)
    write_report(result)
    text = text_of(result)
    assert text.count("There is none: every image is right.") == 2
    assert "how it was trained is not known" in text
    assert not (result.output_dir / "learning_curves.png").exists()


def test_undefined_figures_are_dashes_and_broken_images_have_no_preview(tmp_path):
    scores = score_batch(np.array([[1, 0, 0], [1, 0, 0]], np.float32), np.array([0, 1]), ["a", "b"])
    result = make_result(tmp_path, scores, encoded=[b"no image"])
    write_report(result)
    rows = re.findall(r'<th scope="row">class 2</th>.*?</tr>', text_of(result), re.DOTALL)
    assert rows[0].count("–") == 2  # precision and recall; F1 is 0 by definition.
    assert "no preview" in text_of(result)


@pytest.mark.slow
def test_a_thousand_classes_and_fifty_thousand_predictions(tmp_path):
    scores = random_scores(1000, 50_000, lead=4.0)
    result = make_result(tmp_path, scores)
    start = time.process_time()
    write_report(result)
    assert time.process_time() - start < 20
    assert (result.output_dir / "report.html").stat().st_size < 5e6


def draw(num_classes, names=None, **options):
    scores = random_scores(num_classes, 20 * num_classes)
    names = names or [f"class {label}" for label in range(num_classes)]
    figure = plots.confusion_figure(confusion_matrix(scores), names, plots.LIGHT, **options)
    return figure, Image.open(io.BytesIO(plots.render(figure, "png")))


def test_a_confusion_matrix_of_two_classes_bears_its_counts():
    figure, image = draw(2)
    counts = confusion_matrix(random_scores(2, 40))
    assert [text.get_text() for text in figure.axes[0].texts] == [str(count) for count in counts.ravel() if count]
    assert 250 < image.width < 700


def test_a_confusion_matrix_of_two_hundred_classes_has_a_readable_line_for_each():
    figure, image = draw(200)
    (axes,) = figure.axes
    labels = axes.get_yticklabels()
    assert [label.get_text() for label in labels] == [f"class {label}" for label in range(200)]
    pixels = {label.get_fontsize() / 72 * plots.DOTS_PER_INCH for label in labels}
    assert min(pixels) > 11
    line = axes.get_position().height * image.height / 200
    assert line > max(pixels)


def test_every_mistake_is_seen_among_a_thousand_classes():
    confusion = np.diag(np.full(1000, 50))
    confusion[123, 877] = 1
    figure = plots.confusion_figure(confusion, ["_"] * 1000, plots.LIGHT, most_inches=6)
    colours = figure.axes[0].images[0].get_array().reshape(-1, 3)
    is_orange = (colours[:, 0] > colours[:, 2]).sum()
    assert is_orange == 1


def test_names_that_the_font_lacks_are_drawn_as_numbers():
    figure, _ = draw(3, ["向日葵", "$x$ _^", "é" * 60])
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["0", "$x$ _^", "é" * 27 + "…"]


def test_long_learning_curves_are_thinned_to_means():
    lines = [{"step": step, "loss": float(step % 2)} for step in range(1, 10_001)]
    figure = plots.learning_figure(lines, None, plots.LIGHT)
    steps, losses = figure.axes[0].lines[0].get_data()
    assert len(steps) == 1000
    assert np.allclose(losses, 0.5)
    assert steps[:2].tolist() == [1, 11]
