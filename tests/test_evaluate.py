"""`finetune-eval`: its figures from its own files, and its ways to choose what is evaluated."""

import csv
import itertools
import json

import numpy as np
import pytest
import sklearn.metrics
import tensorflow as tf
from eval_results import make_result, random_scores, write_dataset

from finetune.commands import evaluate
from finetune.evaluation.metrics import score_batch
from finetune.evaluation.result_files import class_names_of, write_confusion_matrix, write_metrics, write_predictions
from finetune.evaluation.test_time_augmentation import with_mirror_images
from finetune.model.checkpoint import RUN_PREFIX, write_checkpoint
from finetune.model.model import Model
from finetune.model.scopes import MOVING_AVERAGE_SUFFIX, plan_variables
from finetune.nets import get_spec
from finetune.runs.run_folder import RunFolder
from finetune.settings.settings_file import to_toml_table
from finetune.settings.train import TrainSettings

CLASSES = ["blue", "green", "red"]
NUM_IMAGES = 30
STEPS = (10, 20, 30)


def weights_of(step):
    """Random weights of a small network, and moving averages that differ from them."""
    model = Model(get_spec("lenet"), len(CLASSES), seed=step)
    values = {name: variable.numpy() for name, variable in model.model_variables.items()}
    averages = {name + MOVING_AVERAGE_SUFFIX: -value for name, value in values.items()}
    return {**values, **averages, "global_step": np.int64(step)}


@pytest.fixture(scope="module")
def weights():
    return {step: weights_of(step) for step in STEPS}


@pytest.fixture(scope="module")
def dataset_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "records"
    write_dataset(folder, random_scores(len(CLASSES), NUM_IMAGES), CLASSES)
    (folder / "labels.txt").write_text("".join(f"{label}:{name}\n" for label, name in enumerate(CLASSES)))
    return folder


def make_run(folder, weights, steps=STEPS, **settings):
    run = RunFolder(folder)
    folder.mkdir(parents=True, exist_ok=True)
    plan = plan_variables(Model(get_spec("lenet"), len(CLASSES)).network_variables(), checkpoint_shapes=None)
    run.write_settings(to_toml_table(TrainSettings(dataset_dir=folder, model="lenet", **settings)), plan, CLASSES)
    for step in steps:
        write_checkpoint(folder / f"{RUN_PREFIX}-{step}", weights[step])
    return folder


@pytest.fixture(scope="module")
def run(weights, tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("runs") / "run", weights)


def run_eval(dataset_dir, output, *words):
    settings = [f"--dataset-dir={dataset_dir}", f"--output-dir={output}", "--no-report"]
    return evaluate.main([*settings, *map(str, words)])


