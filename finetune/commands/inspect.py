"""`finetune-inspect`: networks, what a checkpoint holds, how two differ, the plan and the images of a training."""

import json
from collections.abc import Sequence
from typing import Any

from finetune.commands.command import run_command, say
from finetune.commands.inspect_plan import MakePlan, named_network, open_named, plan_of_flags, planner
from finetune.commands.tables import print_table
from finetune.commands.tensorflow_start import start_tensorflow
from finetune.commands.verbs import VERBS
from finetune.errors import UserError
from finetune.nets import MODELS
from finetune.nets.keras_networks.table import APPLICATIONS
from finetune.nets.models_table import describe_application, describe_model, models_table
from finetune.settings.gpus import GpuSettings
from finetune.settings.inspect import InspectSettings


def inspect(settings: InspectSettings) -> None:
    """Prints what the settings ask for.

    Raises:
        UserError: There is nothing to inspect, no checkpoint where one is named, or the plan can't be.
    """
    num_checkpoints = len(settings.checkpoints)
    if settings.augment:
        _show_augmentation(settings)
    elif settings.shows_network:
        _show_network(settings)
    elif settings.models:
        _show_models(settings)
    elif settings.model is not None:
        _show_plan(settings)
    elif num_checkpoints == 1:
        _show_checkpoint(settings)
    elif num_checkpoints == 2:
        _show_difference(settings)
    else:
        raise UserError(
            f"finetune-inspect takes one checkpoint or two, not {num_checkpoints}.",
            "Or give --models for the table of networks, --model NAME for a plan, --summary for its layers, --augment "
            "for training's images.",
        )


def _show_augmentation(settings: InspectSettings) -> None:
    from finetune.commands.augmentation_sheet import draw_sheet

    say(draw_sheet(settings))


def _show_network(settings: InspectSettings) -> None:
    from finetune.commands.inspect_network import look_at_network

    network = look_at_network(settings)
    if settings.json:
        _print_json(network.describe())
        return
    if settings.summary:
        network.print_summary()
    say(network.in_words())


def _show_models(settings: InspectSettings) -> None:
    applications = [describe_application(name, application) for name, application in APPLICATIONS.items()]
    models = [*(describe_model(spec) for spec in MODELS.values()), *applications]
    if settings.json:
        _print_json(models)
    else:
        print_table(models_table(models))


def _show_plan(settings: InspectSettings) -> None:
    from finetune.model.plan_table import describe_plan, plan_table, variables_table

    if settings.recipe or settings.stages:
        _show_stages(settings)
        return
    plan = plan_of_flags(settings, _make_planner(settings))
    if settings.json:
        _print_json(describe_plan(plan))
        return
    print_table(variables_table(plan), header_in_files=False)
    say()
    print_table(plan_table(plan))


def _show_stages(settings: InspectSettings) -> None:
    from finetune.commands.inspect_stages import describe_stages, planned_stages, stages_table
    from finetune.model.plan_table import plan_table

    stages = planned_stages(settings, _make_planner(settings))
    if settings.json:
        _print_json(describe_stages(stages))
        return
    print_table(stages_table(stages))
    for stage in stages:
        say()
        say(f"{stage.name}:")
        print_table(plan_table(stage.plan))


def _show_checkpoint(settings: InspectSettings) -> None:
    from finetune.model.checkpoint_table import describe_checkpoint, kinds_table, tensors_table

    holdings = describe_checkpoint(open_named(settings, settings.checkpoints[0]))
    if settings.json:
        _print_json(holdings)
        return
    print_table(tensors_table(holdings), header_in_files=False)
    classes = f"{holdings['num_classes']} classes" if holdings["num_classes"] else "no head"
    network = f"{holdings['model']}, {classes}" if holdings["model"] else "none of the table"
    if holdings["head"]:
        network += f", another head than its own, {holdings['head']}"
    if holdings["checkpoint_prefix"]:
        network += f", under the prefix {holdings['checkpoint_prefix']}/ (--checkpoint-prefix)"
    step = holdings["global_step"]
    say()
    say(f"checkpoint: {holdings['checkpoint']}")
    say(f"network: {network}")
    say(f"global step: {step if step is not None else 'none'}")
    print_table(kinds_table(holdings), header_in_files=False)


def _show_difference(settings: InspectSettings) -> None:
    from finetune.model.checkpoint_table import describe_difference, difference_table

    difference = describe_difference(*(open_named(settings, path) for path in settings.checkpoints))
    if settings.json:
        _print_json(difference)
        return
    print_table(difference_table(difference), header_in_files=False)
    say(f"first: {difference['first']}")
    say(f"second: {difference['second']}")
    say(f"equal to the bit: {difference['num_equal']} tensors")


def _make_planner(settings: InspectSettings) -> MakePlan:
    from finetune.model.recognise import describe_variables

    network = named_network(settings)
    variables = describe_variables(network.spec, network.num_classes, network.image_size, network.channels)
    shapes = network.checkpoint.shapes if network.checkpoint is not None else None
    return planner(settings, network, variables, shapes)


def _print_json(description: Any) -> None:
    say(json.dumps(description, indent=1))


def _start_and_inspect(settings: InspectSettings) -> None:
    if not settings.models:
        start_tensorflow()
        from finetune.model.gpus import use_gpus

        use_gpus(GpuSettings(gpu="none"))  # What is shown needs none, and others may be training on them.
    inspect(settings)


def main(argv: Sequence[str] | None = None, prog: str = "finetune-inspect") -> int:
    """The command."""
    return run_command(
        InspectSettings,
        _start_and_inspect,
        prog=prog,
        description=f"{VERBS['inspect'].summary} Two checkpoints: how they differ.",
        argv=argv,
    )
