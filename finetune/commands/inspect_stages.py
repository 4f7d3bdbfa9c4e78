"""`finetune-inspect --recipe`: the stages of a training before it runs: what each trains, and by which settings."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.commands.inspect_plan import MakePlan
from finetune.commands.stages import name_of, stages_of, with_scopes
from finetune.model.plan_table import describe_plan
from finetune.model.scopes import VariablePlan
from finetune.settings.flags import flat_values
from finetune.settings.head import HEAD_FLAGS
from finetune.settings.inspect import InspectSettings
from finetune.settings.settings_file import plain_value
from finetune.settings.stage import ALTERNATIVES, StageSettings
from finetune.settings.train import TrainSettings

if TYPE_CHECKING:
    from rich.table import Table


@dataclasses.dataclass(frozen=True)
class PlannedStage:
    """A stage before it runs: its name, its length in words, its settings that are not the defaults, its plan."""

    name: str
    length: str
    settings: dict[str, Any]
    plan: VariablePlan


def planned_stages(settings: InspectSettings, make_plan: MakePlan) -> list[PlannedStage]:
    """The stages of a recipe, or those that are given.

    Args:
        settings: Which.
        make_plan: From trainable scopes, and whether it is the first stage, to the plan.

    Raises:
        UserError: There is no such layer.
    """
    given: dict[str, Any] = {"stages": settings.stages} if settings.stages else {"recipe": settings.recipe}
    head = {name: getattr(settings, name) for name in HEAD_FLAGS}
    training = TrainSettings(dataset_dir=Path(), model=settings.model, **head, **given)
    planned = []
    for number, stage in enumerate(stages_of(training)):
        around = stage.settings(training.stage)
        resolved = with_scopes(around, training.network)
        planned.append(
            PlannedStage(
                name_of(stage, number) if training.course.stages else str(settings.recipe),
                _length(around),
                _told(around),
                make_plan(resolved.trainable_scopes, number == 0),
            )
        )
    return planned


def stages_table(stages: Sequence[PlannedStage]) -> "Table":
    """A column for each stage: what it trains, how long, and by which settings."""
    from rich.table import Table

    table = Table(title="Stages", title_justify="left")
    table.add_column("stage")
    for stage in stages:
        table.add_column(stage.name)
    trained = [sum(variable.num_parameters for variable in stage.plan.trained) for stage in stages]
    table.add_row("length", *(stage.length for stage in stages))
    table.add_row("trained parameters", *(f"{count:,}" for count in trained))
    for name in dict.fromkeys(name for stage in stages for name in stage.settings):
        table.add_row(name.replace("_", "-"), *(_text(stage.settings.get(name)) for stage in stages))
    return table


def describe_stages(stages: Sequence[PlannedStage]) -> list[dict[str, Any]]:
    """The same, for programs."""
    return [
        {"name": stage.name, "length": stage.length, "settings": stage.settings, **describe_plan(stage.plan)}
        for stage in stages
    ]


def _length(stage: StageSettings) -> str:
    if stage.epochs is not None:
        return f"{stage.epochs:g} epochs"
    return "without end" if stage.max_steps is None else f"{stage.max_steps} steps"


def _told(stage: StageSettings) -> dict[str, Any]:
    """What isn't the default, but for what the table says otherwise."""
    values, defaults = flat_values(stage), flat_values(StageSettings())
    said = {"trainable_scopes", *ALTERNATIVES[0]}
    return {name: plain_value(value) for name, value in values.items() if value != defaults[name] and name not in said}


def _text(value: Any) -> str:
    return "" if value is None else ",".join(map(str, value)) if isinstance(value, list) else str(value)
