"""Doubtful labels: confident learning beside cleanlab's figures, the ranking, and the file."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from finetune.evaluation.label_errors import LABEL_ERRORS_FILE, find_label_errors, write_label_errors

# Computed once by the package cleanlab 2.9.0: find_label_issues with filter_by="confident_learning" and
# "predicted_neq_given", ranked by self-confidence.
REFERENCE = json.loads((Path(__file__).parent / "reference" / "label_errors.json").read_text())


@pytest.fixture(scope="module")
def found():
    return find_label_errors(np.array(REFERENCE["probabilities"]), np.array(REFERENCE["labels"]))


def test_the_ranking_is_that_of_cleanlab(found):
    assert found.positions.tolist() == REFERENCE["predicted_neq_given"]


def test_errors_are_those_of_cleanlab(found):
    assert found.positions[found.are_errors].tolist() == REFERENCE["confident_learning"]
    assert found.num_errors == len(REFERENCE["confident_learning"])


def test_probabilities_are_of_label_and_suggestion(found):
    probabilities = np.array(REFERENCE["probabilities"])
    np.testing.assert_array_equal(found.label_probabilities, probabilities[found.positions, found.labels])
    np.testing.assert_array_equal(found.suggestion_probabilities, probabilities[found.positions, found.suggestions])
    assert (np.diff(found.label_probabilities) >= 0).all()
    assert (found.labels != found.suggestions).all()


def test_a_class_is_chosen_among_those_whose_threshold_is_reached():
    """By hand: thresholds 0.8, 0.3 and 0.85, so that 0.5 of the first class is too little, 0.4 of the second enough."""
    probabilities = np.array([[0.8, 0.1, 0.1], [0.3, 0.3, 0.4], [0.1, 0.0, 0.9], [0.5, 0.4, 0.1], [0.1, 0.1, 0.8]])
    labels = np.array([0, 1, 2, 2, 2])
    probabilities[3] = [0.5, 0.4, 0.1]
    found = find_label_errors(probabilities, labels)
    thresholds = [0.8, 0.3, (0.9 + 0.1 + 0.8) / 3]
    assert found.positions.tolist() == [3, 1]
    assert found.are_errors.tolist() == [bool(thresholds[1] <= 0.4), bool(thresholds[2] <= 0.4)] == [True, False]
    assert found.suggestions.tolist() == [1, 2]


def test_a_class_without_images_is_no_error_of_another():
    probabilities = np.array([[0.2, 0.1, 0.7], [0.1, 0.8, 0.1], [0.9, 0.05, 0.05]])
    found = find_label_errors(probabilities, np.array([0, 1, 0]))
    assert found.positions.tolist() == [0]
    assert found.suggestions.tolist() == [2]
    assert not found.are_errors.any()


def test_labels_without_doubt():
    found = find_label_errors(np.eye(3), np.arange(3))
    assert len(found.positions) == found.num_errors == 0


def test_the_file(found, tmp_path):
    filenames = [f"=formula_{position}.jpg" for position in range(len(REFERENCE["labels"]))]
    write_label_errors(tmp_path, found, filenames, ["a", "b", "c", "d"])
    with (tmp_path / LABEL_ERRORS_FILE).open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["rank"]) for row in rows] == list(range(1, len(found.positions) + 1))
    assert rows[0]["filename"].endswith(f"=formula_{found.positions[0]}.jpg")
    assert not rows[0]["filename"].startswith("=")
    assert rows[0]["label_name"] == "abcd"[int(rows[0]["label"])]
    assert float(rows[0]["label_probability"]) == found.label_probabilities[0]
    assert [row["is_error"] == "yes" for row in rows] == found.are_errors.tolist()
