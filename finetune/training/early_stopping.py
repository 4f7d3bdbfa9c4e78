"""Early stopping: whether the last validations of a run bettered nothing, decided by what is recorded of them."""

from collections.abc import Sequence

from finetune.settings.stopping import StoppingSettings
from finetune.training.best import Best


def ended_early(validations: Sequence[Best], stopping: StoppingSettings) -> str | None:
    """Why training ends after the last one of the validations, in words; None: it doesn't.

    As Keras's EarlyStopping has it, what is to be bettered is the last validation that was better by more than
    `early_stopping_min_delta` than the one that was to be bettered before.

    Args:
        validations: Of a run, in the order of their steps; those whose measure isn't known count for nothing.
        stopping: The patience, what better means, and by which measure.
    """
    if stopping.early_stopping_patience is None:
        return None
    to_better: tuple[float, int] | None = None
    num_in_vain = 0
    for validation in validations:
        worth = validation.worth(stopping.best_by)
        if worth is None:
            continue
        if to_better is None or worth > to_better[0] + stopping.early_stopping_min_delta:
            to_better, num_in_vain = (worth, validation.step), 0
        else:
            num_in_vain += 1
    if to_better is None or num_in_vain < stopping.early_stopping_patience:
        return None
    worth, step = to_better
    return f"{num_in_vain} validations in a row didn't better the {stopping.best_by} {abs(worth):.4f} of step {step}"
