"""The loop around the training step: when to log, validate, save, and stop."""

import dataclasses
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import numpy as np

from finetune.cluster.team import Team
from finetune.evaluation.metrics import NotFiniteError
from finetune.model.checkpoint import count_not_finite, keep_newest, save_run_checkpoint
from finetune.model.checkpoint_names import BEST_FILE
from finetune.model.out_of_memory import out_of_memory_told
from finetune.settings.stopping import StoppingSettings
from finetune.signals import StopRequest, stop_request
from finetune.training.background_writer import BackgroundWriter
from finetune.training.best import Best, find_best, validated
from finetune.training.divergence import DivergedError, Guard, TrainingDivergedError
from finetune.training.early_stopping import ended_early
from finetune.training.image_inputs import TrainingInputs
from finetune.training.input_watch import InputWatch
from finetune.training.loss_gap import LossGap
from finetune.training.profile import Profile
from finetune.training.pseudo_labelling import PseudoLabelling
from finetune.training.recalibration import Recalibration
from finetune.training.run_log import RunLog
from finetune.training.schedules import CutSchedule
from finetune.training.state import TrainingState
from finetune.training.step import TrainingStep
from finetune.training.time_limit import TimeLimit

log = logging.getLogger("finetune")

# Why a loop ended: it made its last step, a signal came, the time was up, validations bettered nothing, or it was given
# up, as trials of a sweep are.
EndedBy = Literal["steps", "signal", "time", "patience", "pruned"]


@dataclasses.dataclass(frozen=True)
class Occasions:
    """When the loop does what.

    Attributes:
        first_step: Number of updates made before.
        first_step_of_stage: Number of updates made before the stage that these steps are of.
        max_steps: Number of updates at which it ends; None: never.
        eval_every: Steps between validations; 0: at the end only.
        guard_every: Steps between checkpoints that a run that diverges goes back to; None: it stops.
        log_every: Steps between figures.
        save_interval_seconds: Between checkpoints.
        max_to_keep: Newest checkpoints that are kept, beside the best.
        keeps_start: Whether what it begins with is a result of its own, validated and saved as after a step.
    """

    first_step: int
    first_step_of_stage: int
    max_steps: int | None
    eval_every: int
    guard_every: int | None
    log_every: int
    save_interval_seconds: float
    max_to_keep: int
    keeps_start: bool = False


