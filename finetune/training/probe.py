"""The linear probe: the head's optimum on what the frozen trunk makes of the training images, in place of steps.

Also how much weight decay the head is given, chosen by cross-validation on the same features.
"""

import dataclasses
import logging
import time
from collections.abc import Sequence

import numpy as np

from finetune.datasets.bad_records import reading
from finetune.errors import UserError
from finetune.model.model import variable_name
from finetune.notices import few
from finetune.progress import progress
from finetune.settings.stage import StageSettings
from finetune.training.feature_inputs import function_of_images
from finetune.training.image_inputs import CachedFeatures, TrainingImages
from finetune.training.logistic_regression import DECAYS, NUM_FOLDS, Choice, Problem, Solution, choose_decay, fit
from finetune.trunk.features import Features, compute_features
from finetune.trunk.linear_head import LinearHead
from finetune.trunk.split_model import SplitModel
from finetune.types import Array

log = logging.getLogger("finetune")

# Of the features of training, beside those of evaluation, to be taken for the same.
TOLERANCE = 1e-3


@dataclasses.dataclass(frozen=True)
class HeadData:
    """What the head is to tell apart.

    Attributes:
        problem: The features, a row for each view of each image, and their labels.
        images: The image's number for each row.
        names: Of the classes, by label.
    """

    problem: Problem
    images: Array
    names: Sequence[str]

    @property
    def num_images(self) -> int:
        """Each with some views."""
        return int(self.images.max()) + 1

    @property
    def measure(self) -> str:
        """What is lessened, in words."""
        return "cross-entropy" if self.problem.weights is None else "weighted cross-entropy"

    @property
    def first_view(self) -> tuple[Problem, Array]:
        """One row for each image, and the images' numbers: enough to choose by, at half the cost of two views."""
        rows = slice(self.num_images)  # The views come one after the other.
        return self.problem.of_rows(rows), self.images[rows]


def feature_user(stage: StageSettings) -> str:
    """The flag that needs the features of frozen layers before the first step; empty where there is none."""
    if stage.probe:
        return "--probe"
    return "--head-weight-decay auto" if stage.head_weight_decay == "auto" else ""


def head_data(
    head: LinearHead,
    evaluation: SplitModel,
    images: TrainingImages,
    cached: CachedFeatures | None,
    num_views: int,
    class_names: Sequence[str],
    label_smoothing: float,
    class_weights: Sequence[float] = (),
) -> HeadData:
    """The features in front of the head, as evaluation has them, of all views of the training images.

    They are among the cached ones, or, where something varies farther in front, as dropout does in VGG and whole paths
    in NASNet, computed from the images.

    Args:
        head: Of the network.
        evaluation: Its pass in evaluation, in two.
        images: Of the run.
        cached: What training is given; None: images.
        num_views: Outcomes of the augmentation for each image.
        class_names: By label.
        label_smoothing: Of the targets.
        class_weights: How much images of each class count, by label, beside their own weights; empty: all alike.

    Raises:
        UserError: Not all are finite.
    """
    views, labels, weights = _evaluated_views(evaluation, cached, num_views, images)
    if class_weights:
        of_classes = np.asarray(class_weights)[labels]
        weights = of_classes if weights is None else of_classes * weights
    rows = np.concatenate([head.features(view) for view in views])
    num_not_finite = int((~np.isfinite(rows)).sum())
    if num_not_finite:
        raise UserError(
            f"{num_not_finite:,} of {rows.size:,} features of the training images are not finite.",
            "Give --precision float32, or other weights: --checkpoint.",
        )
    problem = Problem(
        rows,
        np.tile(labels, len(views)),
        int(head.kernel.shape[-1]),
        has_bias=head.bias is not None,
        label_smoothing=label_smoothing,
        weights=None if weights is None else np.tile(weights.astype(np.float64), len(views)),
    )
    _tell_small_classes(labels, problem.num_classes, class_names)
    return HeadData(problem, np.tile(np.arange(len(labels)), len(views)), class_names)


