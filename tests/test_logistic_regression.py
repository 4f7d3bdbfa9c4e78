"""Logistic regression: the minimum that scikit-learn finds, and folds and choices that mean what they say."""

import dataclasses

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from finetune.training import logistic_regression
from finetune.training.logistic_regression import Problem, choose_decay, fit, stratified_folds

NUM_CLASSES = 4


def make_problem(num_rows=120, num_features=7, noise=1.0, **settings):
    """Classes around centres of their own; features in units of their own, far from zero."""
    generator = np.random.default_rng(3)
    labels = np.arange(num_rows) % NUM_CLASSES
    centres = generator.standard_normal([NUM_CLASSES, num_features])
    features = centres[labels] + noise * generator.standard_normal([num_rows, num_features])
    features = (features + 5) * np.geomspace(0.1, 10, num_features)
    return Problem(features.astype(np.float32), labels, NUM_CLASSES, **settings)


def objective(problem, kernel, bias, decay, penalties=1.0):
    logits = problem.features @ kernel + bias
    logits = logits - logits.max(axis=1, keepdims=True)
    probabilities = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    smoothing = problem.label_smoothing
    targets = np.eye(problem.num_classes)[problem.labels] * (1 - smoothing) + smoothing / problem.num_classes
    return -(targets * probabilities).sum(axis=1).mean() + decay / 2 * (penalties * (kernel**2).T).sum()


@pytest.mark.parametrize("decay", [0.1, 0.001])
@pytest.mark.parametrize("has_bias", [True, False])
def test_the_minimum_is_scikit_learns(decay, has_bias):
    problem = make_problem(has_bias=has_bias)
    solution = fit(problem, decay)
    reference = LogisticRegression(
        C=1 / (decay * len(problem.labels)), fit_intercept=has_bias, tol=1e-10, max_iter=100_000, solver="newton-cg"
    ).fit(problem.features.astype(np.float64), problem.labels)
    assert solution.is_optimal
    np.testing.assert_allclose(solution.kernel.T, reference.coef_, rtol=1e-3, atol=1e-3)
    if has_bias:
        centred = solution.bias - solution.bias.mean()
        np.testing.assert_allclose(centred, reference.intercept_ - reference.intercept_.mean(), rtol=1e-2, atol=1e-2)
    else:
        assert not solution.bias.any()
    ours = objective(problem, solution.kernel, solution.bias, decay)
    assert ours <= objective(problem, reference.coef_.T, reference.intercept_, decay) + 1e-6
    assert solution.loss == pytest.approx(objective(problem, solution.kernel, solution.bias, 0.0), abs=1e-8)


@pytest.mark.parametrize("settings", [{}, {"label_smoothing": 0.2}])
@pytest.mark.parametrize("is_scaled", [False, True])
def test_no_step_from_the_minimum_is_better(settings, is_scaled):
    problem, decay = make_problem(**settings), 0.01
    solution = fit(problem, decay, is_scaled=is_scaled)
    deviations = problem.features.std(axis=0, dtype=np.float64)
    penalties = deviations * deviations.sum() / (deviations**2).sum() if is_scaled else 1.0
    lowest = objective(problem, solution.kernel, solution.bias, decay, penalties)
    generator = np.random.default_rng(0)
    for _ in range(20):
        step = 0.01 * generator.standard_normal(solution.kernel.shape)
        shift = 0.01 * generator.standard_normal(NUM_CLASSES)
        assert objective(problem, solution.kernel + step, solution.bias + shift, decay, penalties) > lowest


def test_scaling_makes_up_for_the_units_of_features():
    """As features that were divided by the root of their deviation, with the decay that holds back as much."""
    problem = make_problem()
    deviations = problem.features.std(axis=0, dtype=np.float64)
    scaled = dataclasses.replace(problem, features=problem.features / np.sqrt(deviations))
    plain = fit(scaled, 0.01 * deviations.sum() / (deviations**2).sum())
    ours = fit(problem, 0.01, is_scaled=True)
    np.testing.assert_allclose(ours.kernel * np.sqrt(deviations)[:, np.newaxis], plain.kernel, rtol=1e-2, atol=1e-3)


