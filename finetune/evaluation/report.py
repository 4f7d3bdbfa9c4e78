"""report.html: what an evaluation came to, in one file for people, without network or scripts; its plots as PNG."""

import base64
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from finetune.evaluation import plots
from finetune.evaluation.calibration import calibration
from finetune.evaluation.cross_validation import spreads_of
from finetune.evaluation.decision_report import decision_content
from finetune.evaluation.metrics import Scores, class_figures, confusion_matrix, most_confused, wilson_interval
from finetune.evaluation.result_files import REPORT_FILE, EvalResult
from finetune.evaluation.thumbnails import read_thumbnails
from finetune.files.json_files import MayLack, Number, read_json_or_tell
from finetune.files.whole_files import printable, write_bytes, write_text
from finetune.model.scopes import PlannedVariable, VariablePlan
from finetune.remote.urls import with_urls
from finetune.runs.provenance import read_provenance_or_tell, software_versions
from finetune.runs.run_folder import PLAN_FILE, RunFolder, settings_of_run
from finetune.settings.flags import flags_of
from finetune.settings.stages import Stage
from finetune.settings.train import TrainSettings
from finetune.types import Array

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PLAN_SHAPE = {
    "variables": [
        {
            "name": str,
            "shape": [Number(int, at_least=0)],
            "source": str | None,
            "is_trained": bool,
            "is_statistic": bool,
            "sums_colours": MayLack(bool),
        }
    ]
}

TEMPLATE = "report.html.jinja"
CONFUSION_PLOT = "confusion_matrix.png"
RELIABILITY_PLOT = "reliability_diagram.png"
LEARNING_PLOT = "learning_curves.png"

NUM_PAIRS = 20
NUM_MISTAKES = 24
NUM_WEAKEST = 20
THUMBNAIL_PIXELS = 192
SIMILAR_PIXELS = 96
MATRIX_INCHES = 7.5
# Up to so many classes the table of them all is open, and the weakest need no table of their own.
MOST_CLASSES_SHOWN = 40


# Draws one plot in the colours of a theme, for a folder of files (True) or for the report.
Draw = Callable[[plots.Theme, bool], "Figure"]


@dataclasses.dataclass(frozen=True)
class Picture:
    """A plot for the report: `light` and `dark` are data URIs, `alt` says what is seen."""

    light: str
    dark: str
    alt: str


def write_report(result: EvalResult) -> None:
    """Writes report.html and its plots as PNG files into the result's folder."""
    render_report(TEMPLATE, _content(result), result.output_dir)


def render_report(template: str, content: Mapping[str, Any], folder: Path) -> None:
    """Writes report.html of a template beside this module, filled with what it names."""
    import jinja2

    loader = jinja2.PackageLoader("finetune.evaluation", package_path="")
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["percent"] = lambda share: f"{100 * share:.1f}\u202f%"
    html = environment.get_template(template).render(content)
    write_text(folder / REPORT_FILE, printable(html))


def write_picture(draw: Draw, path: Path, alt: str) -> Picture:
    """Writes a plot as a PNG file, and gives it for the report.

    Args:
        draw: Draws it.
        path: The file.
        alt: What is seen.
    """
    write_bytes(path, plots.render(draw(plots.LIGHT, True), "png"))
    light, dark = (plots.render(draw(theme, False), "svg") for theme in (plots.LIGHT, plots.DARK))
    return Picture(data_uri(light, "svg+xml"), data_uri(dark, "svg+xml"), alt)


