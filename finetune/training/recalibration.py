"""Batch norm's moving statistics taken anew from training images, for the weights as they are (precise batch norm).

The average over some batches of what training normalises by (Wu and Johnson, arXiv:2105.07576), in place of a moving
average over batches that were normalised by weights of before.
"""

import itertools
import logging
import time
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from finetune.model.out_of_memory import out_of_memory_told
from finetune.progress import progress
from finetune.training.image_inputs import TrainingInputs
from finetune.training.state import TrainingState
from finetune.types import Tensor

log = logging.getLogger("finetune")


class Recalibration:
    """Takes the statistics of the layers that training updates anew; those of frozen layers stay.

    The batches are the first of the training's order, whatever the step, and no part of what steps are given: what
    comes out is a function of the weights, the data and the seed, so that a resumed run's is an unbroken one's.

    Attributes:
        num_batches: Passes of a batch on each device.
    """

    def __init__(
        self, state: TrainingState, inputs: TrainingInputs, *, num_batches: int, num_passes: int = 1, seed: int = 0
    ) -> None:
        """Sets it up; the pass is traced at the first call.

        Args:
            state: Whose model has a `cumulative_share`, which the forward of the inputs looks at.
            inputs: What training is given, and its pass.
            num_batches: Over how many batches, on each device.
            num_passes: Batches in what a step is given.
            seed: Of dropout.
        """
        assert state.model.cumulative_share is not None
        self.num_batches = num_batches
        self._state = state
        self._inputs = inputs
        self._num_passes = num_passes
        self._seed = seed
        self._share = state.model.cumulative_share
        self._statistics = [
            f"{layer}/{name}"
            for layer in state.model.updated_batch_norms()
            for name in ("moving_mean", "moving_variance")
        ]
        self._strategy = tf.distribute.get_strategy()
        self._run = tf.function(self._forward, autograph=False)
        self._has_told = False

    def __call__(self) -> None:
        """Takes them anew; where moving averages of weights are kept, for these too, with the averages in place.

        Raises:
            UserError: A batch needs more memory than there is.
        """
        start = time.monotonic()
        self._take_anew()
        averages = self._state.averages
        if averages is not None:
            with averages.in_place():
                self._take_anew()
                averages.take_over(self._statistics)
        if not self._has_told:
            self._has_told = True
            twice = ", twice for the moving averages of weights" if averages is not None else ""
            log.info(
                "Batch norm: statistics taken anew over %d batches%s before each validation and at the end: %.1f s the "
                "first time.",
                self.num_batches,
                twice,
                time.monotonic() - start,
            )

    def _take_anew(self) -> None:
        for name in self._statistics:  # From nothing: a share of 1 would leave the last bits of what was there.
            variable = self._state.model.model_variables[name]
            variable.assign(tf.zeros(variable.shape))
        try:
            with progress("Batch norm's statistics", self.num_batches, "batches") as advance:
                for number, (inputs, part) in enumerate(itertools.islice(self._batches(), self.num_batches)):
                    self._share.assign(1.0 / (number + 1))
                    with out_of_memory_told(self._inputs.batch_size):
                        self._run(inputs, tf.constant(part), tf.constant(number))
                    advance(1)
        finally:
            self._share.assign(0.0)

    def _batches(self) -> Iterator[tuple[Any, int]]:
        """Without end: what a step is given, and which of its parts is the batch."""
        for inputs, *_ in self._inputs.batches(0):
            for part in range(self._num_passes):
                yield inputs, part

    def _forward(self, inputs: Any, part: Tensor, number: Tensor) -> None:
        """The training pass of one part of the inputs, for what it does to the statistics."""

        def run(inputs: Any) -> None:
            batch = tf.nest.map_structure(
                lambda values: tf.reshape(values, [self._num_passes, -1, *values.shape[1:]])[part], inputs
            )
            replica = tf.cast(tf.distribute.get_replica_context().replica_id_in_sync_group, tf.int32)
            seed = tf.random.experimental.stateless_fold_in(tf.stack([tf.constant(self._seed), number]), 0)
            self._inputs.forward(batch, tf.concat([seed, [replica * self._num_passes + part]], axis=0))

        self._strategy.run(run, args=(inputs,))
