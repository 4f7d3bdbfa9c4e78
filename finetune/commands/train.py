"""`finetune-train`: fine-tune a network from a pretrained checkpoint, or train it from scratch."""

import dataclasses
import logging
import shlex
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.commands.command import run_command, say
from finetune.commands.evaluate import print_result
from finetune.commands.final_evaluation import evaluate_at_end, tell_results
from finetune.commands.photographs import on_records, run_folder_chosen
from finetune.commands.published_weights import with_published_weights
from finetune.commands.tensorflow_start import start_tensorflow
from finetune.commands.verbs import VERBS
from finetune.commands.verification import print_verification, verify
from finetune.errors import Interrupted, UserError
from finetune.evaluation.result_files import REPORT_FILE
from finetune.files.write_errors import write_errors_told
from finetune.nets.keras_networks.model_file import is_model_file, keep_to
from finetune.remote.session import bring
from finetune.runs.run_folder import RunFolder
from finetune.settings.recipes import RECIPES
from finetune.settings.settings_file import CONFIG_FILE, SWEEP_FILE
from finetune.settings.stage import DEFAULT_BATCH_SIZE
from finetune.settings.train import TrainSettings
from finetune.trackers.tracked_run import TrackedRun, refuse_missing_tracker

if TYPE_CHECKING:
    from finetune.commands.evaluate import AnyResult
    from finetune.commands.train_stage import EndedStage, RunOfSeveral
    from finetune.model.scopes import VariablePlan
    from finetune.training.devices import Devices
    from finetune.training.loop import EndedBy
    from finetune.training.time_limit import TimeLimit
    from finetune.training.training_data import TrainingData

log = logging.getLogger("finetune")


@dataclasses.dataclass(frozen=True)
class TrainResult:
    """What a run came to.

    Attributes:
        train_dir: Its folder.
        step: Number of updates made.
        checkpoint: Prefix of the newest checkpoint.
        best_step: Step of the best checkpoint by `--best-by`; None without validation.
        best_accuracy: Its validation accuracy, 0 to 1; None where an image has any number of labels.
        best_value: Its validation's measure by `--best-by`.
        final_loss: Of the last step's batch, weight decay included; None: it isn't in metrics.jsonl (`--log-every`).
        ended_by: "steps": the last one was made; "patience": early stopping; "time": the limit; "signal": Ctrl-C or the
            like; "pruned": a sweep gave it up.
        evaluation: Of the best checkpoint on the validation split; None: no report was asked for, or there is no split.
        is_chief: Whether this process wrote the run's folder, which one of several workers does.
    """

    train_dir: Path
    step: int
    checkpoint: str
    best_step: int | None
    best_accuracy: float | None
    best_value: float | None = None
    final_loss: float | None = None
    ended_by: "EndedBy" = "steps"
    evaluation: "AnyResult | None" = None
    is_chief: bool = True

    @property
    def report(self) -> Path | None:
        """The report of the evaluation, report.html."""
        return None if self.evaluation is None else self.evaluation.output_dir / REPORT_FILE


class TrainingInterrupted(Interrupted):
    """A signal stopped training between two steps; a checkpoint of the last one is written.

    From Python, too, Ctrl-C ends what comes after a training, such as the next one in a loop, unless this is caught.

    Attributes:
        result: What the run came to so far.
    """

    def __init__(self, result: TrainResult, signal_number: int) -> None:
        super().__init__(
            f"stopped after step {result.step}, kept in {result.checkpoint}\n  {how_to_go_on(result.train_dir)}",
            signal_number,
        )
        self.result = result


