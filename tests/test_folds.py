"""Folds: how a split is divided, how parts of it are read, and `finetune-train --folds` from beginning to end."""

import csv
import json
import shutil

import numpy as np
import pytest
import sklearn.metrics
from image_files import encode, picture
from tiny_runs import CLASSES, write_records, write_run

from finetune import api
from finetune.commands import cross_validation, evaluate, train
from finetune.datasets.dataset import content_hash, usable_records
from finetune.datasets.dataset_search import find_dataset
from finetune.datasets.decoding import ReadOptions
from finetune.datasets.folds import assign_folds, warn_of_rare_classes
from finetune.datasets.pipeline import fingerprints_in_order, training_batches
from finetune.datasets.record_streams import records_in_order
from finetune.datasets.records import Record, encode_record, file_name_of
from finetune.datasets.tfrecord import RecordWriter
from finetune.errors import UserError
from finetune.evaluation.cross_validation import BOUNDS, FoldFigures, spread_of
from finetune.model.checkpoint import Checkpoint
from finetune.preprocessing import get_preprocessing
from finetune.settings.augmentation import AugmentationSettings
from finetune.settings.train import TrainSettings
from finetune.trunk.features import Features

NUM_TRAINING, NUM_FOLDS = 14, 3
NETWORK = ["--model=lenet", "--image-size=8", "--batch-size=4", "--max-steps=3", "--log-every=1", "--optimizer=adam"]
SAVED_OFTEN = ["--save-interval-seconds=0", "--max-to-keep=9"]
RESULTS = ("predictions.csv", "metrics.json", "folds.csv", "label_errors.csv", "confusion_matrix.csv", "folds.json")


def record(content, label, name):
    return encode_record(Record(content, "jpg", label, 32, 40, name))


