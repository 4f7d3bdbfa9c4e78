"""A run before its next step: all that a step needs, built from the settings."""

import dataclasses
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf

from finetune.commands.found_settings import steps_of_stage, with_batch_norm, with_found_rate, with_head
from finetune.commands.network import restored_model
from finetune.commands.objective import (
    find_class_weights,
    find_index,
    find_loss_of_labels,
    make_loss,
    make_mixing,
)
from finetune.commands.training_inputs import training_images
from finetune.datasets.bad_records import reading
from finetune.model.checkpoint import Checkpoint
from finetune.model.model import Model
from finetune.model.scopes import VariablePlan
from finetune.runs.provenance import Change, Facts, at_next_stage, changes_between, describe_run, facts_at
from finetune.runs.run_folder import RunFolder
from finetune.runs.stage_record import ONLY_STAGE, StagePlace
from finetune.settings.settings_file import to_toml_table
from finetune.settings.stage import StageSettings
from finetune.settings.train import DeviceSettings, TrainSettings
from finetune.training.devices import Devices, describe_machine, uses_xla
from finetune.training.divergence import with_cuts_of_run
from finetune.training.example_weights import weights_of_probe
from finetune.training.head_decay import decayed_variables
from finetune.training.image_inputs import TrainingImages, TrainingInputs
from finetune.training.inputs import make_inputs, refuse_without_features
from finetune.training.loss_gap import LossGap
from finetune.training.loss_scaling import LossScale
from finetune.training.losses import MultilabelLoss
from finetune.training.mixed_batches import Mixture
from finetune.training.moving_averages import MovingAverages
from finetune.training.multipliers import rate_multipliers
from finetune.training.optimizers import Optimizer, decoupled_decays
from finetune.training.probe import feature_user
from finetune.training.pseudo_labelling import PseudoLabelling
from finetune.training.pseudo_labels import PseudoLabels
from finetune.training.rate_finder import RateCurve
from finetune.training.recalibration import Recalibration
from finetune.training.resumption import cached_as_before, check_changes
from finetune.training.schedules import CutSchedule, make_schedule
from finetune.training.seen_records import SeenRecords
from finetune.training.starting_weights import step_of
from finetune.training.state import TrainingState
from finetune.training.step import TrainingStep
from finetune.training.training_data import TrainingData, num_outputs
from finetune.trunk.features import FeatureFolder
from finetune.trunk.linear_head import find_linear_head
from finetune.types import Variable

log = logging.getLogger("finetune")


@dataclasses.dataclass(frozen=True)
class PreparedRun:
    """A run before its next step.

    Attributes:
        settings: As resolved.
        facts: Of the part of the run that begins.
        changes: What isn't what it was, where it goes on.
        data: Its splits.
        plan: Which variables it trains.
        images: Of the splits.
        state: All that changes.
        inputs: What it is given.
        batches: What its steps are given, from the next one on.
        training_step: Makes an update.
        schedule: Learning rate by step, with the cuts that the run had so far.
        recalibration: Of batch norm's moving statistics; None: none is to be made.
        loss_gap: Compares losses of training and validation.
        labelling: Labels the unlabelled images; None: there are none.
        rate_curve: What the learning-rate finder found; None: it wasn't asked.
        first_step: Number of updates made.
        images_per_step: Of all devices.
    """

    settings: TrainSettings
    facts: Facts
    changes: list[Change]
    data: TrainingData
    plan: VariablePlan
    images: TrainingImages
    state: TrainingState
    inputs: TrainingInputs
    batches: Iterator[Any]
    training_step: TrainingStep
    schedule: CutSchedule
    recalibration: Recalibration | None
    loss_gap: LossGap
    labelling: PseudoLabelling | None
    rate_curve: RateCurve | None
    first_step: int
    images_per_step: int


