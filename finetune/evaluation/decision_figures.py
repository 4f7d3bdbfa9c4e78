"""What metrics.json says of curves, calibration, thresholds and coverage."""

import dataclasses
from typing import TYPE_CHECKING, Any

from finetune.evaluation.class_areas import ClassAreas
from finetune.evaluation.coverage import coverage_of
from finetune.evaluation.curves import AreaIntervals, Areas
from finetune.evaluation.decisions import Judgement

if TYPE_CHECKING:
    from finetune.evaluation.result_files import EvalResult


def decision_figures(result: "EvalResult") -> dict[str, Any]:
    """All of them, by their names in metrics.json."""
    coverage = coverage_of(result.scores)
    temperature = result.decision.temperature
    return {
        **_mean_area_figures(result.class_areas, result.class_names),
        "temperature": None if temperature is None else dataclasses.asdict(temperature),
        "expected_calibration_error_uncalibrated": result.uncalibrated and result.uncalibrated.expected_error,
        "threshold": None if result.judgement is None else _judgement_figures(result.judgement),
        "risk_coverage_area": coverage.risk_area,
        "accuracy_over_coverage": [dataclasses.asdict(point) for point in coverage.points()],
    }


def class_area_figures(areas: ClassAreas | None) -> dict[int, dict[str, Any]]:
    """The areas of each class that has a curve, by its number."""
    if areas is None:
        return {}
    intervals = areas.intervals or [AreaIntervals(None, None)] * len(areas.labels)
    of_classes = zip(areas.labels, areas.areas, intervals, strict=True)
    return {label: _area_figures(each, interval) for label, each, interval in of_classes}


def _mean_area_figures(areas: ClassAreas | None, class_names: list[str]) -> dict[str, Any]:
    """Of two classes the positive one's, of more the macro means."""
    if areas is None:
        return {"curves_of": None}
    is_of_one = len(areas.labels) == 1
    return {
        "curves_of": class_names[areas.labels[0]] if is_of_one else "macro mean",
        **_area_figures(areas.mean, areas.mean_intervals),
        "num_resamples": areas.num_resamples,
    }


def _area_figures(areas: Areas, intervals: AreaIntervals) -> dict[str, Any]:
    return {
        "roc_auc": areas.roc_auc,
        "roc_auc_interval_95": intervals.roc_auc,
        "average_precision": areas.average_precision,
        "average_precision_interval_95": intervals.average_precision,
    }


def _judgement_figures(judgement: Judgement) -> dict[str, Any]:
    outcome = judgement.outcome
    return {
        **dataclasses.asdict(judgement.threshold),
        "caution": judgement.caution,
        "accuracy": judgement.accuracy,
        "precision": outcome.precision,
        "recall": outcome.recall,
        "f1": outcome.f1,
        "cost": judgement.cost,
        **dataclasses.asdict(outcome),
    }