def write_shards(folder, records, num_shards=2):
    """Record files of a training split, and labels.txt; the records go to the shards in turn."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(num_shards):
        with RecordWriter(folder / f"made_train_{number:05d}-of-{num_shards:05d}.tfrecord") as writer:
            for each in records[number::num_shards]:
                writer.write(each)
    (folder / "labels.txt").write_text("".join(f"{label}:{name}\n" for label, name in enumerate(CLASSES)))
    return find_dataset(folder, None, "train")


def some_records(num_images=31):
    """Of three classes, the last of which has five images."""
    labels = [2 if index < 5 else index % 2 for index in range(num_images)]
    return [record(encode(picture(index)), label, f"{index:02d}.jpg") for index, label in enumerate(labels)]


def fold_by_name(dataset, folds):
    names = [file_name_of(stored.data) for shard in dataset.shards for stored in usable_records(shard)]
    return dict(zip(names, folds.of_records(dataset).tolist(), strict=True))


def names_in(dataset):
    return [file_name_of(serialized.numpy()) for serialized in records_in_order(dataset)]


def test_each_class_is_spread_evenly(tmp_path):
    folds = assign_folds(write_shards(tmp_path / "data", some_records()), 4, seed=0)
    assert folds.counts.sum() == 31
    assert (np.ptp(folds.counts, axis=0) <= 1).all()
    assert np.ptp(folds.counts.sum(axis=1)) <= 1


def test_the_place_of_a_record_does_not_matter(tmp_path):
    records = some_records()
    first = write_shards(tmp_path / "first", records)
    second = write_shards(tmp_path / "second", records[::-1], num_shards=3)
    before = fold_by_name(first, assign_folds(first, 4, seed=0))
    assert fold_by_name(second, assign_folds(second, 4, seed=0)) == before
    assert fold_by_name(first, assign_folds(first, 4, seed=1)) != before


def test_copies_are_in_one_fold(tmp_path):
    image = encode(picture(99))
    copies = [record(image, label, f"copy_{label}_{number}.jpg") for label in (0, 1) for number in range(3)]
    dataset = write_shards(tmp_path / "data", some_records() + copies)
    folds = assign_folds(dataset, 4, seed=0)
    of_names = fold_by_name(dataset, folds)
    assert len({fold for name, fold in of_names.items() if name.startswith("copy")}) == 1
    assert folds.num_copies == 5


@pytest.mark.parametrize("is_damaged", [False, True])
def test_a_part_is_read_by_its_records_alone(is_damaged, tmp_path):
    dataset = write_shards(tmp_path / "data", some_records())
    whole = set(names_in(dataset))
    if is_damaged:
        path = dataset.shards[0].path
        content = bytearray(path.read_bytes())
        content[20] ^= 1  # Of the first record.
        path.write_bytes(content)
        dataset = find_dataset(tmp_path / "data", None, "train", on_corrupt="skip")
        whole.discard("00.jpg")
    folds = assign_folds(dataset, 4, seed=3)
    found = []
    for fold in range(1, 5):
        left_out, rest = folds.only(dataset, fold), folds.without(dataset, fold)
        names = names_in(left_out)
        assert len(names) == left_out.num_examples
        assert set(names) | set(names_in(rest)) == whole
        assert not set(names) & set(names_in(rest))
        found += names
    assert sorted(found) == sorted(whole)


def test_a_part_is_trained_on_as_any_split(tmp_path):
    dataset = write_shards(tmp_path / "data", some_records())
    part = assign_folds(dataset, 4, seed=0).without(dataset, 1)
    options = ReadOptions(get_preprocessing("lenet", AugmentationSettings(augmentation="none")), 8, 1)
    records = np.concatenate(
        [batch[2].numpy() for batch in training_batches(part, options, batch_size=part.num_examples, seed=0).take(1)]
    )
    expected = np.concatenate([batch.numpy() for batch in fingerprints_in_order(part, 0)])
    np.testing.assert_array_equal(np.sort(records[:, 0]), np.arange(part.num_examples))
    assert sorted(records[:, 1]) == sorted(expected)


def test_each_part_has_a_hash_of_its_own(tmp_path):
    dataset = write_shards(tmp_path / "data", some_records())
    folds = assign_folds(dataset, 4, seed=0)
    parts = [choose(dataset, fold) for choose in (folds.only, folds.without) for fold in range(1, 5)]
    assert len({content_hash(part) for part in (*parts, dataset)}) == 9
    assert all(content_hash(part.whole) == content_hash(dataset) for part in parts)


def test_more_folds_than_images_are_refused(tmp_path):
    dataset = write_shards(tmp_path / "data", some_records(6))
    with pytest.raises(UserError, match=r"has 6 different images.\n  Give --folds 6 or less"):
        assign_folds(dataset, 7, seed=0)


def test_classes_with_too_few_images_are_told(tmp_path, caplog):
    dataset = write_shards(tmp_path / "data", some_records())
    warn_of_rare_classes(assign_folds(dataset, 5, seed=0), CLASSES)
    assert not caplog.text
    warn_of_rare_classes(assign_folds(dataset, 6, seed=0), CLASSES)
    assert "red (5)" in caplog.text


def test_the_interval_of_the_mean_is_wider_than_that_of_independent_trainings():
    """By hand: deviation 0.01, t of 2 degrees of freedom 4.302653, variance times 1/3 + 1/2."""
    measures = [dict.fromkeys(BOUNDS, value) for value in (0.70, 0.71, 0.72)]
    spread = spread_of([FoldFigures(fold, 7, 10, each) for fold, each in enumerate(measures, 1)], "accuracy")
    assert spread.mean == pytest.approx(0.71)
    assert spread.standard_deviation == pytest.approx(0.01)
    half = 4.302653 * 0.01 * (1 / 3 + 1 / 2) ** 0.5
    assert spread.interval_95 == pytest.approx((0.71 - half, 0.71 + half), abs=1e-6)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Records to divide and to validate on, and beside them weights to begin from."""
    folder = tmp_path_factory.mktemp("folds") / "records"
    (folder.parent / "weights").mkdir()
    write_run(folder.parent / "weights", "lenet", image_size=8)
    write_records(folder, num_images=6)
    return write_records(folder, num_images=NUM_TRAINING, split="train")


def begin(data, run, *words):
    weights = f"--checkpoint={data.parent / 'weights'}"
    found = [f"--dataset-dir={data}", f"--train-dir={run}", weights, *NETWORK, *SAVED_OFTEN]
    return train.main([*found, *words])


def resume(run, *words):
    return train.main(["--resume", f"--train-dir={run}", *words])


@pytest.fixture(scope="module")
def done(data, tmp_path_factory):
    """An unbroken cross-validation."""
    run = tmp_path_factory.mktemp("folds") / "run"
    assert begin(data, run, f"--folds={NUM_FOLDS}") == 0
    return run