def prepare(
    settings: TrainSettings,
    data: TrainingData,
    devices: Devices,
    source: Checkpoint | None,
    features: FeatureFolder,
    history: Facts | None,
    place: StagePlace = ONLY_STAGE,
    compared_step: int | None = None,
    labels_from: int | None = None,
) -> PreparedRun:
    """Builds all that a step needs.

    Args:
        settings: Of the run, its precision found.
        data: Its splits.
        devices: That make its steps.
        source: Where its weights are; None: it begins from scratch.
        features: Folder of features.
        history: What the run says of itself; None: it begins.
        place: Of the stage.
        compared_step: Whose facts those of now are compared with, to make steps up to it again; None: that of the
            weights, to go on from there.
        labels_from: Number of updates made when unlabelled images are labelled first; None: not in this stage.

    Raises:
        UserError: What the user can mend: a scope, the checkpoint, the data; what has changed and isn't allowed to.
    """
    strategy = devices.strategy
    with strategy.scope():
        model, plan, data = restored_model(settings, data, source)
        settings = with_batch_norm(settings, model, plan, place)
        stage = settings.stage
        model.syncs_batch_norm = _syncs_batch_norm(stage, model, strategy.num_replicas_in_sync)
        model.num_batch_parts = stage.accumulate_steps * strategy.num_replicas_in_sync
        index = find_index(settings, data)
        of_classes, has_weights = find_class_weights(settings, data, index), data.training.schema.has_weights
        of_labels = find_loss_of_labels(settings, data, index)
        # A stage without pseudo-labels needs no features of unlabelled images.
        given = data if labels_from is not None else dataclasses.replace(data, unlabelled=None)
        images = training_images(settings, given, model.image_size, model.channels, index)
        trained = [model.model_variables[variable.name] for variable in plan.trained]
        multipliers = rate_multipliers(stage.schedule, plan, model.spec.layer_groups, is_resumed=settings.run.resume)
        begins = place.begins or not settings.run.resume
        needed_by = feature_user(stage) if begins else ""
        if needed_by:
            refuse_without_features(stage, model.spec.head_scopes, plan, needed_by)
        head = find_linear_head(model, plan, needed_by) if needed_by else None
        optimizer = _make_optimizer(stage, model, trained, multipliers)
        model.compute_dtype = tf.as_dtype(settings.devices.precision)
        seen = SeenRecords(data.training, settings.run.seed, settings.data.labels_offset)
        averages = _make_averages(stage, model, plan)
        labels = PseudoLabels(len(data.unlabelled.records)) if data.unlabelled is not None else None
        state = TrainingState(model, optimizer, averages, _make_loss_scale(settings.devices), seen, labels)
        first_step = _go_on(state, source, history, place) if settings.run.resume and source is not None else 0
        facts = _describe(settings, data, first_step)
        parts_matter = _parts_matter(settings, model)
        changes, recorded = _check_changes(settings, history, facts, seen, place, compared_step, parts_matter)
        were_cached = bool(recorded.get("cached_views"))
        stage = cached_as_before(stage, recorded)
        inputs = make_inputs(
            stage,
            images,
            state,
            plan,
            features,
            num_steps=steps_of_stage(stage, place),
            were_cached=were_cached,
            needed_by=needed_by,
        )
        if head is not None:
            of_probe = weights_of_probe(stage.objective, of_classes, index, num_outputs(settings.data, data))
            settings = with_head(settings, plan, images, state, inputs, head, of_probe)
            state.take_optimizer(_make_optimizer(settings.stage, model, trained, multipliers))
        training_step = _make_step(settings, inputs, state, of_classes, of_labels)
        settings, rate_curve = with_found_rate(settings, data, state, training_step, inputs)
        stage = settings.stage
        recalibration = _make_recalibration(settings, inputs, state)
        folder = RunFolder(settings.run.folder).path if compared_step is None else None
        labelling = _make_labelling(settings, data, inputs, state, labels_from, folder)
        if labelling is not None:
            inputs = dataclasses.replace(inputs, batches=labelling.batches)
        with reading(data.training, settings.data.labels_offset):
            batches = seen.watched(inputs.batches, first_step)
        images_per_step = stage.images_per_update * strategy.num_replicas_in_sync
        return PreparedRun(
            settings=settings,
            facts={**facts, "settings": to_toml_table(settings), "cached_views": inputs.num_views},
            changes=changes,
            data=data,
            plan=plan,
            images=images,
            state=state,
            inputs=inputs,
            batches=batches,
            training_step=training_step,
            schedule=_make_schedule(settings, place, data.training.num_examples, strategy.num_replicas_in_sync),
            recalibration=recalibration,
            loss_gap=LossGap(
                has_stale_statistics=recalibration is None and bool(model.updated_batch_norms()),
                has_end=stage.max_steps is not None,
                is_comparable=stage.objective.loss == "cross-entropy"
                and not (of_classes or has_weights)
                and of_labels is None,
            ),
            labelling=labelling,
            rate_curve=rate_curve,
            first_step=first_step,
            images_per_step=images_per_step,
        )


