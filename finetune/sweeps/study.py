"""A sweep's memory, and what follows from it: the settings of the next trial, and whether a trial is given up.

An Optuna study in a SQLite file holds the trials: a trial before its first step, with its settings, and again at its
end. Optuna's sampler keeps what it is at in memory alone; so each trial has a sampler of its own, whose seed is a
function of the sweep's seed and the trial's number. What is drawn for a trial, and whether it is given up, are
functions of the trials that ended before it and of its own validations: a sweep that is killed and goes on is the
unbroken one.
"""

import contextlib
import dataclasses
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from finetune.errors import UserError, first_line
from finetune.files.whole_files import partial_path, put_in_place
from finetune.settings.search_space import Choice, Point, Range, Space, points

if TYPE_CHECKING:
    import optuna

NAME = "sweep"
# Of Optuna's 10: a small sweep draws so many trials blindly before it looks at what they came to.
NUM_BLIND = 4
# A trial is compared from its third validation on, with as many trials at least that came to their end.
NUM_SPARED_VALIDATIONS = 2
NUM_COMPARED = 4
DIGITS = 4
MOST_DRAWS = 100

State = Literal["running", "complete", "pruned", "failed"]


@dataclasses.dataclass(frozen=True)
class Trial:
    """A trial of a sweep.

    Attributes:
        number: From 1 on.
        point: Its settings: numbers, and texts of choices.
        state: "complete": it came to its end; "pruned": it was given up; "failed": it diverged.
        value: Of its best validation, by the sweep's measure; None: it has none.
        step: Of that validation.
        reason: Why it failed; empty: it didn't.
    """

    number: int
    point: dict[str, Point]
    state: State
    value: float | None = None
    step: int | None = None
    reason: str = ""