def table(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def assert_as_unbroken(run, done):
    for name in RESULTS:
        found, expected = ((folder / name).read_bytes() for folder in (run, done))
        if name == "folds.json":  # An outcome is a zip file, which holds the time.
            found, expected = (json.loads(content) for content in (found, expected))
            for content in (found, expected):
                for fold in content["folds"]:
                    fold.pop("outcome_sha256")
        assert found == expected, name
    for fold in range(1, NUM_FOLDS + 1):
        values, expected = (Checkpoint(str(folder / f"fold-{fold}" / "model.ckpt-3")) for folder in (run, done))
        for name in expected.shapes:
            np.testing.assert_array_equal(values.read(name), expected.read(name), err_msg=name)


def test_scikit_learn_scores_the_predictions_the_same(done):
    rows, metrics = table(done / "predictions.csv"), json.loads((done / "metrics.json").read_text())
    labels = np.array([int(row["label"]) for row in rows])
    predictions = np.array([int(row["prediction"]) for row in rows])
    logits = np.array([[float(row[f"logit_{label}"]) for label in range(len(CLASSES))] for row in rows])
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities = odds / odds.sum(axis=1, keepdims=True)
    assert metrics["accuracy"] == pytest.approx(sklearn.metrics.accuracy_score(labels, predictions))
    balanced = sklearn.metrics.balanced_accuracy_score(labels, predictions)
    assert metrics["balanced_accuracy"] == pytest.approx(balanced)
    f1 = sklearn.metrics.f1_score(labels, predictions, average="macro", zero_division=0)
    assert metrics["macro_f1"] == pytest.approx(f1)
    loss = sklearn.metrics.log_loss(labels, probabilities, labels=range(len(CLASSES)))
    assert metrics["loss"] == pytest.approx(loss)


def test_each_image_is_scored_once_by_the_run_that_it_was_left_out_of(done, data):
    rows = table(done / "predictions.csv")
    dataset = find_dataset(data, None, "train")
    assert [row["filename"] for row in rows] == names_in(dataset)
    fold_of = fold_by_name(dataset, assign_folds(dataset, NUM_FOLDS, seed=0))
    of_folds = {}
    for fold in range(1, NUM_FOLDS + 1):
        left_out = table(done / f"fold-{fold}" / "eval_left_out" / "predictions.csv")
        assert {row["filename"] for row in left_out} == {name for name, number in fold_of.items() if number == fold}
        of_folds |= {row["filename"]: row for row in left_out}
        data_of_run = json.loads((done / f"fold-{fold}" / "provenance.json").read_text())["data"]
        assert data_of_run["num_examples"] == NUM_TRAINING - len(left_out)
    assert all(of_folds[row["filename"]] == row for row in rows)


def test_the_table_of_folds_and_their_mean(done):
    rows, metrics = table(done / "folds.csv"), json.loads((done / "metrics.json").read_text())
    assert [row["fold"] for row in rows] == ["1", "2", "3"]
    assert sum(int(row["num_examples"]) for row in rows) == metrics["num_examples"] == NUM_TRAINING
    for measure in BOUNDS:
        mean = np.mean([float(row[measure]) for row in rows])
        assert metrics["over_folds"][measure]["mean"] == pytest.approx(mean)
    rest = json.loads((done / "fold-1" / "eval_left_out" / "metrics.json").read_text())
    assert float(rows[0]["accuracy"]) == rest["accuracy"]
    assert rest["caution"] is None


def test_the_report_has_folds_and_doubtful_labels(done):
    html = (done / "report.html").read_text()
    assert '<h2 id="folds">Folds</h2>' in html
    assert '<h2 id="labels">Doubtful labels</h2>' in html
    assert "Caution" not in html
    doubtful = table(done / "label_errors.csv")
    wrong = {row["filename"] for row in table(done / "predictions.csv") if row["rank"] != "0"}
    assert {row["filename"] for row in doubtful} == wrong
    assert all(row["filename"] in html for row in doubtful)


def test_the_split_that_nobody_trains_on_stays_aside(done):
    """It chooses the checkpoint, as in a run without folds."""
    for fold in range(1, NUM_FOLDS + 1):
        provenance = json.loads((done / f"fold-{fold}" / "provenance.json").read_text())
        assert provenance["validation"]["num_examples"] == 6
        best = json.loads((done / f"fold-{fold}" / "best.json").read_text())
        assert table(done / "folds.csv")[fold - 1]["step"] == str(best["step"])


def test_an_evaluation_on_the_whole_split_says_what_was_seen(done, data, tmp_path, capsys):
    words = [f"--checkpoint={done / 'fold-1'}", f"--dataset-dir={data}", "--split=train", f"--output-dir={tmp_path}"]
    assert evaluate.main([*words, "--no-report"]) == 0
    seen = NUM_TRAINING - int(table(done / "folds.csv")[0]["num_examples"])
    assert f"{seen} of these images trained it" in capsys.readouterr().out


def test_one_fold_alone_is_the_same_run(done, data, tmp_path):
    assert begin(data, tmp_path / "alone", f"--folds={NUM_FOLDS}", "--fold=2") == 0
    alone, expected = (Checkpoint(str(run / "model.ckpt-3")) for run in (tmp_path / "alone", done / "fold-2"))
    for name in expected.shapes:
        np.testing.assert_array_equal(alone.read(name), expected.read(name), err_msg=name)


def test_a_fold_is_a_run_that_can_be_verified(done, capsys):
    assert resume(done / "fold-2", "--verify") == 0
    assert capsys.readouterr().out.startswith("proven: ")


HEAD = ["--exclude-scopes=LeNet/fc4", "--trainable-scopes=LeNet/fc4", "--batch-norm=plan", "--cache-features=2"]


@pytest.mark.parametrize("memory", ["--cache-memory=0", "--cache-memory=100"], ids=["in files", "in memory"])
def test_features_are_computed_once_for_all_folds(memory, data, tmp_path, capsys):
    assert begin(data, tmp_path / "run", f"--folds={NUM_FOLDS}", *HEAD, memory) == 0
    # Of the validation images, and of two views of all others: in each fold but the first.
    assert capsys.readouterr().err.count("holds them already") == 3 * (NUM_FOLDS - 1)
    assert not (tmp_path / "run" / "features").exists()
    assert begin(data, tmp_path / "alone", f"--folds={NUM_FOLDS}", "--fold=2", *HEAD) == 0
    runs = tmp_path / "alone", tmp_path / "run" / "fold-2"
    alone, expected = (Checkpoint(str(run / "model.ckpt-3")) for run in runs)
    for name in expected.shapes:
        np.testing.assert_array_equal(alone.read(name), expected.read(name), err_msg=name)
    assert resume(tmp_path / "run" / "fold-2", "--verify") == 0


def test_rows_of_a_file_are_read_as_an_array():
    whole = np.arange(24.0).reshape(6, 2, 2)
    rows = np.array([5, 0, 3])
    features = Features((whole,), np.arange(6), np.arange(10, 16))
    for part in (features.part(rows, in_memory=True), features.part(rows, in_memory=False)):
        (values,) = part.values
        assert values.shape == (3, 2, 2)
        np.testing.assert_array_equal(np.asarray(values), whole[rows])
        np.testing.assert_array_equal(values[1], whole[0])
        np.testing.assert_array_equal(values[np.array([2, 0])], whole[[3, 5]])
        np.testing.assert_array_equal(values[:2], whole[[5, 0]])
        assert part.labels.tolist() == [5, 0, 3]
        assert part.fingerprints.tolist() == [15, 10, 13]


class Stop(BaseException):
    """As a kill: nothing of ours catches it."""


BREAKS = {
    "before the first step of fold 2": ("train_run", 2),
    "before fold 2 is noted as done": ("write_json", 3),
    "before the results are written": ("write_results", 1),
}


@pytest.mark.parametrize(("function", "call"), BREAKS.values(), ids=BREAKS)
def test_broken_off_anywhere_it_goes_on_and_ends_as_the_unbroken_one(function, call, data, done, tmp_path, monkeypatch):
    calls, run = [], tmp_path / "run"
    original = getattr(cross_validation, function)

    def breaks(*arguments, **named):
        calls.append(function)
        if len(calls) == call:
            raise Stop
        return original(*arguments, **named)

    monkeypatch.setattr(cross_validation, function, breaks)
    with pytest.raises(Stop):
        begin(data, run, f"--folds={NUM_FOLDS}")
    monkeypatch.setattr(cross_validation, function, original)
    before = (run / "fold-1" / "model.ckpt-3.index").stat().st_mtime_ns
    trained = []
    monkeypatch.setattr(cross_validation, "train_run", lambda *given: trained.append(given) or train.train_run(*given))
    assert resume(run) == 0
    assert (run / "fold-1" / "model.ckpt-3.index").stat().st_mtime_ns == before
    assert fold_numbers(trained) == {"train_run": [2, 3], "write_results": []}.get(function, [2, 3])
    assert_as_unbroken(run, done)


def fold_numbers(trained):
    return [settings.data.fold for settings, *_ in trained]


def test_broken_off_within_a_fold_it_goes_on_from_the_last_checkpoint(done, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(done, run)
    shutil.rmtree(run / "fold-3")
    for name in ("metrics.json", "fold-2/checkpoint", "fold-2/outcome.npz"):
        (run / name).unlink()
    for path in (run / "fold-2").glob("model.ckpt-[23].*"):
        path.unlink()
    assert resume(run) == 0
    assert_as_unbroken(run, done)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04"])
def test_an_outcome_that_is_not_as_it_was_written_is_made_again(content, done, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(done, run)
    (run / "fold-2" / "outcome.npz").write_bytes(content)
    assert resume(run) == 0
    assert_as_unbroken(run, done)


def test_a_fold_that_fails_ends_all_with_its_reason(data, tmp_path, monkeypatch, capsys):
    original = cross_validation.train_run

    def fails(settings, *others):
        if settings.data.fold == 2:
            raise UserError("The loss isn't finite.", "Give a lower --learning-rate.")
        return original(settings, *others)

    monkeypatch.setattr(cross_validation, "train_run", fails)
    assert begin(data, tmp_path / "run", f"--folds={NUM_FOLDS}") == 2
    assert "Fold 2 of 3: The loss isn't finite.\n  Give a lower" in capsys.readouterr().err
    assert not (tmp_path / "run" / "fold-3").exists()
    assert not (tmp_path / "run" / "metrics.json").exists()


def test_what_fails_before_the_first_checkpoint_leaves_nothing(data, tmp_path, capsys):
    assert begin(data, tmp_path / "run", "--folds=3", "--trainable-scopes=nowhere") == 2
    assert "Fold 1 of 3: " in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["--fold=2"], "--fold 2: of how many, isn't said."),
        (["--folds=3", "--fold=4"], "--fold 4: there are 3."),
        (["--folds=3", "--eval-split=train"], "--eval-split is the same"),
        (["--folds=15"], "has 14 different images"),
        (["--folds=2", "--sweep=learning_rate=0.1|0.01"], "each trial of a sweep is one run"),
    ],
)
def test_what_makes_no_folds_is_refused(words, what, data, tmp_path, capsys):
    assert begin(data, tmp_path / "run", *words) == 2
    assert what in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["--batch-size=3"], "--batch-size is 3, was 4"),
        (["--seed=1"], "--seed is 1, was 0"),
        (["--verify"], "--verify is of one run"),
        (["--allow-changed=seed"], "--allow-changed is of one run"),
    ],
)
def test_folds_go_on_as_they_were_begun(words, what, done, capsys):
    assert resume(done, *words) == 2
    assert what in capsys.readouterr().err


def test_folds_go_on_with_their_own_data(done, data, tmp_path, capsys):
    shutil.copytree(data, tmp_path / "records")
    write_records(tmp_path / "records", num_images=NUM_TRAINING + 1, split="train")
    assert resume(done, f"--dataset-dir={tmp_path / 'records'}") == 2
    assert "the data isn't what" in capsys.readouterr().err


def test_a_folder_of_something_else_is_left_alone(done, data, run, capsys):
    assert begin(data, done, "--folds=3") == 2
    assert "Go on with its folds by --resume" in capsys.readouterr().err
    assert resume(run, f"--dataset-dir={data}", "--folds=3") == 2
    assert "holds no folds.json" in capsys.readouterr().err


def test_from_python(data, tmp_path):
    settings = TrainSettings(
        dataset_dir=data, train_dir=tmp_path / "run", model="lenet", batch_size=4, max_steps=1, folds=2
    )
    with pytest.raises(UserError, match=r"finetune\.api\.cross_validate"):
        api.train(settings)
    found = api.cross_validate(settings)
    assert found.evaluation.scores.num_examples == NUM_TRAINING
    assert [figures.fold for figures in found.evaluation.folds] == [1, 2]
