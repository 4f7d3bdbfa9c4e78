"""`finetune-train`: fine-tune a network from a pretrained checkpoint, or train it from scratch."""

import contextlib
import dataclasses
import itertools
import logging
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.commands.command import run_command, say
from finetune.commands.tensorflow_start import start_tensorflow
from finetune.commands.verbs import VERBS
from finetune.errors import Interrupted, UserError
from finetune.model.scopes import Purpose, check_scopes, in_scope, plan_variables
from finetune.runs.provenance import (
    PROVENANCE_FILE,
    Change,
    Facts,
    changes_between,
    describe_run,
    facts_at,
    read_provenance,
    same_validation_since,
    with_history,
)
from finetune.runs.run_folder import (
    FEATURES_FOLDER,
    IMAGES_FILE,
    RunFolder,
    settings_of_run,
    warn_of_other_rules,
)
from finetune.settings.choices import DECISIVE_SETTINGS
from finetune.settings.flags import dashed, flags_of, flat_values
from finetune.settings.settings_file import CONFIG_FILE, plain_value, to_toml_table
from finetune.settings.train import (
    DataSettings,
    DeviceSettings,
    NetworkSettings,
    ScheduleSettings,
    StageSettings,
    TrainSettings,
    parse_multipliers,
)
from finetune.training.schedules import Schedule, make_schedule
from finetune.types import Variable

if TYPE_CHECKING:
    from finetune.datasets.dataset import Dataset
    from finetune.model.checkpoint import Checkpoint
    from finetune.model.model import Model
    from finetune.model.scopes import VariablePlan
    from finetune.training.image_inputs import TrainingData, TrainingImages, TrainingInputs
    from finetune.training.loss_scaling import LossScale
    from finetune.training.moving_averages import MovingAverages
    from finetune.training.state import TrainingState
    from finetune.training.step import TrainingStep

log = logging.getLogger("finetune")

DEFAULT_EVAL_SPLIT = "validation"
VALIDATIONS_PER_RUN = 10
# What a run is begun from, which doesn't matter where it is resumed.
RESTORING = ("checkpoint", "checkpoint_prefix", "exclude_scopes", "ignore_missing_vars", "ema", "grayscale_stem")


@dataclasses.dataclass(frozen=True)
class TrainResult:
    """What a run came to.

    Attributes:
        train_dir: Its folder.
        step: Number of updates made.
        checkpoint: Prefix of the newest checkpoint.
        best_step: Step of the checkpoint of the best validation accuracy; None without validation.
        best_accuracy: That accuracy, 0 to 1.
    """

    train_dir: Path
    step: int
    checkpoint: str
    best_step: int | None
    best_accuracy: float | None


@dataclasses.dataclass(frozen=True)
class Verification:
    """What was proven of a run.

    Attributes:
        first_step: Number of updates made before those that were made again.
        last_step: Number of updates at the end.
        checkpoint: Prefix of what the run has kept of them.
        num_arrays: How many were compared: weights, slots, averages.
        sha256: Of all of them, the same in both.
    """

    first_step: int
    last_step: int
    checkpoint: str
    num_arrays: int
    sha256: str


class TrainingInterrupted(Interrupted):
    """A signal stopped training between two steps; a checkpoint of the last one is written.

    From Python, too, Ctrl-C ends what comes after a training, such as the next one in a loop, unless this is caught.

    Attributes:
        result: What the run came to so far.
    """

    def __init__(self, result: TrainResult, signal_number: int) -> None:
        super().__init__(
            f"stopped after step {result.step}, kept in {result.checkpoint}\n  {_how_to_go_on(result.train_dir)}",
            signal_number,
        )
        self.result = result


def main(argv: Sequence[str] | None = None, prog: str = "finetune-train") -> int:
    """The command."""
    return run_command(
        TrainSettings,
        _train_and_print,
        prog=prog,
        argv=argv,
        description=f"{VERBS['train'].summary} Restores a checkpoint minus --exclude-scopes, trains "
        "--trainable-scopes, keeps all else frozen.",
        find_config=_config_of_run,
    )


