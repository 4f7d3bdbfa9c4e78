"""The files of an evaluation, which appear together."""

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path

from finetune.commands.evaluation_shares import PROGRAM
from finetune.errors import UserError
from finetune.evaluation.cross_validation import write_folds
from finetune.evaluation.label_errors import write_label_errors
from finetune.evaluation.result_files import (
    METRICS_FILE,
    EvalResult,
    write_confusion_matrix,
    write_metrics,
    write_predictions,
)
from finetune.files.folder_lock import sole_writer
from finetune.files.whole_files import make_writable, whole_set


def write_results(result: EvalResult, *, with_report: bool) -> None:
    """Writes all files of a result, together."""
    with whole_results(result.output_dir, last=METRICS_FILE) as staging:
        staged = dataclasses.replace(result, output_dir=staging)
        write_metrics(staged)
        write_predictions(staged)
        write_confusion_matrix(staged)
        if staged.folds:
            write_folds(staging, staged.folds)
        if staged.label_errors is not None:
            write_label_errors(staging, staged.label_errors, staged.scores.filenames, staged.class_names)
        if with_report:
            from finetune.evaluation.report import write_report

            write_report(staged)


@contextlib.contextmanager
def whole_results(output_dir: Path, *, last: str) -> Iterator[Path]:
    """A folder for files that appear together, and after those of an evaluation that is just writing its own there."""
    name = Path(last).stem
    with (
        sole_writer(output_dir / name, flag="--output-dir", program=PROGRAM, wait=True),
        whole_set(output_dir, name, last=last) as staging,
    ):
        yield staging


def make_output_dir(folder: Path) -> None:
    """Makes the folder of the files, where there is none.

    Raises:
        UserError: It can't be written.
    """
    try:
        make_writable(folder)
    except OSError as error:
        message = f"--output-dir: {folder} can't be written: {error.strerror}."
        raise UserError(message, "Give another --output-dir.") from error
