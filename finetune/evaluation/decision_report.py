"""The report's section on decisions: curves and areas, temperature, threshold, and accuracy over coverage."""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from finetune.evaluation import decision_plots, plots
from finetune.evaluation.class_areas import ClassAreas
from finetune.evaluation.coverage import Coverage, coverage_of
from finetune.evaluation.curves import AreaIntervals
from finetune.evaluation.decision_plots import MOST_CURVES, NamedCurves
from finetune.evaluation.decisions import Judgement
from finetune.evaluation.result_files import EvalResult

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ROC_PLOT = "roc_curves.png"
PRECISION_RECALL_PLOT = "precision_recall_curves.png"
COVERAGE_PLOT = "accuracy_over_coverage.png"
UNCALIBRATED_PLOT = "reliability_diagram_uncalibrated.png"

# Makes of what draws a plot in a theme's colours a picture for the report, and a file of that name; last, what is seen.
MakePicture = Callable[[Callable[[plots.Theme, bool], "Figure"], str, str], Any]


def decision_content(result: EvalResult, picture: MakePicture) -> dict[str, Any]:
    """What decisions.html.jinja names."""
    areas, coverage = result.class_areas, coverage_of(result.scores)
    return {
        "areas": areas,
        "area_table": _area_table(areas, result.class_names),
        "coverage": coverage,
        "coverage_picture": _coverage_picture(coverage, picture),
        "uncalibrated_picture": _uncalibrated_picture(result, picture),
        **_curve_pictures(areas, result, picture),
    }


def _area_table(areas: ClassAreas | None, class_names: list[str]) -> list[dict[str, Any]]:
    """A row for each class that has a curve."""
    if areas is None:
        return []
    intervals = areas.intervals or [AreaIntervals(None, None)] * len(areas.labels)
    return [
        {"name": class_names[label], "areas": each, "intervals": interval}
        for label, each, interval in zip(areas.labels, areas.areas, intervals, strict=True)
    ]


def _curve_pictures(areas: ClassAreas | None, result: EvalResult, picture: MakePicture) -> dict[str, Any]:
    """Both pictures, of which classes they are, and whether there are more; None where there are no curves."""
    drawn = [] if areas is None else _drawn(areas, result.judgement, result.class_names)
    if areas is None or not drawn:
        return {"roc_picture": None, "precision_recall_picture": None, "drawn": []}
    outcome = None if result.judgement is None else result.judgement.outcome
    of = drawn[0].name if len(drawn) == 1 else f"{len(drawn)} classes, each against the rest"
    return {
        "roc_picture": picture(
            lambda theme, _: decision_plots.roc_figure(drawn, outcome, theme),
            ROC_PLOT,
            f"ROC curve of {of}. The mean area is {areas.mean.roc_auc:.3f}.",
        ),
        "precision_recall_picture": picture(
            lambda theme, _: decision_plots.precision_recall_figure(drawn, outcome, theme),
            PRECISION_RECALL_PLOT,
            f"Precision-recall curve of {of}. The mean average precision is {areas.mean.average_precision:.3f}.",
        ),
        "drawn": [each.name for each in drawn],
    }


def _drawn(areas: ClassAreas, judgement: Judgement | None, class_names: list[str]) -> list[NamedCurves]:
    """Curves that can be told apart: that of a threshold's class first, then those with the smallest areas."""
    precisions = {label: each.average_precision for label, each in zip(areas.labels, areas.areas, strict=True)}
    chosen = None if judgement is None else judgement.positive
    defined = [label for label, precision in precisions.items() if precision is not None]
    weakest = sorted(defined, key=lambda label: (label != chosen, precisions[label] or -math.inf))[:MOST_CURVES]
    in_order = weakest if len(defined) > MOST_CURVES else sorted(weakest, key=lambda label: (label != chosen, label))
    curves = ((label, areas.curves(label)) for label in in_order)
    return [NamedCurves(label, class_names[label], each) for label, each in curves if each is not None]


def _coverage_picture(coverage: Coverage, picture: MakePicture) -> Any:
    return picture(
        lambda theme, _: decision_plots.coverage_figure(coverage, theme),
        COVERAGE_PLOT,
        f"Accuracy over coverage: of all images {coverage.accuracies[-1]:.3f}. The table beside it has its figures.",
    )


def _uncalibrated_picture(result: EvalResult, picture: MakePicture) -> Any:
    """The reliability diagram without the temperature; None where there is none."""
    before = result.uncalibrated
    if before is None:
        return None
    return picture(
        lambda theme, _: plots.reliability_figure(before, theme),
        UNCALIBRATED_PLOT,
        f"Reliability diagram without the temperature: the mean gap is {before.expected_error:.3f}.",
    )