class TrainingLoop:
    """Runs steps, and between them logs, validates and saves.

    Attributes:
        step: Number of updates made.
        best: The best checkpoint so far; None without validation.
        ended_by: Why it ended.
        stopped_by: Number of the signal that came before all was written; None: none came.
    """

    def __init__(
        self,
        run_log: RunLog,
        state: TrainingState,
        training_step: TrainingStep,
        schedule: CutSchedule,
        inputs: TrainingInputs,
        batches: Iterator[Any],
        occasions: Occasions,
        stopping: StoppingSettings,
        validations: Sequence[Best],
        best: Best | None,
        make_room: Callable[[int], bool],
        time_limit: TimeLimit,
        recalibration: Recalibration | None,
        loss_gap: LossGap,
        is_hopeless: Callable[[Sequence[Best]], bool],
        labelling: PseudoLabelling | None,
        team: Team,
        profile: Profile,
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
            stopping: When to stop before the last step, and which validation is the best.
            validations: Those on the images of now that were made before.
            best: The best checkpoint so far, as `find_best` gives it.
            make_room: Removes from the run's folder what it can do without, of its checkpoints all but so many and the
                best; returns whether there was such.
            time_limit: When to stop, whatever the step.
            recalibration: Of batch norm's statistics, before each validation and at the end.
            loss_gap: What training and validation losses are compared by.
            is_hopeless: Whether to give the run up, after the validations that it has had in this stage.
            labelling: Of unlabelled images; None: there are none.
            team: The workers, which log, validate, save and end after the same step.
            profile: Traces some steps.
        """
        self.step = occasions.first_step
        self.best = best
        self.ended_by: EndedBy = "steps"
        self.stopped_by: int | None = None
        self._run = run_log.run
        self._run_log = run_log
        self._state = state
        self._training_step = training_step
        self._schedule = schedule
        self._inputs = inputs
        self._batches = batches
        self._when = occasions
        self._stopping = stopping
        # A run that was at its end, or was killed there, is not validated once more when it is resumed.
        self._validations = list(validations)
        self._make_room = make_room
        self._time_limit = time_limit
        every = occasions.guard_every
        begin = occasions.first_step_of_stage
        self._guard = Guard(self._run, state, self.step, begin, every) if every is not None else None
        self._recalibration = recalibration
        self._loss_gap = loss_gap
        self._is_hopeless = is_hopeless
        self._labelling = labelling
        self._team = team
        self._profile = profile
        self._writer = BackgroundWriter()
        self._watch = InputWatch(run_log.images_per_step)
        self._is_traced = False
        self._unchecked: list[Any] = []
        self._saved_step: int | None = None
        self._last_save = time.monotonic()

    def run(self) -> str:
        """Trains to the last step, or until something else ends it; saves, and at the end of the run validates.

        Where the time is up it validates, too, which a resumption takes back: it is no part of an unbroken run.

        Returns:
            The prefix of the newest checkpoint.

        Raises:
            UserError: A loss, a weight or a validation's logit isn't finite, and the run isn't guarded, or went back
                as often as it may. The last good checkpoint stays the newest.
            OSError: There is no room for a file of the run, likewise.
            Interrupted: The user asked a second time to stop.
        """
        # The request holds until all is written: a first Ctrl-C in the meantime mustn't cut the last checkpoint off.
        with stop_request() as stop, self._writer:
            if self._guard is not None and self.step == self._when.first_step_of_stage:
                self._save()  # There is something to go back to from the first step on.
            while True:
                try:
                    self.ended_by = self._train(stop)
                    newest = self._save()
                    break
                except DivergedError as diverged:
                    self._step_back(diverged)
        self.stopped_by = stop.signal_number or self._team.stop_asked
        return newest

    def _train(self, stop: StopRequest) -> EndedBy:
        if self._when.keeps_start and self.step == self._when.first_step:
            self._validate_and_keep_best()
            self._save()
        why_early = ended_early(self._validations, self._stopping)
        is_hopeless = self._is_hopeless(self._validations)
        while (ended_by := self._agreed_end(stop, why_early, is_hopeless=is_hopeless)) is None:
            self._label_if_due()
            with self._time_limit.taking("steps"), self._profile.steps_after(self.step):
                self._make_steps(self._batches)
            if self._profile.ends_after(self.step):
                self._restart_clocks()
            are_figures_due = self.step % self._when.log_every == 0 or self._is_finished()
            if are_figures_due or self._run_log.is_line_due():
                self._log_training(to_files=are_figures_due)
            if self._is_finished():
                continue  # What is last of all comes once, behind the loop.
            if self._when.eval_every and self.step % self._when.eval_every == 0:
                self._validate_and_keep_best()
                why_early = ended_early(self._validations, self._stopping)
                is_hopeless = self._is_hopeless(self._validations)
            is_save_due = time.monotonic() - self._last_save >= self._when.save_interval_seconds
            is_save_due |= self._guard is not None and self._guard.is_due(self.step)
            if self._team.agreed(is_save_due):
                self._save()
        if self._is_finished():
            self._validate_and_keep_best()
        elif ended_by == "time":
            self._validate_and_keep_best(is_extra=True)
        elif ended_by == "patience":
            log.info(
                "Early stopping after step %d: %s. A larger --early-stopping-patience goes on.", self.step, why_early
            )
        return ended_by

    def _agreed_end(self, stop: StopRequest, why_early: str | None, *, is_hopeless: bool) -> EndedBy | None:
        """Why all workers end after the same step: a signal to any of them, and the chief's clock, count for all."""
        if stop.signal_number is not None:
            self._team.ask_to_stop(stop.signal_number)
        ended_by, asked = self._team.agreed(
            [self._why_to_end(why_early, is_hopeless=is_hopeless), self._team.stop_asked]
        )
        self._team.stop_asked = self._team.stop_asked or asked  # Another worker may just have asked.
        return ended_by

    def _why_to_end(self, why_early: str | None, *, is_hopeless: bool) -> EndedBy | None:
        if self._team.stop_asked is not None:
            return "signal"
        if self._is_finished():
            return "steps"
        if why_early is not None:
            return "patience"
        if is_hopeless:
            return "pruned"
        # However short the limit, each resumption makes some steps.
        return "time" if self._is_traced and self._time_limit.is_up() else None

    def _step_back(self, diverged: DivergedError) -> None:
        """Goes back to the last good checkpoint, and on from there at a lower rate, where that is asked for."""
        if self._guard is None:
            raise self._refusal(diverged) from diverged
        self._writer.wait()
        self._unchecked.clear()
        cuts = self._guard.step_back(diverged, self._schedule.cuts)
        self._schedule = dataclasses.replace(self._schedule, cuts=cuts)
        self.step = self._saved_step = cuts[-1].step
        self._batches = self._batches_from(self.step)
        self._validations = [validation for validation in self._validations if validation.step <= self.step]
        self.best = find_best(self._run, self.step, self._validations, self._stopping.best_by)
        self._run_log.restart_clock(self.step)

    def _batches_from(self, step: int) -> Iterator[Any]:
        assert self._state.seen is not None
        return self._state.seen.watched(self._inputs.batches, step)

    def _is_finished(self) -> bool:
        return self._when.max_steps is not None and self.step >= self._when.max_steps

    def _make_steps(self, batches: Iterator[Any]) -> None:
        rates = [self._schedule(step) for step in range(self.step, self.step + self._num_steps_at_once())]
        with self._watch.waiting():
            inputs = [next(batches) for _ in rates]
        size = self._inputs.batch_size

        def try_with(num_images: int) -> None:
            self._training_step.with_fewer(inputs[0], num_images / size, self.step)

        # Others of a team would wait for the trials: one alone is in the middle of a step of all.
        told = out_of_memory_told(
            size,
            try_with if self._team.number == 1 else None,
            may_recompute=not self._training_step.recomputes_activations,
        )
        with self._watch.working(len(rates)), told:
            if len(rates) == 1:
                self._unchecked.append(self._training_step(inputs[0], self.step, rates[0])[np.newaxis])
            else:
                self._unchecked.append(self._training_step.several(inputs, self.step, rates))
        if not self._is_traced:
            self._is_traced = True
            self._watch.restart()
            self._run_log.restart_clock(self.step + len(rates))
        self.step += len(rates)

    def _label_if_due(self) -> None:
        """Before the steps are given anything: the time that labels take is no part of theirs."""
        if self._labelling is None or not self._labelling.is_due(self.step):
            return
        self._check_losses()
        try:
            with self._time_limit.taking("pseudo-labels"):
                self._labelling.label(self.step)
        except NotFiniteError:
            why = f"After step {self.step} the network's logits for the unlabelled images are not finite."
            raise DivergedError(self.step, why) from None
        self._restart_clocks()

    def _restart_clocks(self) -> None:
        """After what is no part of the steps."""
        self._watch.restart()
        self._run_log.restart_clock(self.step)

    def _num_steps_at_once(self) -> int:
        """Up to the next step after which something is due."""
        periods = (self._when.log_every, self._when.eval_every, self._when.guard_every)
        due = [period - self.step % period for period in periods if period]
        due += self._profile.limits_after(self.step)
        if self._labelling is not None:
            due.append(self._labelling.num_steps_to_next(self.step))
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
        self._loss_gap.note(cross_entropy for cross_entropy, *_ in losses.tolist())
        first = self.step - len(losses) + 1
        for number, step_losses in enumerate(losses, start=first):
            if not np.isfinite(step_losses).all():
                raise DivergedError(number, f"The loss is {step_losses.sum()} at step {number}.")
        return losses[-1] if len(losses) else None

    def _refusal(self, diverged: DivergedError) -> TrainingDivergedError:
        kept_step = self._saved_step if self._saved_step is not None else self._when.first_step or None
        is_kept = kept_step is not None
        newest = f"step {kept_step} is kept" if is_kept else "no checkpoint was written yet, so nothing is kept"
        rate = self._schedule.before_scaling(self.step - 1)
        return TrainingDivergedError(
            f"{diverged.why} Training diverged and was stopped; {newest}.",
            f"Lower --learning-rate (now {rate:g}), or look for unsound labels or images; "
            "--on-divergence halve goes back, and on at half the rate.",
        )

    def _validate_and_keep_best(self, *, is_extra: bool = False) -> None:
        validate, validate_plain = self._inputs.validate, self._inputs.validate_plain
        is_validated = bool(self._validations) and self._validations[-1].step == self.step
        if is_validated or not (validate or self._is_finished()):
            return
        self._check_losses()
        self._recalibrate()
        if validate is None:
            return
        try:
            with self._time_limit.taking("validation"):
                scores = validate()
                plain = validate_plain() if validate_plain is not None else None
        except NotFiniteError:
            why = f"In the validation after step {self.step} the network's logits are not finite."
            raise DivergedError(self.step, why) from None
        self._run_log.validation(self.step, self._inputs.eval_split, scores, plain, is_extra=is_extra)
        self._loss_gap.compare(self.step, scores.loss, scores.num_classes)
        validation = validated(self.step, scores, is_extra=is_extra)
        self._validations.append(validation)
        if validation.is_better(self.best, self._stopping.best_by):
            self._keep_as_best(validation)
        self._run_log.restart_clock(self.step)

    def _keep_as_best(self, validation: Best) -> None:
        prefix, max_to_keep = self._save(), self._when.max_to_keep
        kept = self._kept_by_guard()
        self.best = validation

        def note() -> None:
            self._run.write_json(BEST_FILE, validation.to_json())
            keep_newest(self._run.path, prefix, max_to_keep, sparing=kept)  # The best one until now may go.

        self._writer.submit(note)

    def _recalibrate(self) -> None:
        """Before a validation; what the network is used by must be what was validated, and so is kept."""
        if self._recalibration is not None:
            self._recalibration()
            self._run_log.recalibration(self.step, self._recalibration.num_batches)

    def _save(self) -> str:
        prefix = str(self._run.path / f"model.ckpt-{self.step}")
        if self._saved_step == self.step:
            return prefix
        self._check_losses()
        self._writer.wait()
        values = self._state.values()
        damaged = count_not_finite(values.items())
        if damaged:
            raise DivergedError(self.step, f"{next(iter(damaged))} is not finite after step {self.step}.")
        step, max_to_keep = self.step, self._when.max_to_keep
        kept = self._kept_by_guard()
        self._writer.submit(
            lambda: save_run_checkpoint(
                self._run.path,
                step,
                values,
                max_to_keep=max_to_keep,
                make_room=lambda: self._make_room(max_to_keep - 1),  # The one that is written makes them complete.
                sparing=kept,
            )
        )
        self._saved_step = step
        self._last_save = time.monotonic()
        self._run_log.restart_clock(self.step)
        return prefix

    def _kept_by_guard(self) -> list[str]:
        """Prefixes of the checkpoints that are needed to go back."""
        return self._guard.kept_beside(self.step) if self._guard is not None else []