def main(argv: Sequence[str] | None = None, prog: str = "finetune-train") -> int:
    """The command."""
    return run_command(
        TrainSettings,
        _train_or_verify,
        prog=prog,
        argv=argv,
        description=f"{VERBS['train'].summary} Restores a checkpoint minus --exclude-scopes, trains "
        "--trainable-scopes, keeps all else frozen. PHOTOS are converted first, and evaluated at the end.",
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
    if settings.search.sweep:
        raise UserError("--sweep trains several times.", "From Python it is finetune.api.sweep.")
    if settings.data.is_cross_validation:
        raise UserError("--folds makes several runs.", "From Python it is finetune.api.cross_validate.")
    from finetune.commands.workers import working_together
    from finetune.model.gpus import use_gpus

    refuse_missing_tracker(settings.run.track)
    start = time.monotonic()
    use_gpus(settings.gpus)
    with working_together(settings) as (told, devices), run_folder_chosen(told) as chosen:
        try:
            return train_run(on_records(with_published_weights(chosen)), start, devices=devices)
        except TrainingInterrupted:
            raise
        except Interrupted as stop:
            raise Interrupted(f"{stop}\n  {how_to_go_on(chosen.run.folder)}", stop.signal_number) from stop


def train_run(
    settings: TrainSettings,
    start: float,
    several: "RunOfSeveral | None" = None,
    devices: "Devices | None" = None,
) -> TrainResult:
    """Trains by settings that name records, weights and a folder, as `train` finds them.

    Args:
        settings: Of the run.
        start: When the command began, by the monotonic clock, for `--time-limit`.
        several: What the run has of a sweep or a cross-validation; None: it is alone.
        devices: That make its steps; None: those of this process.

    Raises:
        UserError: As `train`; TrainingDivergedError where something isn't finite.
        TrainingInterrupted: As `train`.
    """
    refuse_missing_tracker(settings.run.track)
    if settings.course.recipe in RECIPES and not settings.run.resume:
        log.info("Recipe: %s. config.toml in the run holds what it comes to.", settings.course.recipe)
    from finetune.commands.batch_size import with_batch_size
    from finetune.commands.objective import check_classes_of_stages
    from finetune.commands.run_precision import with_precision
    from finetune.commands.stages import with_images_of_rates
    from finetune.commands.training_inputs import find_data, refuse_large_batches
    from finetune.commands.unlabelled import with_unlabelled
    from finetune.commands.workers import begun_together, choose_devices
    from finetune.datasets.data_service import wait_for_service
    from finetune.training.resumption import as_begun
    from finetune.training.time_limit import TimeLimit
    from finetune.training.training_data import without_corrupt

    if devices is None:
        settings, devices = choose_devices(settings)
    time_limit = TimeLimit(settings.stopping.time_limit_seconds, start)
    if not settings.run.resume:
        settings = _of_the_file_now(settings)
    if settings.run.resume:
        if settings.stage.schedule.learning_rate == "auto" and not settings.course.stages:
            raise _of_a_beginning("--learning-rate auto")
        if settings.stage.head_weight_decay == "auto" and not settings.course.stages:
            raise _of_a_beginning("--head-weight-decay auto")
        network = as_begun(settings.network, settings.run.folder)
        settings = dataclasses.replace(settings, network=network)
    data = without_corrupt(settings.data, find_data(settings))
    check_classes_of_stages(settings, data)
    settings, data = with_unlabelled(settings, data)
    if settings.stopping.early_stopping_patience is not None and data.validation is None:
        raise UserError(
            f"--early-stopping-patience counts validations, but {settings.data.dataset_dir} has no split validation.",
            "Name one with --eval-split, make one with finetune-convert --validation-fraction, or leave the flag out.",
        )
    refuse_large_batches(settings, data)
    if settings.cluster.data_service:
        wait_for_service(settings.cluster.data_service, settings.cluster.worker_timeout)
    folder = settings.run.folder
    tracked = TrackedRun(settings.run.track)
    with (
        write_errors_told(lambda: f"Make room there. {how_to_go_on(folder)}"),
        begun_together(settings, devices.team) as (run, begun),
        tracked.ending_if_it_fails(),
    ):
        settings = with_images_of_rates(begun if begun.run.resume else with_batch_size(begun, data, devices))
        settings = with_precision(settings, data, devices)
        if devices.team.is_chief:
            tracked.begin(run.path)
        try:
            result = _in_folder(_train_in(run, settings, data, devices, time_limit, several, tracked), folder)
        except TrainingInterrupted as stop:
            raise TrainingInterrupted(_in_folder(stop.result, folder), stop.signal_number) from None
    if not devices.team.is_chief:
        return dataclasses.replace(result, is_chief=False)
    with tracked.ending():
        evaluation = evaluate_at_end(settings, data.eval_split)
        tell_results(tracked, folder, evaluation)
    return dataclasses.replace(result, evaluation=evaluation)


def _in_folder(result: TrainResult, folder: Path) -> TrainResult:
    """A result as of the run's folder, where a worker that isn't the chief has had one of its own."""
    return dataclasses.replace(result, train_dir=folder, checkpoint=str(folder / Path(result.checkpoint).name))


def _of_the_file_now(settings: TrainSettings) -> TrainSettings:
    """With the preprocessing that a network's file hints at, where none is given; the run records it."""
    model = settings.network.model
    keep_to(model, None)
    if not is_model_file(model) or settings.data.preprocessing is not None:
        return settings
    from finetune.nets import get_spec

    return dataclasses.replace(
        settings, data=dataclasses.replace(settings.data, preprocessing=get_spec(model).preprocessing)
    )


def _of_a_beginning(what: str) -> UserError:
    return UserError(f"{what} is of a run that begins, not of one that goes on.", "Give a number.")


def how_to_go_on(train_dir: Path) -> str:
    """The command that goes on with a run, or with the sweep that it is a trial of."""
    is_sweep = (train_dir / SWEEP_FILE).is_file()
    if not is_sweep and (train_dir.parent / SWEEP_FILE).is_file():
        train_dir, is_sweep = train_dir.parent, True
    if is_sweep or RunFolder(train_dir).has_checkpoint():
        return "Go on by " + shlex.join(["finetune-train", "--resume", "--train-dir", str(train_dir)])
    return "There is no checkpoint yet: begin by the same command again."


def _train_in(
    run: RunFolder,
    settings: TrainSettings,
    data: "TrainingData",
    devices: "Devices",
    time_limit: "TimeLimit",
    several: "RunOfSeveral | None",
    tracked: TrackedRun,
) -> TrainResult:
    """One stage after the other, each from the checkpoint of the one before, as a run that is resumed has it."""
    from finetune.commands.train_stage import train_stage
    from finetune.training.profile import Profile

    with Profile(settings.run.profiled_steps, run.path) as profile:
        while True:
            ended = train_stage(run, settings, data, devices, time_limit, profile, several, tracked)
            if ended.stopped_by is not None:
                raise TrainingInterrupted(_result(run, ended), ended.stopped_by)
            if ended.is_last or ended.ended_by in ("time", "pruned"):
                return _result(run, ended)
            settings, data = ended.settings, ended.data


def _result(run: RunFolder, ended: "EndedStage") -> TrainResult:
    step, accuracy = (ended.best.step, ended.best.accuracy) if ended.best else (None, None)
    value = ended.best.value(ended.settings.stopping.best_by) if ended.best else None
    final_loss = _logged_loss(run, ended.step)
    return TrainResult(run.path, ended.step, ended.checkpoint, step, accuracy, value, final_loss, ended.ended_by)


def _logged_loss(run: RunFolder, step: int) -> float | None:
    """The loss of a step; a validation after it has one, too, and no learning rate."""
    lines = reversed(run.read_metrics_or_tell())
    return next((line.get("loss") for line in lines if line["step"] == step and "learning_rate" in line), None)


def plan(settings: TrainSettings) -> "VariablePlan":
    """What `train` would restore, initialise, train and freeze in the next stage, before anything is trained.

    Raises:
        UserError: What `train` would refuse about the data, the network, the checkpoint and the scopes.
    """
    import tensorflow as tf

    from finetune.commands.network import make_model, make_plan
    from finetune.commands.stages import find_place_of_run, settings_of_stage, with_size_of_batches
    from finetune.commands.training_inputs import find_data
    from finetune.model.gpus import use_gpus
    from finetune.training.classes import match_to_restored_head
    from finetune.training.starting_weights import open_weights, step_of

    use_gpus(settings.gpus)
    settings = on_records(with_published_weights(settings))
    data = find_data(settings)
    source = open_weights(settings.network, resumed=settings.run.resumed)
    step = step_of(source) if settings.run.resume and source is not None else 0
    place = find_place_of_run(RunFolder(settings.run.folder), settings, step)
    settings = with_size_of_batches(settings, DEFAULT_BATCH_SIZE)  # Which the plan doesn't hang on.
    settings = settings_of_stage(settings, place, data.training.num_examples)
    with tf.Graph().as_default():  # Where initial values are planned and never computed.
        model = make_model(settings, data)
    variable_plan = make_plan(settings, model, source)
    if source is not None and not settings.run.resume:
        match_to_restored_head(settings.data, data, variable_plan, source, model.spec)
    return variable_plan


def _train_or_verify(settings: TrainSettings) -> None:
    from finetune.commands.workers import find_fitting_workers

    refuse_missing_tracker(settings.run.track)
    find_fitting_workers(settings)  # What isn't theirs to do is refused before any of them begins.
    start_tensorflow()
    if settings.search.sweep:
        from finetune.commands.sweep import print_sweep, sweep

        print_sweep(sweep(settings))
        return
    if settings.data.is_cross_validation:
        from finetune.commands.cross_validation import cross_validate_and_print  # Which trains by this module.

        cross_validate_and_print(settings)
        return
    if settings.run.verify:
        print_verification(verify(settings), settings.run.folder)
        return
    result = train(settings)
    if not result.is_chief:
        return
    say(f"step {result.step}: {result.checkpoint}")
    if result.best_accuracy is not None:
        best_by = settings.stopping.best_by
        best = "best validation accuracy" if best_by == "accuracy" else f"validation accuracy of the best by {best_by}"
        say(f"{best}: {result.best_accuracy:.4f} at step {result.best_step}")
    elif result.best_value is not None:
        measure = settings.stopping.best_by.replace("_", " ")
        say(f"best validation {measure}: {result.best_value:.4f} at step {result.best_step}")
    if result.ended_by == "time":
        say(f"stopped by --time-limit {settings.stopping.time_limit}. {how_to_go_on(result.train_dir)}")
    elif result.ended_by == "patience":
        patience = settings.stopping.early_stopping_patience
        say(f"ended by --early-stopping-patience {patience}: --resume with a larger one goes on")
    if result.evaluation is not None:
        print_result(result.evaluation, with_report=True)


def _config_of_run(given: Mapping[str, Any]) -> Path | None:
    """Where a run, or a sweep, is resumed its own settings hold, but for those given anew."""
    if not given.get("resume") or "train_dir" not in given:
        return None
    paths = [given["train_dir"] / name for name in (CONFIG_FILE, SWEEP_FILE)]
    for path in paths:
        bring(path)
    return next((path for path in paths if path.is_file()), None)