def train(settings: TrainSettings) -> TrainResult:
    """Trains as the settings say.

    Raises:
        UserError: What the user can mend: a setting, a scope, the checkpoint, the data, a loss that isn't finite.
        TrainingInterrupted: A first Ctrl-C or SIGTERM, once the step is made and the checkpoint is written.
        Interrupted: A second one, at once.
    """
    if settings.run.verify:
        raise UserError("--verify trains nothing.", "From Python it is finetune.api.verify.")
    if settings.run.resume:
        settings = _as_begun(settings)
    data = _without_corrupt(settings.data, _find_data(settings))
    strategy = _choose_devices(settings, data)
    run = RunFolder(settings.run.train_dir)
    with run.begun(resume=settings.run.resume):
        return _train_in(run, settings, data, strategy)


def _how_to_go_on(train_dir: Path) -> str:
    if RunFolder(train_dir).has_checkpoint():
        return "Go on by " + shlex.join(["finetune-train", "--resume", "--train-dir", str(train_dir)])
    return "There is no checkpoint yet: begin by the same command again."


def verify(settings: TrainSettings) -> Verification:
    """Makes the steps between a run's last two checkpoints again, in memory, and compares; the run stays as it is.

    Where there is only one checkpoint, the steps are those from the start.

    Raises:
        UserError: Something differs, which is said; there is no whole checkpoint, or the start can't be made again.
    """
    from finetune.datasets.pipeline import reading
    from finetune.model.checkpoint import whole_checkpoints
    from finetune.training.replay import compare, replay

    settings = _as_begun(dataclasses.replace(settings, run=dataclasses.replace(settings.run, resume=True)))
    run = RunFolder(settings.run.train_dir)
    checkpoints = list(itertools.islice(whole_checkpoints(run.path), 2))
    if not checkpoints:
        raise _no_whole_checkpoint(run.path)
    last, *older = checkpoints
    history, last_step = _recorded_facts(run), _step_of(last)
    _refuse_changes_within(history, range(_step_of(older[0]) if older else 0, last_step))
    settings = _as_recorded(settings, facts_at(history, last_step))
    settings, source = (settings, older[0]) if older else _from_the_start(settings, last)
    data = dataclasses.replace(_without_corrupt(settings.data, _find_data(settings)), validation=None)
    strategy = _choose_devices(settings, data)
    with run.lend_features() as features:
        ready = _prepare(settings, data, strategy, source, features, history, compared_step=last_step)
        steps = range(ready.first_step, last_step)
        chain = {line["step"]: line["data_chain"] for line in run.read_metrics() if "data_chain" in line}
        with reading(data.training, settings.data.labels_offset):
            replay(ready.state, ready.training_step, ready.batches, ready.schedule, steps, chain)
    num_arrays, sha256 = compare(ready.state, last, steps)
    return Verification(steps.start, steps.stop, last.prefix, num_arrays, sha256)


def _refuse_changes_within(history: Facts, steps: range) -> None:
    changes = changes_between(facts_at(history, steps.start + 1), facts_at(history, steps.stop))
    decisive = [str(change) for change in changes if change.makes_another_run or change.is_a_setting]
    if decisive:
        raise UserError(
            f"--verify: between the steps {steps.start} and {steps.stop} the run went on otherwise than before: "
            f"{'; '.join(decisive)}. They can't be made again in one go.",
            "Verify when there are two checkpoints of after that (--save-interval-seconds).",
        )


def _as_recorded(settings: TrainSettings, facts: Facts) -> TrainSettings:
    """With the schedule and the like of the steps that were made: config.toml may be of steps that are yet to come."""
    of_run = facts.get("settings", {})
    names = {flag.name for flag in flags_of(StageSettings)}.difference(DECISIVE_SETTINGS).intersection(of_run)
    return dataclasses.replace(settings, **{name: of_run[name] for name in names})


