"""Settings that a run finds out by itself: each function gives them with numbers in place of "auto"."""

import dataclasses
import logging
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from finetune.datasets.bad_records import reading
from finetune.errors import UserError
from finetune.model.model import Model
from finetune.model.scopes import VariablePlan
from finetune.runs.stage_record import StagePlace
from finetune.settings.stage import StageSettings
from finetune.settings.train import TrainSettings
from finetune.training.batch_norm_decay import resolve_decay, tell_statistics
from finetune.training.dead_channels import tell_dead_channels
from finetune.training.image_inputs import TrainingImages, TrainingInputs
from finetune.training.inputs import count_views
from finetune.training.precision import measure_step, resolve_precision, supported_precisions
from finetune.training.probe import choose_head_decay, fit_head, head_data
from finetune.training.rate_finder import RateCurve, find_rate
from finetune.training.state import TrainingState
from finetune.training.step import TrainingStep
from finetune.training.training_data import TrainingData
from finetune.trunk.linear_head import LinearHead
from finetune.trunk.split_model import SplitModel
from finetune.types import Variable

log = logging.getLogger("finetune")


def steps_of_stage(stage: StageSettings, place: StagePlace) -> int | None:
    """Of the stage; None: without end."""
    return None if stage.max_steps is None else stage.max_steps - place.first_step


def with_batch_norm(settings: TrainSettings, model: Model, plan: VariablePlan, place: StagePlace) -> TrainSettings:
    """Sets how moving statistics follow, and says it; the settings then have the decay in place of "auto"."""
    stage = settings.stage
    layers = model.updated_batch_norms()
    num_steps = steps_of_stage(stage, place)
    decay = resolve_decay(stage, [model.batch_norm_decays[layer] for layer in layers], num_steps)
    stage = dataclasses.replace(stage, batch_norm_decay=decay)
    model.batch_norm_decay = decay
    if stage.recalibrate_batch_norm and layers:
        model.cumulative_share = tf.Variable(0.0, trainable=False)
    # A run that goes on has restored all, also what it began from scratch.
    of_checkpoint = plan.restored if settings.network.checkpoint is not None else []
    tell_statistics(model, {v.name.rpartition("/")[0] for v in of_checkpoint if v.is_statistic}, stage, num_steps)
    tell_dead_channels(model, plan)
    return dataclasses.replace(settings, stage=stage)


def with_precision(
    settings: TrainSettings, model: Model, trained: Sequence[Variable], images: TrainingImages
) -> TrainSettings:
    """Sets what the model computes in; the settings then say it in place of "auto", for the run and its resumption."""

    def measure(precision: str) -> Any:
        with reading(images.data.training, images.options.labels_offset):
            return measure_step(
                model,
                trained,
                images.first_batch(images.batch_size),
                precision,
                recompute_activations=settings.stage.recompute_activations,
            )

    devices = settings.devices
    supported = supported_precisions(on_cpu=devices.clone_on_cpu)
    precision = resolve_precision(devices.precision, supported, measure)
    model.compute_dtype = tf.as_dtype(precision)
    return dataclasses.replace(settings, devices=dataclasses.replace(devices, precision=precision))


def with_head(
    settings: TrainSettings,
    plan: VariablePlan,
    images: TrainingImages,
    state: TrainingState,
    inputs: TrainingInputs,
    head: LinearHead,
    class_weights: Sequence[float],
) -> TrainSettings:
    """Chooses the head's weight decay, and makes the probe; the settings then have the number in place of "auto"."""
    stage, seed = settings.stage, settings.run.seed
    cached = inputs.cached
    of_head = head_data(
        head,
        cached.split.of_evaluation() if cached is not None else SplitModel(state.model, plan, is_training=False),
        images,
        cached,
        count_views(stage, images),
        images.data.class_names or (),
        stage.label_smoothing,
        class_weights,
    )
    if stage.head_weight_decay in (None, "auto"):
        stage = dataclasses.replace(stage, head_weight_decay=choose_head_decay(of_head, seed))
    if stage.probe:
        if stage.objective.loss == "focal":
            log.info("Head: the probe is of cross-entropy; --loss focal is of the steps.")
        fit_head(head, of_head, stage.head_decay, seed)
        if state.averages is not None:
            state.averages.restart()
    return dataclasses.replace(settings, stage=stage)


def with_found_rate(
    settings: TrainSettings,
    data: TrainingData,
    state: TrainingState,
    training_step: TrainingStep,
    inputs: TrainingInputs,
) -> tuple[TrainSettings, RateCurve | None]:
    """Asks the learning-rate finder where it is to be asked; the settings then have its rate in place of "auto"."""
    is_auto = settings.stage.schedule.learning_rate == "auto"
    if not (is_auto or settings.run.find_learning_rate):
        return settings, None
    with reading(data.training, settings.data.labels_offset):
        curve = find_rate(state, training_step, inputs)
    log.info("%s", curve)
    if not is_auto:
        if settings.stage.schedule.scale_learning_rate != "none":
            log.info("It is of a whole step's images: train at it with --scale-learning-rate none.")
        return settings, curve
    if curve.suggestion is None:
        raise UserError(f"--learning-rate auto: {curve}", "Give a number.")
    schedule = dataclasses.replace(settings.stage.schedule, learning_rate=curve.suggestion)
    return dataclasses.replace(settings, stage=dataclasses.replace(settings.stage, schedule=schedule)), curve
