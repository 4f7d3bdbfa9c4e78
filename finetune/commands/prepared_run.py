"""A run before its next step: all that a step needs, built from the settings."""

import dataclasses
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf

from finetune.commands.objective import find_class_weights, find_index, make_loss, make_mixing
from finetune.commands.stages import stages_of
from finetune.datasets.bad_records import reading
from finetune.datasets.decoding import ReadOptions
from finetune.datasets.record_index import RecordIndex
from finetune.errors import UserError
from finetune.model.checkpoint import Checkpoint
from finetune.model.model import Model
from finetune.model.plan_table import plan_text
from finetune.model.recognise import image_size_at, other_model
from finetune.model.scopes import Purpose, VariablePlan, heads_unlike, plan_variables
from finetune.nets import get_spec
from finetune.runs.provenance import Change, Facts, at_next_stage, changes_between, describe_run, facts_at
from finetune.runs.run_folder import RunFolder, warn_of_other_rules
from finetune.runs.stage_record import ONLY_STAGE, StagePlace
from finetune.settings.recipes import AUTO_SCOPES
from finetune.settings.settings_file import to_toml_table
from finetune.settings.stage import StageSettings
from finetune.settings.train import DeviceSettings, NetworkSettings, TrainSettings
from finetune.training import training_data
from finetune.training.batch_norm_decay import resolve_decay, tell_statistics
from finetune.training.classes import match_to_restored_head
from finetune.training.dead_channels import tell_dead_channels
from finetune.training.devices import choose_strategy, describe_machine, make_deterministic, uses_xla
from finetune.training.divergence import with_cuts_of_run
from finetune.training.example_weights import weights_of_probe
from finetune.training.head_decay import decayed_variables
from finetune.training.image_inputs import TrainingImages, TrainingInputs
from finetune.training.inputs import count_views, make_inputs, refuse_without_features
from finetune.training.loss_gap import LossGap
from finetune.training.loss_scaling import LossScale
from finetune.training.mixed_batches import Mixture
from finetune.training.moving_averages import MovingAverages
from finetune.training.multipliers import rate_multipliers
from finetune.training.optimizers import Optimizer, decoupled_decays
from finetune.training.precision import measure_step, resolve_precision, supported_precisions
from finetune.training.probe import choose_head_decay, feature_user, fit_head, head_data
from finetune.training.pseudo_labelling import PseudoLabelling
from finetune.training.pseudo_labels import PseudoLabels
from finetune.training.rate_finder import RateCurve, find_rate
from finetune.training.recalibration import Recalibration
from finetune.training.resumption import cached_as_before, check_changes
from finetune.training.schedules import CutSchedule, make_schedule
from finetune.training.seen_records import SeenRecords
from finetune.training.starting_weights import step_of
from finetune.training.state import TrainingState
from finetune.training.step import TrainingStep
from finetune.training.training_data import TrainingData, num_outputs, refuse_large_batch
from finetune.trunk.features import FeatureFolder
from finetune.trunk.linear_head import LinearHead, find_linear_head
from finetune.trunk.split_model import SplitModel
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
    strategy: Any,
    source: Checkpoint | None,
    features: FeatureFolder,
    history: Facts | None,
    place: StagePlace = ONLY_STAGE,
    compared_step: int | None = None,
    labels_from: int | None = None,
) -> PreparedRun:
    """Builds all that a step needs.

    Args:
        settings: Of the run.
        data: Its splits.
        strategy: Its devices.
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
    with strategy.scope():
        model, plan, data = _restored_model(settings, data, source)
        settings = _with_batch_norm(settings, model, plan, place)
        stage = settings.stage
        index = find_index(settings, data)
        of_classes, has_weights = find_class_weights(settings, data, index), data.training.schema.has_weights
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
        settings = _with_precision(settings, model, trained, images)
        seen = SeenRecords(data.training, settings.run.seed, settings.data.labels_offset)
        averages = _make_averages(stage, model, plan)
        labels = PseudoLabels(len(data.unlabelled.records)) if data.unlabelled is not None else None
        state = TrainingState(model, optimizer, averages, _make_loss_scale(settings.devices), seen, labels)
        first_step = _go_on(state, source, history, place) if settings.run.resume and source is not None else 0
        facts = _describe(settings, data, first_step)
        changes, recorded = _check_changes(settings, history, facts, seen, place, compared_step)
        were_cached = bool(recorded.get("cached_views"))
        stage = cached_as_before(stage, recorded)
        inputs = make_inputs(
            stage,
            images,
            state,
            plan,
            features,
            num_steps=_num_steps(stage, place),
            were_cached=were_cached,
            needed_by=needed_by,
        )
        if head is not None:
            of_probe = weights_of_probe(stage.objective, of_classes, index, num_outputs(settings.data, data))
            settings = _with_head(settings, plan, images, state, inputs, head, of_probe)
            state.take_optimizer(_make_optimizer(settings.stage, model, trained, multipliers))
        training_step = _make_step(settings, inputs, state, of_classes)
        settings, rate_curve = _with_found_rate(settings, data, state, training_step, inputs)
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
            schedule=_make_schedule(settings, place, data.training.num_examples / images_per_step),
            recalibration=recalibration,
            loss_gap=LossGap(
                has_stale_statistics=recalibration is None and bool(model.updated_batch_norms()),
                has_end=stage.max_steps is not None,
                is_comparable=stage.objective.loss == "cross-entropy" and not of_classes and not has_weights,
            ),
            labelling=labelling,
            rate_curve=rate_curve,
            first_step=first_step,
            images_per_step=images_per_step,
        )


def _check_changes(
    settings: TrainSettings,
    history: Facts | None,
    now: Facts,
    seen: SeenRecords,
    place: StagePlace,
    compared_step: int | None,
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
    changes = check_changes(recorded, now, seen, allowed=settings.run.allow_changed, argument=argument)
    if any(change.makes_another_run for change in changes_between(at_checkpoint, recorded)):
        seen.accept_other_data()  # With it the run went on from here.
    return changes, recorded


def _restored_model(
    settings: TrainSettings, data: TrainingData, source: Checkpoint | None
) -> tuple[Model, VariablePlan, TrainingData]:
    """The network with its weights and its frozen layers; and the data, its labels in the order of a restored head."""
    model = make_model(settings, data)
    plan = make_plan(settings, model, source)
    show_weights_and_plan(plan, source)
    if source is not None and not settings.run.resume:
        data = match_to_restored_head(settings.data, data, plan, source, model.spec)
    model.freeze(plan, settings.stage.batch_norm)
    model.initialise(variable.name for variable in plan.initialised)
    if source is not None:
        warn_of_other_rules(data.training.image_rules, Path(source.prefix).parent)
        model.restore(source, plan)
    return model, plan, data


def _with_batch_norm(settings: TrainSettings, model: Model, plan: VariablePlan, place: StagePlace) -> TrainSettings:
    """Sets how moving statistics follow, and says it; the settings then have the decay in place of "auto"."""
    stage = settings.stage
    layers = model.updated_batch_norms()
    num_steps = _num_steps(stage, place)
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


def _num_steps(stage: StageSettings, place: StagePlace) -> int | None:
    """Of the stage; None: without end."""
    return None if stage.max_steps is None else stage.max_steps - place.first_step


def _make_schedule(settings: TrainSettings, place: StagePlace, steps_per_epoch: float) -> CutSchedule:
    stage = settings.stage
    schedule = make_schedule(
        stage.schedule, steps_per_epoch=steps_per_epoch, max_steps=stage.max_steps, first_step=place.first_step
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
            stage.batch_size,
            stage.accumulate_steps * tf.distribute.get_strategy().num_replicas_in_sync,
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


def show_weights_and_plan(plan: VariablePlan, source: Checkpoint | None) -> None:
    """Says what a run begins from, and what becomes of each variable."""
    log.info("Weights: %s", source.prefix if source is not None else "from scratch, no --checkpoint is given")
    log.info("%s", plan_text(plan))


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


def find_data(settings: TrainSettings) -> TrainingData:
    """The splits to train and to validate on.

    Raises:
        UserError: There is no such split; the run that is resumed has other classes.
    """
    spec = get_spec(settings.network.model)
    for stage in stages_of(settings):  # What one of them can't have is said before the first.
        training_data.find_preprocessing(settings.data, spec, stage.settings(settings.stage).augment)
    augmentation = stages_of(settings)[0].settings(settings.stage).augment
    return training_data.find_data(
        settings.data, spec, augmentation, resumed=settings.run.resumed, seed=settings.run.seed
    )


def choose_devices(settings: TrainSettings, data: TrainingData) -> Any:
    """The strategy over the devices that the settings ask for, of which each takes a batch of a step.

    Raises:
        UserError: There are fewer; a step takes more images than there are.
    """
    devices = settings.devices
    if devices.deterministic:
        make_deterministic(on_cpu=devices.clone_on_cpu)
    strategy = choose_strategy(devices.num_clones, on_cpu=devices.clone_on_cpu)
    for stage in stages_of(settings):
        refuse_large_batch(stage.settings(settings.stage), strategy.num_replicas_in_sync, data.training)
    return strategy


def make_model(settings: TrainSettings, data: TrainingData) -> Model:
    """The network of the settings, for the classes of the data, its variables not yet drawn."""
    network = settings.network
    return Model(
        get_spec(network.model),
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
            find_image_size=image_size_at(network.model, 1 if network.use_grayscale else None),
        ),
    )


def _excluded(network: NetworkSettings, model: Model, source: Checkpoint | None) -> tuple[str, ...]:
    """Scopes that aren't restored; by themselves the heads that are of other classes in the checkpoint."""
    if network.exclude_scopes != AUTO_SCOPES:
        return network.exclude_scopes
    if source is None:
        return ()
    return heads_unlike(model.network_variables(), source.shapes, model.spec.head_scopes)


