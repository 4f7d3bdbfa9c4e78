"""Moving averages of a network's variables, as slim's `--moving_average_decay` keeps them."""

import contextlib
from collections.abc import Iterable, Iterator, Mapping

import tensorflow as tf

from finetune.types import Tensor, Variable


class MovingAverages:
    """The arithmetic of `tf.train.ExponentialMovingAverage` with `num_updates`: early averages follow closely.

    Attributes:
        shadows: The average of each variable, by the variable's name.
    """

    def __init__(self, variables: Mapping[str, Variable], decay: float) -> None:
        """Makes the averages, in the scope of the current distribution strategy, equal to the variables.

        Args:
            variables: By name; those that no step changes need no average.
            decay: Of the average in the long run, 0 to 1.
        """
        self._strategy = tf.distribute.get_strategy()
        self._variables = dict(variables)
        self._decay = decay
        self.shadows = {
            name: tf.Variable(
                variable.read_value(), trainable=False, aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA
            )
            for name, variable in self._variables.items()
        }

    def update(self, step: Tensor) -> None:
        """Moves the averages towards the variables' values after update number `step` + 1."""
        updates = tf.cast(step, tf.float32)
        kept = tf.minimum(self._decay, (1.0 + updates) / (10.0 + updates))
        with self._strategy.scope():  # Steps may be traced outside of it.
            for name, shadow in self.shadows.items():
                moved = self._variables[name].read_value()
                self._strategy.extended.update(shadow, _move, args=(moved, 1.0 - kept))

    def take_over(self, names: Iterable[str]) -> None:
        """Makes the averages of the variables with these names equal to the variables."""
        for name in names:
            self.shadows[name].assign(self._variables[name].numpy())

    def restart(self) -> None:
        """Makes the averages equal to the variables once more."""
        for name, shadow in self.shadows.items():
            shadow.assign(self._variables[name].read_value())

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """Puts the averages in the variables' place for as long as the context lasts, as evaluation wants them."""
        raw = {name: variable.numpy() for name, variable in self._variables.items()}
        for name, variable in self._variables.items():
            variable.assign(self.shadows[name].numpy())
        try:
            yield
        finally:
            for name, variable in self._variables.items():
                variable.assign(raw[name])


def _move(shadow: Variable, value: Tensor, share: Tensor) -> None:
    shadow.assign_sub((shadow - value) * share)
