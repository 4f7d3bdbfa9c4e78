"""Decisions: curves, thresholds, temperature, and "don't know", beside scikit-learn's figures of predictions.csv."""

import csv
import io
import json
import shutil

import numpy as np
import pytest
import sklearn.metrics
import tensorflow as tf
from eval_results import make_result, random_scores
from image_files import encode, picture
from tiny_runs import write_run

from finetune.commands import evaluate, export, predict
from finetune.commands.decisions import decided
from finetune.datasets.description import write_labels
from finetune.datasets.records import Record, encode_record
from finetune.datasets.tfrecord import RecordWriter
from finetune.errors import UserError
from finetune.evaluation.class_areas import ClassProbabilities, class_areas
from finetune.evaluation.coverage import coverage_of
from finetune.evaluation.decision_report import (
    COVERAGE_PLOT,
    PRECISION_RECALL_PLOT,
    ROC_PLOT,
    UNCALIBRATED_PLOT,
    decision_content,
)
from finetune.evaluation.decisions import decide
from finetune.evaluation.metrics import log_softmax, score_batch
from finetune.evaluation.report import write_report
from finetune.evaluation.result_files import metrics
from finetune.evaluation.scoring import inference_function
from finetune.evaluation.temperature import fit_temperature
from finetune.exports.keras_temperature import divide_logits
from finetune.model.checkpoint import Checkpoint, write_checkpoint
from finetune.prediction.classifier import restore_classifier
from finetune.prediction.writers import WRITERS, Asked
from finetune.settings.evaluate import EvalSettings
from finetune.settings.predict import PredictSettings

TWO, THREE = ("benign", "malignant"), ("blue", "green", "red")
NUM_IMAGES = 60
OVERCONFIDENCE = 6.0


def overconfident_run(folder, classes):
    """A run whose head says nearly 1 of whatever it says, and records that it is wrong about in every fourth image."""
    run, data = write_run(folder / "run", "lenet", classes), folder / "records"
    checkpoint = Checkpoint(str(run / "model.ckpt-7"))
    values = {name: checkpoint.read(name) for name in checkpoint.shapes}
    encoded = [encode(picture(index)) for index in range(2 * NUM_IMAGES)]
    logits = logits_of(run, encoded)
    scale = OVERCONFIDENCE / logits.std()
    weights, biases = "LeNet/fc4/weights", "LeNet/fc4/biases"
    values[weights] = values[weights] * scale
    values[biases] = (values[biases] - logits.mean(axis=0)) * scale
    write_checkpoint(run / "model.ckpt-7", values)
    predictions = logits_of(run, encoded).argmax(axis=1)
    is_wrong = np.arange(len(encoded)) % 4 == 0
    labels = np.where(is_wrong, (predictions + 1) % len(classes), predictions)
    (data / "images").mkdir(parents=True)
    for number, split in enumerate(("validation", "test")):
        with RecordWriter(data / f"made_{split}_00000-of-00001.tfrecord") as writer:
            for index in range(number * NUM_IMAGES, (number + 1) * NUM_IMAGES):
                name = f"{split}_{index:03d}.jpg"
                (data / "images" / name).write_bytes(encoded[index])
                writer.write(encode_record(Record(encoded[index], "jpg", int(labels[index]), 32, 40, name)))
    write_labels(data / "labels.txt", classes)
    return run, data


def logits_of(run, encoded):
    classifier = restore_classifier(PredictSettings(checkpoint=run))
    images = np.stack([classifier.prepare(tf.constant(each)).numpy() for each in encoded])
    return inference_function(classifier.model)(tf.constant(images)).numpy()


@pytest.fixture(scope="module")
def of_two(tmp_path_factory):
    return overconfident_run(tmp_path_factory.mktemp("two"), TWO)


@pytest.fixture(scope="module")
def of_three(tmp_path_factory):
    return overconfident_run(tmp_path_factory.mktemp("three"), THREE)


@pytest.fixture
def fresh(of_two, of_three, tmp_path):
    """Copies of the runs, by their number of classes, in which nothing was decided yet."""

    def copy(num_classes):
        run, data = of_two if num_classes == 2 else of_three
        shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("eval_*", "decision.json"))
        return tmp_path / "run", data

    return copy