def _syncs_batch_norm(stage: StageSettings, model: Model, num_devices: int) -> bool:
    """Whether there is something to sync; says where it is asked for and there isn't."""
    is_needed = num_devices > 1 and bool(model.updated_batch_norms())
    if stage.sync_batch_norm and not is_needed:
        why = "one device trains" if num_devices == 1 else "no batch norm is trained"
        log.info("--sync-batch-norm: there is nothing to do for it, since %s.", why)
    return stage.sync_batch_norm and is_needed


def _parts_matter(settings: TrainSettings, model: Model) -> bool:
    """Whether a step does something else where its batch is parted in another way among devices and passes.

    Batch norm that is trained, images that are mixed, and pseudo-labels, of which each part has its share, do.
    """
    mixes = bool(settings.stage.objective.mixing_flag) or settings.pseudo.unlabeled_dir is not None
    return mixes or model.draws_by_part or bool(model.updated_batch_norms())


def _check_changes(
    settings: TrainSettings,
    history: Facts | None,
    now: Facts,
    seen: SeenRecords,
    place: StagePlace,
    compared_step: int | None,
    parts_matter: bool,
) -> tuple[list[Change], Facts]:
    """What has changed, where the run goes on; and the facts that those of now are compared with.

    Raises:
        UserError: What has changed makes another run, and isn't allowed.
    """
    if history is None:
        return [], {}
    at_checkpoint = facts_at(history, now["first_step"])
    if place.begins:
        at_checkpoint = at_next_stage(at_checkpoint, now)
    recorded = at_checkpoint if compared_step is None else facts_at(history, compared_step)
    argument = "--resume" if compared_step is None else "--verify"
    # Several devices cache no features, and see other views of the images than were cached.
    loses_views = bool(recorded.get("cached_views")) and settings.num_devices > 1
    changes = check_changes(
        recorded,
        now,
        seen,
        allowed=settings.run.allow_changed,
        argument=argument,
        parts_matter=parts_matter or loses_views,
    )
    if any(change.makes_another_run for change in changes_between(at_checkpoint, recorded)):
        seen.accept_other_data()  # With it the run went on from here.
    return changes, recorded


def _make_schedule(settings: TrainSettings, place: StagePlace, num_images: int, num_devices: int) -> CutSchedule:
    stage = settings.stage
    images_per_step, scale = stage.images_per_update * num_devices, stage.rate_scale(num_devices)
    if stage.schedule.scale_learning_rate != "none" and steps_of_stage(stage, place) != 0:
        log.info(
            "Learning rate: %g, which is --learning-rate %g times %.4g by --scale-learning-rate %s: a step has %d "
            "images, and the rate is for %d (--learning-rate-batch-size).",
            scale * stage.schedule.rate,
            stage.schedule.rate,
            scale,
            stage.schedule.scale_learning_rate,
            images_per_step,
            stage.schedule.learning_rate_batch_size,
        )
    elif stage.schedule.learning_rate_batch_size is not None:
        log.warning("--learning-rate-batch-size has no effect without --scale-learning-rate.")
    schedule = make_schedule(
        stage.schedule,
        steps_per_epoch=num_images / images_per_step,
        max_steps=stage.max_steps,
        first_step=place.first_step,
        scale=scale,
    )
    return with_cuts_of_run(schedule, RunFolder(settings.run.folder))


