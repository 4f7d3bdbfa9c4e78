"""Temperature scaling: the one number to divide logits by for probabilities that mean what they say. No TensorFlow.

Guo et al. 2017, https://arxiv.org/abs/1706.04599.
"""

import numpy as np

from finetune.errors import UserError
from finetune.evaluation.metrics import log_softmax
from finetune.types import Array

_MOST_SHARPENING = 1e6  # Of logits; beyond it all probabilities are 0 and 1.


def fit_temperature(logits: Array, labels: Array) -> float:
    """The temperature that makes the mean cross-entropy of the labels the lowest.

    The cross-entropy is convex in the temperature's reciprocal: where its slope is zero is the one minimum.

    Args:
        logits: float [N,num_classes], finite.
        labels: int [N], the true classes.

    Raises:
        UserError: There is no lowest: every image is right, or logits say no more than chance.
    """
    from scipy.optimize import brentq

    wide = logits.astype(np.float64)
    of_labels = wide[np.arange(len(labels)), labels]

    def slope(sharpening: float) -> float:
        """Of the mean cross-entropy, over what the logits are multiplied by."""
        probabilities = np.exp(log_softmax(wide, 1 / sharpening))
        return float(np.mean((probabilities * wide).sum(axis=1) - of_labels))

    if np.mean(wide.mean(axis=1) - of_labels) >= 0:
        raise UserError(
            "--calibrate temperature: on this split the logits say no more than chance does: there is no temperature.",
            "Give a split with the labels that the network was trained for.",
        )
    above = 1.0
    while slope(above) < 0 and above < _MOST_SHARPENING:
        above *= 2
    if slope(above) < 0 or np.all(of_labels >= wide.max(axis=1)):
        raise UserError(
            f"--calibrate temperature: all {len(labels)} images are right: of these any lower temperature is better.",
            "Give a split with more images, among them some that the network is wrong about.",
        )
    return float(1 / brentq(slope, 1e-9, above, xtol=1e-15, rtol=1e-14, maxiter=500))
