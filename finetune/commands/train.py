"""`finetune-train`: fine-tune a network from a pretrained checkpoint, or train it from scratch."""

import contextlib
import dataclasses
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.commands.command import run_command, say
from finetune.commands.evaluate import print_result
from finetune.commands.final_evaluation import evaluate_at_end
from finetune.commands.photographs import on_records, run_folder_chosen
from finetune.commands.published_weights import with_published_weights
from finetune.commands.tensorflow_start import start_tensorflow
from finetune.commands.verbs import VERBS
from finetune.commands.verification import print_verification, verify
from finetune.errors import Interrupted, UserError
from finetune.evaluation.result_files import REPORT_FILE
from finetune.files.write_errors import with_room, write_errors_told
from finetune.runs.provenance import PROVENANCE_FILE, Facts, read_provenance, same_validation_since, with_history
from finetune.runs.run_folder import FEATURES_FOLDER, IMAGES_FILE, RunFolder
from finetune.settings.settings_file import CONFIG_FILE, to_toml_table
from finetune.settings.train import TrainSettings

if TYPE_CHECKING:
    from finetune.commands.prepared_run import PreparedRun
    from finetune.evaluation.result_files import EvalResult
    from finetune.model.scopes import VariablePlan
    from finetune.training.training_data import TrainingData

VALIDATIONS_PER_RUN = 10


@dataclasses.dataclass(frozen=True)
class TrainResult:
    """What a run came to.

    Attributes:
        train_dir: Its folder.
        step: Number of updates made.
        checkpoint: Prefix of the newest checkpoint.
        best_step: Step of the checkpoint of the best validation accuracy; None without validation.
        best_accuracy: That accuracy, 0 to 1.
        evaluation: Of the best checkpoint on the validation split; None: no report was asked for, or there is no split.
    """

    train_dir: Path
    step: int
    checkpoint: str
    best_step: int | None
    best_accuracy: float | None
    evaluation: "EvalResult | None" = None

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
            f"stopped after step {result.step}, kept in {result.checkpoint}\n  {_how_to_go_on(result.train_dir)}",
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
    with run_folder_chosen(settings) as chosen:
        try:
            return _train(on_records(with_published_weights(chosen)))
        except TrainingInterrupted:
            raise
        except Interrupted as stop:
            raise Interrupted(f"{stop}\n  {_how_to_go_on(chosen.run.folder)}", stop.signal_number) from stop


def _train(settings: TrainSettings) -> TrainResult:
    from finetune.commands.prepared_run import choose_devices, find_data
    from finetune.training.resumption import as_begun
    from finetune.training.training_data import without_corrupt

    if settings.run.resume:
        network = as_begun(settings.network, settings.run.folder)
        settings = dataclasses.replace(settings, network=network)
    data = without_corrupt(settings.data, find_data(settings))
    strategy = choose_devices(settings, data)
    run = RunFolder(settings.run.folder)
    with (
        write_errors_told(lambda: f"Make room there. {_how_to_go_on(run.path)}"),
        run.begun(resume=settings.run.resume),
    ):
        result = _train_in(run, settings, data, strategy)
    return dataclasses.replace(result, evaluation=evaluate_at_end(settings, data.eval_split))


def _how_to_go_on(train_dir: Path) -> str:
    if RunFolder(train_dir).has_checkpoint():
        return "Go on by " + shlex.join(["finetune-train", "--resume", "--train-dir", str(train_dir)])
    return "There is no checkpoint yet: begin by the same command again."


