"""The network of a training: its plan, and what its variables begin with."""

import logging
from pathlib import Path

from finetune.model.checkpoint import Checkpoint
from finetune.model.model import Model
from finetune.model.plan_table import plan_text
from finetune.model.recognise import image_size_at, other_model
from finetune.model.scopes import Purpose, VariablePlan, heads_unlike, plan_variables
from finetune.nets import spec_of
from finetune.nets.heads import head_in_words
from finetune.notices import tell_once
from finetune.runs.run_folder import warn_of_other_rules
from finetune.settings.recipes import AUTO_SCOPES
from finetune.settings.train import NetworkSettings, TrainSettings
from finetune.training.classes import match_to_restored_head
from finetune.training.training_data import TrainingData, num_outputs

log = logging.getLogger("finetune")


def make_model(settings: TrainSettings, data: TrainingData) -> Model:
    """The network of the settings, for the classes of the data, its variables not yet drawn."""
    network = settings.network
    return Model(
        spec_of(network),
        num_outputs(settings.data, data),
        image_size=network.image_size,
        channels=1 if network.use_grayscale else None,
        seed=settings.run.seed,
        initialise=False,
    )


def make_plan(settings: TrainSettings, model: Model, source: Checkpoint | None) -> VariablePlan:
    """Which variables are restored, initialised, trained and frozen.

    Raises:
        UserError: A scope names no variable; the checkpoint lacks one, or has it in another shape.
    """
    network, is_resumed = settings.network, settings.run.resume
    return plan_variables(
        model.network_variables(),
        checkpoint_shapes=source.shapes if source is not None else None,
        exclude_scopes=() if is_resumed else _excluded(network, model, source),
        trainable_scopes=settings.stage.trainable_scopes,
        head_scopes=model.spec.head_scopes,
        ignore_missing=network.ignore_missing_vars,
        use_moving_averages=network.ema and not is_resumed,
        sum_colours=network.grayscale_stem == "sum" and not is_resumed,
        purpose=Purpose(
            command="resume" if is_resumed else "train",
            checkpoint=source.prefix if source is not None else "",
            name_prefix=source.name_prefix if source is not None else "",
            is_grayscale=network.use_grayscale,
            is_object_based=source is not None and source.is_object_based,
            find_model=other_model(network.model),
            find_image_size=image_size_at(model.spec, 1 if network.use_grayscale else None),
        ),
    )


def _excluded(network: NetworkSettings, model: Model, source: Checkpoint | None) -> tuple[str, ...]:
    """Scopes that aren't restored; by themselves the heads that are of other classes in the checkpoint."""
    if network.exclude_scopes != AUTO_SCOPES:
        return network.exclude_scopes
    if source is None:
        return ()
    return heads_unlike(model.network_variables(), source.shapes, model.spec.head_scopes)


def restored_model(
    settings: TrainSettings, data: TrainingData, source: Checkpoint | None
) -> tuple[Model, VariablePlan, TrainingData]:
    """The network with its weights and its frozen layers; and the data, its labels in the order of a restored head."""
    model = make_model(settings, data)
    plan = make_plan(settings, model, source)
    if model.spec.head is not None:
        tell_once(head_in_words(model.spec))
    show_weights_and_plan(plan, source)
    if source is not None and not settings.run.resume:
        data = match_to_restored_head(settings.data, data, plan, source, model.spec)
    model.freeze(plan, settings.stage.batch_norm)
    model.initialise(variable.name for variable in plan.initialised)
    if source is not None:
        warn_of_other_rules(data.training.image_rules, Path(source.prefix).parent)
        model.restore(source, plan)
    return model, plan, data


def show_weights_and_plan(plan: VariablePlan, source: Checkpoint | None) -> None:
    """Says what a run begins from, and what becomes of each variable."""
    log.info("Weights: %s", source.prefix if source is not None else "from scratch, no --checkpoint is given")
    log.info("%s", plan_text(plan))
