"""Multinomial logistic regression with L2, by L-BFGS (Liu and Nocedal, 1989), and by cross-validation how much of it.

What is minimised over a kernel W [D,K] and a bias b [K] is the mean cross-entropy of softmax(x W + b) plus
`decay / 2 * sum(W ** 2)`: slim's convention, in which the bias is free. With scaled features the term of each feature
is multiplied by its standard deviation, as it is where features are divided by the root of their deviation beforehand:
so no feature is held back more than others for the unit that it is in.

Where rows have weights, the cross-entropy of each is multiplied by its own, also where it is held out; the sum is
divided by the number of rows all the same. With N rows and C = 1 / (N * decay) that is scikit-learn's `sample_weight`.

NumPy and SciPy alone are needed. Sums are made in one order, so that the same numbers give the same bits.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import threadpoolctl

from finetune.types import Array

NUM_FOLDS = 5
# From the strongest on: each fit begins at the solution for the one before, which is near.
DECAYS = tuple(float(f"{10**exponent:.1e}") for exponent in np.arange(-1, -6.5, -0.5))
# The walk to weaker decays ends where the loss hasn't fallen so often in a row.
MOST_RISES = 2
# Features up to here are held in float64, centred; larger ones are made so piece by piece, each time anew.
MOST_CENTRED_BYTES = 1 << 30
ROWS_AT_ONCE = 1024
# Products with fewer weights are made by one thread: where others want the processors, several wait for each other, and
# spin meanwhile.
MOST_WEIGHTS_OF_A_THREAD = 1 << 18
MOST_ITERATIONS = 2000
# Of the gradient, for features of variance 1: where a minimum is met, and where one decay is told from another.
OPTIMAL_GRADIENT, NEAR_GRADIENT = 1e-6, 1e-4


@dataclasses.dataclass(frozen=True)
class Problem:
    """What is to be told apart, and how a solution is judged.

    Attributes:
        features: Float32 or float64 [N,D].
        labels: Class ids [N].
        num_classes: K; a class may have no row.
        has_bias: Whether there is a b.
        label_smoothing: Share of the target that is spread evenly over all classes.
        weights: How much each row counts [N]; None: all alike.
    """

    features: Array
    labels: Array
    num_classes: int
    has_bias: bool = True
    label_smoothing: float = 0.0
    weights: Array | None = None

    def of_rows(self, rows: Any) -> "Problem":
        """The problem with some rows alone, by an index array or a slice."""
        weights = None if self.weights is None else self.weights[rows]
        return dataclasses.replace(self, features=self.features[rows], labels=self.labels[rows], weights=weights)


@dataclasses.dataclass(frozen=True)
class Solution:
    """A minimum.

    Attributes:
        kernel: Float64 [D,K].
        bias: Float64 [K]; zeros where there is none.
        loss: Mean cross-entropy, weighted where rows are, without the L2 term.
        num_iterations: Of L-BFGS.
        is_optimal: Whether it ended because the gradient had vanished.
    """

    kernel: Array
    bias: Array
    loss: float
    num_iterations: int
    is_optimal: bool


@dataclasses.dataclass(frozen=True)
class Choice:
    """What cross-validation came to.

    Attributes:
        decay: Of the lowest loss.
        is_scaled: Whether features are scaled there.
        loss: Mean cross-entropy of the held-out images.
        losses: Those of all that was tried, by decay and scaling.
        num_folds: How many parts were held out, one after the other.
    """

    decay: float
    is_scaled: bool
    loss: float
    losses: dict[tuple[float, bool], float]
    num_folds: int


def fit(problem: Problem, decay: float, *, is_scaled: bool = False) -> Solution:
    """The minimum, from zeros on.

    Args:
        problem: Which rows, and how much each counts.
        decay: Factor of the L2 term; with 0 there may be no minimum, and the search ends at some iteration.
        is_scaled: Whether the features are scaled.
    """
    whole = [slice(0, len(problem.labels))]
    return _Search(problem).minimum(whole, decay, is_scaled=is_scaled, least_gradient=OPTIMAL_GRADIENT)


def choose_decay(
    problem: Problem,
    images: Array,
    decays: Sequence[float] = DECAYS,
    scalings: Sequence[bool] = (False, True),
    *,
    seed: int = 0,
    advance: Callable[[int], None] = lambda done: None,
) -> Choice | None:
    """Stratified cross-validation: the decay, and whether to scale, whose mean cross-entropy held out is the lowest.

    The rows of an image are held out together. An image that is the only one of its class never is: without it nothing
    would be known of the class.

    Args:
        problem: Views of images.
        images: The image's number for each row [N].
        decays: To choose from, from the strongest on.
        scalings: To choose from.
        seed: Of the folds.
        advance: Is told how many fits were just made.

    Returns:
        None where no class has two images.
    """
    folds = stratified_folds(problem.labels, images, seed)
    num_folds = int(folds.max()) + 1
    if num_folds < 2:
        return None
    # Sorted by fold, all rows but a fold's are two slices, and need no copy.
    order = np.argsort(folds, kind="stable")
    sorted_problem = problem.of_rows(order)
    bounds = np.searchsorted(folds[order], np.arange(num_folds + 1)).tolist()
    held_out = [slice(start, end) for start, end in itertools.pairwise(bounds)]
    search = _Search(sorted_problem)
    losses = {
        (decay, is_scaled): loss
        for is_scaled in scalings
        for decay, loss in _walk(search, held_out, decays, is_scaled, advance)
    }
    (decay, is_scaled), loss = min(losses.items(), key=lambda tried: tried[1])
    return Choice(decay, is_scaled, loss, losses, num_folds)


def stratified_folds(labels: Array, images: Array, seed: int = 0) -> Array:
    """The fold of each row [N], of at most five; -1: it is held out in none, being of its class's only image.

    The images of a class are dealt to the folds in turn, each class beginning where the last one ended.
    """
    numbers, first_rows, image_of_row = np.unique(images, return_index=True, return_inverse=True)
    classes = labels[first_rows]
    generator = np.random.default_rng([seed % 2**32, 2])
    dealt = [generator.permutation(np.flatnonzero(classes == label)) for label in np.unique(classes)]
    dealt = [members for members in dealt if len(members) > 1]
    # Never more folds than the largest class has images: each leaves some of every class to be learnt from.
    num_folds = min(NUM_FOLDS, max((len(members) for members in dealt), default=0))
    folds = np.full(len(numbers), -1)
    for position, image in enumerate(np.concatenate(dealt) if dealt else ()):
        folds[image] = position % num_folds
    return np.asarray(folds[image_of_row])


class _Search:
    """L-BFGS over some of a problem's rows, where the features are shifted by their means.

    That changes no minimum where there is a bias, and L-BFGS needs fewer iterations.
    """

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.num_rows, num_features = problem.features.shape
        total, squares = np.zeros(num_features), np.zeros(num_features)
        for rows in _pieces([slice(0, self.num_rows)]):
            total += problem.features[rows].sum(axis=0, dtype=np.float64)
        means = total / self.num_rows
        for rows in _pieces([slice(0, self.num_rows)]):
            squares += np.square(problem.features[rows] - means).sum(axis=0)
        variances = squares / self.num_rows
        self._deviations = np.sqrt(variances)
        self._unit = 1 / np.sqrt(variances.mean()) if variances.any() else 1.0
        self._means = means if problem.has_bias else np.zeros(num_features)
        is_small = problem.features.size * 8 <= MOST_CENTRED_BYTES
        self._centred = problem.features - self._means if is_small else None

    def penalties(self, is_scaled: bool) -> Array:
        """Factor of each feature's L2 term [D,1].

        Scaled ones are such that a decay holds back as much, on the whole, as it does with unscaled ones.
        """
        deviations = self._deviations[:, np.newaxis]
        if not is_scaled or not deviations.any():
            return np.ones_like(deviations)
        return deviations * deviations.sum() / np.square(deviations).sum()

    def minimum(
        self,
        parts: Sequence[slice],
        decay: float,
        *,
        is_scaled: bool,
        least_gradient: float,
        start: Solution | None = None,
    ) -> Solution:
        """Over the rows of these parts, from a solution or from zeros on."""
        num_rows = sum(part.stop - part.start for part in parts)
        penalties = decay * self.penalties(is_scaled)

        def objective(parameters: Array) -> tuple[float, Array]:
            kernel, bias = self._kernel_and_bias(parameters)
            loss, of_kernel, of_bias = 0.0, np.zeros_like(kernel), np.zeros_like(bias)
            for rows in _pieces(parts):
                features = self._features(rows)
                some_loss, errors = _loss_and_errors(self.problem, rows, features @ kernel + bias)
                loss += some_loss
                of_kernel += (errors.T @ features).T
                of_bias += errors.sum(axis=0)
            whole = loss / num_rows + _l2(kernel, penalties)
            return whole, self._parameters(of_kernel / num_rows + penalties * kernel, of_bias / num_rows, self._unit)

        from scipy.optimize import minimize  # Few trainings fit a head so, and it takes a while to load.

        num_features, num_classes = self.problem.features.shape[1], self.problem.num_classes
        kernel, bias = np.zeros([num_features, num_classes]), np.zeros(num_classes)
        if start is not None:
            kernel, bias = start.kernel, start.bias + self._means @ start.kernel
        options = {"maxiter": MOST_ITERATIONS, "maxfun": 2 * MOST_ITERATIONS, "gtol": least_gradient, "ftol": 0.0}
        first = self._parameters(kernel, bias, 1 / self._unit)
        with threadpoolctl.threadpool_limits(1 if kernel.size <= MOST_WEIGHTS_OF_A_THREAD else None, "blas"):
            found = minimize(objective, first, jac=True, method="L-BFGS-B", options=options)
        kernel, bias = self._kernel_and_bias(found.x)
        return Solution(
            kernel,
            bias - self._means @ kernel,
            float(found.fun) - _l2(kernel, penalties),
            int(found.nit),
            # Where float64 can tell no further, the line search ends a little earlier.
            bool(np.abs(found.jac).max() <= 10 * least_gradient),
        )

    def total_loss(self, part: slice, solution: Solution) -> float:
        """Sum of the cross-entropy of a part's rows."""
        features, kernel, bias = self.problem.features, solution.kernel, solution.bias
        return sum(_loss_and_errors(self.problem, rows, features[rows] @ kernel + bias)[0] for rows in _pieces([part]))

    def _features(self, rows: slice) -> Array:
        return self.problem.features[rows] - self._means if self._centred is None else self._centred[rows]

    def _kernel_and_bias(self, parameters: Array) -> tuple[Array, Array]:
        """Of the shifted features, from what the search goes through: a table of the kernel's rows, and the bias."""
        table = parameters.reshape(-1, self.problem.num_classes)
        if not self.problem.has_bias:
            return table * self._unit, np.zeros(self.problem.num_classes)
        return table[:-1] * self._unit, table[-1]

    def _parameters(self, kernel: Array, bias: Array, unit: float) -> Array:
        table = kernel * unit
        return np.concatenate([table.ravel(), bias]) if self.problem.has_bias else table.ravel()


