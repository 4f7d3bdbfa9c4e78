"""Pooled features: what the classification layer is given; their files; the training images that are the nearest."""

import csv
import json
import shutil
import sys

import numpy as np
import pytest
import tensorflow as tf
from image_files import write_file
from tiny_runs import CLASSES, write_records, write_run

from finetune.commands import evaluate, predict
from finetune.embeddings import feature_files, neighbours
from finetune.embeddings.feature_files import FeatureRow, feature_file, read_features
from finetune.embeddings.neighbours import NearestImages
from finetune.embeddings.pooled_features import PooledFeatures
from finetune.errors import UserError
from finetune.model.model import Model
from finetune.nets import get_spec
from finetune.nets.heads import head_of, with_head
from finetune.settings.head import HeadSettings


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    folder = write_records(tmp_path_factory.mktemp("data") / "records")
    return write_records(folder, num_images=8, split="train")


@pytest.fixture(scope="module")
def run(tmp_path_factory, records):
    """Of lenet, which was trained on the records' split train."""
    return write_run(tmp_path_factory.mktemp("runs") / "run", "lenet", dataset_dir=str(records))


@pytest.fixture(scope="module")
def predicted(run, records, tmp_path_factory):
    """Folder with features.npz, features.parquet and table.csv of the images to validate on, one of them broken."""
    folder = tmp_path_factory.mktemp("predicted")
    images = sorted((records / "images").glob("validation_*"))
    images.insert(1, write_file(folder / "broken.jpg", b"no image"))
    for features, output in (("features.npz", "table.csv"), ("features.parquet", "table.json")):
        words = [f"--checkpoint={run}", *map(str, images), "--batch-size=5"]
        words += [f"--features={folder / features}", f"--output={folder / output}", "--nearest=3"]
        assert predict.main(words) == 4
    return folder


@pytest.mark.parametrize(
    ("name", "size", "head"),
    [
        ("lenet", 28, {}),
        ("mobilenet_v1_025", 32, {}),
        ("cifarnet", 32, {"head": "linear", "head_pooling": "concat"}),
        ("cifarnet", 32, {"head": "mlp:7,5"}),
    ],
)
def test_features_are_what_the_logits_are_linear_in(name, size, head):
    model = Model(with_head(get_spec(name), head_of(HeadSettings(**head))), 4, image_size=size)
    shape = [3, size, size, model.channels]
    images = np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)
    expected = tf.function(lambda given: model(given, is_training=False).logits, autograph=False)(images).numpy()
    pooled = PooledFeatures(model, "--features")
    logits, features = pooled(images)
    assert np.array_equal(logits, expected)
    assert features.shape == (3, pooled.num_features)
    kernels = [value for value in model.model_variables.values() if value.shape[-1] == 4 and value.shape.rank > 1]
    biases = [value for value in model.model_variables.values() if value.shape == [4]]
    kernel = kernels[-1].numpy().reshape(pooled.num_features, 4)
    np.testing.assert_allclose(features @ kernel + biases[-1].numpy(), logits, rtol=0, atol=1e-4 * np.abs(logits).max())


