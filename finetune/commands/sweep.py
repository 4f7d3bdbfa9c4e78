"""`finetune-train --sweep`: several trainings, each a run in RUN/trial-N, and what they came to.

In the folder of a sweep, beside its trials:

    sweep.toml     what it was given, by which --resume goes on
    sweep.db       its memory: an Optuna study
    features/      what frozen layers made of the images, for all trials
    trials.csv     a row for each trial
    sweep.png      the same, drawn
"""

import contextlib
import dataclasses
import logging
import shlex
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.commands.command import say
from finetune.commands.photographs import on_records, run_folder_chosen
from finetune.commands.published_weights import with_published_weights
from finetune.commands.sweep_folder import begun_sweep
from finetune.commands.tables import print_table
from finetune.commands.train import TrainingInterrupted, TrainResult, how_to_go_on, train_run
from finetune.commands.trials import checked_space, settings_of_trial
from finetune.errors import Interrupted, UserError
from finetune.runs.run_folder import FEATURES_FOLDER, RunFolder
from finetune.settings.photographs import PhotographSettings
from finetune.settings.search_space import Space, num_points, point_text
from finetune.settings.settings_file import CONFIG_FILE, read_toml
from finetune.settings.train import TrainSettings
from finetune.sweeps.results import find_best, folder_name, trials_table, write_trials
from finetune.sweeps.study import State, Study, Trial, load_optuna

if TYPE_CHECKING:
    from finetune.training.best import Best

STUDY_FILE = "sweep.db"

log = logging.getLogger("finetune")


@dataclasses.dataclass(frozen=True)
class SweepResult:
    """What a sweep came to.

    Attributes:
        train_dir: Its folder.
        trials: All of them, in their order.
        best: The best of those that came to their end; None: none did.
        measure: By which it is: `--best-by`.
        names: Of the settings that were searched.
        is_at_its_end: Whether all trials were made; else the time was up.
        num_wanted: How many were to be made.
        records: Folder of the records.
        splits: Names of those that no trial was trained or validated on.
    """

    train_dir: Path
    trials: tuple[Trial, ...]
    best: Trial | None
    measure: str
    names: tuple[str, ...]
    is_at_its_end: bool
    num_wanted: int
    records: Path
    splits: tuple[str, ...]

    @property
    def best_dir(self) -> Path | None:
        """Folder of the best trial's run."""
        return None if self.best is None else self.train_dir / folder_name(self.best)


def sweep(settings: TrainSettings) -> SweepResult:
    """Makes the trials of a sweep, or those that are left of it.

    Raises:
        UserError: What the user can mend: as `train`, but for trainings that diverge, which are trials that failed.
        TrainingInterrupted: A first Ctrl-C or SIGTERM, once the step is made and the checkpoint is written.
        Interrupted: Such a signal elsewhere, or a second one.
    """
    start = time.monotonic()
    space = checked_space(settings)
    load_optuna()
    from finetune.model.gpus import use_gpus

    use_gpus(settings.gpus)
    both = [dimension.name for dimension in space if dimension.name in settings.given]
    if both:
        log.info("As the sweep has it, not as given beside it: %s.", ", ".join(both))
    with run_folder_chosen(settings) as chosen:
        try:
            return _sweep(settings, chosen, space, start)
        except TrainingInterrupted:
            raise
        except Interrupted as stop:
            raise Interrupted(f"{stop}\n  {how_to_go_on(chosen.run.folder)}", stop.signal_number) from stop