def training_images(
    settings: TrainSettings, data: TrainingData, image_size: int, channels: int, index: RecordIndex | None = None
) -> TrainingImages:
    """The images of the settings' training, in batches.

    Args:
        settings: How they are read, in which batches, and the seed.
        data: Their splits and preprocessing.
        image_size: Height and width that the network takes, in pixels.
        channels: That it takes.
        index: Of the records to train on, where classes are drawn equally often.
    """
    options = ReadOptions(
        data.preprocessing,
        image_size,
        channels,
        labels_offset=settings.data.labels_offset,
        num_parallel_calls=settings.data.num_preprocessing_threads,
        num_readers=settings.data.num_readers,
    )
    stage = settings.stage
    return TrainingImages(
        data,
        options,
        stage.batch_size,
        settings.run.seed,
        passes_per_step=stage.accumulate_steps,
        balanced=index if stage.objective.balanced_sampling else None,
    )


def _with_precision(
    settings: TrainSettings, model: Model, trained: Sequence[Variable], images: TrainingImages
) -> TrainSettings:
    """Sets what the model computes in; the settings then say it in place of "auto", for the run and its resumption."""

    def measure(precision: str) -> Any:
        with reading(images.data.training, images.options.labels_offset):
            return measure_step(model, trained, images.first_batch(images.batch_size), precision)

    devices = settings.devices
    supported = supported_precisions(on_cpu=devices.clone_on_cpu)
    precision = resolve_precision(devices.precision, supported, measure)
    model.compute_dtype = tf.as_dtype(precision)
    return dataclasses.replace(settings, devices=dataclasses.replace(devices, precision=precision))


