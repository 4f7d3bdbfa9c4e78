"""Rules of thresholds, what they choose, and areas under curves, beside scikit-learn's."""

import numpy as np
import pytest
import sklearn.metrics

from finetune.errors import UserError
from finetune.evaluation.curves import Areas, area_intervals, areas_of, curves_of, mean_areas
from finetune.evaluation.thresholds import Outcome, choose_threshold, outcome_at
from finetune.settings.threshold import ThresholdRule, parse_rule


def scored_images(num_images=300, seed=0):
    """Scores with ties, those of the class higher in the mean."""
    random = np.random.default_rng(seed)
    is_positive = random.random(num_images) < 0.3
    return np.round(random.normal(is_positive * 1.2), 1), is_positive


@pytest.mark.parametrize("text", ["max-f1", "recall>=0.95", "precision>=0.9", "cost:FN=5,FP=0.25"])
def test_a_rule_is_written_as_it_is_read(text):
    assert str(parse_rule(text)) == text
    assert parse_rule(f" {text} ") == parse_rule(text)


def test_costs_in_any_order():
    assert parse_rule("cost:fp=1, fn=5") == ThresholdRule("cost", false_negative_cost=5, false_positive_cost=1)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("max-f2", "no rule"),
        ("", "no rule"),
        ("recal>=0.9", "recall"),
        ("recall>0.9", "no rule"),
        ("recall>=1.5", "at most 1"),
        ("recall>=0", "above 0"),
        ("precision>=nan", "no finite number"),
        ("cost:FN=5", "both costs"),
        ("cost:FN=5,FN=1", "both costs"),
        ("cost:FN=5,FP=1,FP=2", "both costs"),
        ("cost:FN=x,FP=1", "'x' is no finite number"),
        ("cost:FN=-1,FP=1", "at least 0"),
        ("cost:FN=0,FP=0", "at least 0"),
    ],
)
def test_no_rule(text, words):
    with pytest.raises(UserError, match=words):
        parse_rule(text)


def test_the_highest_f1():
    scores, is_positive = scored_images()
    precision, recall, thresholds = sklearn.metrics.precision_recall_curve(is_positive, scores)
    f1 = 2 * precision * recall / (precision + recall)
    chosen = choose_threshold(scores, is_positive, parse_rule("max-f1"))
    assert chosen.value == thresholds[f1.argmax()]
    assert chosen.outcome.f1 == pytest.approx(f1.max(), abs=1e-12)


def test_the_best_precision_with_enough_recall_and_the_other_way_round():
    scores, is_positive = scored_images()
    precision, recall, thresholds = (
        values[: len(values)] for values in sklearn.metrics.precision_recall_curve(is_positive, scores)
    )
    precision, recall = precision[:-1], recall[:-1]
    chosen = choose_threshold(scores, is_positive, parse_rule("recall>=0.8"))
    assert chosen.outcome.recall >= 0.8
    assert chosen.outcome.precision == pytest.approx(precision[recall >= 0.8].max())
    assert chosen.value in thresholds
    chosen = choose_threshold(scores, is_positive, parse_rule("precision>=0.6"))
    assert chosen.outcome.precision >= 0.6
    assert chosen.outcome.recall == pytest.approx(recall[precision >= 0.6].max())


@pytest.mark.parametrize(("false_negative", "false_positive"), [(5, 1), (1, 5), (1, 1), (0, 1), (1, 0)])
def test_the_lowest_cost(false_negative, false_positive):
    scores, is_positive = scored_images()
    rule = parse_rule(f"cost:FN={false_negative},FP={false_positive}")
    chosen = choose_threshold(scores, is_positive, rule)
    costs = [
        outcome_at(scores, is_positive, threshold).cost(rule) for threshold in [*np.unique(scores), scores.max() + 1]
    ]
    assert chosen.outcome.cost(rule) == min(costs)
    assert outcome_at(scores, is_positive, chosen.value) == chosen.outcome