def read_predictions(output):
    with (output / "predictions.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def read_json(path):
    return json.loads(path.read_text(encoding="utf-8"))


def logits_in(output):
    return np.array(
        [[float(row[f"logit_{label}"]) for label in range(len(CLASSES))] for row in read_predictions(output)]
    )


def recompute(rows, num_classes):
    """The figures of metrics.json, by scikit-learn from predictions.csv."""
    truth, guess, rank = (np.array([int(row[name]) for row in rows]) for name in ("label", "prediction", "rank"))
    probability, of_label = (
        np.array([float(row[name]) for row in rows]) for name in ("probability", "label_probability")
    )
    macro = sklearn.metrics.precision_recall_fscore_support(truth, guess, average="macro", zero_division=0)
    edges = np.linspace(0, 1, 16)
    gaps = [
        abs((truth == guess)[inside].mean() - probability[inside].mean()) * inside.mean()
        for low, high in itertools.pairwise(edges)
        if (inside := (probability > low) & (probability <= high)).any()
    ]
    return (
        {
            "accuracy": sklearn.metrics.accuracy_score(truth, guess),
            "num_right": sklearn.metrics.accuracy_score(truth, guess, normalize=False),
            "top_5_accuracy": np.mean(rank < min(5, num_classes)),
            "loss": -np.log(of_label).mean(),
            "balanced_accuracy": sklearn.metrics.balanced_accuracy_score(truth, guess),
            "macro_precision": macro[0],
            "macro_recall": macro[1],
            "macro_f1": macro[2],
            "expected_calibration_error": sum(gaps),
        },
        truth,
        guess,
    )


@pytest.mark.parametrize("num_classes", [3, 12])
def test_scikit_learn_finds_the_same_figures_in_the_predictions(tmp_path, num_classes):
    scores = random_scores(num_classes, 400, lead=1.5, keep_logits=True)
    result = make_result(tmp_path, scores)
    for write in (write_metrics, write_predictions, write_confusion_matrix):
        write(result)
    metrics, rows = read_json(result.output_dir / "metrics.json"), read_predictions(result.output_dir)
    expected, truth, guess = recompute(rows, num_classes)
    assert {name: metrics[name] for name in expected} == pytest.approx(expected, rel=1e-12)
    logits = np.array([[float(row[f"logit_{label}"]) for label in range(num_classes)] for row in rows])
    chances = np.asarray(tf.nn.softmax(logits))
    assert metrics["loss"] == pytest.approx(sklearn.metrics.log_loss(truth, chances, labels=range(num_classes)))
    if num_classes > 5:
        top_5 = sklearn.metrics.top_k_accuracy_score(truth, chances, k=5, labels=range(num_classes))
        assert metrics["top_5_accuracy"] == pytest.approx(top_5, rel=1e-12)
    of_classes = sklearn.metrics.precision_recall_fscore_support(truth, guess, zero_division=0)
    for name, values in zip(("precision", "recall", "f1", "support"), of_classes, strict=True):
        assert [row[name] for row in metrics["classes"]] == pytest.approx(values.tolist(), rel=1e-12)
    with (result.output_dir / "confusion_matrix.csv").open(encoding="utf-8", newline="") as file:
        table = list(csv.reader(file))
    assert table[0][1:] == [row[0] for row in table[1:]] == result.class_names
    counts = np.array([row[1:] for row in table[1:]], int)
    np.testing.assert_array_equal(counts, sklearn.metrics.confusion_matrix(truth, guess))


def test_a_run_with_its_report(dataset_dir, run, tmp_path, capsys):
    words = [f"--dataset-dir={dataset_dir}", f"--checkpoint={run}", f"--output-dir={tmp_path}"]
    assert evaluate.main(words) == 0
    assert str(tmp_path / "report.html") in capsys.readouterr().out
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    metrics = read_json(tmp_path / "metrics.json")
    assert f"{metrics['num_right']} of {NUM_IMAGES} images" in text
    assert "step 30" in text
    assert metrics["data_sha256"] in text
    expected, *_ = recompute(read_predictions(tmp_path), len(CLASSES))
    assert {name: metrics[name] for name in expected} == pytest.approx(expected, rel=1e-12)


def test_the_mean_of_the_last_checkpoints(dataset_dir, run, weights, tmp_path):
    mean = {name: (weights[20][name] + weights[30][name]) / 2 for name in weights[20]}
    write_checkpoint(tmp_path / "mean.ckpt", mean)
    words = {
        "expected": [f"--checkpoint={tmp_path}/mean.ckpt", "--model=lenet"],
        "average": [f"--checkpoint={run}", "--average=2"],
        "several": [f"--checkpoint={run}/model.ckpt-20", f"--checkpoint={run}/model.ckpt-30"],
    }
    for name, checkpoints in words.items():
        assert run_eval(dataset_dir, tmp_path / name, *checkpoints, "--write-logits") == 0
    expected = logits_in(tmp_path / "expected")
    for name in ("average", "several"):
        np.testing.assert_allclose(logits_in(tmp_path / name), expected, rtol=1e-5, atol=1e-6)
        metrics = read_json(tmp_path / name / "metrics.json")
        assert metrics["checkpoint"] == "mean of model.ckpt-20, model.ckpt-30"
        assert metrics["step"] == 30


def test_moving_averages_are_used_as_in_the_run_or_as_told(dataset_dir, weights, tmp_path):
    run = make_run(tmp_path / "run", weights, steps=[10], moving_average_decay=0.9)
    raw = {name: value for name, value in weights[10].items() if not name.endswith(MOVING_AVERAGE_SUFFIX)}
    write_checkpoint(tmp_path / "raw.ckpt", raw)
    outputs = {
        "as_run": [f"--checkpoint={run}"],
        "averages": [f"--checkpoint={run}/model.ckpt-10", "--moving-average"],
        "weights": [f"--checkpoint={run}", "--no-moving-average"],
        "raw": [f"--checkpoint={tmp_path}/raw.ckpt", "--model=lenet"],
    }
    logits = {}
    for name, words in outputs.items():
        assert run_eval(dataset_dir, tmp_path / name, *words, "--write-logits") == 0
        logits[name] = logits_in(tmp_path / name)
    np.testing.assert_array_equal(logits["as_run"], logits["averages"])
    np.testing.assert_array_equal(logits["weights"], logits["raw"])
    assert not np.allclose(logits["averages"], logits["weights"])
    assert run_eval(dataset_dir, tmp_path / "none", *outputs["raw"], "--moving-average") == 2


def test_the_mirror_image_has_half_the_say():
    def infer(images):
        return tf.reshape(images, [-1, 3]) * 2.0

    images = np.array([[[[0.1], [0.5], [3.0]]], [[[40.0], [-90.0], [9.0]]]], np.float32)  # [2,1,3,1]
    logits = with_mirror_images(infer)(tf.constant(images)).numpy()
    flat = images.reshape(2, 3) * 2.0
    expected = (np.asarray(tf.nn.softmax(flat)) + np.asarray(tf.nn.softmax(flat[:, ::-1]))) / 2
    np.testing.assert_allclose(np.exp(logits), expected, rtol=1e-5)
    assert np.isfinite(logits).all()


def test_flipping_is_told_in_the_metrics(dataset_dir, run, tmp_path):
    for tta in ("none", "flip"):
        assert run_eval(dataset_dir, tmp_path / tta, f"--checkpoint={run}", f"--tta={tta}") == 0
    none, flip = (read_json(tmp_path / tta / "metrics.json") for tta in ("none", "flip"))
    assert (none["tta"], flip["tta"]) == ("none", "flip")
    assert none["loss"] != flip["loss"]


def test_a_poor_accuracy_ends_with_status_3(dataset_dir, run, tmp_path, capsys):
    assert run_eval(dataset_dir, tmp_path, f"--checkpoint={run}") == 0
    accuracy = read_json(tmp_path / "metrics.json")["accuracy"]
    assert run_eval(dataset_dir, tmp_path, f"--checkpoint={run}", f"--assert-accuracy-at-least={accuracy!r}") == 0
    capsys.readouterr()
    assert run_eval(dataset_dir, tmp_path, f"--checkpoint={run}", "--assert-accuracy-at-least=1") == 3
    captured = capsys.readouterr()
    assert "--assert-accuracy-at-least" in captured.err
    assert "accuracy" in captured.out


def test_watching_evaluates_each_new_checkpoint_and_stops(dataset_dir, weights, tmp_path, monkeypatch):
    run = make_run(tmp_path / "run", weights, steps=[10, 20])

    class Clock:
        """Passes while the command sleeps, and then alone; the last checkpoint appears in the first sleep."""

        now = 0.0

        def monotonic(self):
            return self.now

        def sleep(self, seconds):
            if self.now == 0.0:
                write_checkpoint(run / f"{RUN_PREFIX}-30", weights[30])
            self.now += seconds

    monkeypatch.setattr(evaluate, "time", Clock())
    assert run_eval(dataset_dir, tmp_path / "eval", f"--checkpoint={run}", "--watch", "--timeout=3") == 0
    lines = [json.loads(line) for line in (tmp_path / "eval" / "evaluations.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [20, 30]
    for line in lines:
        output = tmp_path / str(line["step"])
        assert run_eval(dataset_dir, output, f"--checkpoint={run}/{RUN_PREFIX}-{line['step']}") == 0
        assert read_json(output / "metrics.json")["loss"] == line["loss"]


def test_comparing_two_runs(dataset_dir, weights, tmp_path, capsys):
    runs = [make_run(tmp_path / name, weights, steps=[step]) for name, step in (("a", 10), ("b", 20))]
    predictions = []
    for run in runs:
        assert run_eval(dataset_dir, run / "eval", f"--checkpoint={run}") == 0
        predictions.append(read_predictions(run / "eval"))
    capsys.readouterr()
    assert evaluate.main([f"--dataset-dir={dataset_dir}", "--compare", *map(str, runs)]) == 0
    printed = capsys.readouterr().out
    output = runs[1] / "compare_validation"
    comparison = read_json(output / "comparison.json")
    right = np.array([[row["rank"] == "0" for row in rows] for rows in predictions])
    assert [run["num_right"] for run in comparison["runs"]] == right.sum(axis=1).tolist()
    assert [run["only_this_right"] for run in comparison["runs"]] == [
        (right[0] & ~right[1]).sum(),
        (right[1] & ~right[0]).sum(),
    ]
    assert f"p = {comparison['mcnemar']['p_value']:.3g}" in printed
    with (output / "differences.csv").open(encoding="utf-8", newline="") as file:
        differing = list(csv.DictReader(file))
    expected = [
        (first["filename"], first["prediction"], second["prediction"])
        for first, second in zip(*predictions, strict=True)
        if first["prediction"] != second["prediction"]
    ]
    assert [(row["filename"], row["prediction_a"], row["prediction_b"]) for row in differing] == expected
    assert len(expected) == comparison["num_differing"] > 0
    for row in differing:
        told = {"a": row["prediction_a"], "b": row["prediction_b"]}.get(row["right"])
        assert told == row["label"] if told else row["label"] not in (row["prediction_a"], row["prediction_b"])


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["--average=2", "--watch"], "--average and --watch"),
        (["--checkpoint=a", "--checkpoint=b", "--watch"], "--checkpoint, given several times, and --watch"),
        (["--compare", "a", "b", "--checkpoint=c"], "--compare and --checkpoint"),
        (["--compare", "a", "b", "--write-logits"], "--write-logits"),
        (["--assert-accuracy-at-least=93"], "must be at least 0 and at most 1"),
        (["--checkpoint={run}", "--average=4"], "holds 3 checkpoints, not 4"),
        (["--checkpoint={run}/model.ckpt-10", "--average=2"], "--average"),
        (["--checkpoint={empty}", "--watch", "--timeout=0.1"], "no checkpoint appeared"),
        (["--checkpoint={run}/model.ckpt-10,{other}"], "they have no mean"),
    ],
)
def test_mistakes(dataset_dir, run, tmp_path, capsys, words, part):
    write_checkpoint(tmp_path / "other.ckpt", {"Other/weights": np.zeros(3, np.float32)})
    places = {"run": run, "empty": tmp_path / "empty", "other": tmp_path / "other.ckpt"}
    assert run_eval(dataset_dir, tmp_path / "eval", *(word.format(**places) for word in words)) == 2
    error = capsys.readouterr().err
    assert part in error
    assert "Traceback" not in error


def test_names_follow_the_labels_offset(tmp_path):
    dataset = make_result(tmp_path, score_batch(np.eye(3, dtype=np.float32), np.arange(3), ["", "", ""])).dataset
    assert class_names_of(dataset, 0) == ["class 0", "class 1", "class 2"]
    assert class_names_of(dataset, 1) == ["class 1", "class 2"]
