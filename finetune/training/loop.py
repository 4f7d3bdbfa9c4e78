"""The loop around the training step: when to log, validate, save, and stop."""

import dataclasses
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from finetune.errors import UserError
from finetune.evaluation.metrics import NotFiniteError
from finetune.files.json_files import Number, read_json_or_tell
from finetune.model.checkpoint import (
    BEST_FILE,
    RUN_PREFIX,
    checkpoints_by_step,
    count_not_finite,
    is_whole,
    save_run_checkpoint,
)
from finetune.model.out_of_memory import out_of_memory_told
from finetune.runs.run_folder import RunFolder
from finetune.signals import stop_request
from finetune.training.background_writer import BackgroundWriter
from finetune.training.image_inputs import TrainingInputs
from finetune.training.input_watch import InputWatch
from finetune.training.run_log import RunLog
from finetune.training.schedules import Schedule
from finetune.training.state import TrainingState
from finetune.training.step import TrainingStep

log = logging.getLogger("finetune")

BEST_SHAPE = {
    "checkpoint": str,
    "step": Number(int, at_least=0),
    "accuracy": Number(at_least=0, at_most=1),
    "loss": Number(at_least=0),
}


@dataclasses.dataclass(frozen=True)
class Best:
    """The checkpoint of the highest validation accuracy so far, of two the one with the lower loss: best.json."""

    checkpoint: str
    step: int
    accuracy: float
    loss: float


@dataclasses.dataclass(frozen=True)
class Occasions:
    """When the loop does what.

    Attributes:
        first_step: Number of updates made before.
        validated_step: The last that was validated on the images of now; None: none was.
        max_steps: Number of updates at which it ends; None: never.
        eval_every: Steps between validations; 0: at the end only.
        log_every: Steps between figures.
        save_interval_seconds: Between checkpoints.
        max_to_keep: Newest checkpoints that are kept, beside the best.
        keeps_start: Whether what it begins with is a result of its own, validated and saved as after a step.
    """

    first_step: int
    validated_step: int | None
    max_steps: int | None
    eval_every: int
    log_every: int
    save_interval_seconds: float
    max_to_keep: int
    keeps_start: bool = False


