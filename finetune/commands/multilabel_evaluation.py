"""An evaluation of several labels an image: what it doesn't go with, its files, and its lines for the user."""

from finetune.commands.command import say
from finetune.errors import UserError
from finetune.evaluation.multilabel_result import MultilabelResult, write_label_metrics, write_label_predictions
from finetune.evaluation.result_files import REPORT_FILE
from finetune.notices import few
from finetune.settings.evaluate import EvalSettings


def refuse_of_one_label(settings: EvalSettings) -> None:
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
    asked = [name for name, is_given in only_single_label.items() if is_given]
    if asked:
        raise UserError(
            f"{' and '.join(asked)}: of one label an image, and this network tells several.", "Leave it out."
        )


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