def _make_optimizer(
    stage: StageSettings, model: Model, trained: Sequence[Variable], multipliers: Mapping[str, float]
) -> Optimizer:
    """With a head's decay that is yet to be chosen the optimizer is made once more when it is."""
    decayed, head = decayed_variables(stage, model, trained)
    is_known = stage.head_weight_decay != "auto"
    return Optimizer(stage.update, trained, multipliers, decoupled_decays(stage, decayed, head if is_known else ()))


def _with_head(
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
    settings: TrainSettings, inputs: TrainingInputs, state: TrainingState, class_weights: Sequence[float]
) -> TrainingStep:
    stage, devices = settings.stage, settings.devices
    return TrainingStep(
        inputs.forward,
        make_loss(stage, state, class_weights),
        state.optimizer,
        averages=state.averages,
        loss_scale=state.loss_scale,
        mixing=make_mixing(stage, state.model.num_classes),
        num_passes=stage.accumulate_steps,
        largest_norm=stage.update.clip_gradients,
        seed=settings.run.seed,
        use_xla=uses_xla(devices.xla, on_cpu=devices.clone_on_cpu, num_devices=devices.num_clones),
    )


def _with_found_rate(
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
        return settings, curve
    if curve.suggestion is None:
        raise UserError(f"--learning-rate auto: {curve}", "Give a number.")
    schedule = dataclasses.replace(settings.stage.schedule, learning_rate=curve.suggestion)
    return dataclasses.replace(settings, stage=dataclasses.replace(settings.stage, schedule=schedule)), curve
