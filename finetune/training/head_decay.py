"""Which of the trained variables have the weight decay of all, and which that of the head."""

from collections.abc import Sequence

from finetune.errors import UserError
from finetune.model.model import Model, variable_name
from finetune.model.scopes import in_any_scope
from finetune.settings.stage import StageSettings
from finetune.types import Variable


def decayed_variables(
    stage: StageSettings, model: Model, trained: Sequence[Variable]
) -> tuple[list[Variable], list[Variable]]:
    """Those that `--weight-decay` applies to, and those that `--head-weight-decay` applies to, where it is given.

    The latter are kernels of the layers that give logits, with a column for each class, those of an auxiliary head too,
    whether slim decays them or not.

    Raises:
        UserError: The head has a decay of its own, and isn't trained.
    """
    all_decayed = [variable for variable in trained if variable_name(variable) in model.decayed_names]
    if stage.head_weight_decay is None:
        return all_decayed, []
    head = [variable for variable in trained if _is_kernel_of_head(variable, model)]
    if not head:
        raise UserError(
            "--head-weight-decay is of the classification layer, which isn't trained.",
            f"Train it, too: --trainable-scopes {','.join(model.spec.head_scopes)}",
        )
    names = {variable_name(variable) for variable in head}
    return [variable for variable in all_decayed if variable_name(variable) not in names], head


def _is_kernel_of_head(variable: Variable, model: Model) -> bool:
    is_of_head = in_any_scope(variable_name(variable), model.spec.logits_scopes)
    return is_of_head and variable.shape.rank > 1 and variable.shape[-1] == model.num_classes