def _make_recalibration(settings: TrainSettings, inputs: TrainingInputs, state: TrainingState) -> Recalibration | None:
    if state.model.cumulative_share is None:
        return None
    return Recalibration(
        state,
        inputs,
        num_batches=settings.stage.recalibrate_batch_norm,
        num_passes=settings.stage.accumulate_steps,
        seed=settings.run.seed,
    )


def _make_labelling(
    settings: TrainSettings,
    data: TrainingData,
    inputs: TrainingInputs,
    state: TrainingState,
    begin: int | None,
    folder: Path | None,
) -> PseudoLabelling | None:
    """What labels the unlabelled images from a step on, and writes their labels into a folder."""
    if data.unlabelled is None or begin is None:
        return None
    pseudo, stage = settings.pseudo, settings.stage
    return PseudoLabelling(
        state,
        inputs,
        names=[record.name for record in data.unlabelled.records],
        classes=_class_names_of_outputs(settings, data),
        mixture=Mixture.of(
            stage.images_per_pass,
            state.model.num_batch_parts,
            pseudo.pseudo_label_fraction,
        ),
        threshold=pseudo.threshold,
        begin=begin,
        every=pseudo.pseudo_label_refresh,
        seed=settings.run.seed,
        folder=folder,
    )


def _class_names_of_outputs(settings: TrainSettings, data: TrainingData) -> list[str]:
    offset = settings.data.labels_offset
    labels = range(offset, offset + num_outputs(settings.data, data))
    return [data.class_names[label] if data.class_names else str(label) for label in labels]


def _describe(settings: TrainSettings, data: TrainingData, first_step: int) -> Facts:
    return describe_run(
        data.training,
        data.validation,
        data.hashes,
        settings=to_toml_table(settings),
        machine=describe_machine(on_cpu=settings.devices.clone_on_cpu),
        first_step=first_step,
        unlabelled=data.unlabelled,
    )


def _make_optimizer(
    stage: StageSettings, model: Model, trained: Sequence[Variable], multipliers: Mapping[str, float]
) -> Optimizer:
    """With a head's decay that is yet to be chosen the optimizer is made once more when it is."""
    decayed, head = decayed_variables(stage, model, trained)
    is_known = stage.head_weight_decay != "auto"
    return Optimizer(stage.update, trained, multipliers, decoupled_decays(stage, decayed, head if is_known else ()))


def _make_averages(settings: StageSettings, model: Model, plan: VariablePlan) -> MovingAverages | None:
    if settings.moving_average_decay is None:
        return None
    changing = {v.name: model.model_variables[v.name] for v in plan.variables if v.is_trained or v.is_statistic}
    return MovingAverages(changing, settings.moving_average_decay)


def _make_loss_scale(settings: DeviceSettings) -> LossScale | None:
    return LossScale() if settings.precision == "float16" else None


def _go_on(state: TrainingState, source: Checkpoint, history: Facts | None, place: StagePlace) -> int:
    """Takes up what the run's checkpoint holds; returns its step."""
    values, step = {name: source.read(name) for name in source.shapes}, step_of(source)
    if not place.begins:
        state.restore(values, source.prefix)
        log.info("Going on from step %d.", step)
        return step
    before = facts_at(history or {}, step).get("settings", {}).get("optimizer")
    state.take_over(values, source.prefix, same_optimizer=before == state.optimizer.name)
    return step


def _make_step(
    settings: TrainSettings,
    inputs: TrainingInputs,
    state: TrainingState,
    class_weights: Sequence[float],
    of_labels: MultilabelLoss | None,
) -> TrainingStep:
    stage, devices = settings.stage, settings.devices
    return TrainingStep(
        inputs.forward,
        make_loss(stage, state, class_weights, of_labels),
        state.optimizer,
        averages=state.averages,
        loss_scale=state.loss_scale,
        mixing=make_mixing(stage, state.model.num_classes),
        num_passes=stage.accumulate_steps,
        largest_norm=stage.update.clip_gradients,
        seed=settings.run.seed,
        use_xla=uses_xla(
            devices.xla,
            on_cpu=devices.clone_on_cpu,
            num_devices=settings.num_devices,
            recomputes=stage.recompute_activations,
        ),
        recompute_activations=stage.recompute_activations,
    )
