"""Optimizers that slim lacks, whose weight decay is no part of the loss: AdamW and Lion, on TensorFlow's classes.

Keras has both, but its optimizers give their state other names, and leave it to the caller to add up what several
devices found.
"""

from typing import Any

import tensorflow as tf

from finetune.types import Tensor, Variable


class AdamW(tf.compat.v1.train.AdamOptimizer):
    """Adam that shrinks the weights by rate times decay beside its update (Loshchilov and Hutter, arXiv:1711.05101)."""

    def __init__(self, rate: Variable, beta1: float, beta2: float, epsilon: float, weight_decay: float) -> None:
        """As Adam, with a decay for all of its variables."""
        super().__init__(rate, beta1, beta2, epsilon, name="AdamW")
        self._weight_decay = weight_decay

    def _resource_apply_dense(self, grad: Tensor, var: Variable) -> Any:
        _shrink(var, self._lr_t * self._weight_decay)
        return super()._resource_apply_dense(grad, var)


class Lion(tf.compat.v1.train.Optimizer):
    """Steps of one length, by the sign of an average gradient (Chen et al., arXiv:2302.06675)."""

    def __init__(self, rate: Variable, beta1: float, beta2: float, weight_decay: float) -> None:
        """Sets it up.

        Args:
            rate: How far a weight goes in a step.
            beta1: Share of the kept average in what an update goes by, the rest being the gradient.
            beta2: Share of it in what is kept.
            weight_decay: Of all of its variables.
        """
        super().__init__(use_locking=False, name="Lion")
        self._rate = rate
        self._beta1 = beta1
        self._beta2 = beta2
        self._weight_decay = weight_decay

    def _prepare(self) -> None:
        self._rate_tensor = tf.convert_to_tensor(self._rate)

    def _create_slots(self, var_list: list[Variable]) -> None:
        for variable in var_list:
            self._zeros_slot(variable, "average", self._name)

    def _resource_apply_dense(self, grad: Tensor, var: Variable) -> Any:
        average = self.get_slot(var, "average")
        direction = tf.sign(self._beta1 * average + (1 - self._beta1) * grad)
        average.assign(self._beta2 * average + (1 - self._beta2) * grad)
        _shrink(var, self._rate_tensor * self._weight_decay)
        return var.assign_sub(self._rate_tensor * direction)


def _shrink(variable: Variable, share: Tensor) -> None:
    variable.assign_sub(share * variable)
