"""The task of a network, one label an image or any number of them, and what belongs to one of the two alone."""

from collections.abc import Mapping
from typing import Any

from finetune.errors import UserError
from finetune.settings.choices import MULTILABEL, SINGLE_LABEL
from finetune.settings.objective import NONE
from finetune.settings.stage import StageSettings

BEST_BY_OF_LABELS = "mean_average_precision"
# Of --best-by, what the other task has no such measure of.
_ONLY_SINGLE_LABEL = ("accuracy", "balanced_accuracy")


def with_task(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values of settings with the defaults of their task, where they say nothing themselves."""
    is_told = "stopping" in values or "best_by" in values  # Nobody knows what in a whole group was given.
    if values.get("task") != MULTILABEL or is_told:
        return dict(values)
    return {**values, "best_by": BEST_BY_OF_LABELS}


def refuse_of_other_task(task: str, *, best_by: str, only_single_label: Mapping[str, bool]) -> None:
    """Refuses settings of a training that its task knows no meaning of.

    Args:
        task: A word of `TASKS`.
        best_by: As `--best-by` takes it.
        only_single_label: What goes with one label an image alone, by the flag, and whether it is asked for.

    Raises:
        UserError: One is asked for.
    """
    if task == SINGLE_LABEL and best_by == BEST_BY_OF_LABELS:
        raise UserError(
            f"--best-by {BEST_BY_OF_LABELS} is of several labels an image.",
            f"Give --task {MULTILABEL}, or --best-by accuracy.",
        )
    if task != MULTILABEL:
        return
    if best_by in _ONLY_SINGLE_LABEL:
        raise UserError(
            f"--best-by {best_by} is of one label an image.", f"Give --best-by {BEST_BY_OF_LABELS}, f1 or loss."
        )
    _refuse(only_single_label)


def refuse_stage_of_other_task(task: str, stage: StageSettings) -> None:
    """As `refuse_of_other_task`, of what each stage has of its own.

    Raises:
        UserError: Likewise.
    """
    objective = stage.objective
    if task == SINGLE_LABEL and objective.positive_weights not in ((), (NONE,)):
        raise UserError(
            "--positive-weights is of several labels an image.", f"Give --task {MULTILABEL}, or --class-weights."
        )
    if task == MULTILABEL and objective.class_weights:
        raise UserError(
            "--class-weights weighs images by their one label.",
            "Give --positive-weights, which weighs the images that have a class for it.",
        )
    if task == MULTILABEL:
        _refuse(
            {
                "--balanced-sampling": objective.balanced_sampling,
                "--loss focal": objective.loss == "focal",
                "--probe": stage.probe,
                "--head-weight-decay auto": stage.head_weight_decay == "auto",
            }
        )


def refuse_of_one_label(only_single_label: Mapping[str, bool], mend: str = "Leave it out.") -> None:
    """Refuses what a trained network of several labels an image is asked for and has no meaning of.

    Args:
        only_single_label: What goes with one label an image alone, by the flag, and whether it is asked for.
        mend: What to do instead.

    Raises:
        UserError: One is asked for.
    """
    asked = [name for name, is_asked in only_single_label.items() if is_asked]
    if asked:
        raise UserError(f"{' and '.join(asked)}: of one label an image, and this network tells several.", mend)


def _refuse(only_single_label: Mapping[str, bool]) -> None:
    asked = [what for what, is_asked in only_single_label.items() if is_asked]
    if asked:
        raise UserError(
            f"--task {MULTILABEL}: {' and '.join(asked)} {'is' if len(asked) == 1 else 'are'} of one label an image.",
            "Leave it out." if asked != ["--probe"] else "Train the head by steps: --recipe head, or no --probe.",
        )