class Study:
    """The trials of a sweep, in a file."""

    def __init__(self, path: Path, space: Space, *, minimised: bool, seed: int) -> None:
        """Opens the file, or makes it.

        Args:
            path: Of the SQLite file.
            space: What is searched.
            minimised: Whether a lower value is better.
            seed: Of all that is drawn.

        Raises:
            UserError: Optuna isn't installed; the file can't be read, or is of another sweep.
        """
        optuna = load_optuna()
        self._optuna = optuna
        self._path = path
        self._space = space
        self._direction = "minimize" if minimised else "maximize"
        self._seed = seed
        self._distributions = {dimension.name: _distribution(dimension) for dimension in space}
        self._pruner = optuna.pruners.MedianPruner(n_startup_trials=NUM_COMPARED, n_warmup_steps=NUM_SPARED_VALIDATIONS)
        if not path.exists():
            with self._told():
                self._make()
        with self._told():
            self._storage = _open(path)
            self._study = optuna.load_study(study_name=NAME, storage=self._storage)
            found = self._study.get_trials(deepcopy=False)
        if any(trial.distributions != self._distributions for trial in found):
            raise UserError(f"{path} is of another sweep.", "Copy it from where it came from, or begin another sweep.")

    def trials(self) -> list[Trial]:
        """All so far, in their order."""
        with self._told():
            return [self._trial(trial) for trial in self._study.get_trials(deepcopy=False)]

    def next_trial(self) -> Trial | None:
        """The trial that has begun and isn't at its end, else a new one; None: all combinations were tried."""
        with self._told():
            trials = self._study.get_trials(deepcopy=False)
            begun = next((trial for trial in trials if not trial.state.is_finished()), None)
            if begun is not None:
                return self._trial(begun)
            point = self._draw(trials)
            if point is None:
                return None
            self._study.add_trial(self._frozen(point))
            return Trial(len(trials) + 1, point, "running")

    def is_hopeless(self, trial: Trial, values: Sequence[float]) -> bool:
        """Whether a trial is to be given up after its validations so far: its best is worse than the median's.

        Compared are the validations of the same number, in the order of each trial: settings may change what a step is.
        """
        frozen = self._frozen(trial.point, dict(enumerate(values)))
        with self._told():
            return bool(values) and self._pruner.prune(self._study, frozen)

    def end(
        self, trial: Trial, state: State, values: Sequence[float], best: tuple[float, int] | None, reason: str = ""
    ) -> None:
        """Notes what a trial came to; a kill in between leaves a trial that isn't at its end.

        Args:
            trial: Which.
            state: How it ended.
            values: Of its validations.
            best: The best of them, and its step; None: there was none.
            reason: Why it failed.
        """
        states = self._optuna.trial.TrialState
        ended = {"complete": states.COMPLETE, "pruned": states.PRUNED, "failed": states.FAIL}[state]
        with self._told():
            trial_id = self._study.get_trials(deepcopy=False)[trial.number - 1]._trial_id
            for number, each in enumerate(values):
                self._storage.set_trial_intermediate_value(trial_id, number, each)
            notes = {"value": best and best[0], "step": best and best[1], "reason": reason}
            for name, note in notes.items():
                self._storage.set_trial_user_attr(trial_id, name, note)
            value = [best[0]] if best is not None and state != "failed" else None
            self._storage.set_trial_state_values(trial_id, ended, value)

    def _draw(self, trials: "Sequence[optuna.trial.FrozenTrial]") -> dict[str, Point] | None:
        """A point that wasn't tried: equal settings would come to the same."""
        tried = [trial.params for trial in trials]
        for attempt in range(MOST_DRAWS):
            seed = np.random.SeedSequence([self._seed % 2**32, len(trials), attempt]).generate_state(1)[0]
            sampler = self._optuna.samplers.TPESampler(seed=int(seed), n_startup_trials=NUM_BLIND)
            study = self._optuna.create_study(direction=self._direction, sampler=sampler)
            study.add_trials(trials)
            drawn = study.ask(self._distributions).params
            point = {dimension.name: _rounded(dimension, drawn[dimension.name]) for dimension in self._space}
            if point not in tried:
                return point
        return next((point for point in points(self._space) if point not in tried), None)

    def _trial(self, trial: "optuna.trial.FrozenTrial") -> Trial:
        states: dict[str, State] = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed"}
        point = {dimension.name: trial.params[dimension.name] for dimension in self._space}
        notes = trial.user_attrs
        state = states.get(trial.state.name, "running")
        return Trial(trial.number + 1, point, state, notes.get("value"), notes.get("step"), notes.get("reason", ""))

    def _frozen(self, point: dict[str, Point], values: dict[int, float] | None = None) -> "optuna.trial.FrozenTrial":
        return self._optuna.trial.create_trial(
            state=self._optuna.trial.TrialState.RUNNING,
            params=point,
            distributions=self._distributions,
            intermediate_values=values,
        )

    def _make(self) -> None:
        """Whole or not at all: beside the file, then under its name."""
        partial = partial_path(self._path)
        partial.unlink(missing_ok=True)
        storage = _open(partial)
        self._optuna.create_study(study_name=NAME, storage=storage, direction=self._direction)
        storage.engine.dispose()
        put_in_place(partial, self._path)

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        from sqlalchemy.exc import SQLAlchemyError

        try:
            yield
        except (SQLAlchemyError, sqlite3.Error, self._optuna.exceptions.OptunaError, KeyError, RuntimeError) as error:
            why = first_line(error.__cause__ or error)
            raise UserError(
                f"{self._path}, the sweep's memory, can't be read or written: {why}.",
                "Make room, or copy it from where it came from; without it begin another sweep in another --train-dir.",
            ) from error


def load_optuna() -> Any:
    """Optuna, which says nothing of its own.

    Raises:
        UserError: It isn't installed.
    """
    try:
        import optuna
    except ModuleNotFoundError as error:
        raise UserError(
            f"--sweep: {error.name} is not installed.", "It comes with the extra search: pip install '.[search]'"
        ) from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def _open(path: Path) -> "optuna.storages.RDBStorage":
    """The file by its path, whatever letters are in it that would mean something in an address."""
    from optuna.storages import RDBStorage

    def connect() -> sqlite3.Connection:
        return sqlite3.connect(path, check_same_thread=False)

    return RDBStorage(f"sqlite:///{NAME}.db", engine_kwargs={"creator": connect})


def _distribution(dimension: Range | Choice) -> Any:
    from optuna import distributions

    if isinstance(dimension, Choice):
        return distributions.CategoricalDistribution(dimension.texts)
    if isinstance(dimension.low, int) and isinstance(dimension.high, int):
        return distributions.IntDistribution(dimension.low, dimension.high, log=dimension.is_log)
    return distributions.FloatDistribution(dimension.low, dimension.high, log=dimension.is_log)


def _rounded(dimension: Range | Choice, value: Any) -> Point:
    """Of so many digits, so that a table holds the very number that was tried."""
    if isinstance(dimension, Choice) or isinstance(value, int):
        point: Point = value
        return point
    return min(max(float(f"{value:.{DIGITS}g}"), dimension.low), dimension.high)
