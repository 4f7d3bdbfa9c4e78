"""`finetune-inspect`: networks, what a checkpoint holds, how two differ, the plan and the images of a training."""

import functools
import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from finetune.commands.command import run_command, say
from finetune.commands.tables import print_table
from finetune.commands.tensorflow_start import start_tensorflow
from finetune.commands.verbs import VERBS
from finetune.errors import UserError
from finetune.model.scopes import Purpose, VariablePlan, heads_unlike, plan_variables
from finetune.nets import MODELS, get_spec
from finetune.nets.heads import head_of, with_head
from finetune.nets.models_table import describe_model, models_table
from finetune.published.known_datasets import KNOWN_DATASETS
from finetune.settings.inspect import InspectSettings
from finetune.settings.recipes import AUTO_SCOPES

if TYPE_CHECKING:
    from finetune.model.checkpoint import Checkpoint


def inspect(settings: InspectSettings) -> None:
    """Prints what the settings ask for.

    Raises:
        UserError: There is nothing to inspect, no checkpoint where one is named, or the plan can't be.
    """
    num_checkpoints = len(settings.checkpoints)
    if settings.augment:
        _show_augmentation(settings)
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
            "Or give --models for the table of networks, --model NAME for a plan, --augment for training's images.",
        )


def _show_augmentation(settings: InspectSettings) -> None:
    from finetune.commands.augmentation_sheet import draw_sheet

    say(draw_sheet(settings))


def _show_models(settings: InspectSettings) -> None:
    models = [describe_model(spec) for spec in MODELS.values()]
    if settings.json:
        _print_json(models)
    else:
        print_table(models_table(models))


def _show_plan(settings: InspectSettings) -> None:
    from finetune.model.plan_table import describe_plan, plan_table, variables_table

    if settings.recipe or settings.stages:
        _show_stages(settings)
        return
    make_plan = _planner(settings)
    plan = make_plan(settings.trainable_scopes, True)
    if settings.json:
        _print_json(describe_plan(plan))
        return
    print_table(variables_table(plan), header_in_files=False)
    say()
    print_table(plan_table(plan))


def _show_stages(settings: InspectSettings) -> None:
    from finetune.commands.inspect_stages import describe_stages, planned_stages, stages_table
    from finetune.model.plan_table import plan_table

    stages = planned_stages(settings, _planner(settings))
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

    holdings = describe_checkpoint(_open(settings, settings.checkpoints[0]))
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

    difference = describe_difference(*(_open(settings, path) for path in settings.checkpoints))
    if settings.json:
        _print_json(difference)
        return
    print_table(difference_table(difference), header_in_files=False)
    say(f"first: {difference['first']}")
    say(f"second: {difference['second']}")
    say(f"equal to the bit: {difference['num_equal']} tensors")


def _print_json(description: Any) -> None:
    say(json.dumps(description, indent=1))


def _planner(settings: InspectSettings) -> Callable[[Sequence[str], bool], VariablePlan]:
    """Makes plans from trainable scopes, and whether they are a run's first: later ones have all from the run."""
    from finetune.model.recognise import count_classes, describe_variables, image_size_at, other_model, variable_shapes

    if len(settings.checkpoints) > 1:
        raise UserError("A plan is made from one checkpoint, or from none.", "Leave out --model to compare two.")
    spec = with_head(get_spec(str(settings.model)), head_of(settings))
    checkpoint = _open(settings, settings.checkpoints[0]) if settings.checkpoints else None
    shapes = checkpoint.shapes if checkpoint is not None else None
    num_classes = settings.num_classes or (count_classes(spec, variable_shapes(shapes)) if shapes else None)
    variables = describe_variables(
        spec,
        num_classes or KNOWN_DATASETS["imagenet"].num_classes - spec.label_offset,
        image_size=settings.image_size,
        channels=1 if settings.use_grayscale else None,
    )
    excluded = settings.exclude_scopes
    if excluded == AUTO_SCOPES:
        excluded = heads_unlike(variables, shapes, spec.head_scopes) if shapes is not None else ()
    first = functools.partial(
        plan_variables,
        variables,
        checkpoint_shapes=shapes,
        exclude_scopes=excluded,
        head_scopes=spec.head_scopes,
        ignore_missing=settings.ignore_missing_vars,
        use_moving_averages=settings.ema,
        sum_colours=settings.grayscale_stem == "sum",
        purpose=Purpose(
            name_prefix=settings.checkpoint_prefix,
            is_grayscale=settings.use_grayscale,
            is_object_based=checkpoint is not None and checkpoint.is_object_based,
            find_model=other_model(spec.name),
            find_image_size=image_size_at(spec, 1 if settings.use_grayscale else None),
        ),
    )
    of_run = {variable.name: variable.shape for variable in variables}
    later = functools.partial(plan_variables, variables, checkpoint_shapes=of_run, head_scopes=spec.head_scopes)
    return lambda scopes, is_first: (first if is_first else later)(trainable_scopes=scopes)


def _open(settings: InspectSettings, path: str) -> "Checkpoint":
    from finetune.model.checkpoint import open_checkpoint

    return open_checkpoint(path, name_prefix=settings.checkpoint_prefix, argument="CHECKPOINT", model=settings.model)


def _start_and_inspect(settings: InspectSettings) -> None:
    if not settings.models:
        start_tensorflow()
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