def run_eval(run, data, *words, split="validation", status=0):
    words = [f"--checkpoint={run}", f"--dataset-dir={data}", f"--split={split}", "--no-report", *words]
    assert evaluate.main(words) == status
    output = run / f"eval_{split}"
    return (read_metrics(output), read_rows(output)) if status == 0 else None


def read_metrics(output):
    return json.loads((output / "metrics.json").read_text())


def read_rows(output):
    with (output / "predictions.csv").open() as file:
        return list(csv.DictReader(file))


def column(rows, name, kind=float):
    return np.array([kind(row[name]) for row in rows])


def logits_in(rows, num_classes):
    return np.stack([column(rows, f"logit_{label}") for label in range(num_classes)], axis=1)


def positive_probabilities(rows):
    """Of two classes the second one's."""
    probabilities = column(rows, "probability")
    return np.where(column(rows, "prediction", int) == 1, probabilities, 1 - probabilities)


def run_predict(run, data, output, *words):
    words = [f"--checkpoint={run}", f"--output={output}", *words, str(data / "images" / "test_*.jpg")]
    assert predict.main(words) == 0
    return json.loads(output.read_text()) if output.suffix == ".json" else read_csv(output)


def read_csv(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def test_areas_of_two_classes_are_scikit_learns(fresh):
    figures, rows = run_eval(*fresh(2))
    scores, is_positive = positive_probabilities(rows), column(rows, "label", int) == 1
    assert figures["curves_of"] == "malignant"
    assert figures["roc_auc"] == pytest.approx(sklearn.metrics.roc_auc_score(is_positive, scores), abs=1e-9)
    expected = sklearn.metrics.average_precision_score(is_positive, scores)
    assert figures["average_precision"] == pytest.approx(expected, abs=1e-9)
    low, high = figures["roc_auc_interval_95"]
    assert low < figures["roc_auc"] < high
    assert "logit_0" not in rows[0]


def test_areas_of_three_classes_are_scikit_learns(fresh):
    figures, rows = run_eval(*fresh(3), "--write-logits")
    labels, probabilities = column(rows, "label", int), np.exp(log_softmax(logits_in(rows, 3)))
    assert figures["curves_of"] == "macro mean"
    expected = sklearn.metrics.roc_auc_score(labels, probabilities, multi_class="ovr")
    assert figures["roc_auc"] == pytest.approx(expected, abs=1e-9)
    for label, of_class in enumerate(figures["classes"]):
        expected = sklearn.metrics.average_precision_score(labels == label, probabilities[:, label])
        assert of_class["average_precision"] == pytest.approx(expected, abs=1e-9)
    expected = np.mean([of_class["average_precision"] for of_class in figures["classes"]])
    assert figures["average_precision"] == pytest.approx(expected, abs=1e-9)


def test_a_threshold_is_scikit_learns_and_is_judged_on_another_split(fresh, capsys):
    run, data = fresh(2)
    figures, rows = run_eval(run, data, "--threshold=max-f1")
    assert "--positive-class isn't given: it is the second of the two classes, malignant" in capsys.readouterr().err
    precision, recall, thresholds = sklearn.metrics.precision_recall_curve(
        column(rows, "label", int) == 1, positive_probabilities(rows)
    )
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    assert figures["threshold"]["f1"] == pytest.approx(f1.max(), abs=1e-9)
    assert np.abs(thresholds - figures["threshold"]["value"]).min() < 1e-9
    assert "these very images" in figures["threshold"]["caution"]
    kept = json.loads((run / "decision.json").read_text())
    assert kept["threshold"]["rule"] == "max-f1"
    assert kept["threshold"]["chosen_on"]["split"] == "validation"
    judged, rows = run_eval(run, data, split="test")
    assert judged["threshold"]["value"] == kept["threshold"]["value"] == figures["threshold"]["value"]
    assert judged["threshold"]["caution"] is None
    is_positive = column(rows, "label", int) == 1
    is_taken = positive_probabilities(rows) >= kept["threshold"]["value"]
    assert (column(rows, "decision", int) == 1).tolist() == is_taken.tolist()
    assert judged["threshold"]["precision"] == pytest.approx(sklearn.metrics.precision_score(is_positive, is_taken))
    assert judged["threshold"]["recall"] == pytest.approx(sklearn.metrics.recall_score(is_positive, is_taken))
    without, rows = run_eval(run, data, "--threshold=none", split="test")
    assert without["threshold"] is None
    assert "decision" not in rows[0]
    by_hand, _ = run_eval(run, data, "--threshold=0.25", split="test")
    assert by_hand["threshold"]["value"] == 0.25
    assert json.loads((run / "decision.json").read_text()) == kept


def test_costs_are_told(fresh):
    figures, _ = run_eval(*fresh(3), "--threshold=cost:FN=5,FP=1", "--positive-class=green")
    judged = figures["threshold"]
    assert judged["positive_class"] == "green"
    assert judged["cost"] == 5 * judged["false_negatives"] + judged["false_positives"]


def test_the_temperature_is_that_of_another_minimisation_and_helps_held_out_images(fresh):
    run, data = fresh(3)
    before, raw = run_eval(run, data, "--write-logits", split="test")
    fitted, rows = run_eval(run, data, "--write-logits", "--calibrate=temperature")
    temperature = fitted["temperature"]["value"]
    assert temperature == pytest.approx(by_newton(logits_in(rows, 3), column(rows, "label", int)), rel=1e-9)
    assert temperature > 2
    after, rows = run_eval(run, data, "--write-logits", split="test")
    assert after["loss"] < before["loss"] - 0.3
    assert after["accuracy"] == before["accuracy"]
    assert after["expected_calibration_error_uncalibrated"] == before["expected_calibration_error"]
    assert after["expected_calibration_error"] < before["expected_calibration_error"]
    assert logits_in(rows, 3).tolist() == logits_in(raw, 3).tolist()
    expected = np.exp(log_softmax(logits_in(rows, 3) / temperature)).max(axis=1)
    np.testing.assert_allclose(column(rows, "probability"), expected, rtol=1e-9)
    plain, _ = run_eval(run, data, "--calibrate=none", split="test")
    assert plain["loss"] == before["loss"]


def by_newton(logits, labels):
    """The temperature by Newton's steps on its reciprocal."""
    sharpening = 0.1
    for _ in range(100):
        probabilities = np.exp(log_softmax(logits * sharpening))
        means = (probabilities * logits).sum(axis=1)
        slope = np.mean(means - logits[np.arange(len(labels)), labels])
        curvature = np.mean((probabilities * logits**2).sum(axis=1) - means**2)
        sharpening = max(sharpening - slope / curvature, sharpening / 2)
    return 1 / sharpening


def test_a_new_temperature_makes_a_threshold_void(fresh, capsys):
    run, data = fresh(2)
    run_eval(run, data, "--threshold=max-f1", "--calibrate=temperature")
    both = json.loads((run / "decision.json").read_text())
    figures, rows = run_eval(run, data)
    assert figures["threshold"]["value"] == both["threshold"]["value"]
    is_taken = positive_probabilities(rows) >= both["threshold"]["value"]
    assert (column(rows, "decision", int) == 1).tolist() == is_taken.tolist()
    capsys.readouterr()
    figures, _ = run_eval(run, data, "--calibrate=none")
    assert figures["threshold"] is None
    assert "its threshold goes with its temperature" in capsys.readouterr().err
    figures, _ = run_eval(run, data, "--calibrate=temperature", split="test")
    assert figures["threshold"] is None
    assert "is void, being of probabilities of another temperature" in capsys.readouterr().err
    assert json.loads((run / "decision.json").read_text()).keys() >= {"temperature"}
    assert "threshold" not in json.loads((run / "decision.json").read_text())


def test_predictions_and_exports_use_both(fresh, tmp_path):
    run, data = fresh(3)
    run_eval(run, data, "--threshold=recall>=0.9", "--positive-class=red", "--calibrate=temperature")
    kept = json.loads((run / "decision.json").read_text())
    _, rows = run_eval(run, data, "--write-logits", split="test")
    expected = np.exp(log_softmax(logits_in(rows, 3), kept["temperature"]["value"]))
    decisions = decide(expected, (2, kept["threshold"]["value"]))
    assert column(rows, "decision", int).tolist() == decisions.tolist() != expected.argmax(axis=1).tolist()
    predicted = run_predict(run, data, tmp_path / "predictions.json", "--top-k=3")
    assert [row["guesses"][0]["class"] for row in predicted] == decisions.tolist()
    of_first = [row["guesses"][0]["probability"] for row in predicted]
    np.testing.assert_allclose(of_first, expected[np.arange(len(expected)), decisions], rtol=1e-4)
    words = [f"--checkpoint={run}", f"--dataset-dir={data}", "--split=test"]
    assert export.main([*words, f"--output-dir={tmp_path / 'served'}"]) == 0
    files = sorted((data / "images").glob("test_*.jpg"))
    served = tf.saved_model.load(str(tmp_path / "served"))
    answers = served.signatures["serving_default"](encoded=tf.constant([file.read_bytes() for file in files]))
    np.testing.assert_allclose(answers["probabilities"], expected, atol=1e-4)
    np.testing.assert_allclose(tf.nn.softmax(answers["logits"]), answers["probabilities"], atol=1e-6)
    assert answers["prediction"].numpy().tolist() == decisions.tolist()
    described = json.loads((tmp_path / "served" / "export.json").read_text())
    assert described["temperature"] == kept["temperature"]
    assert described["threshold"] == kept["threshold"]
    # TensorFlow Lite, as all formats, is measured beside the calibrated network.
    assert export.main([*words, f"--output-dir={tmp_path / 'lite'}", "--format=tflite", "--max-num-batches=1"]) == 0
    plain = run_predict(run, data, tmp_path / "plain.json", "--threshold=none", "--calibrate=none")
    assert [row["guesses"][0]["class"] for row in plain] == expected.argmax(axis=1).tolist()
    assert plain[0]["guesses"][0]["probability"] > expected[0].max()
    by_hand = run_predict(run, data, tmp_path / "by_hand.json", "--threshold=0", "--positive-class=blue")
    assert {row["guesses"][0]["name"] for row in by_hand} == {"blue"}


def test_what_was_chosen_for_other_weights_is_not_used(fresh, tmp_path, capsys):
    run, data = fresh(2)
    run_eval(run, data, "--threshold=precision>=0.7", "--calibrate=temperature")
    checkpoint = Checkpoint(str(run / "model.ckpt-7"))
    values = {name: checkpoint.read(name) for name in checkpoint.shapes}
    values["LeNet/fc4/biases"] = values["LeNet/fc4/biases"] + np.float32(0.001)
    write_checkpoint(run / "model.ckpt-7", values)
    capsys.readouterr()
    run_predict(run, data, tmp_path / "predictions.json")
    assert "was chosen for other weights, of model.ckpt-7, step 7: it is not used" in capsys.readouterr().err
    figures, _ = run_eval(run, data)
    assert figures["threshold"] is None
    assert figures["temperature"] is None


def test_what_was_chosen_for_images_prepared_otherwise_is_not_used(fresh, capsys):
    run, data = fresh(2)
    run_eval(run, data, "--calibrate=temperature")
    figures, _ = run_eval(run, data, "--tta=flip")
    assert figures["temperature"] is None
    assert "was chosen for tta none (here flip): it is not used" in capsys.readouterr().err


def test_dont_know(fresh):
    run, data = fresh(3)
    _, rows = run_eval(run, data, "--calibrate=temperature")
    least = float(np.median(column(rows, "probability")))
    images = (str(data / "images" / "validation_*.jpg"),)
    settings = PredictSettings(checkpoint=run, images=images, top_k=2, reject_below=least + 1e-6)
    predictions = list(predict.predict(settings))
    is_rejected = (column(rows, "probability") < least + 1e-6).tolist()
    assert [each.is_rejected for each in predictions] == is_rejected
    assert 0 < sum(is_rejected) < len(is_rejected)
    table = list(csv.DictReader(io.StringIO(written("csv", predictions))))
    assert [row["rejected"] for row in table] == ["yes" if each else "no" for each in is_rejected]
    assert [row["prediction"] == row["prediction_name_2"] == "" for row in table] == is_rejected
    assert all(row["probability"] and row["probability_2"] for row in table)
    objects = json.loads(written("json", predictions))
    assert [row["rejected"] for row in objects] == ["candidates" in row for row in objects] == is_rejected
    assert all(len(row.get("candidates") or row["guesses"]) == 2 for row in objects)
    assert ["\tdon't know\t" in line for line in written("lines", predictions).splitlines()] == is_rejected


def written(file_format, predictions):
    file = io.StringIO()
    WRITERS[file_format](predictions, file, Asked(top_k=2, may_reject=True))
    return file.getvalue()


def test_accuracy_over_coverage(fresh):
    figures, rows = run_eval(*fresh(3))
    is_right, probabilities = column(rows, "rank", int) == 0, column(rows, "probability")
    for point in figures["accuracy_over_coverage"]:
        is_taken = probabilities >= point["reject_below"]
        assert point["coverage"] == pytest.approx(is_taken.mean())
        assert point["accuracy"] == pytest.approx(is_right[is_taken].mean())
    risks = [1 - is_right[probabilities >= each].mean() for each in probabilities]
    assert figures["risk_coverage_area"] == pytest.approx(np.mean(risks))


def test_shares_together_decide_as_one(fresh, tmp_path, capsys):
    run, data = fresh(3)
    words = ["--threshold=max-f1", "--positive-class=blue", "--calibrate=temperature"]
    for share in ("1/2", "2/2"):
        run_eval_share(run, data, f"--shard={share}", *words)
    assert "give them with --merge-shards" in capsys.readouterr().err
    assert not (run / "decision.json").exists()
    run_eval_share(run, data, "--merge-shards=2", *words)
    merged, content = (run / "eval_validation" / "metrics.json").read_bytes(), (run / "decision.json").read_bytes()
    (run / "decision.json").unlink()
    run_eval(run, data, *words)
    assert (run / "eval_validation" / "metrics.json").read_bytes() == merged
    assert (run / "decision.json").read_bytes() == content


def run_eval_share(run, data, *words):
    assert evaluate.main([f"--checkpoint={run}", f"--dataset-dir={data}", "--no-report", *words]) == 0


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (
            ["--threshold=precision>=1", "--positive-class=benign"],
            ["no threshold fulfils precision>=1: the highest precision is 0."],
        ),
        (["--threshold=max-f1", "--positive-class=malign"], ["no class 'malign'", "Did you mean malignant"]),
        (["--threshold=1.5"], ["--threshold is 1.5", "at most 1"]),
        (["--threshold=max-f2"], ["'max-f2' is no rule", "max-f1"]),
        (["--threshold=none", "--positive-class=benign"], ["don't go together"]),
        (["--threshold=max-f1", "--watch"], ["--watch and --threshold don't go together"]),
    ],
)
def test_mistakes(fresh, capsys, words, parts):
    run, data = fresh(2)
    run_eval(run, data, *words, status=2)
    told = capsys.readouterr().err
    assert all(part in told for part in parts), told
    assert not (run / "decision.json").exists()
    assert not (run / "eval_validation").exists()


