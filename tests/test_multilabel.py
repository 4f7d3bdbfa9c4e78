"""Several labels an image: tables and folders, records, loss, measures, and runs from conversion to export."""

import csv
import io
import json
import logging
import math
import shutil

import numpy as np
import pytest
import sklearn.metrics
import tensorflow as tf
from image_files import encode
from PIL import Image
from tiny_runs import CLASSES, write_records, write_run

from finetune import notices
from finetune.commands import convert, evaluate, export, predict, train
from finetune.datasets.bad_records import reading
from finetune.datasets.class_matching import match_labels
from finetune.datasets.dataset_search import find_dataset
from finetune.datasets.decoding import ReadOptions
from finetune.datasets.multilabel_splits import divide_evenly
from finetune.datasets.pipeline import evaluation_batches, training_batches
from finetune.datasets.record_index import index_records
from finetune.datasets.records import LABEL, TEXT, Record, encode_record, read_features
from finetune.datasets.schema import LabelError, RecordSchema
from finetune.errors import UserError
from finetune.evaluation.multilabel_metrics import decide, score_label_batch
from finetune.evaluation.test_time_augmentation import with_mirror_images
from finetune.model.checkpoint import Checkpoint
from finetune.prediction.multilabel_writers import LABEL_WRITERS
from finetune.prediction.writers import Guess, Prediction
from finetune.preprocessing import get_preprocessing
from finetune.runs.label_thresholds import (
    LABEL_THRESHOLDS_FILE,
    LabelThresholds,
    read_label_thresholds,
    thresholds_in_use,
)
from finetune.settings.choices import NO_DECISION
from finetune.settings.command_line import parse_flags
from finetune.settings.train import TrainSettings
from finetune.training.example_weights import MOST_POSITIVE_WEIGHT, found_positive_weights
from finetune.training.losses import MultilabelLoss
from finetune.training.mixing import Mixing

COLOURS = {"blue": (0, 0, 255), "green": (0, 255, 0), "red": (255, 0, 0)}
LABELS = [(), ("blue",), ("green",), ("red",), ("blue", "green"), ("blue", "red"), ("green", "red"), CLASSES]
NETWORK = ["--task=multilabel", "--model=lenet", "--image-size=12", "--batch-size=8", "--log-every=1", "--seed=3"]


def stripes(labels, seed):
    """Grey noise, with a stripe in the colour of each label."""
    pixels = np.random.default_rng(seed).integers(80, 120, [12, 12, 3]).astype(np.uint8)
    for label in labels:
        row = 4 * CLASSES.index(label)
        pixels[row : row + 4] = COLOURS[label]
    return Image.fromarray(pixels)


def write_table(path, rows):
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    return path


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """32 pictures of 12 pixels with every set of labels, and table.csv, which has them as lists, and the splits."""
    folder = tmp_path_factory.mktemp("photographs")
    rows = [("filename", "labels", "split")]
    for number in range(32):
        labels = LABELS[number % 8]
        (folder / f"{number:02d}.png").write_bytes(encode(stripes(labels, number), "PNG"))
        rows.append((f"{number:02d}.png", ";".join(labels), "train" if number < 16 else "validation"))
    write_table(folder / "table.csv", rows)
    return folder


@pytest.fixture(scope="module")
def records(photographs, tmp_path_factory):
    return converted(photographs, tmp_path_factory.mktemp("data") / "records", "table.csv")


def converted(photographs, records, table, *words):
    given = ["--images-dir", str(photographs), "--dataset-dir", str(records), "--task", "multilabel", "--workers=1"]
    table_words = ["--labels-csv", str(photographs / table)] if table else []
    assert convert.main([*given, *table_words, *words]) == 0
    return records


def labels_by_file(records, split="train", task="multilabel"):
    dataset = find_dataset(records, None, split, task=task)
    options = ReadOptions(get_preprocessing("lenet"), 12, 3)
    with reading(dataset):
        (_, labels, names), *_ = evaluation_batches(dataset, options, batch_size=100)
    return dict(zip(names.numpy().astype(str).tolist(), labels.numpy().tolist(), strict=True))


