"""slim's optimizers, with slim's arithmetic and the names that its checkpoints give their state; AdamW and Lion."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import tensorflow as tf

from finetune.model.model import variable_name
from finetune.settings.stage import OptimizerSettings, StageSettings
from finetune.training.decoupled_decay import AdamW, Lion
from finetune.types import Tensor, Variable


class Optimizer:
    """An optimizer of `tf.compat.v1.train`'s kind for each learning-rate multiplier and decoupled decay in use.

    The learning rate is a variable: a step is traced once, whatever the schedule says.

    Attributes:
        name: As `--optimizer` has it.
        variables: The variables to train.
    """

    def __init__(
        self,
        settings: OptimizerSettings,
        variables: Sequence[Variable],
        multipliers: Mapping[str, float],
        decays: Mapping[str, float] = MappingProxyType({}),
    ) -> None:
        """Makes the optimizers, in the scope of the current distribution strategy.

        Args:
            settings: Which optimizer.
            variables: The variables to train.
            multipliers: Of the learning rate, by variable name; 1 where a name is absent.
            decays: Of the weights, by variable name, where the optimizer decouples it from the loss; 0 where a name is
                absent.
        """
        self.name = settings.optimizer
        self._first_mean_square = settings.rmsprop_initial_accumulator_value
        self.variables = list(variables)
        self._groups: dict[tuple[float, float], list[Variable]] = {}
        for variable in variables:
            name = variable_name(variable)
            self._groups.setdefault((multipliers.get(name, 1.0), decays.get(name, 0.0)), []).append(variable)
        self._rates = {group: tf.Variable(0.0, trainable=False) for group in self._groups}
        self._optimizers = {group: _make(settings, self._rates[group], decay=group[1]) for group in self._groups}

    def set_learning_rate(self, learning_rate: float | Tensor) -> None:
        """The rate of the next update, before multipliers; in float32, whether it is given as a tensor or not."""
        for (multiplier, _), rate in self._rates.items():
            rate.assign(tf.cast(learning_rate, tf.float32) * multiplier)

    def apply_gradients(self, gradients: Mapping[str, Tensor]) -> None:
        """One update from gradients by variable name; under a strategy, from the sum of the replicas' gradients."""
        for group, variables in self._groups.items():
            pairs = [(gradients.get(variable_name(variable)), variable) for variable in variables]
            self._optimizers[group].apply_gradients(pairs)

    def make_slots(self) -> None:
        """Makes the state that updates need, so that it can be restored before the first one."""
        _forget_scopes_below({variable_name(variable).partition("/")[0] for variable in self.variables})
        for group, variables in self._groups.items():
            self._optimizers[group]._create_slots(variables)
            if self.name == "rmsprop":  # Which begins with slim's 1 by itself, whatever is given.
                for variable in variables:
                    mean_squares = self._optimizers[group].get_slot(variable, "rms")
                    mean_squares.assign(tf.fill(mean_squares.shape, self._first_mean_square))

    def state(self) -> dict[str, Variable]:
        """The state's variables, by the names that slim's Saver gives them: `.../weights/RMSProp`, `beta1_power`."""
        return {name: same[0] for name, same in self._state_by_name().items()}

    @property
    def has_counters(self) -> bool:
        """Whether its state counts the updates of all variables, as Adam's does: one can't join later."""
        return any("/" not in name for name in self.state())

    def share_counters(self) -> None:
        """To be called when `state` was restored: Adam's powers are of the step, the same for all groups."""
        for first, *others in self._state_by_name().values():
            for other in others:
                other.assign(first)

    def _state_by_name(self) -> dict[str, list[Variable]]:
        by_name: dict[str, list[Variable]] = {}
        for optimizer in self._optimizers.values():
            for variable in optimizer.variables():
                by_name.setdefault(variable_name(variable), []).append(variable)
        return by_name


def _forget_scopes_below(scopes: Iterable[str]) -> None:
    """Lets names of slots be those of a process that made none before: `RMSProp`, not `RMSProp_2`.

    TensorFlow numbers scopes until one above them is left; networks whose layers open none, Keras's, never do that.
    """
    for scope in scopes:
        with tf.compat.v1.variable_scope(scope):
            pass


def decoupled_decays(
    settings: StageSettings, decayed: Iterable[Variable], head: Iterable[Variable] = ()
) -> dict[str, float]:
    """The decay of each variable by name, for `Optimizer`; none where weight decay is part of the loss.

    Args:
        settings: Which optimizer, and the decay.
        decayed: The variables that slim's weight decay applies to: some networks' biases are among them, and have none.
        head: Kernels that have the head's own decay.
    """
    if not settings.update.decouples_decay:
        return {}
    decays = {variable_name(variable): settings.weight_decay for variable in decayed if variable.shape.rank > 1}
    return decays | {variable_name(variable): settings.head_decay for variable in head}


def _make(settings: OptimizerSettings, rate: Variable, decay: float) -> Any:
    v1 = tf.compat.v1.train
    makers: Mapping[str, Callable[[], Any]] = {
        "adadelta": lambda: v1.AdadeltaOptimizer(rate, settings.adadelta_rho, settings.epsilon),
        "adagrad": lambda: v1.AdagradOptimizer(rate, settings.adagrad_initial_accumulator_value),
        "adam": lambda: v1.AdamOptimizer(rate, settings.adam_beta1, settings.adam_beta2, settings.epsilon),
        "adamw": lambda: AdamW(rate, settings.adam_beta1, settings.adam_beta2, settings.epsilon, decay),
        "ftrl": lambda: v1.FtrlOptimizer(
            rate,
            settings.ftrl_learning_rate_power,
            settings.ftrl_initial_accumulator_value,
            settings.ftrl_l1,
            settings.ftrl_l2,
        ),
        "lion": lambda: Lion(rate, settings.lion_beta1, settings.lion_beta2, decay),
        "momentum": lambda: v1.MomentumOptimizer(rate, settings.momentum, name="Momentum"),
        "rmsprop": lambda: v1.RMSPropOptimizer(
            rate, settings.rmsprop_decay, settings.rmsprop_momentum, settings.epsilon
        ),
        "sgd": lambda: v1.GradientDescentOptimizer(rate),
    }
    return makers[settings.optimizer]()