def test_of_three_classes_one_must_be_named(fresh, capsys):
    run_eval(*fresh(3), "--threshold=max-f1", status=2)
    assert "--positive-class, one of blue, green, red" in capsys.readouterr().err


def test_a_decision_file_that_holds_something_else_is_told(fresh, capsys):
    run, data = fresh(2)
    run_eval(run, data, "--calibrate=temperature")
    content = json.loads((run / "decision.json").read_text())
    content["temperature"]["value"] = 0
    (run / "decision.json").write_text(json.dumps(content))
    capsys.readouterr()
    run_eval(run, data, status=2)
    assert "temperature.value is 0, but must be a finite number" in capsys.readouterr().err
    run_eval(run, data, "--threshold=none", "--calibrate=none")


def test_temperatures_that_there_are_none_of():
    labels = np.arange(4) % 2
    logits = np.eye(2, dtype=np.float32)[labels]
    with pytest.raises(UserError, match="all 4 images are right"):
        fit_temperature(logits, labels)
    with pytest.raises(UserError, match="no more than chance"):
        fit_temperature(-logits, labels)
    logits[0] *= -1  # Three of four right, by a lead of 1.
    assert fit_temperature(logits, labels) == pytest.approx(1 / np.log(3), rel=1e-12)


def test_probabilities_of_one_class_after_the_other_are_those_of_all_to_the_bit():
    logits = (10 * np.random.default_rng(0).normal(size=(5000, 7))).astype(np.float32)
    expected, probabilities = np.exp(log_softmax(logits, 1.7)), ClassProbabilities(logits, 1.7)
    np.testing.assert_array_equal(np.stack([probabilities.of(label) for label in range(7)], axis=1), expected)


