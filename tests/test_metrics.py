"""Scores of a split."""

import numpy as np
import pytest
import sklearn.metrics
from eval_results import random_scores

from finetune.evaluation.calibration import calibration
from finetune.evaluation.comparison import McNemar, mcnemar
from finetune.evaluation.metrics import (
    Confusion,
    NotFiniteError,
    class_figures,
    confusion_matrix,
    join_scores,
    log_softmax,
    most_confused,
    score_batch,
    wilson_interval,
)


def make_scores(num_classes=3):
    logits = np.zeros([4, num_classes], np.float32)
    logits[0, 0] = logits[1, 2] = logits[2, 1] = 2.0
    return score_batch(logits, np.array([0, 1, 1, 1]), ["a", "b", "c", "d"])


def test_figures():
    scores = make_scores()
    # Image b: its class and another share the second place, the lower id first. Image d: all are equal, 0 is predicted.
    assert scores.ranks.tolist() == [0, 2, 0, 1]
    assert scores.predictions.tolist() == [0, 2, 1, 0]
    assert scores.accuracy == 0.5
    assert scores.top_5_accuracy == 1.0
    high, low = np.exp(2) / (np.exp(2) + 2), 1 / (np.exp(2) + 2)
    assert scores.loss == pytest.approx(-np.mean(np.log([high, low, high, 1 / 3])))
    assert scores.probabilities == pytest.approx([high, high, high, 1 / 3])


def test_top_five_of_more_than_five_classes():
    scores = make_scores(num_classes=8)
    assert scores.top_5_accuracy == 1.0
    last = score_batch(np.arange(8, dtype=np.float32)[np.newaxis], np.array([2]), ["x"])
    assert last.top_5_accuracy == 0.0


def test_batches_join_to_the_whole():
    whole = score_batch(np.eye(5, dtype=np.float32), np.arange(5), list("abcde"), keep_logits=True)
    parts = [
        score_batch(np.eye(5, dtype=np.float32)[rows], np.arange(5)[rows], list("abcde")[rows], keep_logits=True)
        for rows in (slice(0, 3), slice(3, 5))
    ]
    joined = join_scores(parts)
    assert joined.summary() == whole.summary()
    assert joined.filenames == whole.filenames
    np.testing.assert_array_equal(joined.logits, whole.logits)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_logits_that_are_not_finite_are_refused(value):
    with pytest.raises(NotFiniteError, match="not finite"):
        log_softmax(np.array([[0, 1], [0, value]], np.float32))


def test_large_logits_overflow_nothing():
    scores = score_batch(np.array([[1e4, -1e4]], np.float32), np.array([1]), ["x"])
    assert scores.loss == pytest.approx(2e4)


@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
@pytest.mark.parametrize("num_classes, num_examples", [(2, 7), (12, 180), (40, 60)])
def test_figures_of_classes_agree_with_scikit_learn(num_classes, num_examples):
    scores = random_scores(
        num_classes, num_examples, lead=1.5
    )  # Of 40 classes, some have no image, some no prediction.
    figures = class_figures(scores)
    truth, guess, classes = scores.labels, scores.predictions, range(num_classes)
    np.testing.assert_array_equal(
        confusion_matrix(scores), sklearn.metrics.confusion_matrix(truth, guess, labels=classes)
    )
    expected = sklearn.metrics.precision_recall_fscore_support(truth, guess, labels=classes, zero_division=0)
    found = [figures.precision, figures.recall, figures.f1, figures.support]
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    macro = sklearn.metrics.precision_recall_fscore_support(truth, guess, average="macro", zero_division=0)
    assert [figures.macro(name) for name in ("precision", "recall", "f1")] == pytest.approx(macro[:3], rel=1e-12)
    assert figures.balanced_accuracy == pytest.approx(sklearn.metrics.balanced_accuracy_score(truth, guess), rel=1e-12)


def test_most_confused_pairs():
    labels, predictions = np.array([0, 0, 1, 2, 2, 2, 1]), [1, 1, 1, 0, 1, 0, 1]
    scores = score_batch(np.eye(3, dtype=np.float32)[predictions], labels, [""] * 7)
    assert most_confused(scores, 2) == [Confusion(0, 1, 2), Confusion(2, 0, 2)]
    assert most_confused(scores, 9)[2:] == [Confusion(2, 1, 1)]
    right = score_batch(np.eye(3, dtype=np.float32), np.arange(3), [""] * 3)
    assert most_confused(right, 9) == []


@pytest.mark.parametrize("num_right, num_examples", [(167, 180), (1, 2), (3, 1000)])
def test_the_ends_of_the_interval_are_just_not_refuted(num_right, num_examples):
    share = num_right / num_examples
    for end in wilson_interval(num_right, num_examples):
        distance = abs(share - end) / np.sqrt(end * (1 - end) / num_examples)
        assert distance == pytest.approx(1.959963984540054)


def test_the_interval_of_all_right_and_of_none_right():
    low, high = wilson_interval(10, 10)
    assert (low, high) == pytest.approx((0.7224672, 1.0))
    assert wilson_interval(0, 10) == pytest.approx((0.0, 1 - low))


def test_calibration_by_hand():
    # Two classes: the probability of the prediction is the logistic function of the difference of the logits.
    chances = np.array([0.95, 0.97, 0.95, 0.6, 0.55])
    logits = np.stack([np.log(chances / (1 - chances)), np.zeros(5)], axis=1)
    bins = calibration(score_batch(logits, np.array([0, 0, 1, 0, 1]), [""] * 5))
    assert bins.counts.sum() == 5
    assert bins.counts[14] == 3
    assert bins.counts[8] == 2  # 0.6 is the bin's upper edge, which belongs to it.
    assert bins.confidences[14] == pytest.approx((0.95 + 0.97 + 0.95) / 3)
    assert bins.accuracies[14] == pytest.approx(2 / 3)
    gaps = 3 * abs(2 / 3 - 2.87 / 3) + 2 * abs(0.5 - 1.15 / 2)
    assert bins.expected_error == pytest.approx(gaps / 5)


def test_mcnemar():
    assert mcnemar(1, 8) == McNemar("exact binomial", pytest.approx(20 / 512))
    assert mcnemar(8, 1) == mcnemar(1, 8)
    assert mcnemar(0, 0).p_value == mcnemar(3, 3).p_value == 1.0
    # (|150 - 86| - 1)² / 236 = 16.818, of which the chi-square distribution leaves 4.115e-5 beyond.
    assert mcnemar(86, 150) == McNemar("chi-square", pytest.approx(4.115e-5, rel=1e-3))