def _train_in(run: RunFolder, settings: TrainSettings, data: "TrainingData", strategy: Any) -> TrainResult:
    from finetune.commands.prepared_run import prepare
    from finetune.datasets.pipeline import reading
    from finetune.runs.spare_files import delete_spare_files
    from finetune.training.loop import Occasions, TrainingLoop, find_best, read_validations
    from finetune.training.resumption import recorded_facts
    from finetune.training.run_log import RunLog
    from finetune.training.starting_weights import open_weights

    def make_room(num_kept: int) -> bool:
        return delete_spare_files(run.path, num_kept, ready.inputs.features)

    history = recorded_facts(run) if settings.run.resume else None
    # The weights are closed once they are read: a file that is open takes its room on the disk, deleted or not.
    source = open_weights(settings.network, resumed=settings.run.resumed)
    ready = prepare(settings, data, strategy, source, run.path / FEATURES_FOLDER, history)
    del source
    settings, data, first_step = ready.settings, ready.data, ready.first_step
    if any(change.name == "validation" for change in ready.changes):
        run.forget_best()
    recorded = with_history(ready.facts, read_provenance(run.path))
    validations = read_validations(run, ready.inputs.eval_split, same_validation_since(recorded), first_step)
    best = find_best(run, first_step, validations)  # Before room is made, which spares it.
    with_room(lambda: _describe_in(run, ready, recorded), lambda: make_room(settings.run.max_to_keep))
    run_log = RunLog(
        run,
        max_steps=settings.stage.max_steps,
        images_per_step=ready.images_per_step,
        seconds_between_summaries=settings.run.save_summaries_seconds,
        training_split=data.training.split,
        num_skipped=data.num_skipped if settings.data.on_corrupt == "skip" else {},
    )
    occasions = Occasions(
        first_step=first_step,
        validated_step=max((validation.step for validation in validations), default=None),
        max_steps=settings.stage.max_steps,
        eval_every=_eval_every(settings, data.training.num_examples / ready.images_per_step),
        log_every=settings.run.log_every,
        save_interval_seconds=settings.run.save_interval_seconds,
        max_to_keep=settings.run.max_to_keep,
    )
    loop = TrainingLoop(
        run_log,
        ready.state,
        ready.training_step,
        ready.schedule,
        ready.inputs,
        ready.batches,
        occasions,
        best,
        make_room,
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


def _describe_in(run: RunFolder, ready: "PreparedRun", recorded: Facts) -> None:
    """Writes what is known of the run before its next step."""
    from finetune.training.rate_finder import write_curve

    run.forget_metrics_after(ready.first_step)
    run.write_json(PROVENANCE_FILE, recorded)
    run.write_settings(to_toml_table(ready.settings), ready.plan, ready.data.class_names)
    run.write_json(IMAGES_FILE, ready.data.training.image_rules.to_json())
    if ready.rate_curve is not None:
        write_curve(ready.rate_curve, run.path)


def plan(settings: TrainSettings) -> "VariablePlan":
    """What `train` would restore, initialise, train and freeze, before anything is trained.

    Raises:
        UserError: What `train` would refuse about the data, the network, the checkpoint and the scopes.
    """
    import tensorflow as tf

    from finetune.commands.prepared_run import find_data, make_model, make_plan
    from finetune.training.classes import match_to_restored_head
    from finetune.training.starting_weights import open_weights

    settings = on_records(with_published_weights(settings))
    data = find_data(settings)
    with tf.Graph().as_default():  # Where initial values are planned and never computed.
        model = make_model(settings, data)
    source = open_weights(settings.network, resumed=settings.run.resumed)
    variable_plan = make_plan(settings, model, source)
    if source is not None and not settings.run.resume:
        match_to_restored_head(settings.data, data, variable_plan, source, model.spec)
    return variable_plan


def _train_or_verify(settings: TrainSettings) -> None:
    start_tensorflow()
    if settings.run.verify:
        print_verification(verify(settings), settings.run.folder)
        return
    result = train(settings)
    say(f"step {result.step}: {result.checkpoint}")
    if result.best_accuracy is not None:
        say(f"best validation accuracy: {result.best_accuracy:.4f} at step {result.best_step}")
    if result.evaluation is not None:
        print_result(result.evaluation, with_report=True)


def _config_of_run(given: Mapping[str, Any]) -> Path | None:
    """Where a run is resumed its own settings hold, but for those given anew."""
    if not given.get("resume") or "train_dir" not in given:
        return None
    path = given["train_dir"] / CONFIG_FILE
    return path if path.is_file() else None


def _eval_every(settings: TrainSettings, steps_per_epoch: float) -> int:
    """Steps between validations: as told, else ten times in a run, but not more often than once an epoch."""
    if settings.run.eval_every is not None:
        return settings.run.eval_every
    epoch = max(1, round(steps_per_epoch))
    max_steps = settings.stage.max_steps
    return epoch if max_steps is None else max(epoch, max_steps // VALIDATIONS_PER_RUN)