def test_the_files_hold_each_readable_image_in_order(run, predicted):
    with np.load(predicted / "features.npz", allow_pickle=False) as file:
        columns = {name: file[name] for name in file}
    with (predicted / "table.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if not row["error"]]
    assert len(rows) == 12
    assert columns["features"].dtype == np.float32
    assert columns["filename"].tolist() == [row["filename"] for row in rows]
    assert columns["prediction"].tolist() == [int(row["prediction"]) for row in rows]
    assert columns["prediction_name"].tolist() == [row["prediction_name"] for row in rows]
    np.testing.assert_allclose(columns["probability"], [float(row["probability"]) for row in rows], rtol=1e-8)
    parquet = pytest.importorskip("pyarrow.parquet")
    table = parquet.read_table(predicted / "features.parquet")
    assert table.schema.metadata[b"weights_sha256"].decode() == str(columns.pop("weights_sha256"))
    assert set(table.column_names) == set(columns)
    assert np.array_equal(np.stack(table["features"].to_numpy()), columns.pop("features"))
    assert all(table[name].to_pylist() == values.tolist() for name, values in columns.items())


def test_predictions_are_those_without_features(run, records, predicted, tmp_path):
    images = sorted((records / "images").glob("validation_*"))
    words = [f"--checkpoint={run}", *map(str, images), f"--output={tmp_path / 'plain.csv'}"]
    assert predict.main(words) == 0
    with (tmp_path / "plain.csv").open() as plain, (predicted / "table.csv").open() as table:
        expected = list(csv.DictReader(plain))
        found = [row for row in csv.DictReader(table) if not row["error"]]
    assert [{name: row[name] for name in expected[0]} for row in found] == expected


def test_the_nearest_are_those_of_scikit_learn(run, records, predicted):
    from sklearn.neighbors import NearestNeighbors

    trained = read_features(run / "nearest_train.npz", "--nearest")
    assert trained.filenames.tolist() == [f"train_{index:02d}.jpg" for index in range(8)]
    assert trained.label_names.tolist() == [CLASSES[index % 3] for index in range(8)]
    queries = np.load(predicted / "features.npz")["features"]
    found = NearestNeighbors(n_neighbors=3, metric="cosine").fit(trained.features).kneighbors(queries)
    results = json.loads((predicted / "table.json").read_text())
    near = [result["nearest"] for result in results if "nearest" in result]
    for of_image, distances, positions in zip(near, *found, strict=True):
        np.testing.assert_allclose([each["similarity"] for each in of_image], 1 - distances, atol=2e-6)
        assert [each["filename"] for each in of_image] == trained.filenames[positions].tolist()
        assert [each["label"] for each in of_image] == trained.label_names[positions].tolist()
    with (predicted / "table.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if not row["error"]]
    assert [row["nearest_label_2"] for row in rows] == [of_image[1]["label"] for of_image in near]


def test_blocks_make_no_difference(predicted, monkeypatch):
    stored = read_features(predicted / "features.npz", "--nearest-to")
    whole = NearestImages(stored, 4).of(stored.features)
    monkeypatch.setattr(neighbours, "ROWS_AT_A_TIME", 5)
    for found, expected in zip(NearestImages(stored, 4).of(stored.features), whole, strict=True):
        assert [each.position for each in found] == [each.position for each in expected]
        assert [each.similarity for each in found] == pytest.approx([each.similarity for each in expected], abs=1e-6)


def test_rows_are_written_in_parts(tmp_path, monkeypatch):
    monkeypatch.setattr(feature_files, "ROWS_AT_A_TIME", 2)
    rows = [FeatureRow(f"{index}\udc80é.jpg", index, "x" * index, 0.5, np.full(3, index)) for index in range(5)]
    with feature_file(tmp_path / "f.npz", 3, {"key": "k"}) as file:
        for row in rows:
            file.add(row)
    stored = read_features(tmp_path / "f.npz", "--nearest-to")
    assert stored.filenames.tolist() == [row.filename for row in rows]
    assert stored.label_names.tolist() == [row.class_name for row in rows]
    assert stored.features[:, 2].tolist() == [0, 1, 2, 3, 4]
    assert stored.notes == {"key": "k"}
    assert [path.name for path in tmp_path.iterdir()] == ["f.npz"]


def told_by(capsys, run, records, *words, status=0):
    image = records / "images/validation_03.jpg"
    assert predict.main([f"--checkpoint={run}", str(image), "--format=json", *map(str, words)]) == status
    told = capsys.readouterr()
    assert "Traceback" not in told.err
    return told.err


def test_training_features_are_kept_while_they_are_right(run, records, predicted, tmp_path, capsys):
    copy = shutil.copytree(run, tmp_path / "run")
    kept = (copy / "nearest_train.npz").read_bytes()
    assert "holds them already" in told_by(capsys, copy, records, "--nearest=1")
    (copy / "nearest_train.npz").write_bytes(kept[: len(kept) // 2])
    assert "computed anew" in told_by(capsys, copy, records, "--nearest=1")
    assert np.array_equal(
        read_features(copy / "nearest_train.npz", "").features, read_features(run / "nearest_train.npz", "").features
    )
    other = write_run(tmp_path / "other", "lenet", dataset_dir=str(records), image_size=32)
    (other / "nearest_train.npz").write_bytes(kept)
    assert "holds them already" not in told_by(capsys, other, records, "--nearest=1")
    told = told_by(capsys, other, records, "--nearest=1", f"--nearest-to={predicted / 'features.npz'}", status=2)
    assert "can't be compared" in told


def test_a_run_without_a_fold_has_the_others_images(records, tmp_path, capsys):
    run = write_run(tmp_path / "run", "lenet", dataset_dir=str(records), folds=2, fold=1)
    told_by(capsys, run, records, "--nearest=1")
    assert 2 <= len(read_features(run / "nearest_train.npz", "").features) <= 6


def test_the_report_shows_similar_images_beside_mistakes(run, records, tmp_path):
    words = [f"--checkpoint={run}", f"--dataset-dir={records}", f"--output-dir={tmp_path / 'eval'}", "--nearest=2"]
    assert evaluate.main(words) == 0
    html = (tmp_path / "eval/report.html").read_text()
    num_mistakes = html.count('<span class="right">is ')
    assert num_mistakes > 2
    assert html.count('alt="training image of ') == 2 * num_mistakes


@pytest.mark.parametrize("suffix", [".npz", ".parquet"])
def test_a_file_without_images_has_its_columns(suffix, tmp_path):
    path = tmp_path / f"none{suffix}"
    with feature_file(path, 3, {}, with_labels=True):
        pass
    if suffix == ".npz":
        with np.load(path) as file:
            shapes = {name: file[name].shape for name in file}
        assert shapes.pop("features") == (0, 3)
        assert set(shapes.values()) == {(0,)}
    else:
        table = pytest.importorskip("pyarrow.parquet").read_table(path)
        assert table.num_rows == 0
        assert {"filename", "label_name", "features"} < set(table.column_names)


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["--features=out.csv"], [".npz or .parquet"]),
        (["--features=nowhere/out.npz"], ["--features", "no folder nowhere"]),
        (["--nearest-to=x.npz"], ["--nearest K"]),
        (["--nearest=2", "--shard=1/2", "--output=o.csv"], ["--nearest and shares"]),
        (["--nearest=2", "--nearest-to=none.npz"], ["none.npz can't be read"]),
        (["--nearest=2", "--nearest-to=text.npz"], ["text.npz is no file of features"]),
        (["--nearest=2", "--nearest-to=other.npz"], ["other.npz has no images' features"]),
    ],
)
def test_mistakes(run, records, tmp_path, monkeypatch, capsys, words, parts):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.npz").write_text("text")
    np.savez(tmp_path / "other.npz", features=np.zeros([2, 3]))
    told = told_by(capsys, run, records, *words, status=2)
    assert all(part in told for part in parts)


def test_what_isnt_there_is_told(records, tmp_path, monkeypatch, capsys):
    run = write_run(tmp_path / "run", "lenet")
    assert "aren't there: nowhere" in told_by(capsys, run, records, "--nearest=1", status=2)
    (run / "config.toml").unlink()
    assert "is no run's" in told_by(capsys, run, records, "--nearest=1", status=2)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    told = told_by(capsys, run, records, f"--features={tmp_path / 'f.parquet'}", status=2)
    assert "pip install 'slim-finetune[parquet]'" in told


def test_a_network_without_such_a_layer_is_refused(monkeypatch):
    model = Model(get_spec("lenet"), 3)
    network = model._network

    def bent(*given, **by_name):
        logits, end_points = network(*given, **by_name)
        return tf.nn.relu(logits), end_points

    monkeypatch.setattr(model, "_network", bent)
    with pytest.raises(UserError, match="no last layer whose logits are a linear function"):
        PooledFeatures(model, "--features")