class TrainingLoop:
    """Runs steps, and between them logs, validates and saves.

    Attributes:
        step: Number of updates made.
        best: The best checkpoint so far; None without validation.
        stopped_by: Number of the signal that ended it; None: it came to its end.
    """

    def __init__(
        self,
        run_log: RunLog,
        state: TrainingState,
        training_step: TrainingStep,
        schedule: Schedule,
        inputs: TrainingInputs,
        batches: Iterator[Any],
        occasions: Occasions,
        best: Best | None,
        make_room: Callable[[int], bool],
    ) -> None:
        """Sets the loop up.

        Args:
            run_log: Of the run's folder, where figures go.
            state: What checkpoints hold.
            training_step: Makes an update.
            schedule: Learning rate by step.
            inputs: What validations are given, and how many steps are made at once.
            batches: What steps are given, from the first one that is to be made.
            occasions: When to do what between steps.
            best: The best checkpoint so far, as `find_best` gives it.
            make_room: Removes from the run's folder what it can do without, of its checkpoints all but so many and the
                best; returns whether there was such.
        """
        self.step = occasions.first_step
        self.best = best
        self.stopped_by: int | None = None
        self._run = run_log.run
        self._run_log = run_log
        self._state = state
        self._training_step = training_step
        self._schedule = schedule
        self._inputs = inputs
        self._batches = batches
        self._when = occasions
        self._make_room = make_room
        self._writer = BackgroundWriter()
        self._watch = InputWatch(run_log.images_per_step)
        self._is_traced = False
        self._unchecked: list[Any] = []
        self._saved_step: int | None = None
        # A run that was at its end, or was killed there, is not validated once more when it is resumed.
        self._validated_step = occasions.validated_step
        self._last_save = time.monotonic()

    def run(self) -> str:
        """Trains to the last step, or until the user asks to stop; saves, and at the end of the run validates.

        Returns:
            The prefix of the newest checkpoint.

        Raises:
            UserError: A loss, a weight or a validation's logit isn't finite. The last good checkpoint stays the newest.
            OSError: There is no room for a file of the run, likewise.
            Interrupted: The user asked a second time to stop.
        """
        # The request holds until all is written: a first Ctrl-C in the meantime mustn't cut the last checkpoint off.
        with stop_request() as stop, self._writer:
            if self._when.keeps_start:
                self._validate_and_keep_best()
                self._save()
            while not self._is_finished() and not stop.is_made:
                self._make_steps(self._batches)
                are_figures_due = self.step % self._when.log_every == 0 or self._is_finished()
                if are_figures_due or self._run_log.is_line_due():
                    self._log_training(to_files=are_figures_due)
                if self._when.eval_every and self.step % self._when.eval_every == 0:
                    self._validate_and_keep_best()
                if time.monotonic() - self._last_save >= self._when.save_interval_seconds:
                    self._save()
            if self._is_finished():
                self._validate_and_keep_best()
            newest = self._save()
        self.stopped_by = stop.signal_number
        return newest

    def _is_finished(self) -> bool:
        return self._when.max_steps is not None and self.step >= self._when.max_steps

    def _make_steps(self, batches: Iterator[Any]) -> None:
        rates = [self._schedule(step) for step in range(self.step, self.step + self._num_steps_at_once())]
        with self._watch.waiting():
            inputs = [next(batches) for _ in rates]
        with self._watch.working(len(rates)), out_of_memory_told(self._inputs.batch_size):
            if len(rates) == 1:
                self._unchecked.append(self._training_step(inputs[0], self.step, rates[0])[np.newaxis])
            else:
                self._unchecked.append(self._training_step.several(inputs, self.step, rates))
        if not self._is_traced:
            self._is_traced = True
            self._watch.restart()
            self._run_log.restart_clock(self.step + len(rates))
        self.step += len(rates)

    def _num_steps_at_once(self) -> int:
        """Up to the next step after which something is due."""
        periods = [self._when.log_every, *([self._when.eval_every] if self._when.eval_every else [])]
        due = [period - self.step % period for period in periods]
        if self._when.max_steps is not None:
            due.append(self._when.max_steps - self.step)
        return min(self._inputs.steps_per_call, *due)

    def _log_training(self, *, to_files: bool) -> None:
        with self._watch.working():
            loss, decay = self._check_losses()
        self._watch.report()
        rate = self._schedule(self.step - 1)
        chain = self._state.seen.link if self._state.seen is not None else ""
        self._run_log.training(self.step, float(loss + decay), float(decay), rate, to_files=to_files, data_chain=chain)

    def _check_losses(self) -> Any:
        """Waits for the losses of the steps since the last check, and returns those of the last one."""
        losses = np.array([step_losses for losses in self._unchecked for step_losses in losses.numpy()])
        self._unchecked.clear()
        first = self.step - len(losses) + 1
        for number, step_losses in enumerate(losses, start=first):
            if not np.isfinite(step_losses).all():
                self._refuse_to_go_on(f"The loss is {step_losses.sum()} at step {number}.")
        return losses[-1] if len(losses) else None

    def _refuse_to_go_on(self, what: str) -> NoReturn:
        kept_step = self._saved_step if self._saved_step is not None else self._when.first_step or None
        is_kept = kept_step is not None
        newest = f"step {kept_step} is kept" if is_kept else "no checkpoint was written yet, so nothing is kept"
        raise UserError(
            f"{what} Training diverged and was stopped; {newest}.",
            f"Lower --learning-rate (now {self._schedule(self.step - 1):g}), or look for unsound labels or images.",
        )

    def _validate_and_keep_best(self) -> None:
        if self._inputs.validate is None or self._validated_step == self.step:
            return
        self._validated_step = self.step
        self._check_losses()
        try:
            scores = self._inputs.validate()
        except NotFiniteError:
            self._refuse_to_go_on(f"In the validation after step {self.step} the network's logits are not finite.")
        self._run_log.validation(self.step, self._inputs.eval_split, scores)
        if self.best is None or (scores.accuracy, -scores.loss) > (self.best.accuracy, -self.best.loss):
            self._save()
            self.best = best = Best(f"{RUN_PREFIX}-{self.step}", self.step, scores.accuracy, scores.loss)
            self._writer.submit(lambda: self._run.write_json(BEST_FILE, dataclasses.asdict(best)))
        self._run_log.restart_clock(self.step)

    def _save(self) -> str:
        prefix = str(self._run.path / f"model.ckpt-{self.step}")
        if self._saved_step == self.step:
            return prefix
        self._check_losses()
        self._writer.wait()
        values = self._state.values()
        damaged = count_not_finite(values.items())
        if damaged:
            self._refuse_to_go_on(f"{next(iter(damaged))} is not finite after step {self.step}.")
        step, max_to_keep = self.step, self._when.max_to_keep
        self._writer.submit(
            lambda: save_run_checkpoint(
                self._run.path,
                step,
                values,
                max_to_keep=max_to_keep,
                make_room=lambda: self._make_room(max_to_keep - 1),  # The one that is written makes them complete.
            )
        )
        self._saved_step = step
        self._last_save = time.monotonic()
        self._run_log.restart_clock(self.step)
        return prefix