def test_many_classes_have_areas_without_intervals():
    random = np.random.default_rng(0)
    labels = np.arange(120) % 60
    logits = random.normal(size=(120, 61)).astype(np.float32)
    areas = class_areas(score_batch(logits, labels, [""] * 120, keep_logits=True))
    assert len(areas.areas) == 61
    assert areas.areas[60].roc_auc is None
    assert areas.mean.roc_auc == pytest.approx(np.mean([each.roc_auc for each in areas.areas[:60]]))
    assert areas.intervals == ()


def test_equal_probabilities_are_taken_or_rejected_together():
    logits = np.array([[2, 0], [2, 0], [0, 1]], np.float32)
    coverage = coverage_of(score_batch(logits, np.array([0, 1, 1]), list("abc")))
    assert coverage.coverages.tolist() == [2 / 3, 1]
    assert coverage.accuracies.tolist() == [0.5, 2 / 3]
    assert coverage.risk_area == pytest.approx((0.5 + 0.5 + 1 / 3) / 3)


def test_a_keras_models_logits_are_divided():
    import keras

    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((4, 4, 3)), keras.layers.Conv2D(5, 4), keras.layers.Flatten()])
    model.layers[0].bias.assign(np.arange(5.0))
    images = np.random.default_rng(0).normal(size=(2, 4, 4, 3)).astype(np.float32)
    before = np.asarray(model(images))
    divide_logits(model, 1.7)
    np.testing.assert_allclose(np.asarray(model(images)), before / 1.7, rtol=1e-5, atol=1e-5)
    with pytest.raises(UserError, match="--calibrate none"):
        divide_logits(keras.Sequential([keras.Input((3,)), keras.layers.ReLU()]), 1.7)