def _content(result: EvalResult) -> dict[str, Any]:
    """What the template names."""
    scores = result.scores
    classes = class_figures(scores)
    table = _class_table(result)
    return {
        "result": result,
        "scores": scores,
        "interval": wilson_interval(scores.num_right, scores.num_examples),
        "classes": classes,
        "calibration_error": calibration(scores).expected_error,
        "written": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "class_table": table,
        "weakest": sorted(table, key=lambda row: row["f1"])[:NUM_WEAKEST] if len(table) > MOST_CLASSES_SHOWN else [],
        "pairs": _pairs(result),
        # Ranked as doubtful labels are: either of them shows the images.
        "mistakes": _mistakes(result) if result.label_errors is None else [],
        "versions": list(software_versions().items()),
        "provenance": read_provenance_or_tell(result.run_folder),
        "spreads": spreads_of(result.folds) if result.folds else {},
        "label_errors": _label_errors(result),
        **_pictures(result),
        **run_content(result.run_folder, result.run_folder.parent if result.folds else result.run_folder),
    }


def _class_table(result: EvalResult) -> list[dict[str, Any]]:
    """A row for each class; a figure that is a quotient by zero is None."""
    classes = class_figures(result.scores)

    def cell(values: Array, wholes: Array, label: int) -> float | None:
        return float(values[label]) if wholes[label] else None

    return [
        {
            "label": label,
            "name": name,
            "support": int(classes.support[label]),
            "precision": cell(classes.precision, classes.num_predicted, label),
            "recall": cell(classes.recall, classes.support, label),
            "f1": float(classes.f1[label]),
        }
        for label, name in enumerate(result.class_names)
    ]


def _pairs(result: EvalResult) -> list[dict[str, Any]]:
    """The most confused pairs of classes, by their names, with the share of the true class that went astray."""
    support = class_figures(result.scores).support
    return [
        {
            "label": result.class_names[pair.label],
            "prediction": result.class_names[pair.prediction],
            "count": pair.count,
            "share": pair.count / int(support[pair.label]),
        }
        for pair in most_confused(result.scores, NUM_PAIRS)
    ]


def _mistakes(result: EvalResult) -> list[dict[str, Any]]:
    """The mistakes in which the true class got the least probability, worst first, with thumbnails."""
    scores = result.scores
    worst = worst_mistakes(scores)
    thumbnails = read_thumbnails(result.dataset, worst, THUMBNAIL_PIXELS)
    similar = _similar_images(result)
    heat_maps: dict[int, list[bytes]] = {}
    if result.explainer is not None:
        classes = {each: (scores.predictions[each], scores.labels[each]) for each in worst}
        heat_maps = result.explainer.overlays(result.dataset, classes, THUMBNAIL_PIXELS)
    return [
        {
            "image": data_uri(thumbnails[position], "jpeg") if position in thumbnails else None,
            "heat_maps": [data_uri(heat_map, "jpeg") for heat_map in heat_maps.get(position, [])],
            "filename": scores.filenames[position],
            "label": result.class_names[scores.labels[position]],
            "label_probability": scores.label_probabilities[position],
            "prediction": result.class_names[scores.predictions[position]],
            "probability": scores.probabilities[position],
            "similar": similar.get(position, []),
        }
        for position in worst
    ]


def worst_mistakes(scores: Scores) -> list[int]:
    """Numbers of the images that are shown as mistakes, worst first."""
    wrong = np.flatnonzero(~scores.is_right)
    worst: list[int] = wrong[np.argsort(-scores.losses[wrong], kind="stable")][:NUM_MISTAKES].tolist()
    return worst


def _similar_images(result: EvalResult) -> dict[int, list[dict[str, Any]]]:
    """Of each mistake the training images that are like it, with thumbnails; none where they weren't looked for."""
    similar = result.similar
    if similar is None:
        return {}
    found = similar.neighbours
    wanted = {neighbour.position for neighbours in found.values() for neighbour in neighbours}
    thumbnails = read_thumbnails(similar.dataset, wanted, SIMILAR_PIXELS)
    return {
        position: [
            {
                "image": data_uri(thumbnails[each.position], "jpeg") if each.position in thumbnails else None,
                "filename": each.filename,
                "label": each.label,
                "similarity": each.similarity,
            }
            for each in neighbours
        ]
        for position, neighbours in found.items()
    }


