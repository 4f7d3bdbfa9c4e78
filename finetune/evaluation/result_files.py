"""What an evaluation came to, and its files for programs: metrics.json, predictions.csv, confusion_matrix.csv."""

import csv
import dataclasses
import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.datasets.dataset import Dataset
from finetune.evaluation.calibration import Calibration, calibration
from finetune.evaluation.class_areas import ClassAreas, class_areas
from finetune.evaluation.comparison import Comparison
from finetune.evaluation.cross_validation import FoldFigures, folds_summary
from finetune.evaluation.decision_figures import class_area_figures, decision_figures
from finetune.evaluation.decisions import Judgement
from finetune.evaluation.evaluated import Evaluated
from finetune.evaluation.label_errors import LabelErrors
from finetune.evaluation.metrics import Scores, class_figures, confusion_matrix, wilson_interval
from finetune.evaluation.similar_images import SimilarImages
from finetune.files.csv_cells import cells_of
from finetune.files.whole_files import append_line, whole_file, write_json
from finetune.runs.decision_file import Decision

if TYPE_CHECKING:
    from finetune.evaluation.explainer import Explainer

METRICS_FILE = "metrics.json"
PREDICTIONS_FILE = "predictions.csv"
REPORT_FILE = "report.html"
CONFUSION_FILE = "confusion_matrix.csv"
HISTORY_FILE = "evaluations.jsonl"
COMPARISON_FILE = "comparison.json"
DIFFERENCES_FILE = "differences.csv"


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvalResult(Evaluated):
    """What an evaluation came to.

    Attributes:
        scores: One entry for each image, in the order of the records.
        folds: Of a cross-validation, whose scores are of several runs, none of which had seen the images that it
            scored; the checkpoint is then of the first of them.
        label_errors: Labels in doubt; None: they weren't looked for.
        similar: Training images that are like the mistakes of the report; None: they weren't looked for.
        explainer: Of the network, two classes at a time; None: mistakes aren't explained.
        decision: The temperature that is in the scores, and the threshold.
        positive_class: Of two classes the one that curves are drawn of; None: the second.
        judgement: What the threshold comes to; None where there is none.
        uncalibrated: The calibration without the temperature; None where there is none.
        writes_logits: Whether predictions.csv holds the logits, where they were kept.
    """

    scores: Scores
    folds: tuple[FoldFigures, ...] = ()
    label_errors: LabelErrors | None = None
    similar: SimilarImages | None = None
    explainer: "Explainer | None" = None
    decision: Decision = Decision()
    positive_class: int | None = None
    judgement: Judgement | None = None
    uncalibrated: Calibration | None = None
    writes_logits: bool = True

    @functools.cached_property
    def class_areas(self) -> ClassAreas | None:
        """Of all classes; None where the logits weren't kept."""
        return class_areas(self.scores, self.positive_class, self.decision.divisor)

    @property
    def caution(self) -> str | None:
        """What to say beside the accuracy where the run had seen the images; None where they are new to it."""
        return None if self.folds else super().caution


def class_names_of(dataset: Dataset, labels_offset: int) -> list[str]:
    """A name for each class of the network; the label in the records where the data set has no names."""
    names = dataset.class_names or tuple(map(str, range(dataset.num_classes)))
    return list(names[labels_offset:])


def metrics(result: EvalResult) -> dict[str, Any]:
    """All figures by their names in metrics.json; shares lie in 0 to 1."""
    scores = result.scores
    classes = class_figures(scores)
    areas = class_area_figures(result.class_areas)
    return {
        **scores.summary(),
        "num_right": scores.num_right,
        "accuracy_interval_95": wilson_interval(scores.num_right, scores.num_examples),
        "caution": result.caution,
        "balanced_accuracy": classes.balanced_accuracy,
        "macro_precision": classes.macro("precision"),
        "macro_recall": classes.macro("recall"),
        "macro_f1": classes.macro("f1"),
        "expected_calibration_error": calibration(scores).expected_error,
        **result.facts(),
        **(folds_summary(result.folds) if result.folds else {}),
        **decision_figures(result),
        **({"num_label_errors": result.label_errors.num_errors} if result.label_errors is not None else {}),
        "classes": [
            {
                "label": label,
                "name": name,
                "precision": float(classes.precision[label]),
                "recall": float(classes.recall[label]),
                "f1": float(classes.f1[label]),
                "support": int(classes.support[label]),
                **areas.get(label, {}),
            }
            for label, name in enumerate(result.class_names)
        ],
    }


