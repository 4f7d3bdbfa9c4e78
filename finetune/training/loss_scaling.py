"""The scaling of losses that float16 needs."""

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from finetune.types import Tensor


class LossScale:
    """Keeps gradients within float16's range (Micikevicius et al., "Mixed Precision Training", arXiv:1710.03740).

    The loss is multiplied before the gradients are computed, and these are divided after. The factor is halved when a
    gradient overflows, and that step makes no update; it is doubled after so many steps without one.
    """

    STEPS_BEFORE_DOUBLING = 2000

    def __init__(self, initial: float = 2.0**15) -> None:
        """Makes the factor's variables, in the scope of the current distribution strategy."""
        self._factor = tf.Variable(initial, trainable=False, name="loss_scale/factor")
        self._good_steps = tf.Variable(0, trainable=False, name="loss_scale/good_steps")

    def scaled(self, loss: Tensor) -> Tensor:
        """The loss to compute gradients of."""
        return loss * self._factor

    def unscaled(self, gradients: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What the gradients, by variable name, would be without the factor."""
        return {name: gradient / self._factor for name, gradient in gradients.items()}

    def update(self, is_finite: Tensor) -> None:
        """Sets the factor for the next step by whether this one's gradients, bool [], were finite."""
        good_steps = tf.where(is_finite, self._good_steps + 1, 0)
        is_due = good_steps >= self.STEPS_BEFORE_DOUBLING
        self._factor.assign(self._factor * tf.where(is_finite, tf.where(is_due, 2.0, 1.0), 0.5))
        self._good_steps.assign(tf.where(is_due, 0, good_steps))

    def state(self) -> dict[str, Any]:
        """Its variables by name, for a checkpoint."""
        return {"loss_scale/factor": self._factor, "loss_scale/good_steps": self._good_steps}