def _sweep(settings: TrainSettings, chosen: TrainSettings, space: Space, start: float) -> SweepResult:
    from finetune.sweeps.plot import write_plot

    folder, measure = chosen.run.folder, settings.stopping.best_by
    records = on_records(chosen).data.records
    splits = _other_splits(chosen, records)
    names = tuple(dimension.name for dimension in space)
    with begun_sweep(settings, folder, records):
        minimised = measure == "loss"
        study = Study(folder / STUDY_FILE, space, minimised=minimised, seed=settings.run.seed)
        sweep = _Sweep(settings, space, folder, records, study, start)
        num_wanted = sweep.num_wanted
        with _said_once():
            is_at_its_end = sweep.make_trials()
        trials = study.trials()
        best = find_best(trials, minimised=minimised)
        write_trials(trials, names, measure, folder)
        write_plot(trials, space, measure, best, folder)
    return SweepResult(folder, tuple(trials), best, measure, names, is_at_its_end, num_wanted, records, splits)


class _Sweep:
    """Makes the trials of a sweep, one after the other."""

    def __init__(
        self, settings: TrainSettings, space: Space, folder: Path, records: Path, study: Study, start: float
    ) -> None:
        self._settings = settings
        self._space = space
        self._folder = folder
        self._records = records
        self._study = study
        self._start = start
        self.num_wanted = int(min(settings.search.num_trials, num_points(space)))
        if self.num_wanted < settings.search.num_trials:
            log.info(
                "Of %d trials %d are made: so many combinations there are.",
                settings.search.num_trials,
                self.num_wanted,
            )

    def make_trials(self) -> bool:
        """Makes those that are left; False: the time was up before the last."""
        while True:
            trials = self._study.trials()
            num_ended = sum(trial.state != "running" for trial in trials)
            if num_ended >= self.num_wanted:
                return True
            trial = self._study.next_trial()
            if trial is None:
                log.info("Every combination has been tried, to %d trials.", num_ended)
                return True
            log.info("Trial %d of %d: %s", trial.number, self.num_wanted, point_text(trial.point))
            if not self._make(trial):
                return False
            names = [dimension.name for dimension in self._space]
            write_trials(self._study.trials(), names, self._settings.stopping.best_by, self._folder)

    def _make(self, trial: Trial) -> bool:
        """Trains a trial, or goes on with it, and notes what it came to; False: the time was up before its end."""
        from finetune.commands.train_stage import RunOfSeveral
        from finetune.training.divergence import TrainingDivergedError
        from finetune.trunk.features import FeatureFolder

        run = RunFolder(self._folder / folder_name(trial))
        prune = self._settings.search.prune
        of_sweep = RunOfSeveral(
            FeatureFolder(self._folder / FEATURES_FOLDER, is_shared=True),
            lambda validations: prune and self._study.is_hopeless(trial, self._values(validations)),
        )
        told = self._told(trial, run)
        try:
            result = train_run(told, self._start, of_sweep)
        except TrainingDivergedError as error:
            reason = str(error).splitlines()[0]
            log.warning("Trial %d failed: %s", trial.number, reason)
            self._study.end(trial, "failed", self._values(_validations(run, told)), None, reason)
            return True
        except UserError as error:
            why = f"Trial {trial.number}, {point_text(trial.point)}: {error}"
            raise UserError(why, f"Then the sweep goes on. {how_to_go_on(self._folder)}") from error
        if result.ended_by == "time":
            return False
        self._end(trial, run, told, result)
        return True

    def _told(self, trial: Trial, run: RunFolder) -> TrainSettings:
        """The settings of the trial's run; one that has begun goes on with its own."""
        given = self._settings
        if run.has_checkpoint():
            once = {"time_limit": given.stopping.time_limit, "allow_changed": given.run.allow_changed}
            own = read_toml(TrainSettings, run.path / CONFIG_FILE)
            trust = given.network.trust_code
            return TrainSettings(**{**own, **once, "resume": True, "train_dir": run.path, "trust_code": trust})
        shutil.rmtree(run.path, ignore_errors=True)  # Killed before its first checkpoint.
        told = with_published_weights(settings_of_trial(given, self._space, trial.point))
        return dataclasses.replace(
            told,
            source=PhotographSettings(),
            data=dataclasses.replace(told.data, dataset_dir=self._records),
            run=dataclasses.replace(told.run, train_dir=run.path),
        )

    def _end(self, trial: Trial, run: RunFolder, told: TrainSettings, result: TrainResult) -> None:
        values = self._values(_validations(run, told))
        best = None
        if result.best_value is not None and result.best_step is not None:
            best = result.best_value, result.best_step
        state: State = "pruned" if result.ended_by == "pruned" else "complete"
        self._study.end(trial, state, values, best)
        came_to = "no validation" if best is None else f"{self._settings.stopping.best_by} {best[0]:.4f}"
        log.info("Trial %d %s: %s", trial.number, "was given up" if state == "pruned" else "ended", came_to)

    def _values(self, validations: "Sequence[Best]") -> list[float]:
        values = (validation.value(self._settings.stopping.best_by) for validation in validations)
        return [value for value in values if value is not None]


