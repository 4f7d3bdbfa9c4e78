"""report.html of an evaluation of several labels an image: its sections in the page of the other one."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from finetune.evaluation import plots
from finetune.evaluation.multilabel_plots import averages_figure, recall_figure
from finetune.evaluation.multilabel_result import MultilabelResult
from finetune.evaluation.report import (
    LEARNING_PLOT,
    MOST_CLASSES_SHOWN,
    NUM_MISTAKES,
    THUMBNAIL_PIXELS,
    Picture,
    data_uri,
    render_report,
    run_content,
    write_picture,
)
from finetune.evaluation.thumbnails import read_thumbnails
from finetune.runs.provenance import read_provenance_or_tell, software_versions
from finetune.runs.run_folder import RunFolder
from finetune.settings.task import BEST_BY_OF_LABELS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TEMPLATE = "multilabel_report.html.jinja"
AVERAGES_PLOT = "average_precision.png"
CURVES_PLOT = "precision_recall.png"


def write_label_report(result: MultilabelResult) -> None:
    """Writes report.html and its plots as PNG files into the result's folder."""
    render_report(TEMPLATE, _content(result), result.output_dir)


def _content(result: MultilabelResult) -> dict[str, Any]:
    """What the template names."""
    scores, decisions = result.scores, result.decisions
    average = scores.mean_average_precision
    return {
        "result": result,
        "scores": scores,
        "decisions": decisions,
        "macro_f1": decisions.classes.macro("f1") if decisions.occur else 0.0,
        "average_in_words": "unknown" if average is None else f"{average:.3f}",
        "without_average": result.without_average,
        "class_table": _class_table(result),
        "most_shown": MOST_CLASSES_SHOWN,
        "mistakes": _mistakes(result),
        "written": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "versions": list(software_versions().items()),
        "provenance": read_provenance_or_tell(result.run_folder),
        **_pictures(result),
        **run_content(result.run_folder, result.run_folder),
    }


def _class_table(result: MultilabelResult) -> list[dict[str, Any]]:
    """A row for each class; a figure that is a quotient by zero is None."""
    classes, averages = result.decisions.classes, result.scores.average_precisions
    return [
        {
            "name": name,
            "support": int(classes.support[label]),
            "average_precision": averages[label],
            "threshold": result.thresholds[label],
            "precision": float(classes.precision[label]) if classes.num_predicted[label] else None,
            "recall": float(classes.recall[label]) if classes.support[label] else None,
            "f1": float(classes.f1[label]),
        }
        for label, name in enumerate(result.class_names)
    ]


def _mistakes(result: MultilabelResult) -> list[dict[str, Any]]:
    """The images with a wrong answer and the largest losses, worst first, with thumbnails."""
    scores, predictions = result.scores, result.decisions.predictions
    is_wrong = (predictions != scores.labels).any(axis=1)
    logits = scores.logits.astype(np.float64)
    losses = (np.logaddexp(0.0, logits) - logits * scores.labels).mean(axis=1)
    worst = np.flatnonzero(is_wrong)[np.argsort(-losses[is_wrong], kind="stable")][:NUM_MISTAKES].tolist()
    thumbnails = read_thumbnails(result.dataset, worst, THUMBNAIL_PIXELS)

    def named(position: int, is_of: Any) -> list[tuple[str, float]]:
        return [(result.class_names[k], float(scores.probabilities[position, k])) for k in np.flatnonzero(is_of)]

    return [
        {
            "image": data_uri(thumbnails[position], "jpeg") if position in thumbnails else None,
            "filename": scores.filenames[position],
            "labels": [name for name, _ in named(position, scores.labels[position])],
            "wrong": named(position, predictions[position] & ~scores.labels[position]),
            "missed": named(position, ~predictions[position] & scores.labels[position]),
        }
        for position in worst
    ]


def _pictures(result: MultilabelResult) -> dict[str, Picture | None]:
    scores, names, folder = result.scores, result.class_names, result.output_dir
    lines = RunFolder(result.run_folder).read_metrics_or_tell()

    def draw_learning(theme: plots.Theme, is_file: bool) -> "Figure":
        del is_file
        return plots.learning_figure(lines, result.step, theme, measure=BEST_BY_OF_LABELS)

    return {
        "averages_picture": write_picture(
            lambda theme, _: averages_figure(scores, names, theme),
            folder / AVERAGES_PLOT,
            "Average precision of each class as a bar. The table below has its figures.",
        ),
        "curves_picture": write_picture(
            lambda theme, _: recall_figure(scores, names, theme),
            folder / CURVES_PLOT,
            "Precision over recall, a curve for each class. The table below has the areas under them.",
        ),
        "learning_picture": write_picture(
            draw_learning,
            folder / LEARNING_PLOT,
            f"Learning curves up to step {lines[-1]['step']}: loss of training and validation, mean average precision.",
        )
        if lines
        else None,
    }