# Conversion


def test_lists_columns_and_records_say_the_same(photographs, records, tmp_path, capsys):
    """A column of lists, and a column of 0 and 1 for each class, give the same records; images without are counted."""
    flags = [("image", *CLASSES, "split")]
    for number in range(32):
        of_classes = (int(name in LABELS[number % 8]) for name in CLASSES)
        flags.append((f"{number:02d}.png", *of_classes, "train" if number < 16 else "validation"))
    write_table(photographs / "flags.csv", flags)
    other = converted(photographs, tmp_path / "records", "flags.csv", "--label-columns", ",".join(CLASSES))
    assert "(no label)" in capsys.readouterr().out
    ours, theirs = (json.loads((each / "dataset.json").read_text()) for each in (records, other))
    assert ours["splits"] == theirs["splits"]
    assert ours["task"] == "multilabel"
    train_split = ours["splits"]["train"]
    assert train_split["num_examples"] == 16
    assert train_split["num_examples_per_class"] == dict.fromkeys(CLASSES, 8)
    assert train_split["num_without_labels"] == 2
    found = labels_by_file(records, "validation")
    assert found["16.png"] == [0, 0, 0]
    assert found["21.png"] == [1, 0, 1]


def test_copies_in_several_class_folders_are_one_image_with_all_their_labels(tmp_path):
    for name in ("blue", "red"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for number in range(6):  # Names that both folders have say nothing.
            (tmp_path / "images" / name / f"{number}.png").write_bytes(encode(stripes((name,), number), "PNG"))
    shutil.copy(tmp_path / "images/red/5.png", tmp_path / "images/blue/copy.png")
    records = converted(tmp_path / "images", tmp_path / "records", None, "--validation-fraction=0")
    found = labels_by_file(records)
    assert len(found) == 12
    assert found["blue/copy.png"] == [1, 1]
    assert found["red/4.png"] == [0, 1]
    assert "red/5.png" in json.loads((records / "dataset.json").read_text())["ignored"]


def test_splits_share_out_each_label_evenly_and_training_keeps_one_of_each():
    random = np.random.default_rng(0)
    names = np.array([f"c{index}" for index in range(6)])
    shares = np.array([0.5, 0.3, 0.2, 0.1, 0.05, 0.02])
    labels_of = {f"{number}.jpg": tuple(names[random.random(6) < shares]) for number in range(500)}
    labels_of["one.jpg"] = ("once",)
    splits = divide_evenly(labels_of, seed=0, validation=0.2, test=0.1)
    assert sorted(file for files in splits.values() for file in files) == sorted(labels_of)
    assert len(splits["validation"]) == pytest.approx(100, abs=3)
    assert "one.jpg" in splits["train"]
    for name in names:
        total = sum(name in labels for labels in labels_of.values())
        in_validation = sum(name in labels_of[file] for file in splits["validation"])
        assert in_validation == pytest.approx(0.2 * total, abs=2)
    assert divide_evenly(dict(reversed(labels_of.items())), seed=0, validation=0.2, test=0.1) == splits


@pytest.mark.parametrize(
    ("rows", "words", "message"),
    [
        ([("file", "labels"), ("00.png", "a")], [], "one class only"),
        ([("file", "a", "b"), ("00.png", "1", "2")], ["--label-columns=a,b"], "neither 0 nor 1"),
        ([("file", "a", "b"), ("00.png", "1", "1")], ["--label-columns=a,bee"], "no column 'bee'"),
        ([("file", "a", "b"), ("00.png", "1", "0")], ["--label-columns=a,b"], "no image of the train split with b"),
        ([("file", "a", "b"), ("00.png", "1", "1")], [], "--label-columns a,b"),
        ([("file", "labels"), ("00.png", "")], [], "no image of the train split with a label"),
        ([("file", "labels"), ("00.png", "a;b"), ("00.png", "b")], [], "different classes"),
        ([("file", "labels"), ("00.png", "a;b")], ["--label-separator= "], "isn't blank"),
        (
            [("file", "labels"), ("00.png", "a;b")],
            ["--task=single-label", "--label-columns=a"],
            "Give --task multilabel",
        ),
    ],
)
def test_tables_that_cannot_be_meant(rows, words, message, photographs, tmp_path, capsys):
    table = write_table(tmp_path / "bad.csv", rows)
    given = [f"--images-dir={photographs}", f"--labels-csv={table}", f"--dataset-dir={tmp_path / 'records'}"]
    assert convert.main([*given, "--task=multilabel", *words]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "records").exists()


def test_a_list_parted_by_another_separator_is_doubted(photographs, tmp_path, capsys):
    table = write_table(photographs / "bars.csv", [("file", "labels"), ("00.png", "a|b"), ("01.png", "b|c")])
    converted(photographs, tmp_path / "doubted", table.name)
    assert "--label-separator '|'" in capsys.readouterr().out
    records = converted(photographs, tmp_path / "records", table.name, "--label-separator=|")
    assert (records / "labels.txt").read_text() == "0:a\n1:b\n2:c\n"


# Records


def test_records_hold_lists_of_any_length_and_say_what_is_wrong():
    of_lists = RecordSchema(has_lists=True)
    for labels, texts in ((), ()), ((2,), ("red",)), ((0, 2), ("blue", "red")):
        serialized = encode_record(Record(b"image", "jpg", labels, 1, 1, "a.jpg", None, texts=texts))
        assert of_lists.read_labels(serialized) == labels
        features = read_features(serialized)
        assert features[LABEL].values == labels
        assert features[TEXT].values == tuple(text.encode() for text in texts)
    single = encode_record(Record(b"image", "jpg", 1, 1, 1, "a.jpg"))
    assert of_lists.read_labels(single) == (1,)
    assert TEXT not in read_features(single)
    with pytest.raises(LabelError, match="not a 0 or 1 for each class"):
        of_lists.read_labels(encode_record(Record(b"image", "jpg", (0, 1, 1), 1, 1, "a.jpg")))
    with pytest.raises(LabelError) as refused:
        RecordSchema().read_labels(encode_record(Record(b"image", "jpg", (0, 2), 1, 1, "a.jpg")))
    assert "--task multilabel" in refused.value.mend


def test_lists_are_refused_as_single_labels_and_single_labels_are_lists_of_one(records, tmp_path, caplog):
    with pytest.raises(UserError, match="--task multilabel"):
        find_dataset(records, None, "train")
    slims = write_records(tmp_path / "slims", num_images=6)
    found = labels_by_file(slims, "validation")
    assert found["validation_02.jpg"] == [0, 0, 1]
    given = [f"--dataset-dir={slims}", f"--checkpoint={write_run(tmp_path / 'run')}", "--no-report"]
    assert evaluate.main([*given, "--task=multilabel"]) == 2  # The run's own task is known.


def test_labels_are_matched_by_name_and_indexed(records):
    dataset = find_dataset(records, None, "train", task="multilabel")
    matched = match_labels(dataset, ("red", "grey", "blue", "green"), "a network", may_lack_classes=True)
    index = index_records(matched, 0)
    assert index.outputs.shape == (16, 4)
    assert index.outputs.sum(axis=0).tolist() == [8, 0, 8, 8]
    options = ReadOptions(get_preprocessing("lenet"), 12, 3)
    with reading(matched):
        _, labels, records_seen = next(iter(training_batches(matched, options, batch_size=16, seed=0)))
    np.testing.assert_array_equal(labels, index.outputs[records_seen[:, 0].numpy()])


# Loss and measures


def test_loss_is_weighted_sigmoid_cross_entropy():
    logits = np.random.default_rng(0).normal(size=[5, 3]).astype(np.float32)
    labels = np.array([[1, 0, 0], [0, 0, 0], [1, 1, 1], [0, 1, 0], [1, 0, 1]], np.uint8)
    of_positives, of_images = np.array([2.0, 1.0, 5.0]), np.array([1.0, 0.5, 0.0, 2.0, 1.0], np.float32)
    probabilities, targets = 1 / (1 + np.exp(-logits)), labels * 0.9 + 0.05
    losses = -of_positives * targets * np.log(probabilities) - (1 - targets) * np.log(1 - probabilities)
    expected = (losses.mean(axis=1) * of_images).mean()
    loss = MultilabelLoss(0.1, of_positives.tolist())(tf.constant(logits), None, tf.constant(labels), of_images)
    assert float(loss) == pytest.approx(expected, rel=1e-6)
    plain = MultilabelLoss()(tf.constant(logits), tf.constant(logits), tf.constant(labels))
    assert float(plain) == pytest.approx(1.4 * score_label_batch(logits, labels, [""] * 5).loss, rel=1e-6)
    assert found_positive_weights(np.array([4, 0, 1]), 100) == (MOST_POSITIVE_WEIGHT, 1.0, MOST_POSITIVE_WEIGHT)
    assert found_positive_weights(np.array([25]), 100) == (3.0,)


def test_mixed_images_have_shares_of_the_labels_of_both():
    images = tf.random.stateless_uniform([4, 8, 8, 3], [1, 2])
    labels = tf.constant([[1, 1], [0, 0], [1, 0], [0, 1]], tf.uint8)
    mixed = Mixing(2, mixup=1.0)(images, labels, tf.constant([3, 4]))
    shares = (mixed.images - tf.roll(images, -1, 0))[:, 0, 0, 0] / (images - tf.roll(images, -1, 0))[:, 0, 0, 0]
    wide = tf.cast(labels, tf.float32)
    expected = shares[:, None] * wide + (1 - shares[:, None]) * tf.roll(wide, -1, 0)
    np.testing.assert_allclose(mixed.labels, expected, atol=1e-4)
    assert np.isfinite(MultilabelLoss()(tf.zeros([4, 2]), None, mixed.labels))


def test_measures_are_scikit_learns():
    random = np.random.default_rng(1)
    logits = random.normal(size=[60, 5]).astype(np.float32)
    labels = random.random([60, 5]) < 0.3
    labels[:, 4] = False  # Of which there is no average precision.
    scores, thresholds = score_label_batch(logits, labels, [""] * 60), (0.4, 0.5, 0.6, 0.7, 0.5)
    assert scores.average_precisions[4] is None
    expected = sklearn.metrics.average_precision_score(labels[:, :4], scores.probabilities[:, :4])
    assert scores.mean_average_precision == pytest.approx(expected, abs=1e-12)
    decisions = decide(scores, thresholds)
    predicted = scores.probabilities >= np.array(thresholds)
    with np.errstate(all="ignore"):
        micro, macro = (
            sklearn.metrics.f1_score(labels, predicted, average=kind, zero_division=0) for kind in ("micro", "macro")
        )
    assert decisions.micro_f1 == pytest.approx(micro)
    assert decisions.classes.macro("f1") == pytest.approx(macro)
    assert decisions.exact_match == pytest.approx(sklearn.metrics.accuracy_score(labels, predicted))
    assert decisions.hamming_loss == pytest.approx(sklearn.metrics.hamming_loss(labels, predicted))
    assert scores.loss == pytest.approx(sklearn.metrics.log_loss(labels.ravel(), scores.probabilities.ravel()))


def test_mirror_images_average_the_probabilities_of_sigmoids():
    images = tf.random.stateless_uniform([2, 4, 4, 3], [1, 2])
    weights = tf.random.stateless_normal([48, 3], [3, 4])

    def infer(batch):
        return tf.reshape(batch, [2, 48]) @ weights

    mean = (tf.sigmoid(infer(images)) + tf.sigmoid(infer(images[:, :, ::-1]))) / 2
    np.testing.assert_allclose(tf.sigmoid(with_mirror_images(infer, "multilabel")(images)), mean, rtol=1e-5)


# Settings


@pytest.mark.parametrize(
    "words",
    [
        {"class_weights": ("balanced",)},
        {"balanced_sampling": True},
        {"loss": "focal"},
        {"probe": True},
        {"head_weight_decay": "auto"},
        {"folds": 3},
        {"unlabeled_dir": "photos"},
        {"best_by": "accuracy"},
        {"recipe": "probe", "model": "mobilenet_v2"},
        {"task": "single-label", "positive_weights": ("auto",)},
        {"task": "single-label", "best_by": "mean_average_precision"},
    ],
    ids=lambda words: next(iter(words)) if len(words) == 1 else str(list(words.values())[-1]),
)
def test_what_is_of_the_other_task_alone_is_refused_by_name(words):
    name = list(words)[-1].replace("_", "-")
    with pytest.raises(UserError, match="--probe" if "recipe" in words else f"--{name}"):
        TrainSettings(**{"dataset_dir": "records", "task": "multilabel", **words})


def test_recipes_begin_with_steps_in_place_of_a_probe():
    settings = TrainSettings(images_dir="photos", task="multilabel", model="mobilenet_v2")
    assert settings.stopping.best_by == "mean_average_precision"
    assert [stage.own.get("probe") for stage in settings.course.stages] == [None, None]


def test_a_number_is_still_slims_task():
    def parsed(*words):
        return parse_flags(TrainSettings, ["--dataset-dir=d", *words], prog="", description="")

    workers = "--workers=a:1,b:1"
    assert parsed("--task=1", workers).cluster.worker_index == 1
    assert parsed("--task=1", workers).data.task == "single-label"
    assert parsed("--task=1", "--worker-index=1", workers).cluster.worker_index == 1
    assert parsed("--task=multilabel", "--model=lenet").data.task == "multilabel"
    with pytest.raises(UserError, match="--task 1 is slim's word for --worker-index, which is 0"):
        parsed("--task=1", "--worker-index=0", workers)


# Runs


def test_predictions_as_csv_json_and_lines():
    classes = (Guess(0, "blue", 0.25), Guess(1, "green", 0.75), Guess(2, "red", 0.5))
    predictions = [
        Prediction("two.jpg", (classes[1], classes[2]), all_classes=classes),
        Prediction("none.jpg", (), all_classes=classes),
        Prediction("bad.jpg", (), "no image"),
    ]
    files = {name: io.StringIO() for name in LABEL_WRITERS}
    for name, file in files.items():
        LABEL_WRITERS[name](predictions, file, CLASSES)
    assert files["csv"].getvalue().splitlines() == [
        "filename,predictions,prediction_names,probability_0,probability_1,probability_2,error",
        "two.jpg,1 2,green; red,0.25,0.75,0.5,",
        "none.jpg,,,0.25,0.75,0.5,",
        "bad.jpg,,,,,,no image",
    ]
    two, none, bad = json.loads(files["json"].getvalue())
    assert [guess["name"] for guess in two["guesses"]] == ["green", "red"]
    assert none == {"filename": "none.jpg", "guesses": [], "probabilities": [0.25, 0.75, 0.5]}
    assert bad == {"filename": "bad.jpg", "error": "no image"}
    assert files["lines"].getvalue() == "two.jpg\tgreen 0.7500\tred 0.5000\nnone.jpg\nbad.jpg\terror: no image\n"


def test_thresholds_are_of_their_weights_and_classes_alone(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(notices, "_told", set())
    prefix, hashes = str(tmp_path / "model.ckpt-7"), {"its": lambda: "a1", "others": lambda: "b2"}
    kept = LabelThresholds("model.ckpt-7", "a1", "max-f1", "validation", "d", 9, {"blue": 0.25, "red": 0.75}, ())
    kept.write(tmp_path)
    assert read_label_thresholds(prefix, ["red", "blue"], hashes["its"]).of_classes(["red", "blue"]) == (0.75, 0.25)
    with caplog.at_level(logging.INFO):
        assert thresholds_in_use(None, prefix, ["red", "blue"], hashes["others"])[0] == (0.5, 0.5)
        assert thresholds_in_use(None, prefix, ["red", "green"], hashes["its"])[0] == (0.5, 0.5)
        assert thresholds_in_use(NO_DECISION, prefix, ["red", "blue"], hashes["its"])[0] == (0.5, 0.5)
        assert thresholds_in_use(0.3, prefix, ["red", "blue"], hashes["its"])[0] == (0.3, 0.3)
    of_weights, of_classes = caplog.messages
    assert "is for other weights (model.ckpt-7), not those of model.ckpt-7: 0.5 counts for each class" in of_weights
    assert "has other classes (blue, green)" in of_classes


def weights_of(run):
    checkpoint = Checkpoint(str(sorted(run.glob("model.ckpt-*.index"))[-1]).removesuffix(".index"))
    return {name: checkpoint.read(name) for name in checkpoint.shapes if "/" in name and "seen" not in name}


def test_a_run_that_is_resumed_ends_as_an_unbroken_one_and_the_best_is_by_its_average(records, tmp_path, capsys):
    def run(name, steps, *words):
        given = [f"--dataset-dir={records}", f"--train-dir={tmp_path / name}", f"--max-steps={steps}"]
        learning = ["--learning-rate=0.02", "--eval-every=2", "--positive-weights=auto"]
        assert train.main([*given, *(() if words else (*NETWORK, *learning)), *words]) == 0
        return tmp_path / name

    whole = run("whole", 6)
    run("broken", 3)
    broken = run("broken", 6, "--resume")
    for name, value in weights_of(whole).items():
        np.testing.assert_array_equal(value, weights_of(broken)[name], err_msg=name)
    best = json.loads((broken / "best.json").read_text())
    lines = [json.loads(line) for line in (broken / "metrics.jsonl").read_text().splitlines()]
    averages = [line["mean_average_precision"] for line in lines if "split" in line]
    assert best["mean_average_precision"] == max(averages)
    assert "accuracy" not in best
    assert 'task = "multilabel"' in (broken / "config.toml").read_text()
    capsys.readouterr()
    other = ["--task=single-label", "--best-by=loss", "--positive-weights=none"]
    assert train.main(["--resume", f"--train-dir={broken}", "--max-steps=7", *other]) == 2
    assert "was begun with multilabel" in capsys.readouterr().err

    # The run's task is known to whoever uses it, and what is of the other one is refused.
    evaluation = [f"--dataset-dir={records}", f"--checkpoint={broken}", "--no-report"]
    for words in (["--compare", str(whole), str(broken)], ["--write-logits"], ["--shard=1/2"]):
        given = [word for word in evaluation if not (words[0] == "--compare" and "checkpoint" in word)]
        assert evaluate.main([*given, *words]) == 2
        assert f"{words[0].split('=')[0]}: of one label an image" in capsys.readouterr().err
    assert predict.main([f"--checkpoint={broken}", "--top-k=2", str(records.parent)]) == 2
    assert export.main([f"--checkpoint={broken}", f"--output-dir={tmp_path / 'keras'}", "--format=keras"]) == 2
    assert "by a sigmoid each" in capsys.readouterr().err
    assert not (tmp_path / "keras").exists()


def write_pairs(folder, source, side, num_training, num_validation):
    """Photographs of two flowers side by side, each so many pixels wide; and their table.

    Of each kind 45 are trained on, and pairs to validate on are made of others.
    """
    files = {each.name: sorted(each.glob("*.jpg")) for each in sorted(source.iterdir()) if each.is_dir()}
    random, rows, halves = np.random.default_rng(0), [("filename", "labels", "split")], {}

    def half(path):
        if path not in halves:
            image = Image.open(path).convert("RGB")
            left, top = ((size - min(image.size)) // 2 for size in image.size)
            box = (left, top, left + min(image.size), top + min(image.size))
            halves[path] = image.resize((side, side), box=box)
        return halves[path]

    folder.mkdir()
    for split, number, first, last in (("train", num_training, 0, 45), ("validation", num_validation, 45, 60)):
        for index in range(number):
            names = random.choice(sorted(files), 2, replace=False).tolist()
            pair = Image.new("RGB", (2 * side, side))
            for place, name in enumerate(names):
                pair.paste(half(files[name][random.integers(first, last)]), (side * place, 0))
            pair.save(folder / f"{split}_{index:03d}.jpg", quality=92)
            rows.append((f"{split}_{index:03d}.jpg", ";".join(names), split))
    write_table(folder / "table.csv", rows)
    return folder


@pytest.mark.slow
def test_pairs_of_flowers_from_conversion_to_export(shared_dir, tmp_path, capsys):
    """A frozen MobileNet V2 tells both flowers of a pair: mean average precision of 0.9, the same wherever it runs.

    By chance it would be 0.17; of flowers of 128 pixels it was 0.73.
    """
    source = shared_dir / "data/flowers12/images"
    pairs = write_pairs(tmp_path / "pairs", source, side=224, num_training=400, num_validation=100)
    records, run = converted(pairs, tmp_path / "records", "table.csv"), tmp_path / "run"
    weights = shared_dir / "checkpoints/mobilenet_v2_1.0_224/mobilenet_v2_1.0_224.ckpt"
    network = ["--task=multilabel", "--model=mobilenet_v2", f"--checkpoint={weights}"]
    images = ["--image-size=448", "--resize=pad", "--augmentation=none", "--cache-features=1"]
    head = ["--recipe=head", "--head-weight-decay=0.0003", "--cache-memory=0"]
    data = [f"--dataset-dir={records}", f"--train-dir={run}", "--eval-every=300"]
    assert train.main([*data, *network, *images, *head, "--max-steps=600"]) == 0
    assert train.main(["--resume", f"--train-dir={run}", "--max-steps=900"]) == 0

    assert evaluate.main([f"--checkpoint={run}", f"--dataset-dir={records}", "--threshold=max-f1"]) == 0
    metrics = json.loads((run / "eval_validation/metrics.json").read_text())
    assert metrics["mean_average_precision"] >= 0.9
    with (run / "eval_validation/predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    probabilities = np.array([[float(row[f"probability_{label}"]) for label in range(12)] for row in rows])
    labels = np.zeros([len(rows), 12], int)
    for row, of_image in zip(rows, labels, strict=True):
        of_image[list(map(int, row["labels"].split()))] = 1
    expected = sklearn.metrics.average_precision_score(labels, probabilities)
    assert math.isclose(metrics["mean_average_precision"], expected, abs_tol=1e-9)
    kept = json.loads((run / LABEL_THRESHOLDS_FILE).read_text())["thresholds"]
    thresholds = np.array([kept[one["name"]] for one in metrics["classes"]])
    assert metrics["micro_f1"] == pytest.approx(
        sklearn.metrics.f1_score(labels, probabilities >= thresholds, average="micro")
    )
    report = (run / "eval_validation/report.html").read_text()
    assert "mean average precision" in report
    assert ">threshold</th>" in report
    assert "Confusion matrix" not in report

    few = [str(pairs / row["filename"]) for row in rows[:8]]
    assert predict.main([f"--checkpoint={run}", *few, f"--output={tmp_path / 'few.csv'}"]) == 0
    with (tmp_path / "few.csv").open(newline="") as file:
        predicted = list(csv.DictReader(file))
    for row, of_file in zip(rows, predicted, strict=False):
        assert sorted(map(int, of_file["predictions"].split())) == list(map(int, row["predictions"].split()))
        assert float(of_file["probability_3"]) == pytest.approx(float(row["probability_3"]), abs=1e-5)

    capsys.readouterr()
    measuring = [f"--dataset-dir={records}", "--max-num-batches=1", "--batch-size=8"]
    assert export.main([f"--checkpoint={run}", f"--output-dir={tmp_path / 'served'}", *measuring]) == 0
    described = json.loads((tmp_path / "served/export.json").read_text())
    assert described["thresholds"] == thresholds.tolist()
    assert all("accuracy" not in one for one in described["measured"])
    served = tf.saved_model.load(str(tmp_path / "served")).signatures
    answer = served["serving_default"](encoded=tf.constant([(pairs / rows[0]["filename"]).read_bytes()]))
    np.testing.assert_allclose(answer["probabilities"][0], probabilities[0], atol=1e-4)
    np.testing.assert_allclose(served["thresholds"]()["thresholds"], thresholds, rtol=1e-6)