def test_large_features_are_taken_piece_by_piece(monkeypatch):
    problem = make_problem()
    whole = fit(problem, 0.01)
    monkeypatch.setattr(logistic_regression, "MOST_CENTRED_BYTES", 0)
    monkeypatch.setattr(logistic_regression, "ROWS_AT_ONCE", 7)
    np.testing.assert_allclose(fit(problem, 0.01).kernel, whole.kernel, rtol=1e-3, atol=1e-3)


def test_the_same_numbers_give_the_same_bits():
    problem = make_problem()
    np.testing.assert_array_equal(fit(problem, 0.001).kernel, fit(problem, 0.001).kernel)


def test_separable_classes_without_decay_come_to_an_end():
    problem = make_problem(num_rows=8, num_features=40, noise=0.1)
    solution = fit(problem, 0.0)
    assert np.isfinite(solution.kernel).all()
    assert solution.loss < 1e-3


def test_features_that_do_not_vary_and_classes_without_rows():
    problem = Problem(np.ones([6, 3], np.float32), np.array([0, 0, 0, 0, 1, 1]), 3)
    for is_scaled in (False, True):
        solution = fit(problem, 0.01, is_scaled=is_scaled)
        assert np.isfinite(solution.kernel).all()
        exponentials = np.exp(solution.kernel.sum(axis=0) + solution.bias)
        np.testing.assert_allclose(exponentials / exponentials.sum(), [2 / 3, 1 / 3, 0], atol=1e-3)


def test_folds_hold_each_class_alike_and_all_views_of_an_image():
    labels = np.repeat([0, 1, 2, 3], [25, 10, 3, 1])
    images = np.arange(len(labels))
    folds = stratified_folds(np.tile(labels, 3), np.tile(images, 3), seed=5)
    np.testing.assert_array_equal(folds.reshape([3, -1]), np.tile(folds[: len(labels)], [3, 1]))
    of_image = folds[: len(labels)]
    for label, counts in ((0, [5] * 5), (1, [2] * 5), (2, [0, 0, 1, 1, 1])):
        assert sorted(np.bincount(of_image[labels == label], minlength=5)) == counts
    assert of_image[labels == 3] == [-1]
    assert (stratified_folds(labels, images, seed=6) != of_image).any()


def test_of_few_images_there_are_fewer_folds():
    assert set(stratified_folds(np.array([0, 0, 1, 1, 2]), np.arange(5))) == {-1, 0, 1}
    assert set(stratified_folds(np.array([0, 1, 2]), np.arange(3))) == {-1}
    assert choose_decay(Problem(np.eye(3), np.arange(3), 3), np.arange(3)) is None


def test_the_choice_is_the_lowest_of_what_is_held_out():
    """Made again the slow way: each fold fitted by itself, from zeros."""
    problem = make_problem(num_rows=60, noise=3.0)
    images = np.arange(60)
    decays = (10.0, 0.1, 0.001)
    choice = choose_decay(problem, images, decays, seed=1)
    folds = stratified_folds(problem.labels, images, 1)
    for (decay, is_scaled), loss in choice.losses.items():
        if is_scaled:
            continue  # The units are of all rows.
        total = 0.0
        for fold in range(5):
            kept, out = folds != fold, folds == fold
            part = dataclasses.replace(problem, features=problem.features[kept], labels=problem.labels[kept])
            held = dataclasses.replace(problem, features=problem.features[out], labels=problem.labels[out])
            solution = fit(part, decay)
            total += objective(held, solution.kernel, solution.bias, 0.0) * out.sum()
        assert loss == pytest.approx(total / 60, rel=0.01)
    assert choice.loss == min(choice.losses.values()) == choice.losses[choice.decay, choice.is_scaled]
    assert choice.num_folds == 5


def test_noise_is_given_more_decay_than_what_is_plain():
    images = np.arange(120)
    of_noise = choose_decay(make_problem(noise=8.0), images)
    plain = choose_decay(make_problem(noise=0.3), images)
    assert of_noise.decay > plain.decay


def test_the_walk_ends_where_the_loss_no_longer_falls():
    told = []
    choice = choose_decay(make_problem(noise=8.0), np.arange(120), scalings=[False], advance=told.append)
    assert len(choice.losses) < len(logistic_regression.DECAYS)
    assert sum(told) == 5 * len(choice.losses)
    assert list(choice.losses)[-3] == (choice.decay, False)