def read_validations(run: RunFolder, eval_split: str, after_step: int, last_step: int) -> list[Best]:
    """What the run's validations after a step, and up to another one, came to, by its metrics."""
    return [
        Best(f"{RUN_PREFIX}-{line['step']}", line["step"], line["accuracy"], line["loss"])
        for line in run.read_metrics()
        if line.get("split") == eval_split and after_step < line["step"] <= last_step
    ]


def find_best(run: RunFolder, first_step: int, validations: Sequence[Best]) -> Best | None:
    """The best checkpoint up to the step that a run goes on from, by best.json and by the validations in metrics.jsonl.

    The two differ where the program was killed after it had saved the best checkpoint and before it wrote best.json,
    and where the best one is damaged: then best.json is written anew, or removed.

    Returns:
        None where no validation's checkpoint is there and whole.
    """
    named = _read_best(run)
    candidates = {best.checkpoint: best for best in (*validations, *([named] if named else []))}
    there = {Path(prefix).name for prefix in checkpoints_by_step(run.path)}
    # A checkpoint after the first step was passed over, for it is damaged.
    found = [best for best in candidates.values() if best.step <= first_step and best.checkpoint in there]
    by_worth = sorted(found, key=lambda best: (-best.accuracy, best.loss, best.step))
    best = next((best for best in by_worth if is_whole(str(run.path / best.checkpoint))), None)
    if best == named:
        return best
    path = run.path / BEST_FILE
    if best is None:
        log.warning("%s names %s, which is not there whole: the best is looked for anew.", path, _name(named))
        path.unlink(missing_ok=True)
    else:
        log.warning("%s names %s: %s is the best there is, and is named now.", path, _name(named), best.checkpoint)
        run.write_json(BEST_FILE, dataclasses.asdict(best))
    return best


def _read_best(run: RunFolder) -> Best | None:
    """What best.json holds; None where there is none, or, which is told, it is damaged."""
    content = read_json_or_tell(run.path / BEST_FILE, BEST_SHAPE, "The best is looked for in the run's metrics.")
    return Best(**{name: content[name] for name in BEST_SHAPE}) if content is not None else None


def _name(best: Best | None) -> str:
    return best.checkpoint if best is not None else "no checkpoint"
