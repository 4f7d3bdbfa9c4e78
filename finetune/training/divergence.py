"""A run whose losses, weights or logits are no longer finite: back to a good checkpoint, and on at half the rate.

Where a run goes back to must not hang on clocks, or a run that was stopped and resumed would go back to another step
than one that wasn't. So with `--on-divergence halve` there is a checkpoint of each validation's step, the last of which
is kept until there is the next, and none of those that are written by time or at a stop is gone back to.
"""

import dataclasses
import logging
import math
from collections.abc import Iterable
from pathlib import Path

from finetune.errors import UserError
from finetune.files.json_files import Number, read_json
from finetune.model.checkpoint import Checkpoint, checkpoints_by_step, delete_newer, is_whole
from finetune.runs.run_folder import RATE_CUTS_FILE, RunFolder
from finetune.training.schedules import CutSchedule, RateCut, Schedule
from finetune.training.state import TrainingState

RATE_CUTS_SHAPE = {
    "cuts": [
        {
            "step": Number(int, at_least=0),
            "factor": Number(at_least=0, at_most=1),
            "seen_at": Number(int, at_least=0),
            "why": str,
        }
    ]
}
MOST_CUTS = 5
FACTOR = 0.5

log = logging.getLogger("finetune")


class DivergedError(Exception):
    """Something isn't finite.

    Attributes:
        step: Number of updates after which that was found.
        why: What isn't, in a sentence.
    """

    def __init__(self, step: int, why: str) -> None:
        super().__init__(why)
        self.step = step
        self.why = why


class TrainingDivergedError(UserError):
    """A training that something not finite has ended: told as a mistake, and in a sweep a trial's result."""


def read_rate_cuts(run: RunFolder) -> tuple[RateCut, ...]:
    """The cuts of a run so far, in the order in which they were made.

    Raises:
        UserError: The file holds something else.
    """
    path = run.path / RATE_CUTS_FILE
    if not path.exists():
        return ()
    mend = "It says from which step on the learning rate is lower. Copy it from where it came from: without it the run "
    content = read_json(path, RATE_CUTS_SHAPE, f"{mend}would go on at the whole rate.")
    names = [field.name for field in dataclasses.fields(RateCut)]
    return tuple(RateCut(**{name: cut[name] for name in names}) for cut in content["cuts"])


def with_cuts_of_run(schedule: Schedule, run: RunFolder) -> CutSchedule:
    """The schedule with the cuts that the run had so far, which are said.

    Raises:
        UserError: As `read_rate_cuts`.
    """
    cuts = read_rate_cuts(run)
    of_stage = [cut for cut in cuts if cut.step >= schedule.first_step]
    for step in sorted({cut.step for cut in of_stage}):
        share = math.prod(cut.factor for cut in of_stage if cut.step <= step)
        log.info("After step %d the learning rate is %g times the schedule's (%s).", step, share, RATE_CUTS_FILE)
    return CutSchedule(schedule, cuts)


class Guard:
    """Takes a run back to the last checkpoint of before it diverged."""

    def __init__(self, run: RunFolder, state: TrainingState, first_step: int, begin: int, every: int) -> None:
        """Sets the guard up, before the next step is given anything.

        Args:
            run: The run's folder.
            state: What is taken back.
            first_step: Number of updates made.
            begin: Number of updates made before the stage, whose end the run never goes back beyond.
            every: Steps between the checkpoints that are gone back to.
        """
        self._run = run
        self._state = state
        self._first_step = first_step
        self._begin = begin
        self._every = every
        # What a run goes on with that accepted other data isn't what its checkpoint noted on the data.
        self._seen = state.seen.values() if state.seen is not None else {}

    def is_due(self, step: int) -> bool:
        """Whether there is to be a checkpoint of this step."""
        return step % self._every == 0 or step == self._begin

    def kept_beside(self, step: int) -> list[str]:
        """Prefixes of what must not be deleted when a checkpoint of this step is written."""
        return [] if self.is_due(step) else self._own(checkpoints_by_step(self._run.path))[-1:]

    def _own(self, prefixes: Iterable[str]) -> list[str]:
        return [prefix for prefix in prefixes if self.is_due(_step_of(prefix)) and _step_of(prefix) >= self._begin]

    def step_back(self, diverged: DivergedError, cuts: tuple[RateCut, ...]) -> tuple[RateCut, ...]:
        """Makes the run's folder and state those of the last good checkpoint.

        A kill leaves either what was there before, so that the run diverges once more, or the new cut.

        Args:
            diverged: Why.
            cuts: Those that there are.

        Returns:
            With the new one, whose step is the checkpoint's.

        Raises:
            TrainingDivergedError: There is none to go back to, or the rate was cut too often.
        """
        # Runs that are guarded only since they were resumed have none of the guard's own.
        of_run = checkpoints_by_step(self._run.path)
        before = [prefix for prefix in of_run if self._begin <= _step_of(prefix) < diverged.step]
        good = next((prefix for prefix in [*self._own(before)[::-1], *before[::-1]] if is_whole(prefix)), None)
        if good is None or len(cuts) >= MOST_CUTS:
            tried = (
                "no whole checkpoint is of before that" if good is None else f"the rate was halved {len(cuts)} times"
            )
            raise TrainingDivergedError(
                f"{diverged.why} Training diverged and was stopped; {tried}.",
                "Begin anew with a lower --learning-rate, or look for unsound labels or images.",
            )
        step = _step_of(good)
        log.warning(
            "%s Training diverged: back to step %d, and on at half the learning rate, time %d of at most %d.",
            diverged.why,
            step,
            len(cuts) + 1,
            MOST_CUTS,
        )
        cuts = (*cuts, RateCut(step, FACTOR, diverged.step, diverged.why))
        delete_newer(self._run.path, good)
        self._run.write_json(RATE_CUTS_FILE, {"cuts": [dataclasses.asdict(cut) for cut in cuts]})
        self._run.forget_metrics_after(step)
        checkpoint = Checkpoint(good)
        values = {name: checkpoint.read(name) for name in checkpoint.shapes}
        self._state.restore(values | (self._seen if step == self._first_step else {}), good)
        if self._state.seen is not None:
            self._state.seen.accept_other_order()  # This program has made these steps itself.
        return cuts


def _step_of(prefix: str) -> int:
    return int(Path(prefix).name.rpartition("-")[2])
