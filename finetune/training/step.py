"""One optimizer update as a `tf.function`, the same for one device and for several."""

import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from finetune.model.model import Outputs, variable_name
from finetune.training.loss_scaling import LossScale
from finetune.training.losses import TrainingLoss
from finetune.training.mixing import Mixing
from finetune.training.moving_averages import MovingAverages
from finetune.training.optimizers import Optimizer
from finetune.training.recomputation import plain_gradients, recomputing_gradients
from finetune.types import FuncGraph, Tensor

log = logging.getLogger("finetune")

# Sets the chance of mixing apart from that of dropout, which has the same seed.
OF_MIXING = 0x6D6978
NOTHING_TO_RECOMPUTE = (
    "all are kept, and --recompute-activations has nothing to do: computing some again would save no memory."
)


class TrainingStep:
    """Forward, loss, gradients of the trained variables alone, update.

    Nothing is computed for frozen variables: no gradient reaches them, and they have no weight-decay term.

    Attributes:
        recomputes_activations: Whether it does wherever that takes less memory.
    """

    def __init__(
        self,
        forward: Callable[[Tensor, Tensor], Outputs],
        loss: TrainingLoss,
        optimizer: Optimizer,
        *,
        averages: MovingAverages | None = None,
        loss_scale: LossScale | None = None,
        mixing: Mixing | None = None,
        num_passes: int = 1,
        largest_norm: float | None = None,
        seed: int = 0,
        use_xla: bool = False,
        recompute_activations: bool = False,
    ) -> None:
        """Sets up a step; it is traced at the first call, under the current distribution strategy.

        Args:
            forward: The training pass, from inputs, images or features, and a dropout seed [3] to outputs.
            loss: Of its outputs.
            optimizer: Of the trained variables.
            averages: Moving averages to update after each step.
            loss_scale: Of the losses that gradients are computed of; None: 1.
            mixing: Of the images, each pass and each device by itself; None: images stay what they are.
            num_passes: Equal parts of each batch that are computed one after the other, to take less memory; the
                update is by the mean of their gradients. Where batch norm is trained, its statistics are of a part.
            largest_norm: What the global norm of the gradients is clipped to; None: it isn't.
            seed: Of dropout and mixing, together with the step.
            use_xla: Whether XLA compiles the step.
            recompute_activations: Whether most activations are computed again in the backward pass, to take less
                memory; not for XLA.
        """
        self._forward = forward
        self._loss = loss
        self._optimizer = optimizer
        self._trained = optimizer.variables
        self._averages = averages
        self._loss_scale = loss_scale
        self._mixing = mixing
        self._num_passes = num_passes
        self._largest_norm = largest_norm
        self._seed = seed
        self.recomputes_activations = recompute_activations
        self._has_told_cuts = False
        self._strategy = tf.distribute.get_strategy()
        options = {"autograph": False, "jit_compile": use_xla or None}
        self._run_one = tf.function(self._step, **options)
        self._run_several = tf.function(self._steps, reduce_retracing=True, **options)

    def __call__(self, batch: tuple[Tensor, ...], step: int, learning_rate: float) -> Tensor:
        """Makes one update.

        Args:
            batch: Inputs [B,...] and labels [B], of each replica, and of all passes; and weights [B], where images
                have such.
            step: How many updates were made before.
            learning_rate: Of this one.

        Returns:
            A tensor [2]: the loss (with the auxiliary head's part) and weight decay, before the update.
        """
        self._optimizer.set_learning_rate(learning_rate)
        return self._run_one(batch, tf.constant(step, tf.int32))

    def trace(self, batch: tuple[Tensor, ...], step: int) -> FuncGraph:
        """Builds the graph of an update beforehand, where the steps of several trainings follow each other; gives it.

        TensorFlow warns of calls that trace, wherever five of the last ten do, and doesn't count this one.
        """
        return self._run_one.get_concrete_function(batch, tf.constant(step, tf.int32)).graph

    def with_fewer(self, batch: tuple[Tensor, ...], share: float, step: int) -> None:
        """Makes an update with the first images of a batch, to see whether memory suffices; nothing of it is of use.

        Args:
            batch: As for one update.
            share: Of each replica's images, that gives a whole number for each pass.
            step: How many updates were made before.
        """

        def first_images(values: Any) -> Any:
            of_devices = self._strategy.experimental_local_results(values)
            return self._strategy.experimental_distribute_values_from_function(
                lambda context: (part := of_devices[context.replica_id_in_sync_group])[: round(share * len(part))]
            )

        self._run_one(tf.nest.map_structure(first_images, batch), tf.constant(step, tf.int32)).numpy()

    def several(self, batches: Sequence[Any], first_step: int, learning_rates: Sequence[float]) -> Tensor:
        """Makes an update with each of the batches in one call: for steps that take less time than a call.

        Args:
            batches: Of each the inputs [B,...], labels [B] and weights, as for one, arrays in memory.
            first_step: How many updates were made before.
            learning_rates: Of each update.

        Returns:
            A tensor [len(batches),2]: the losses of each update, as those of one.
        """
        stacked = tf.nest.map_structure(lambda *values: tf.constant(np.stack(values)), *batches)
        return self._run_several(stacked, tf.constant(first_step, tf.int32), tf.constant(learning_rates, tf.float32))

    def _steps(self, batches: Any, first_step: Tensor, learning_rates: Tensor) -> Tensor:
        num_steps = tf.size(learning_rates)

        def make(index: Tensor, losses: Any) -> tuple[Tensor, Any]:
            self._optimizer.set_learning_rate(learning_rates[index])
            batch = tf.nest.map_structure(lambda values: values[index], batches)
            return index + 1, losses.write(index, self._step(batch, first_step + index))

        losses = tf.TensorArray(tf.float32, num_steps, element_shape=[2])
        return tf.while_loop(lambda index, _: index < num_steps, make, [0, losses])[1].stack()

    def _step(self, batch: tuple[Tensor, ...], step: Tensor) -> Tensor:
        if self._num_passes == 1:
            losses, gradients = self._strategy.run(self._pass, args=(batch, step))
        else:
            losses, gradients = self._mean_of_passes(batch, step)
        if self._loss_scale is None:
            self._update(gradients)
        else:
            is_finite = self._are_finite(gradients)
            tf.cond(is_finite, lambda: self._update(gradients), lambda: tf.constant(False))
            self._loss_scale.update(is_finite)
        if self._averages is not None:
            self._averages.update(step)
        return self._strategy.reduce(tf.distribute.ReduceOp.SUM, losses, axis=None)

    def _mean_of_passes(self, batch: tuple[Tensor, ...], step: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """What `_pass` gives of a whole batch, to rounding, in a loop over its parts."""
        reached: set[str] = set()

        def add_pass(batch: tuple[Tensor, ...], number: Tensor, losses: Tensor, sums: dict[str, Tensor]) -> Any:
            part = tf.nest.map_structure(
                lambda values: tf.reshape(values, [self._num_passes, -1, *values.shape[1:]])[number], batch
            )
            more_losses, gradients = self._pass(part, step, number)
            reached.update(gradients)
            sums = {name: total + gradients[name] if name in gradients else total for name, total in sums.items()}
            return losses + more_losses, sums

        def make_pass(number: Tensor, *sums: Any) -> Any:
            return number + 1, *self._strategy.run(add_pass, args=(batch, number, *sums))

        def nothing() -> Any:
            return tf.zeros([2]), {variable_name(variable): tf.zeros(variable.shape) for variable in self._trained}

        # One at a time: activations of several would take the memory that the parts are to save.
        _, losses, sums = tf.while_loop(
            lambda number, *_: number < self._num_passes,
            make_pass,
            [tf.constant(0), *self._strategy.run(nothing)],
            parallel_iterations=1,
        )
        means = self._strategy.run(
            lambda totals: tf.nest.map_structure(lambda total: total / self._num_passes, totals),
            args=((losses, {name: total for name, total in sums.items() if name in reached}),),
        )
        return means[0], means[1]

    def _pass(self, batch: tuple[Tensor, ...], step: Tensor, *number: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The losses [2] of a replica's images, and their gradients by the names of the variables that they reach.

        Args:
            batch: Images or features [B,...], labels [B], and weights [B] where images have such.
            step: How many updates were made before.
            number: Of the pass, where a step has several.
        """
        inputs, labels, *own_weights = batch
        weights, replica = self._loss.weights_of(labels, *own_weights), _replica()
        if self._mixing is not None:
            inputs, labels, weights = self._mixing(
                inputs, labels, self._seed_of(step, replica, *number, OF_MIXING), weights
            )
        part = replica * self._num_passes + (number[0] if number else 0)
        outputs = self._forward(inputs, tf.concat([self._seed_of(step, 0), [part]], axis=0))
        # The optimizer adds up the replicas' gradients, and the losses are added up likewise.
        losses = self._loss(outputs, labels, weights) / self._strategy.num_replicas_in_sync
        whole = tf.reduce_sum(losses)
        gradients = self._gradients(whole if self._loss_scale is None else self._loss_scale.scaled(whole), inputs)
        by_name = {variable_name(v): g for v, g in zip(self._trained, gradients, strict=True) if g is not None}
        return losses, by_name if self._loss_scale is None else self._loss_scale.unscaled(by_name)

    def _gradients(self, loss: Tensor, inputs: Any) -> list[Tensor | None]:
        """Of the trained variables; not by a tape, which sees nothing of a split model's head."""
        take = recomputing_gradients if self.recomputes_activations else plain_gradients
        gradients, cuts = take(loss, self._trained, inputs)
        # A pass is traced for each device, and more than once.
        if self.recomputes_activations and not self._has_told_cuts:
            self._has_told_cuts = True
            log.info("Activations: %s", cuts or NOTHING_TO_RECOMPUTE)
        return gradients

    def _seed_of(self, step: Tensor, *parts: Any) -> Tensor:
        """Integers [2] of a step, others for each number of what is set apart by it."""
        seed = tf.stack([tf.constant(self._seed, tf.int32), step])
        for part in parts:
            seed = tf.random.experimental.stateless_fold_in(seed, part)
        return seed

    def _update(self, gradients: dict[str, Tensor]) -> Tensor:
        """One update; gives True, for branches of a condition must give something."""
        if self._largest_norm is not None:
            gradients = self._clipped(gradients, self._largest_norm)
        self._strategy.run(self._optimizer.apply_gradients, args=(gradients,))
        return tf.constant(True)

    def _clipped(self, gradients: dict[str, Tensor], largest_norm: float) -> dict[str, Tensor]:
        """Scaled down so that the norm of the sum over the replicas is at most the largest."""
        total = [self._strategy.reduce(tf.distribute.ReduceOp.SUM, each, axis=None) for each in gradients.values()]
        norm = tf.linalg.global_norm(total)

        def clip(gradients: dict[str, Tensor]) -> dict[str, Tensor]:
            clipped, _ = tf.clip_by_global_norm(list(gradients.values()), largest_norm, use_norm=norm)
            return dict(zip(gradients, clipped, strict=True))

        clipped: dict[str, Tensor] = self._strategy.run(clip, args=(gradients,))
        return clipped

    def _are_finite(self, gradients: dict[str, Tensor]) -> Tensor:
        """Whether all gradients of all replicas are; bool []."""

        def num_not_finite(gradients: dict[str, Tensor]) -> Tensor:
            # A sum is not finite if any of its terms isn't.
            sums = [tf.reduce_sum(gradient) for gradient in gradients.values()]
            return tf.math.count_nonzero(~tf.math.is_finite(tf.stack(sums)), dtype=tf.float32)

        counts = self._strategy.run(num_not_finite, args=(gradients,))
        return self._strategy.reduce(tf.distribute.ReduceOp.SUM, counts, axis=None) == 0


def _replica() -> Tensor:
    """Number of the device that a pass is made on; int32 []."""
    return tf.cast(tf.distribute.get_replica_context().replica_id_in_sync_group, tf.int32)