def test_the_report_says_what_a_threshold_comes_to(tmp_path):
    result = make_result(tmp_path, random_scores(2, 80, lead=1.0, keep_logits=True), class_names=["sound", "<cracked>"])
    settings = EvalSettings(dataset_dir=tmp_path, threshold="cost:FN=5,FP=1", calibrate="temperature")
    decided_result = decided(result, settings, lambda: "0" * 64)
    write_report(decided_result)
    html = (result.output_dir / "report.html").read_text()
    judged = decided_result.judgement
    assert "&lt;cracked&gt; from a probability of " in html
    assert "<cracked>" not in html
    assert f"<b>{judged.cost:g}</b><span>cost (cost:FN=5,FP=1)</span>" in html
    assert "The same without the temperature" in html
    for name in (ROC_PLOT, PRECISION_RECALL_PLOT, COVERAGE_PLOT, UNCALIBRATED_PLOT):
        assert (result.output_dir / name).stat().st_size > 0


def test_of_many_classes_the_report_draws_those_that_are_told_worst(tmp_path):
    result = make_result(tmp_path, random_scores(60, 240, lead=2.0, keep_logits=True))
    content = decision_content(result, lambda draw, file_name, alt: alt)
    precisions = {row["name"]: row["areas"].average_precision for row in content["area_table"]}
    assert len(precisions) == 60
    defined = {name: precision for name, precision in precisions.items() if precision is not None}
    assert content["drawn"] == sorted(defined, key=defined.get)[:8]
    assert content["roc_picture"].startswith("ROC curve of 8 classes")


def test_without_logits_there_are_no_curves_and_nothing_is_chosen(tmp_path):
    result = make_result(tmp_path, random_scores(3, 30, lead=1.0))
    assert metrics(result)["curves_of"] is None
    assert decision_content(result, lambda draw, file_name, alt: alt)["roc_picture"] is None
    with pytest.raises(UserError, match="--max-num-batches"):
        decided(result, EvalSettings(dataset_dir=tmp_path, calibrate="temperature"), lambda: "0" * 64)