def _from_the_start(settings: TrainSettings, only: "Checkpoint") -> "tuple[TrainSettings, Checkpoint | None]":
    """The settings of a run as it was begun, and the weights that it was begun from."""
    log.info("%s is the only checkpoint of the run: its steps are made again from the start.", only.prefix)
    run = dataclasses.replace(settings.run, resume=False, verify=False, allow_changed=())
    begun = dataclasses.replace(settings, run=run)
    try:
        return begun, _open_weights(begun)
    except UserError as error:
        raise UserError(
            f"--verify: {only.prefix} is the only checkpoint of the run, and its start can't be made again: "
            f"{str(error).splitlines()[0]}",
            "Verify when there are two checkpoints (--save-interval-seconds), or put the pretrained one back.",
        ) from error


def _choose_devices(settings: TrainSettings, data: "TrainingData") -> Any:
    """The distribution strategy."""
    from finetune.training.devices import choose_strategy, make_deterministic

    devices = settings.devices
    if devices.deterministic:
        make_deterministic(on_cpu=devices.clone_on_cpu)
    strategy = choose_strategy(devices.num_clones, on_cpu=devices.clone_on_cpu)
    _refuse_large_batch(settings.stage.batch_size * strategy.num_replicas_in_sync, data.training)
    return strategy


