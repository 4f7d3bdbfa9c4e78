"""Scores of a split."""

import numpy as np
import pytest

from finetune.metrics import join_scores, score_batch


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


def test_large_logits_overflow_nothing():
    scores = score_batch(np.array([[1e4, -1e4]], np.float32), np.array([1]), ["x"])
    assert scores.loss == pytest.approx(2e4)