def write_metrics(result: EvalResult) -> None:
    """Writes metrics.json."""
    write_json(result.output_dir / METRICS_FILE, metrics(result))


def write_predictions(result: EvalResult) -> None:
    """Writes predictions.csv: a line for each image, probabilities to the last digit, rank 0 where it is right.

    With a threshold also the class that it decides for.
    """
    scores, names, judgement = result.scores, result.class_names, result.judgement
    label_probabilities = scores.label_probabilities
    logits = scores.logits if result.writes_logits else None
    header = ["filename", "label", "prediction", "label_name", "prediction_name", "probability", "rank"]
    decision_columns = ["decision", "decision_name"] if judgement is not None else []
    logit_columns = [f"logit_{index}" for index in range(scores.num_classes)] if logits is not None else []
    with whole_file(result.output_dir / PREDICTIONS_FILE, newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*header, "label_probability", *decision_columns, *logit_columns])
        for index, filename in enumerate(scores.filenames):
            label, prediction = int(scores.labels[index]), int(scores.predictions[index])
            row = [filename, label, prediction, names[label], names[prediction], float(scores.probabilities[index])]
            row += [int(scores.ranks[index]), float(label_probabilities[index])]
            if judgement is not None:
                decision = int(judgement.decisions[index])
                row += [decision, names[decision]]
            writer.writerow(cells_of([*row, *(logits[index].tolist() if logits is not None else [])]))


def write_confusion_matrix(result: EvalResult) -> None:
    """Writes confusion_matrix.csv: a line for each true class, a column for each predicted one."""
    with whole_file(result.output_dir / CONFUSION_FILE, newline="") as file:
        writer = csv.writer(file)
        writer.writerow(cells_of(["label \\ prediction", *result.class_names]))
        for name, row in zip(result.class_names, confusion_matrix(result.scores), strict=True):
            writer.writerow(cells_of([name, *row.tolist()]))


def append_to_history(folder: Path, checkpoint_name: str, step: int | None, summary: Mapping[str, Any]) -> None:
    """Adds a line to evaluations.jsonl, where the checkpoints of a watched run follow each other."""
    figures = {"checkpoint": checkpoint_name, "step": step, **summary}
    append_line(folder / HISTORY_FILE, json.dumps(figures))


def write_comparison(folder: Path, runs: Sequence[str], comparison: Comparison) -> None:
    """Writes comparison.json: for each run its accuracy, the images that it alone got right, and McNemar's test."""
    counts = (comparison.only_first_right, comparison.only_second_right)
    figures = {
        "num_examples": comparison.first.num_examples,
        "runs": [
            {
                "checkpoint": run,
                "accuracy": scores.accuracy,
                "accuracy_interval_95": wilson_interval(scores.num_right, scores.num_examples),
                "num_right": scores.num_right,
                "only_this_right": only_right,
            }
            for run, scores, only_right in zip(runs, (comparison.first, comparison.second), counts, strict=True)
        ],
        "num_differing": len(comparison.differing),
        "mcnemar": dataclasses.asdict(comparison.mcnemar),
    }
    write_json(folder / COMPARISON_FILE, figures)


def write_differences(folder: Path, class_names: Sequence[str], comparison: Comparison) -> None:
    """Writes differences.csv: a line for each image that the two runs, a and b, take for different classes."""
    first, second = comparison.first, comparison.second
    with whole_file(folder / DIFFERENCES_FILE, newline="") as file:
        writer = csv.writer(file)
        header = ["filename", "label", "prediction_a", "prediction_b", "label_name", "prediction_name_a"]
        writer.writerow([*header, "prediction_name_b", "probability_a", "probability_b", "right"])
        for index in comparison.differing:
            label, of_first, of_second = (
                int(values[index]) for values in (first.labels, first.predictions, second.predictions)
            )
            right = "a" if of_first == label else "b" if of_second == label else "neither"
            row = [first.filenames[index], label, of_first, of_second]
            row += [class_names[label], class_names[of_first], class_names[of_second]]
            row += [float(first.probabilities[index]), float(second.probabilities[index]), right]
            writer.writerow(cells_of(row))