@dataclasses.dataclass(frozen=True)
class _ReadyRun:
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
        schedule: Learning rate by step.
        first_step: Number of updates made.
    """

    settings: TrainSettings
    facts: Facts
    changes: list[Change]
    data: "TrainingData"
    plan: "VariablePlan"
    images: "TrainingImages"
    state: "TrainingState"
    inputs: "TrainingInputs"
    batches: Iterator[Any]
    training_step: "TrainingStep"
    schedule: Schedule
    first_step: int


def _prepare(
    settings: TrainSettings,
    data: "TrainingData",
    strategy: Any,
    source: "Checkpoint | None",
    features: Path,
    history: Facts | None,
    compared_step: int | None = None,
) -> _ReadyRun:
    """Builds all that a step needs.

    Args:
        settings: Of the run.
        data: Its splits.
        strategy: Its devices.
        source: Where its weights are; None: it begins from scratch.
        features: Folder of features.
        history: What the run says of itself; None: it begins.
        compared_step: Whose facts those of now are compared with, to make steps up to it again; None: that of the
            weights, to go on from there.
    """
    from finetune.datasets.pipeline import reading
    from finetune.training.classes import match_to_restored_head
    from finetune.training.devices import describe_machine
    from finetune.training.inputs import make_inputs
    from finetune.training.optimizers import Optimizer
    from finetune.training.resumption import check_changes
    from finetune.training.seen_records import SeenRecords
    from finetune.training.state import TrainingState

    stage = settings.stage
    steps_per_epoch = data.training.num_examples / (stage.batch_size * strategy.num_replicas_in_sync)
    with strategy.scope():
        model = _make_model(settings.network, _num_classes(settings, data), settings.run.seed)
        variable_plan = _make_plan(settings, model, source)
        _show_plan(variable_plan, source)
        if source is not None and not settings.run.resume:
            data = match_to_restored_head(settings.data, data, variable_plan, source, model.spec)
        model.freeze(variable_plan, stage.batch_norm)
        trained = [model.model_variables[variable.name] for variable in variable_plan.trained]
        optimizer = Optimizer(stage.update, trained, _multipliers(stage.schedule, variable_plan))
        model.initialise(variable.name for variable in variable_plan.initialised)
        if source is not None:
            warn_of_other_rules(data.training.image_rules, Path(source.prefix).parent)
            model.restore(source, variable_plan)
        images = _training_images(settings, model, data)
        settings = _with_precision(settings, model, trained, images)
        seen = SeenRecords(data.training, settings.run.seed, settings.data.labels_offset)
        averages = _make_averages(stage, model, variable_plan)
        state = TrainingState(model, optimizer, averages, _make_loss_scale(settings.devices), seen)
        first_step = _resume(state, source) if settings.run.resume and source is not None else 0
        facts = describe_run(
            data.training,
            data.validation,
            data.hashes,
            settings=to_toml_table(settings),
            machine=describe_machine(on_cpu=settings.devices.clone_on_cpu),
            first_step=first_step,
        )
        changes, recorded = [], facts_at(history or {}, compared_step or first_step)
        if history is not None:
            argument = "--resume" if compared_step is None else "--verify"
            changes = check_changes(recorded, facts, seen, allowed=settings.run.allow_changed, argument=argument)
            if any(change.makes_another_run for change in changes_between(facts_at(history, first_step), recorded)):
                seen.accept_other_data()  # With it the run went on from here.
        inputs = make_inputs(_cached_as_before(stage, recorded), images, state, variable_plan, features)
        with reading(data.training, settings.data.labels_offset):
            batches = seen.watched(inputs.batches, first_step)
        return _ReadyRun(
            settings=settings,
            facts={**facts, "cached_views": inputs.num_views},
            changes=changes,
            data=data,
            plan=variable_plan,
            images=images,
            state=state,
            inputs=inputs,
            batches=batches,
            training_step=_make_step(settings, inputs, state),
            schedule=make_schedule(stage.schedule, steps_per_epoch=steps_per_epoch, max_steps=stage.max_steps),
            first_step=first_step,
        )


def _train_in(run: RunFolder, settings: TrainSettings, data: "TrainingData", strategy: Any) -> TrainResult:
    from finetune.datasets.pipeline import reading
    from finetune.training.loop import Occasions, TrainingLoop
    from finetune.training.run_log import RunLog

    source = _open_weights(settings)
    history = _recorded_facts(run) if settings.run.resume else None
    features = run.path / FEATURES_FOLDER
    ready = _prepare(settings, data, strategy, source, features, history)
    settings, data, first_step = ready.settings, ready.data, ready.first_step
    stage = settings.stage
    images_per_step = stage.batch_size * strategy.num_replicas_in_sync
    steps_per_epoch = data.training.num_examples / images_per_step
    if any(change.name == "validation" for change in ready.changes):
        run.forget_best()
    run.forget_metrics_after(first_step)  # First, for it may refuse what it finds.
    recorded = with_history(ready.facts, read_provenance(run.path))
    run.write_json(PROVENANCE_FILE, recorded)
    run.write_settings(to_toml_table(settings), ready.plan, data.class_names)
    run.write_json(IMAGES_FILE, data.training.image_rules.to_json())
    run_log = RunLog(
        run,
        max_steps=stage.max_steps,
        images_per_step=images_per_step,
        seconds_between_summaries=settings.run.save_summaries_seconds,
        num_skipped=data.num_skipped if settings.data.on_corrupt == "skip" else {},
    )
    occasions = Occasions(
        first_step=first_step,
        same_validation_since=same_validation_since(recorded),
        max_steps=stage.max_steps,
        eval_every=_eval_every(settings, steps_per_epoch),
        log_every=settings.run.log_every,
        save_interval_seconds=settings.run.save_interval_seconds,
        max_to_keep=settings.run.max_to_keep,
    )
    loop = TrainingLoop(
        run_log, ready.state, ready.training_step, ready.schedule, ready.inputs, ready.batches, occasions
    )
    with contextlib.closing(run_log), reading(data.training, settings.data.labels_offset):
        if first_step == 0:
            run_log.sample_images(first_step, ready.images.sample())
        newest = loop.run()
    best = loop.best
    result = TrainResult(run.path, loop.step, newest, best.step if best else None, best.accuracy if best else None)
    if loop.stopped_by is not None:
        raise TrainingInterrupted(result, loop.stopped_by)
    return result


def plan(settings: TrainSettings) -> "VariablePlan":
    """What `train` would restore, initialise, train and freeze, before anything is trained.

    Raises:
        UserError: What `train` would refuse about the data, the network, the checkpoint and the scopes.
    """
    import tensorflow as tf

    from finetune.training.classes import match_to_restored_head

    data = _find_data(settings)
    with tf.Graph().as_default():  # Where initial values are planned and never computed.
        model = _make_model(settings.network, _num_classes(settings, data), settings.run.seed)
    source = _open_weights(settings)
    variable_plan = _make_plan(settings, model, source)
    if source is not None and not settings.run.resume:
        match_to_restored_head(settings.data, data, variable_plan, source, model.spec)
    return variable_plan


def _train_and_print(settings: TrainSettings) -> None:
    try:
        _train_or_verify(settings)
    except TrainingInterrupted:
        raise
    except Interrupted as stop:
        raise Interrupted(f"{stop}\n  {_how_to_go_on(settings.run.train_dir)}", stop.signal_number) from stop


def _train_or_verify(settings: TrainSettings) -> None:
    start_tensorflow()
    if settings.run.verify:
        _print_verification(verify(settings), settings.run.train_dir)
        return
    result = train(settings)
    say(f"step {result.step}: {result.checkpoint}")
    if result.best_accuracy is not None:
        say(f"best validation accuracy: {result.best_accuracy:.4f} at step {result.best_step}")


def _print_verification(proven: Verification, train_dir: Path) -> None:
    print(
        f"proven: steps {proven.first_step + 1} to {proven.last_step} of {train_dir}, made again, give what "
        f"{Path(proven.checkpoint).name} holds, bit for bit: {proven.num_arrays} arrays, sha256 {proven.sha256[:16]}"
    )


def _config_of_run(given: Mapping[str, Any]) -> Path | None:
    """Where a run is resumed its own settings hold, but for those given anew."""
    path = given.get("train_dir", Path()) / CONFIG_FILE
    return path if given.get("resume") and path.is_file() else None


def _as_begun(settings: TrainSettings) -> TrainSettings:
    """The settings of a resumed run, with what it was begun from as it was: all values come from the run now."""
    run = settings_of_run(settings.run.train_dir)
    if run is None:
        return settings
    given = flat_values(settings.network)
    as_begun = {flag.name: run.get(flag.name, flag.default) for flag in flags_of(NetworkSettings)}
    begun = {name: as_begun[name] for name in RESTORING if as_begun[name] != given[name]}
    if begun:
        log.info("--resume: all values come from the run; not followed: %s.", ", ".join(map(dashed, begun)))
    return dataclasses.replace(settings, network=dataclasses.replace(settings.network, **begun))


def _find_data(settings: TrainSettings) -> "TrainingData":
    from finetune.datasets.dataset import find_splits
    from finetune.nets import get_spec
    from finetune.preprocessing import get_preprocessing
    from finetune.training.classes import match_to_run
    from finetune.training.image_inputs import TrainingData

    of_data = settings.data
    spec = get_spec(settings.network.model)
    preprocessing = get_preprocessing(of_data.preprocessing or spec.preprocessing, settings.stage.augmentation)
    training = _find_split(of_data, of_data.split)
    validation = None
    eval_split = of_data.eval_split or DEFAULT_EVAL_SPLIT
    if of_data.eval_split is None and eval_split not in find_splits(of_data.dataset_dir, of_data.dataset_name):
        log.info("There is no split %s: training goes without validation (see --eval-split).", eval_split)
    else:
        validation = _find_split(of_data, eval_split)
    data = TrainingData(training, validation, preprocessing, training.class_names)
    return match_to_run(of_data, settings.run.train_dir, data, spec) if settings.run.resume else data


def _without_corrupt(settings: DataSettings, data: "TrainingData") -> "TrainingData":
    """The data without the records whose images can't be decoded, where these are to be left out."""
    from finetune.datasets.pipeline import without_undecodable

    if settings.on_corrupt != "skip":
        return data
    training, validation = (
        dataset and without_undecodable(dataset, settings.labels_offset) for dataset in (data.training, data.validation)
    )
    assert training is not None
    return dataclasses.replace(data, training=training, validation=validation)


