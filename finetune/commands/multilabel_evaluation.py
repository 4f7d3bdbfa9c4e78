"""An evaluation of several labels an image: what it doesn't go with, its files, and its lines for the user."""

import dataclasses
from typing import TYPE_CHECKING

from finetune.commands.command import say
from finetune.commands.decisions import refuse_unwritable
from finetune.commands.evaluation_files import make_output_dir, whole_results
from finetune.commands.label_thresholds import chosen_thresholds
from finetune.evaluation.multilabel_result import MultilabelResult, write_label_metrics, write_label_predictions
from finetune.evaluation.result_files import METRICS_FILE, REPORT_FILE
from finetune.files.whole_files import gone_if_empty
from finetune.files.write_errors import write_errors_told
from finetune.notices import few
from finetune.runs.label_thresholds import LABEL_THRESHOLDS_FILE, LabelThresholds, thresholds_in_use
from finetune.settings.choices import NO_DECISION
from finetune.settings.evaluate import EvalSettings
from finetune.settings.task import refuse_of_one_label

if TYPE_CHECKING:
    from finetune.commands.evaluator import Evaluator


def check_evaluation(settings: EvalSettings) -> None:
    """Refuses what an evaluation of a network of several labels an image is asked for and has no meaning of.

    Raises:
        UserError: Something is.
    """
    only_single_label = {
        "--compare": bool(settings.compare),
        "--shard": settings.shard is not None,
        "--write-logits": settings.write_logits,
        "--positive-class": settings.positive_class is not None,
        "--calibrate": settings.calibrate is not None,
        "--assert-accuracy-at-least": settings.assert_accuracy_at_least is not None,
        "--nearest": settings.nearest is not None,
        "--explain": settings.explain is not None,
    }
    refuse_of_one_label(only_single_label)


def evaluate_labels(evaluator: "Evaluator") -> MultilabelResult:
    """Scores a split and writes the files; keeps the thresholds that are asked for.

    Raises:
        UserError: As `Evaluator`; thresholds that can't be kept, or that no rule gives.
    """
    settings, output_dir = evaluator.settings, evaluator.output_dir
    if settings.rule is not None:
        refuse_unwritable(evaluator.run_folder / LABEL_THRESHOLDS_FILE)
    with gone_if_empty(output_dir), write_errors_told():
        make_output_dir(output_dir)
        result, chosen = _result(evaluator)
        with whole_results(output_dir, last=METRICS_FILE) as staging:
            write_label_results(dataclasses.replace(result, output_dir=staging), with_report=settings.report)
        if chosen is not None:
            chosen.write(result.run_folder)
    return result


def _result(evaluator: "Evaluator") -> tuple[MultilabelResult, LabelThresholds | None]:
    """What the split comes to, and the thresholds that are chosen on it; None: none are."""
    from finetune.evaluation.scoring import score_labels

    settings, prefix, chosen = evaluator.settings, evaluator.checkpoint.prefix, None
    scores = evaluator.scored_by(score_labels)
    if settings.rule is None:
        given = NO_DECISION if settings.threshold == NO_DECISION else settings.threshold_by_hand
        thresholds, by = thresholds_in_use(given, prefix, evaluator.class_names, lambda: evaluator.weights_sha256)
    else:
        chosen = chosen_thresholds(
            scores,
            evaluator.class_names,
            settings.rule,
            checkpoint=prefix,
            weights_sha256=evaluator.weights_sha256,
            split=evaluator.dataset.split,
            data_sha256=evaluator.data_sha256,
        )
        thresholds, by = chosen.of_classes(evaluator.class_names), f"chosen by {chosen}"
    result = MultilabelResult(
        **evaluator.evaluated,
        scores=scores,
        thresholds=thresholds,
        thresholds_by=by,
    )
    return result, chosen


def write_label_results(result: MultilabelResult, *, with_report: bool) -> None:
    """Writes all files of a result into its folder."""
    write_label_metrics(result)
    write_label_predictions(result)
    if with_report:
        from finetune.evaluation.multilabel_report import write_label_report

        write_label_report(result)


def print_label_result(result: MultilabelResult, *, with_report: bool) -> None:
    """The lines for the user."""
    scores, decisions = result.scores, result.decisions
    average, left_out = scores.mean_average_precision, result.without_average
    say(f"{result.checkpoint_name} on {result.dataset.split}:")
    words = "unknown" if average is None else f"{average:.4f}"
    say(f"mean average precision {words} ({scores.num_classes - len(left_out)} classes, {scores.num_examples} images)")
    if left_out:
        say(f"left out, since all images have them or none: {few(left_out)}")
    if result.dataset.num_skipped:
        say(f"skipped {result.dataset.num_skipped} records that can't be read")
    if result.caution:
        say(f"caution: {result.caution}")
    say(f"thresholds: {result.thresholds_by}")
    macro = decisions.classes.macro("f1") if decisions.occur else 0.0
    say(f"micro F1 {decisions.micro_f1:.4f}, macro F1 {macro:.4f}")
    say(f"all labels right {decisions.exact_match:.4f}, Hamming loss {decisions.hamming_loss:.4f}")
    say(f"loss {scores.loss:.4f}")
    say(f"written to {result.output_dir / REPORT_FILE if with_report else result.output_dir}")