def _walk(
    search: _Search,
    held_out: Sequence[slice],
    decays: Sequence[float],
    is_scaled: bool,
    advance: Callable[[int], None],
) -> Iterator[tuple[float, float]]:
    """Decays, and the mean cross-entropy held out, until it rises."""
    num_held_out = held_out[-1].stop - held_out[0].start
    solutions: dict[int, Solution] = {}
    last, rises = np.inf, 0
    for decay in decays:
        total = 0.0
        for part in held_out:
            others = [slice(0, part.start), slice(part.stop, search.num_rows)]
            solutions[part.start] = search.minimum(
                others, decay, is_scaled=is_scaled, least_gradient=NEAR_GRADIENT, start=solutions.get(part.start)
            )
            total += search.total_loss(part, solutions[part.start])
            advance(1)
        loss = total / num_held_out
        yield decay, loss
        rises = rises + 1 if loss >= last else 0
        last = loss
        if rises == MOST_RISES:
            return


def _l2(kernel: Array, penalties: Array) -> float:
    return float((penalties * np.square(kernel)).sum()) / 2


def _loss_and_errors(problem: Problem, rows: slice, logits: Array) -> tuple[float, Array]:
    """Sum of the rows' weighted cross-entropy, and its derivative by their logits [n,K]."""
    smoothing, labels = problem.label_smoothing, problem.labels[rows]
    index = np.arange(len(labels))
    logits = logits - logits.max(axis=1, keepdims=True)
    exponentials = np.exp(logits)
    sums = exponentials.sum(axis=1, keepdims=True)
    of_targets = (1 - smoothing) * logits[index, labels] + smoothing * logits.mean(axis=1)
    errors = exponentials / sums - smoothing / problem.num_classes
    errors[index, labels] -= 1 - smoothing
    losses = np.log(sums[:, 0]) - of_targets
    if problem.weights is not None:
        weights = problem.weights[rows]
        losses, errors = losses * weights, errors * weights[:, np.newaxis]
    return float(losses.sum()), errors


def _pieces(parts: Sequence[slice]) -> Iterator[slice]:
    for part in parts:
        for start in range(part.start, part.stop, ROWS_AT_ONCE):
            yield slice(start, min(start + ROWS_AT_ONCE, part.stop))