def choose_head_decay(data: HeadData, seed: int) -> float:
    """The decay of the lowest cross-entropy in cross-validation; says what it came to, and what it cost.

    Raises:
        UserError: No class has two images.
    """
    start = time.monotonic()
    with progress("Head: cross-validation", NUM_FOLDS * len(DECAYS), "fits") as advance:
        choice = choose_decay(*data.first_view, scalings=[False], seed=seed, advance=advance)
    if choice is None:
        raise UserError(
            "--head-weight-decay auto: no class has two training images, so that none can be held out.",
            "Give a number: --head-weight-decay 0.001",
        )
    tried = sorted(decay for decay, _ in choice.losses)
    log.info(
        "Head: weight decay %g by cross-validation over %d images, %d folds: %s %.3f (%.3f with %g, %.3f with %g), "
        "%.1f s.",
        *(choice.decay, data.num_images, choice.num_folds, data.measure, choice.loss),
        *(choice.losses[tried[0], False], tried[0], choice.losses[tried[-1], False], tried[-1]),
        time.monotonic() - start,
    )
    return choice.decay


def fit_head(head: LinearHead, data: HeadData, decay: float, seed: int) -> None:
    """Sets the head to its optimum; says whether features are scaled, and what it came to.

    Whether they are is chosen by cross-validation with the decay alone, so that the decay is all that a run has to
    know of the choice.
    """
    start = time.monotonic()
    choice = choose_decay(*data.first_view, [decay], seed=seed)
    is_scaled = choice is not None and choice.is_scaled
    solution = fit(data.problem, decay, is_scaled=is_scaled)
    head.assign(solution.kernel, solution.bias)
    log.info("Head: %s.", _described(choice, solution, decay, data.measure, time.monotonic() - start))
    if not solution.is_optimal:
        log.warning(
            "Head: %d iterations of L-BFGS don't meet the optimum; a larger --head-weight-decay makes it nearer.",
            solution.num_iterations,
        )
    if head.others:
        names = [variable_name(variable) for variable in head.others]
        log.info("Head: the probe is of the logits of evaluation; initial values stay in %s.", few(names))


def _described(choice: Choice | None, solution: Solution, decay: float, measure: str, seconds: float) -> str:
    scaling = "features as they are, for there are too few images to compare"
    if choice is not None:
        losses = {is_scaled: loss for (_, is_scaled), loss in choice.losses.items()}
        which = ["as they are", "scaled by the root of their deviation"]
        scaling = (
            f"features {which[choice.is_scaled]} ({measure} {losses[choice.is_scaled]:.3f} by cross-validation, "
            f"{losses[not choice.is_scaled]:.3f} {which[not choice.is_scaled]})"
        )
    return (
        f"the optimum with weight decay {decay:g}, {scaling}: {measure} {solution.loss:.4f} on the training "
        f"images, {solution.num_iterations} iterations of L-BFGS, {seconds:.1f} s"
    )


def _tell_small_classes(labels: Array, num_classes: int, class_names: Sequence[str]) -> None:
    counts = np.bincount(labels, minlength=num_classes)
    names = [class_names[label] if label < len(class_names) else str(label) for label in range(num_classes)]
    for count, what in ((0, "no training image: the probe takes nothing for them"), (1, "one, never held out")):
        found = [name for name, each in zip(names, counts, strict=True) if each == count]
        if found:
            log.warning("Head: of %d classes there is %s: %s.", len(found), what, few(found))


def _evaluated_views(
    evaluation: SplitModel, cached: CachedFeatures | None, num_views: int, images: TrainingImages
) -> tuple[list[Array], Array, Array | None]:
    """Values of the evaluation's frontier for each view, labels, and the images' own weights where they have such."""
    trunk = function_of_images(evaluation)
    dataset = images.data.training
    with reading(dataset, images.options.labels_offset):
        if cached is not None:
            (first,) = trunk(images.first_batch(images.batch_size)[0])
            index = _index_of(first.numpy(), cached.views[0])
            if index is not None:
                kept = cached.views[0]
                return [view.values[index] for view in cached.views], kept.labels, kept.weights
        views = [
            compute_features(
                trunk,
                images.view_batches(number),
                num_images=dataset.num_examples,
                folder=None,
                key="",
                what=f"view {number + 1} of {num_views}, for the head",
            )
            for number in range(num_views)
        ]
    return [view.values[0] for view in views], views[0].labels, views[0].weights


def _index_of(first: Array, features: Features) -> int | None:
    """Which tensor of the features holds these values of the first images; None: none does."""
    largest = np.abs(first).max()
    for index, values in enumerate(features.values):
        if values.shape[1:] == first.shape[1:] and np.abs(values[: len(first)] - first).max() <= TOLERANCE * largest:
            return index
    return None
