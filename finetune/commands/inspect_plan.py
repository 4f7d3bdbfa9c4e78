"""The network and the checkpoint that `finetune-inspect` is told of, and the plan of a training before it runs."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from finetune.commands.stages import with_scopes
from finetune.errors import UserError
from finetune.model.scopes import NetworkVariable, Purpose, Shape, VariablePlan, heads_unlike, plan_variables
from finetune.nets import spec_of
from finetune.nets.spec import NetSpec
from finetune.published.known_datasets import KNOWN_DATASETS
from finetune.settings.head import HEAD_FLAGS
from finetune.settings.inspect import InspectSettings
from finetune.settings.recipes import AUTO_SCOPES
from finetune.settings.train import NetworkSettings

if TYPE_CHECKING:
    from finetune.model.checkpoint import Checkpoint

# From trainable scopes, and whether they are a run's first: later ones have all from the run.
MakePlan = Callable[[Sequence[str], bool], VariablePlan]


@dataclasses.dataclass(frozen=True)
class NamedNetwork:
    """A network that is named, its weights, and the number of its logits.

    Attributes:
        spec: Its record.
        checkpoint: None: it is initialised.
        num_classes: Those that are asked for, else the checkpoint's, else ImageNet's.
        image_size: Height and width in pixels; None: the network's own.
        channels: Of the images; None: the network's own.
    """

    spec: NetSpec
    checkpoint: "Checkpoint | None"
    num_classes: int
    image_size: int | None
    channels: int | None


def network_of(settings: InspectSettings) -> NetworkSettings:
    """The network of the settings, with the head that they describe, as a training has it."""
    head = {name: getattr(settings, name) for name in HEAD_FLAGS}
    return NetworkSettings(
        model=str(settings.model), image_size=settings.image_size, use_grayscale=settings.use_grayscale, **head
    )


def named_network(settings: InspectSettings) -> NamedNetwork:
    """The network of the settings.

    Raises:
        UserError: There is no such network, no checkpoint where one is named, or there are two.
    """
    from finetune.model.recognise import count_classes, variable_shapes

    if len(settings.checkpoints) > 1:
        raise UserError("A plan is made from one checkpoint, or from none.", "Leave out --model to compare two.")
    spec = spec_of(network_of(settings))
    checkpoint = open_named(settings, settings.checkpoints[0]) if settings.checkpoints else None
    found = count_classes(spec, variable_shapes(checkpoint.shapes)) if checkpoint is not None else None
    return NamedNetwork(
        spec,
        checkpoint,
        settings.num_classes or found or KNOWN_DATASETS["imagenet"].num_classes - spec.label_offset,
        settings.image_size,
        1 if settings.use_grayscale else None,
    )


def planner(
    settings: InspectSettings,
    network: NamedNetwork,
    variables: Sequence[NetworkVariable],
    shapes: Mapping[str, Shape] | None,
) -> MakePlan:
    """Makes plans of trainings of a network.

    Args:
        settings: What is excluded, and how weights are restored.
        network: The network.
        variables: All of the network's.
        shapes: Of what its weights are restored from, by name; None: nothing is.
    """
    from finetune.model.recognise import image_size_at, other_model

    spec, checkpoint = network.spec, network.checkpoint
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
            find_image_size=image_size_at(spec, network.channels),
        ),
    )
    of_run = {variable.name: variable.shape for variable in variables}
    later = functools.partial(plan_variables, variables, checkpoint_shapes=of_run, head_scopes=spec.head_scopes)
    return lambda scopes, is_first: (first if is_first else later)(trainable_scopes=scopes)


def plan_of_flags(settings: InspectSettings, make_plan: MakePlan) -> VariablePlan:
    """The plan of a training that isn't in stages.

    Raises:
        UserError: There is no such layer or scope; the checkpoint doesn't fit.
    """
    return make_plan(with_scopes(settings.trained, network_of(settings)).trainable_scopes, True)


def open_named(settings: InspectSettings, path: str) -> "Checkpoint":
    """A checkpoint of the command line.

    Raises:
        UserError: There is none.
    """
    from finetune.model.checkpoint import open_checkpoint

    return open_checkpoint(path, name_prefix=settings.checkpoint_prefix, argument="CHECKPOINT", model=settings.model)