def _find_split(settings: DataSettings, split: str) -> "Dataset":
    from finetune.datasets.dataset import find_dataset

    return find_dataset(
        settings.dataset_dir,
        settings.dataset_name,
        split,
        labels_offset=settings.labels_offset,
        image_key=settings.image_key,
        label_key=settings.label_key,
        on_corrupt=settings.on_corrupt,
    )


def _refuse_large_batch(images_per_step: int, dataset: "Dataset") -> None:
    if images_per_step > dataset.num_examples:
        raise UserError(
            f"--batch-size: a step takes {images_per_step} images, but the split {dataset.split} has "
            f"{dataset.num_examples}.",
            f"Give --batch-size {dataset.num_examples} or less.",
        )


def _num_classes(settings: TrainSettings, data: "TrainingData") -> int:
    return data.training.num_classes - settings.data.labels_offset


def _make_model(settings: NetworkSettings, num_classes: int, seed: int) -> "Model":
    from finetune.model.model import Model
    from finetune.nets import get_spec

    return Model(
        get_spec(settings.model),
        num_classes,
        image_size=settings.image_size,
        channels=1 if settings.use_grayscale else None,
        seed=seed,
        initialise=False,
    )


def _open_weights(settings: TrainSettings) -> "Checkpoint | None":
    """1. The run to resume; 2. the pretrained checkpoint; 3. nothing: from scratch."""
    from finetune.model.checkpoint import newest_whole, open_checkpoint

    if settings.run.resume:
        train_dir = settings.run.train_dir
        checkpoint = newest_whole(train_dir)
        if checkpoint is None:
            raise _no_whole_checkpoint(train_dir)
        return checkpoint
    network = settings.network
    if network.checkpoint is None:
        if network.checkpoint_prefix:
            raise UserError("--checkpoint-prefix is of the names in a checkpoint.", "Give one with --checkpoint.")
        return None
    return open_checkpoint(network.checkpoint, name_prefix=network.checkpoint_prefix, model=network.model)