def _validations(run: RunFolder, settings: TrainSettings) -> "list[Best]":
    from finetune.training.best import read_validations
    from finetune.training.training_data import DEFAULT_EVAL_SPLIT

    split = settings.data.eval_split or DEFAULT_EVAL_SPLIT
    lines = run.read_metrics()
    return read_validations(run, split, -1, max((line["step"] for line in lines), default=0))


def _other_splits(settings: TrainSettings, records: Path) -> tuple[str, ...]:
    """Those that the trials neither train nor validate on.

    Raises:
        UserError: There is none to validate on.
    """
    from finetune.datasets.dataset_search import find_splits
    from finetune.training.training_data import DEFAULT_EVAL_SPLIT

    data = settings.data
    eval_split = data.eval_split or DEFAULT_EVAL_SPLIT
    splits = find_splits(records, data.dataset_name)
    if eval_split not in splits:
        raise UserError(
            f"--sweep compares validations, but {records} has no split {eval_split}.",
            "Name one with --eval-split, or make one with finetune-convert --validation-fraction.",
        )
    return tuple(split for split in splits if split not in (data.split, eval_split))


@contextlib.contextmanager
def _said_once() -> Iterator[None]:
    """What the trials' runs say alike, such as their plan, is said by the first of them alone."""
    said: set[str] = set()

    def is_new(record: logging.LogRecord) -> bool:
        text = record.getMessage()
        is_new = record.levelno > logging.INFO or text not in said
        said.add(text)
        return is_new

    log.addFilter(is_new)
    try:
        yield
    finally:
        log.removeFilter(is_new)


def print_sweep(result: SweepResult) -> None:
    """Prints the trials, the best of them, and what its figure is worth."""
    print_table(trials_table(result.trials, result.names, result.measure, result.best))
    if not result.is_at_its_end:
        say(f"stopped by --time-limit. {how_to_go_on(result.train_dir)}")
    best, best_dir = result.best, result.best_dir
    if best is None or best_dir is None or best.value is None:
        say("No trial came to its end.")
        return
    say(f"best: trial {best.number}, {result.measure} {best.value:.4f} at step {best.step}, in {best_dir}")
    words = ["--config", str(best_dir / CONFIG_FILE), "--train-dir", f"{result.train_dir}-best"]
    say(f"to train with its values: {shlex.join(['finetune-train', *words])}")
    _say_caution(result, best.value, best_dir)


def _say_caution(result: SweepResult, value: float, best_dir: Path) -> None:
    num_trials = sum(trial.value is not None for trial in result.trials)
    say(f"{value:.4f} is the best of {num_trials} on the images that chose it: an optimistic figure.")
    if not result.splits:
        say("There is no split that chose nothing: finetune-convert --test-fraction keeps one aside.")
        return
    split = "test" if "test" in result.splits else result.splits[0]
    words: list[Any] = ["finetune-eval", "--checkpoint", best_dir, "--dataset-dir", result.records, "--split", split]
    say(f"the split {split} chose nothing: {shlex.join(map(str, words))}")
