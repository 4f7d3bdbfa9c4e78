"""How the learning rate of a variable differs from the schedule's: by its scope, and by its depth in the network."""

import logging
from collections.abc import Mapping, Sequence

from finetune.errors import UserError
from finetune.model.scopes import VariablePlan, check_scopes, in_any_scope, in_scope, shortest_scopes
from finetune.notices import few
from finetune.settings.stage import ScheduleSettings, parse_multipliers

log = logging.getLogger("finetune")

# Well within float32, in which a rate of 0 would make FTRL divide by it.
LEAST_MULTIPLIER = 1e-30


def rate_multipliers(
    settings: ScheduleSettings, plan: VariablePlan, layer_groups: Sequence[Sequence[str]], *, is_resumed: bool = False
) -> dict[str, float]:
    """The learning-rate multiplier of each trained variable that has one.

    It is that of the longest scope around the variable, times the layer decay once for each group of layers between
    the variable's and the last one, the head.

    Args:
        settings: Multipliers by scope, and the layer decay.
        plan: Which variables are trained.
        layer_groups: Scopes of the network from input to output, as its record has them.
        is_resumed: Whether a run goes on: older ones may have multipliers of 0.

    Raises:
        UserError: A scope takes none of the variables; a variable has a multiplier of 0, or lies in no group.
    """
    names = [variable.name for variable in plan.trained]
    multipliers = _by_scope(settings, names)
    if settings.layer_decay < 1:
        by_depth = _by_depth(settings.layer_decay, names, layer_groups)
        multipliers = {name: by_depth[name] * multipliers.get(name, 1.0) for name in names}
    standing = [name for name, multiplier in multipliers.items() if multiplier < LEAST_MULTIPLIER]
    if standing and not is_resumed:
        flag = "--learning-rate-multipliers" if settings.learning_rate_multipliers else "--layer-decay"
        _refuse_standing(flag, standing, multipliers, plan)
    return multipliers


def _by_scope(settings: ScheduleSettings, names: Sequence[str]) -> dict[str, float]:
    by_scope = parse_multipliers(settings.learning_rate_multipliers)
    check_scopes("--learning-rate-multipliers", tuple(by_scope), names)
    by_length = sorted(by_scope, key=len)
    return {name: by_scope[scope] for scope in by_length for name in names if in_scope(name, scope)}


def _by_depth(layer_decay: float, names: Sequence[str], layer_groups: Sequence[Sequence[str]]) -> dict[str, float]:
    multipliers = {
        name: layer_decay**depth
        for depth, group in enumerate(reversed(layer_groups))
        for name in names
        if in_any_scope(name, group)
    }
    stray = [name for name in names if name not in multipliers]
    if stray:
        raise UserError(
            f"--layer-decay: {len(stray)} of the {len(names)} trained variables are in no group of layers of the "
            f"network's record: {few(stray)}.",
            "Add their scopes to its layer_groups, or give --learning-rate-multipliers instead.",
        )
    lowest, highest = min(multipliers.values()), max(multipliers.values())
    log.info("Rates: --layer-decay %g times them by %.3g (first layers) to %.3g.", layer_decay, lowest, highest)
    return multipliers


def _refuse_standing(flag: str, standing: Sequence[str], multipliers: Mapping[str, float], plan: VariablePlan) -> None:
    scopes = shortest_scopes(standing, [variable.name for variable in plan.trained])
    moving = [v.name for v in plan.variables if v.is_trained and not in_any_scope(v.name, scopes)]
    mend = f"--trainable-scopes {','.join(shortest_scopes(moving, [variable.name for variable in plan.variables]))}"
    raise UserError(
        f"{flag}: the rate of {few(scopes)} would be {multipliers[standing[0]]:g} times that of the schedule: it would "
        "cost gradients and stand still.",
        f"Freeze it instead: {mend}" if moving else "Give a larger one.",
    )
