"""A run labels its unlabelled images every so many steps, and trains on those that it is sure of, too."""

import itertools
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from finetune.evaluation.metrics import log_softmax
from finetune.runs.run_folder import PSEUDO_LABELS_FILE
from finetune.settings.pseudo_labels import Threshold
from finetune.training.image_inputs import TrainingInputs
from finetune.training.label_thresholds import Choice, choose
from finetune.training.mixed_batches import UNUSED, MixedSteps, Mixture
from finetune.training.pseudo_labels import PseudoLabels, write_pseudo_labels
from finetune.training.state import TrainingState
from finetune.types import Array

log = logging.getLogger("finetune")


class PseudoLabelling:
    """Labels images at every `every`-th step from `begin` on, and mixes them into the batches from there on.

    Labels are a function of the weights at that step. They are made by whoever comes to the step first: the training
    loop, which keeps the time apart, or the batches, where steps are made again to compare.
    """

    def __init__(
        self,
        state: TrainingState,
        inputs: TrainingInputs,
        *,
        names: Sequence[str],
        classes: Sequence[str],
        mixture: Mixture,
        threshold: Threshold,
        begin: int,
        every: int,
        seed: int,
        folder: Path | None,
    ) -> None:
        """Sets it up; nothing is labelled yet.

        Args:
            state: Whose model labels, by the averages of its weights where they are kept.
            inputs: Of the run, with unlabelled images.
            names: Of these.
            classes: By output of the network.
            mixture: How many of them each batch has.
            threshold: Which of them.
            begin: Number of updates made before the first step that is given any.
            every: Steps between labels.
            seed: Of the order.
            folder: Of the run, where labels are written; None: they aren't.
        """
        assert state.pseudo_labels is not None
        self.begin = begin
        self.every = every
        self._state = state
        self._inputs = inputs
        self._labels: PseudoLabels = state.pseudo_labels
        self._names = names
        self._classes = classes
        self._mixture = mixture
        self._threshold = threshold
        self._seed = seed
        self._folder = folder

    def batches(self, first_step: int) -> Iterator[Any]:
        """What steps from `first_step` on are given, as `TrainingInputs.batches`."""
        step = first_step
        if step < self.begin:
            yield from itertools.islice(self._inputs.batches(step), self.begin - step)
            step = self.begin
        mixed: Callable[[MixedSteps], Iterator[Any]] | None = self._inputs.mixed_batches
        assert mixed is not None
        while True:
            if self.is_due(step):
                self.label(step)
            end = self._start_of(step) + self.every
            yield from itertools.islice(mixed(self._steps_from(step)), end - step)
            step = end

    def is_due(self, step: int) -> bool:
        """Whether there are no labels yet for the next step, so many updates being made."""
        return step >= self.begin and self._labels.made_at < self._start_of(step)

    def num_steps_to_next(self, step: int) -> int:
        """How many steps may be made, so many being made, before labels are due."""
        return self.begin - step if step < self.begin else self._start_of(step) + self.every - step

    def label(self, step: int) -> None:
        """Labels all images, so many updates being made, and says and writes what came of it.

        Raises:
            NotFiniteError: A logit isn't finite.
        """
        choice = choose(np.exp(log_softmax(self._logits())), self._threshold)
        changes = self._labels.replace(choice, step)
        log.info("step %d  pseudo-labels: %s", step, self._in_words(choice, step))
        if choice.is_used.any():
            log.info("step %d  pseudo-labels: %s; %s", step, changes, thresholds_in_words(choice, self._classes))
        if self._folder is not None:
            write_pseudo_labels(self._folder / PSEUDO_LABELS_FILE, self._names, self._classes, choice)

    def _logits(self) -> Array:
        assert self._inputs.unlabelled_logits is not None
        if self._state.averages is None:
            return self._inputs.unlabelled_logits()
        with self._state.averages.in_place():
            return self._inputs.unlabelled_logits()

    def _in_words(self, choice: Choice, step: int) -> str:
        num_used, num_images, end = int(choice.is_used.sum()), len(choice.labels), self._start_of(step) + self.every
        if not num_used:
            return f"none of {num_images} images is sure enough: up to step {end} the labelled ones are alone"
        num_taken = self._mixture.num_before_step(end) - self._mixture.num_before_step(step)
        return f"{num_used} of {num_images} images are used, each {num_taken / num_used:.2g} times up to step {end}"

    def _steps_from(self, step: int) -> MixedSteps:
        """The steps up to the next labels.

        Where no image counts batches are of labelled ones alone; the labels after that go on as if they hadn't been,
        so that what a step is given doesn't hang on labels of long before.
        """
        mixture, start = self._mixture, self._start_of(step)
        num_pseudo = mixture.num_before_step(step) - mixture.num_before_step(start)
        num_labelled = start * mixture.images_per_step
        num_labelled -= mixture.num_before_step(start) - mixture.num_before_step(self.begin)
        num_labelled += (step - start) * mixture.images_per_step
        if (self._labels.labels != UNUSED).any():
            num_labelled -= num_pseudo
        return MixedSteps(mixture, self._labels.labels, start, step, num_labelled, num_pseudo, self._seed)

    def _start_of(self, step: int) -> int:
        """The last step at which labels are due up to this one."""
        return step - (step - self.begin) % self.every


def thresholds_in_words(choice: Choice, classes: Sequence[str]) -> str:
    """The thresholds in short."""
    lowest, highest = int(choice.thresholds.argmin()), int(choice.thresholds.argmax())
    least, most = choice.thresholds[lowest], choice.thresholds[highest]
    if least == most:
        return f"threshold {most:.2f}"
    return f"thresholds from {least:.2f} ({classes[lowest]}) to {most:.2f} ({classes[highest]})"