def _no_whole_checkpoint(train_dir: Path) -> UserError:
    return UserError(
        f"--resume: {train_dir} holds no whole checkpoint.",
        f"Start it anew, without --resume: --config {shlex.quote(str(train_dir / CONFIG_FILE))} --train-dir OTHER",
    )


def _step_of(checkpoint: "Checkpoint") -> int:
    step = checkpoint.step()
    if step is None:
        raise UserError(f"--resume: {checkpoint.prefix} holds no global_step.", "Start a new run with --checkpoint.")
    return step


def _recorded_facts(run: RunFolder) -> Facts:
    """What the run says of itself; of an older run config.toml has the settings."""
    recorded, settings = read_provenance(run.path) or {}, settings_of_run(run.path)
    if "settings" in recorded or settings is None:
        return recorded
    return {**recorded, "settings": {name: plain_value(value) for name, value in settings.items()}}


def _make_plan(settings: TrainSettings, model: "Model", source: "Checkpoint | None") -> "VariablePlan":
    from finetune.model.recognise import image_size_at, other_model

    network, is_resumed = settings.network, settings.run.resume
    return plan_variables(
        model.network_variables(),
        checkpoint_shapes=source.shapes if source is not None else None,
        exclude_scopes=() if is_resumed else network.exclude_scopes,
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


def _show_plan(plan: "VariablePlan", source: "Checkpoint | None") -> None:
    from finetune.model.plan_table import plan_text

    log.info("Weights: %s", source.prefix if source is not None else "from scratch, no --checkpoint is given")
    log.info("%s", plan_text(plan))


def _multipliers(settings: ScheduleSettings, plan: "VariablePlan") -> dict[str, float]:
    """The learning-rate multiplier of each trained variable that has one: that of the longest scope around it."""
    by_scope = parse_multipliers(settings.learning_rate_multipliers)
    names = [variable.name for variable in plan.trained]
    check_scopes("--learning-rate-multipliers", tuple(by_scope), names)
    by_length = sorted(by_scope, key=len)
    return {name: by_scope[scope] for scope in by_length for name in names if in_scope(name, scope)}


def _training_images(settings: TrainSettings, model: "Model", data: "TrainingData") -> "TrainingImages":
    from finetune.datasets.pipeline import ReadOptions
    from finetune.training.image_inputs import TrainingImages

    options = ReadOptions(
        data.preprocessing,
        model.image_size,
        model.channels,
        labels_offset=settings.data.labels_offset,
        num_parallel_calls=settings.data.num_preprocessing_threads,
        num_readers=settings.data.num_readers,
    )
    return TrainingImages(data, options, settings.stage.batch_size, settings.run.seed)


def _cached_as_before(stage: StageSettings, recorded: Facts) -> StageSettings:
    """What --cache-features auto came to holds for all of a run: other inputs would come in another order."""
    num_views = recorded.get("cached_views")
    if num_views is None or stage.cache.cache_features != "auto":
        return stage
    log.info("--cache-features auto: as the run was begun, %s.", f"{num_views} views" if num_views else "none")
    return dataclasses.replace(stage, cache=dataclasses.replace(stage.cache, cache_features=str(num_views or "off")))


def _make_averages(settings: StageSettings, model: "Model", plan: "VariablePlan") -> "MovingAverages | None":
    from finetune.training.moving_averages import MovingAverages

    if settings.moving_average_decay is None:
        return None
    changing = {v.name: model.model_variables[v.name] for v in plan.variables if v.is_trained or v.is_statistic}
    return MovingAverages(changing, settings.moving_average_decay)


def _make_loss_scale(settings: DeviceSettings) -> "LossScale | None":
    from finetune.training.loss_scaling import LossScale

    return LossScale() if settings.precision == "float16" else None


def _make_step(settings: TrainSettings, inputs: "TrainingInputs", state: "TrainingState") -> "TrainingStep":
    from finetune.model.model import variable_name
    from finetune.training.devices import uses_xla
    from finetune.training.losses import TrainingLoss
    from finetune.training.step import TrainingStep

    stage, devices = settings.stage, settings.devices
    decayed = [v for v in state.optimizer.variables if variable_name(v) in state.model.decayed_names]
    return TrainingStep(
        inputs.forward,
        TrainingLoss(stage.label_smoothing, stage.weight_decay, decayed),
        state.optimizer,
        averages=state.averages,
        loss_scale=state.loss_scale,
        seed=settings.run.seed,
        use_xla=uses_xla(devices.xla, on_cpu=devices.clone_on_cpu, num_devices=devices.num_clones),
    )


def _with_precision(
    settings: TrainSettings, model: "Model", trained: Sequence[Variable], images: "TrainingImages"
) -> TrainSettings:
    """Sets what the model computes in; the settings then say it in place of "auto", for the run and its resumption."""
    import tensorflow as tf

    from finetune.datasets.pipeline import reading
    from finetune.training.precision import measure_step, resolve_precision, supported_precisions

    def measure(precision: str) -> Any:
        with reading(images.data.training, images.options.labels_offset):
            return measure_step(model, trained, images.first_batch(images.batch_size), precision)

    devices = settings.devices
    supported = supported_precisions(on_cpu=devices.clone_on_cpu)
    precision = resolve_precision(devices.precision, supported, measure)
    model.compute_dtype = tf.as_dtype(precision)
    return dataclasses.replace(settings, devices=dataclasses.replace(devices, precision=precision))


def _resume(state: "TrainingState", source: "Checkpoint") -> int:
    state.restore({name: source.read(name) for name in source.shapes}, source.prefix)
    step = _step_of(source)
    log.info("Going on from step %d.", step)
    return step


def _eval_every(settings: TrainSettings, steps_per_epoch: float) -> int:
    """Steps between validations: as told, else ten times in a run, but not more often than once an epoch."""
    if settings.run.eval_every is not None:
        return settings.run.eval_every
    epoch = max(1, round(steps_per_epoch))
    max_steps = settings.stage.max_steps
    return epoch if max_steps is None else max(epoch, max_steps // VALIDATIONS_PER_RUN)
