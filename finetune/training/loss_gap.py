"""Losses of training and validation that part: said, with what it comes from in this run."""

import collections
import logging
import math
from collections.abc import Iterable

from finetune.training.batch_norm_decay import mends

log = logging.getLogger("finetune")

# How many times the training's loss a validation's is when it is no longer chance, or usual overfitting: heads on few
# images reach a loss of 1 where they were trained to 0.004, and are none the worse for it.
LARGEST_RATIO = 20.0
RECENT_STEPS = 50


class LossGap:
    """Compares each validation's loss with the training's of late, and warns once."""

    def __init__(self, *, has_stale_statistics: bool, has_end: bool = True, is_comparable: bool = True) -> None:
        """Begins without losses.

        Args:
            has_stale_statistics: Whether batch norm's moving statistics are updated, and not taken anew.
            has_end: Whether it is known when the run ends.
            is_comparable: Whether training lessens what a validation measures: cross-entropy to which all images
                contribute alike. If not, nothing is said.
        """
        self._recent: collections.deque[float] = collections.deque(maxlen=RECENT_STEPS)
        self._has_stale_statistics = has_stale_statistics
        self._has_end = has_end
        self._has_told = not is_comparable

    def note(self, losses: Iterable[float]) -> None:
        """Takes up cross-entropies of training steps; those that aren't finite are refused elsewhere, or taken back."""
        self._recent.extend(loss for loss in losses if math.isfinite(loss))

    def compare(self, step: int, validation_loss: float, num_classes: int) -> None:
        """Warns where a validation is worse than chance, and its loss so many times the training's."""
        if self._has_told or not self._recent:
            return
        training_loss = sum(self._recent) / len(self._recent)
        chance = math.log(num_classes)
        if validation_loss <= chance or validation_loss < LARGEST_RATIO * training_loss:
            return
        self._has_told = True
        log.warning(
            "step %d: the validation's loss is %.4g, above the %.4g of pure chance, where the training's cross-entropy "
            "of the last %d steps is %.4g.\n  %s",
            step,
            validation_loss,
            chance,
            len(self._recent),
            training_loss,
            self._likely_cause(),
        )

    def _likely_cause(self) -> str:
        if self._has_stale_statistics:
            return (
                "Training normalises by each batch's own statistics, validation by moving ones, which seem not to "
                f"follow the weights: {mends(is_restored=True, has_end=self._has_end)}"
            )
        return (
            "It knows the training images by heart, and is sure of itself where it is wrong: a larger --weight-decay "
            "or --label-smoothing, more --augmentation or fewer steps may mend it, or an earlier checkpoint. Are the "
            "validation images of the same kind, and their labels right?"
        )
