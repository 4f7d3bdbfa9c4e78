"""One stage of a training: steps up to the stage's end, and what the run's folder says of them."""

import contextlib
import dataclasses
import logging
from collections.abc import Callable, Sequence

from finetune.commands.prepared_run import PreparedRun, prepare
from finetune.commands.stages import (
    find_place_of_run,
    first_pseudo_labels,
    last_step,
    name_of,
    recorded_settings,
    settings_of_stage,
    stages_of,
)
from finetune.commands.workers import check_same_start
from finetune.datasets.bad_records import reading
from finetune.files.write_errors import with_room
from finetune.nets import get_spec
from finetune.nets.keras_networks.model_file import is_model_file, read_model
from finetune.runs.provenance import PROVENANCE_FILE, Facts, read_provenance, same_validation_since, with_history
from finetune.runs.run_folder import ARCHITECTURE_FILE, FEATURES_FOLDER, IMAGES_FILE, RunFolder
from finetune.runs.spare_files import delete_spare_files
from finetune.runs.stage_record import StagePlace, StageRecord, read_stage_records, write_stage_records
from finetune.settings.settings_file import to_toml_table
from finetune.settings.train import TrainSettings
from finetune.trackers.tracked_run import TrackedRun
from finetune.training.best import Best, find_best, read_validations
from finetune.training.devices import Devices
from finetune.training.loop import EndedBy, Occasions, TrainingLoop
from finetune.training.profile import Profile
from finetune.training.rate_finder import write_curve
from finetune.training.resumption import recorded_facts
from finetune.training.run_log import RunLog
from finetune.training.starting_weights import open_weights, step_of
from finetune.training.time_limit import TimeLimit
from finetune.training.training_data import TrainingData, with_augmentation
from finetune.trunk.features import FeatureFolder

VALIDATIONS_PER_STAGE = 10

log = logging.getLogger("finetune")


@dataclasses.dataclass(frozen=True)
class RunOfSeveral:
    """What a run has of the sweep or the cross-validation that it is of.

    Attributes:
        features: Of frozen layers, which all of its runs share.
        is_hopeless: Whether to give the run up after the validations that it has had so far.
    """

    features: FeatureFolder
    is_hopeless: Callable[[Sequence[Best]], bool] = lambda validations: False


@dataclasses.dataclass(frozen=True)
class EndedStage:
    """What a stage came to.

    Attributes:
        settings: Of the run that goes on, with what the stage found out.
        data: Its splits, their labels in the order of the network's.
        step: Number of updates made.
        checkpoint: Prefix of the newest checkpoint.
        best: The best checkpoint of the run so far; None without validation.
        ended_by: Why it ended.
        stopped_by: Number of the signal that came before all was written; None: none came.
        is_last: Whether the run has no other stage after it.
    """

    settings: TrainSettings
    data: TrainingData
    step: int
    checkpoint: str
    best: Best | None
    ended_by: EndedBy
    stopped_by: int | None
    is_last: bool


def train_stage(
    run: RunFolder,
    settings: TrainSettings,
    data: TrainingData,
    devices: Devices,
    time_limit: TimeLimit,
    profile: Profile,
    several: RunOfSeveral | None = None,
    tracked: TrackedRun | None = None,
) -> EndedStage:
    """Trains from where the run is to the end of the stage that it is in, or until something else ends it.

    Args:
        run: Its folder.
        settings: Of the run.
        data: Its splits.
        devices: That make its steps.
        time_limit: When to stop, whatever the step.
        profile: Traces some steps.
        several: What the run has of a sweep or a cross-validation; None: it is alone.
        tracked: Where the run is kept, too; None: nowhere.

    Raises:
        UserError: What the user can mend: a scope, the checkpoint, the data, a loss that isn't finite.
    """

    def make_room(num_kept: int) -> bool:
        return delete_spare_files(run.path, num_kept, ready.inputs.features)

    # The weights are closed once they are read: a file that is open takes its room on the disk, deleted or not.
    source = open_weights(settings.network, resumed=settings.run.resumed)
    step = step_of(source) if settings.run.resume and source is not None else 0
    place = find_place_of_run(run, settings, step)
    told = settings_of_stage(settings, place, data.training.num_examples)
    profile.check(step, last_step(settings, place, data.training.num_examples))
    data = with_augmentation(data, told.data, get_spec(told.network.model), told.stage.augment)
    _say_stage(settings, place, told)
    history = recorded_facts(run) if settings.run.resume else None
    labels_from = first_pseudo_labels(settings, place, told)
    features = several.features if several is not None else FeatureFolder(run.path / FEATURES_FOLDER)
    ready = prepare(told, data, devices, source, features, history, place, labels_from=labels_from)
    del source
    check_same_start(devices.team, ready)
    data, first_step = ready.data, ready.first_step
    if any(change.name == "validation" for change in ready.changes):
        run.forget_best()
    settings = recorded_settings(settings, place, told, ready.settings)
    recorded = with_history(ready.facts, read_provenance(run.path))
    since = same_validation_since(recorded)
    # What was validated before the first step, a probe, counts too, where the images have been the same since.
    after_step = since if since or any(change.name == "validation" for change in ready.changes) else -1
    validations = read_validations(run, ready.inputs.eval_split, after_step, first_step)
    # Before room is made, which spares it.
    best = find_best(run, first_step, validations, settings.stopping.best_by)
    with_room(lambda: _describe_in(run, ready, settings, place, recorded), lambda: make_room(settings.run.max_to_keep))
    if tracked is not None:
        tracked.parameters(to_toml_table(settings))
    run_log = RunLog(
        run,
        max_steps=ready.settings.stage.max_steps,
        images_per_step=ready.images_per_step,
        seconds_between_summaries=settings.run.save_summaries_seconds,
        training_split=data.training.split,
        num_skipped=data.num_skipped if settings.data.on_corrupt == "skip" else {},
        tracked=tracked,
    )
    before = [validation for validation in validations if validation.step < place.first_step + bool(place.index)]
    loop = TrainingLoop(
        run_log,
        ready.state,
        ready.training_step,
        ready.schedule,
        ready.inputs,
        ready.batches,
        _occasions(ready, place),
        settings.stopping,
        validations[len(before) :],
        best,
        make_room,
        time_limit,
        ready.recalibration,
        ready.loss_gap,
        lambda since: several is not None and several.is_hopeless([*before, *since]),
        ready.labelling,
        devices.team,
        profile,
    )
    with contextlib.closing(run_log), reading(data.training, settings.data.labels_offset):
        if first_step == 0:
            run_log.sample_images(first_step, ready.images.sample())
        newest = loop.run()
    if loop.ended_by in ("steps", "patience"):
        _note_stage(run, settings, place, loop.step)
    goes_on = dataclasses.replace(settings.run, resume=True, find_learning_rate=False)
    return EndedStage(
        settings=dataclasses.replace(settings, run=goes_on),
        data=data,
        step=loop.step,
        checkpoint=newest,
        best=loop.best,
        ended_by=loop.ended_by,
        stopped_by=loop.stopped_by,
        is_last=place.index + 1 >= len(stages_of(settings)),
    )