def _label_errors(result: EvalResult) -> list[dict[str, Any]]:
    """The labels that are most in doubt, with thumbnails; none where they weren't looked for."""
    errors = result.label_errors
    if errors is None:
        return []
    positions = errors.positions[:NUM_MISTAKES].tolist()
    thumbnails = read_thumbnails(result.dataset, positions, THUMBNAIL_PIXELS)
    return [
        {
            "image": data_uri(thumbnails[position], "jpeg") if position in thumbnails else None,
            "filename": result.scores.filenames[position],
            "label": result.class_names[errors.labels[index]],
            "label_probability": errors.label_probabilities[index],
            "suggestion": result.class_names[errors.suggestions[index]],
            "suggestion_probability": errors.suggestion_probabilities[index],
        }
        for index, position in enumerate(positions)
    ]


def _pictures(result: EvalResult) -> dict[str, Any]:
    scores, names = result.scores, result.class_names
    confusion, bins = confusion_matrix(scores), calibration(scores)
    # Curves of several runs are in their own folders.
    lines = [] if result.folds else RunFolder(result.run_folder).read_metrics_or_tell()

    def draw_confusion(theme: plots.Theme, is_file: bool) -> "Figure":
        inches = plots.LARGEST_WITH_NAMES if is_file else MATRIX_INCHES
        return plots.confusion_figure(confusion, names, theme, most_inches=inches)

    def picture(draw: Draw, file_name: str, alt: str) -> Picture:
        return write_picture(draw, result.output_dir / file_name, alt)

    return {
        "confusion_picture": picture(
            draw_confusion,
            CONFUSION_PLOT,
            f"Confusion matrix of {len(names)} classes: {scores.num_right} of {scores.num_examples} images on the "
            "diagonal. The tables below have its figures.",
        ),
        "reliability_picture": picture(
            lambda theme, _: plots.reliability_figure(bins, theme),
            RELIABILITY_PLOT,
            f"Reliability diagram: the share of right predictions over their probability, in {len(bins.counts)} bins. "
            f"The mean gap is {bins.expected_error:.3f}.",
        ),
        "learning_picture": picture(
            lambda theme, _: plots.learning_figure(lines, result.step, theme),
            LEARNING_PLOT,
            f"Learning curves up to step {lines[-1]['step']}: loss of training and validation, accuracy of validation.",
        )
        if lines
        else None,
        **decision_content(result, picture),
    }


def run_content(folder: Path, named: Path) -> dict[str, Any]:
    """How the run was made: `chosen` settings differ from the defaults; all are None or empty where it is no run.

    Args:
        folder: Of the run.
        named: The folder that it is called by.
    """
    settings = settings_of_run(folder)
    if settings is None:
        return {"run": None, "chosen": [], "defaults": [], "plan": []}
    default = {field.name: field.default for field in flags_of(TrainSettings)}
    rows = [(name, _setting(value), value == default[name]) for name, value in settings.items()]
    return {
        "run": named.resolve().name,
        "chosen": [(name, value) for name, value, is_default in rows if not is_default],
        "defaults": [(name, value) for name, value, is_default in rows if is_default],
        "plan": _read_plan(folder / PLAN_FILE),
    }


def _read_plan(path: Path) -> Sequence[tuple[str, str, int, int]]:
    content = read_json_or_tell(path, PLAN_SHAPE, "The report is without the run's plan.")
    rows: list[Mapping[str, Any]] = content["variables"] if content is not None else []
    names = [field.name for field in dataclasses.fields(PlannedVariable)]
    variables = [PlannedVariable(**{name: row[name] for name in names if name in row}) for row in rows]
    return VariablePlan(tuple(variables), trainable_scopes=()).counts()


def _setting(value: Any) -> str:
    if isinstance(value, tuple):
        mark = "; " if any(isinstance(item, Stage) for item in value) else ", "
        return with_urls(mark.join(map(str, value))) or "none"
    return str(value).lower() if isinstance(value, bool) else with_urls(str(value))


def data_uri(content: bytes, kind: str) -> str:
    """An image, "jpeg", "png" or "svg+xml", as an address that holds it."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