def test_an_outcome_is_scikit_learns():
    scores, is_positive = scored_images()
    outcome = outcome_at(scores, is_positive, 0.5)
    predicted = scores >= 0.5
    (true_negatives, false_positives), (false_negatives, true_positives) = sklearn.metrics.confusion_matrix(
        is_positive, predicted
    ).tolist()
    assert outcome == Outcome(true_positives, false_positives, false_negatives, true_negatives)
    assert outcome.precision == pytest.approx(sklearn.metrics.precision_score(is_positive, predicted))
    assert outcome.recall == pytest.approx(sklearn.metrics.recall_score(is_positive, predicted))
    assert outcome.f1 == pytest.approx(sklearn.metrics.f1_score(is_positive, predicted))


def test_what_no_threshold_reaches():
    scores, is_positive = np.array([0.9, 0.8, 0.7, 0.2]), np.array([False, True, True, False])
    with pytest.raises(
        UserError, match=r"no threshold fulfils precision>=0.9: the highest precision is 0.6667"
    ) as told:
        choose_threshold(scores, is_positive, parse_rule("precision>=0.9"))
    assert "with a recall of 1." in str(told.value)
    advice = str(told.value).rsplit("'")[1]
    assert choose_threshold(scores, is_positive, parse_rule(advice)).outcome.precision == pytest.approx(2 / 3)


@pytest.mark.parametrize("of_the_class", [True, False])
def test_images_that_are_all_alike(of_the_class):
    with pytest.raises(UserError, match="the split has no images of"):
        choose_threshold(np.array([0.1, 0.2]), np.full(2, of_the_class), parse_rule("max-f1"))
    assert areas_of(np.array([0.1, 0.2]), np.full(2, of_the_class)) == Areas(None, None)
    assert curves_of(np.array([0.1, 0.2]), np.full(2, of_the_class)) is None


def test_areas_are_scikit_learns():
    scores, is_positive = scored_images()
    areas = areas_of(scores, is_positive)
    assert areas.roc_auc == pytest.approx(sklearn.metrics.roc_auc_score(is_positive, scores), abs=1e-12)
    curves = curves_of(scores, is_positive)
    assert sklearn.metrics.auc(curves.false_positive_rates, curves.true_positive_rates) == pytest.approx(areas.roc_auc)
    steps = -np.diff(curves.recalls)
    assert np.sum(steps * curves.precisions[:-1]) == pytest.approx(areas.average_precision)


def test_macro_areas_leave_out_classes_without_images():
    assert mean_areas([Areas(0.5, 0.25), Areas(None, None), Areas(1.0, 0.75)]) == Areas(0.75, 0.5)
    assert mean_areas([Areas(None, None)]) == Areas(None, None)


def test_intervals_are_those_of_resampling_with_scikit_learn():
    """The same draws, each by scikit-learn with the number of times an image was drawn as its weight."""
    columns = [scored_images(60, seed) for seed in range(2)]
    intervals, macro = area_intervals(columns, num_resamples=40, seed=3)
    random = np.random.default_rng(3)
    by_class = np.empty([2, 40, 2])
    draws = random.integers(60, size=(40, 60))
    for resample, drawn in enumerate(draws):
        weights = np.bincount(drawn, minlength=60)
        for index, (scores, is_positive) in enumerate(columns):
            by_class[index, resample] = (
                sklearn.metrics.roc_auc_score(is_positive, scores, sample_weight=weights),
                sklearn.metrics.average_precision_score(is_positive, scores, sample_weight=weights),
            )
    for found, areas in [*zip(intervals, by_class, strict=True), (macro, by_class.mean(axis=0))]:
        expected = np.quantile(areas, [0.025, 0.975], axis=0)
        np.testing.assert_allclose([found.roc_auc, found.average_precision], expected.T, atol=1e-12)


def test_a_class_of_one_image_has_an_interval_of_the_resamples_that_hold_it():
    scores, is_positive = np.arange(20.0), np.arange(20) == 19
    (intervals,), macro = area_intervals([(scores, is_positive)], num_resamples=50)
    assert intervals.roc_auc == macro.roc_auc == (1.0, 1.0)
    (nothing,), _ = area_intervals([(scores, np.zeros(20, bool))], num_resamples=50)
    assert nothing.roc_auc is None