def _say_stage(settings: TrainSettings, place: StagePlace, told: TrainSettings) -> None:
    stages, end = stages_of(settings), told.stage.max_steps
    on_all = stages[place.index].settings(settings.stage).global_batch_size
    if on_all is not None:
        log.info("Batch: --global-batch-size %d, which makes --batch-size %d.", on_all, told.stage.images_per_pass)
    if len(stages) > 1:
        steps = f"from step {place.first_step + 1} on" if end is None else f"steps {place.first_step + 1} to {end}"
        steps = "no steps" if end == place.first_step else steps
        name = name_of(stages[place.index], place.index)
        log.info("Stage %d of %d, %s: %s", place.index + 1, len(stages), name, steps)


def _occasions(ready: PreparedRun, place: StagePlace) -> Occasions:
    settings = ready.settings
    usual = _usual_eval_every(settings, place, ready.data.training.num_examples / ready.images_per_step)
    eval_every = usual if settings.run.eval_every is None else settings.run.eval_every
    return Occasions(
        first_step=ready.first_step,
        first_step_of_stage=place.first_step,
        max_steps=settings.stage.max_steps,
        eval_every=eval_every,
        guard_every=(eval_every or usual) if settings.stopping.on_divergence == "halve" else None,
        log_every=settings.run.log_every,
        save_interval_seconds=settings.run.save_interval_seconds,
        max_to_keep=settings.run.max_to_keep,
        keeps_start=settings.stage.probe and ready.first_step == place.first_step,
    )


def _usual_eval_every(settings: TrainSettings, place: StagePlace, steps_per_epoch: float) -> int:
    """Steps between validations where none are told: ten times in a stage, but not more often than once an epoch."""
    epoch, end = max(1, round(steps_per_epoch)), settings.stage.max_steps
    return epoch if end is None else max(epoch, (end - place.first_step) // VALIDATIONS_PER_STAGE)


def _describe_in(
    run: RunFolder, ready: PreparedRun, settings: TrainSettings, place: StagePlace, recorded: Facts
) -> None:
    """Writes what is known of the run before its next step."""
    run.forget_metrics_after(ready.first_step)
    run.write_json(PROVENANCE_FILE, recorded)
    run.write_settings(to_toml_table(settings), ready.plan, ready.data.class_names)
    if is_model_file(settings.network.model):
        run.write_json(ARCHITECTURE_FILE, read_model(settings.network.model))
    run.write_json(IMAGES_FILE, ready.data.training.image_rules.to_json())
    _note_stage(run, settings, place, None)
    if ready.rate_curve is not None:
        write_curve(ready.rate_curve, run.path)


def _note_stage(run: RunFolder, settings: TrainSettings, place: StagePlace, last_step: int | None) -> None:
    if settings.course.stages:
        name = name_of(settings.course.stages[place.index], place.index)
        before = read_stage_records(run.path)[: place.index]
        write_stage_records(run.path, [*before, StageRecord(name, place.first_step, last_step)])
