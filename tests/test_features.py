"""Features on disk and in memory: drawn in a repeatable order, and never taken for others."""

import errno
import json
import shutil
import types

import numpy as np
import pytest
import tensorflow as tf

from finetune.commands import convert, train
from finetune.model.checkpoint import Checkpoint, write_checkpoint
from finetune.trunk import features
from finetune.trunk.features import Features, compute_features, feature_batches

NUM_IMAGES = 10


def make_batches(scale=1.0):
    images = scale * np.arange(NUM_IMAGES * 4, dtype=np.float32).reshape([NUM_IMAGES, 4])
    labels = np.arange(NUM_IMAGES)
    return tf.data.Dataset.from_tensor_slices((images, labels)).batch(4)


def compute(folder, key="a", scale=1.0, calls=None):
    def trunk(images):
        if calls is not None:
            calls.append(len(images))
        return [2 * images, images[:, :1]]

    return compute_features(trunk, make_batches(scale), num_images=NUM_IMAGES, folder=folder, key=key, what="images")


@pytest.mark.parametrize("on_disk", [False, True])
def test_values_are_the_trunks(tmp_path, on_disk):
    found = compute(tmp_path / "f" if on_disk else None)
    expected = np.arange(NUM_IMAGES * 4, dtype=np.float32).reshape([NUM_IMAGES, 4])
    np.testing.assert_array_equal(found.values[0], 2 * expected)
    np.testing.assert_array_equal(found.values[1], expected[:, :1])
    np.testing.assert_array_equal(found.labels, np.arange(NUM_IMAGES))
    assert isinstance(found.values[0], np.memmap) == on_disk


def test_what_is_on_disk_is_taken_up_under_the_same_key_alone(tmp_path):
    calls = []
    compute(tmp_path / "f", calls=calls)
    compute(tmp_path / "f", calls=calls)
    assert calls == [4, 4, 2]
    other = compute(tmp_path / "f", key="b", scale=3.0, calls=calls)
    assert calls == 2 * [4, 4, 2]
    assert other.values[0][1, 0] == 24


@pytest.mark.parametrize("name", ["0.npy", "labels.npy", "features.json"])
def test_what_is_cut_off_is_computed_anew(tmp_path, name):
    calls = []
    compute(tmp_path / "f", calls=calls)
    path = tmp_path / "f" / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    again = compute(tmp_path / "f", calls=calls)
    assert len(calls) == 6
    np.testing.assert_array_equal(again.labels, np.arange(NUM_IMAGES))


def test_each_epoch_has_each_image_once_and_all_views_take_turns():
    views = [
        Features((np.full([NUM_IMAGES, 1], view),), np.arange(NUM_IMAGES), np.arange(NUM_IMAGES)) for view in range(3)
    ]
    batches = feature_batches(views, batch_size=4, seed=1, start_step=0)
    drawn = [next(batches) for _ in range(15)]
    labels = np.concatenate([labels for _, labels, _ in drawn]).reshape([6, NUM_IMAGES])
    seen = np.concatenate([values[0][:, 0] for values, _, _ in drawn]).reshape([6, NUM_IMAGES])
    for epoch in labels:
        assert sorted(epoch) == list(range(NUM_IMAGES))
    assert len({tuple(epoch) for epoch in labels}) == 6
    for image in range(NUM_IMAGES):
        assert sorted(seen[:3][labels[:3] == image]) == [0, 1, 2]


@pytest.mark.parametrize("start", [1, 3, 7])
def test_batches_go_on_where_they_were_left(start):
    rows = np.arange(NUM_IMAGES)
    views = [Features((rows[:, np.newaxis] + 100 * view,), rows, rows) for view in (0, 1)]

    def draw(start_step, count):
        batches = feature_batches(views, batch_size=4, seed=1, start_step=start_step)
        return [values[0].tolist() for values, *_ in (next(batches) for _ in range(count))]

    assert draw(start, 5) == draw(0, start + 5)[start:]


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    from test_commands import write_colour_folders

    folder = tmp_path_factory.mktemp("features")
    images = write_colour_folders(folder / "images")
    words = [f"--images-dir={images}", f"--dataset-dir={folder / 'records'}", "--dataset-name=colours", "--workers=1"]
    assert convert.main([*words, "--validation-fraction=0.25"]) == 0
    return folder


HEAD = ["--model=cifarnet", "--exclude-scopes=CifarNet/logits", "--trainable-scopes=CifarNet/logits"]
STEPS = ["--batch-size=8", "--log-every=1", "--optimizer=adam", "--learning-rate=0.003"]


@pytest.fixture(scope="module")
def pretrained(records):
    run = records / "pretrained"
    words = [f"--dataset-dir={records / 'records'}", f"--train-dir={run}", "--model=cifarnet", *STEPS]
    assert train.main([*words, "--max-steps=10", "--eval-every=0"]) == 0
    return run


def run_head(records, pretrained, run, *words):
    return train.main(
        [
            f"--dataset-dir={records / 'records'}",
            f"--train-dir={run}",
            f"--checkpoint={pretrained}",
            *HEAD,
            *STEPS,
            *words,
        ]
    )


def losses_of(run):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line["loss"] for line in lines if "learning_rate" in line}


def test_a_resumed_run_on_features_repeats_an_unbroken_one_to_the_bit(records, pretrained, tmp_path):
    words = ["--cache-features=2", "--cache-memory=0"]
    assert run_head(records, pretrained, tmp_path / "whole", "--max-steps=20", *words) == 0
    assert run_head(records, pretrained, tmp_path / "broken", "--max-steps=9", *words) == 0
    assert train.main([f"--train-dir={tmp_path / 'broken'}", "--resume", "--max-steps=20"]) == 0
    assert losses_of(tmp_path / "broken") == losses_of(tmp_path / "whole")
    whole, resumed = (Checkpoint(str(tmp_path / name / "model.ckpt-20")) for name in ("whole", "broken"))
    for name in whole.shapes:
        np.testing.assert_array_equal(resumed.read(name), whole.read(name), err_msg=name)


def test_features_learn_what_images_learn(records, pretrained, tmp_path):
    accuracies = []
    for index, words in enumerate((["--cache-features=off"], ["--cache-features=auto", "--augmentation=none"])):
        run = tmp_path / str(index)
        assert run_head(records, pretrained, run, "--max-steps=60", "--eval-every=0", *words) == 0
        accuracies.append(json.loads((run / "best.json").read_text())["accuracy"])
    assert min(accuracies) >= 0.75
    assert abs(accuracies[0] - accuracies[1]) <= 0.2


@pytest.mark.parametrize(
    "change",
    [
        ["--seed=5"],
        ["--augmentation=none"],
        ["--trainable-scopes=CifarNet/logits,CifarNet/fc4"],
        "weight",
        "label",
        "image",
    ],
    ids=str,
)
def test_whatever_changes_gives_new_features(records, pretrained, tmp_path, monkeypatch, change):
    """The cache of one run is put under another that differs in one thing: none of it may be taken up."""
    words = ["--max-steps=1", "--cache-features=1", "--cache-memory=0", "--eval-every=0"]
    data, weights = tmp_path / "records", tmp_path / "pretrained"
    shutil.copytree(records / "records", data)
    shutil.copytree(pretrained, weights)

    def run_in(folder, *more):
        return train.main(
            [f"--dataset-dir={data}", f"--train-dir={folder}", f"--checkpoint={weights}", *HEAD, *STEPS, *words, *more]
        )

    assert run_in(tmp_path / "first") == 0
    shutil.copytree(tmp_path / "first/features", tmp_path / "kept")
    if change == "weight":
        source = Checkpoint(str(weights / "model.ckpt-10"))
        values = {name: source.read(name) for name in source.shapes}
        values["CifarNet/conv1/weights"] = values["CifarNet/conv1/weights"] * 1.01
        write_checkpoint(weights / "model.ckpt-10", values)
    elif change in ("label", "image"):
        images = shutil.copytree(records / "images", tmp_path / "images")
        if change == "label":
            for index in range(8):
                shutil.move(images / f"red/{index}.png", images / f"blue/moved{index}.png")
        else:
            for index in range(8):
                shutil.copy(images / f"red/{index + 8}.png", images / f"red/{index}.png")
        made = [f"--images-dir={images}", f"--dataset-dir={data}", "--dataset-name=colours", "--workers=1"]
        assert convert.main([*made, "--validation-fraction=0.25", "--overwrite"]) == 0
    computed = []
    original = features._write
    monkeypatch.setattr(features, "_write", lambda *arguments: (computed.append(1), original(*arguments)))
    more = change if isinstance(change, list) else []
    second = tmp_path / "second"
    prepared = second / "features"
    shutil.copytree(tmp_path / "kept", prepared)
    assert run_in(second, *more) == 0
    assert computed


def test_validation_features_go_to_disk_too_and_are_taken_up(records, pretrained, tmp_path, monkeypatch):
    words = ["--max-steps=2", "--cache-features=1", "--cache-memory=0"]
    assert run_head(records, pretrained, tmp_path / "run", *words) == 0
    assert sorted(path.name for path in (tmp_path / "run/features").iterdir()) == ["validation", "view_0"]
    monkeypatch.setattr(features, "_write", None)  # Whoever calls it fails.
    assert train.main([f"--train-dir={tmp_path / 'run'}", "--resume", "--max-steps=3"]) == 0


def run_with_full_disk(records, pretrained, run, capsys):
    """Trains, and returns what was said about the disk."""
    words = ["--max-steps=2", "--cache-features=2", "--cache-memory=0", "--eval-every=0"]
    assert run_head(records, pretrained, run, *words) == 0
    assert (run / "model.ckpt-2.index").exists()
    assert not (run / "features").exists()
    return [line for line in capsys.readouterr().err.splitlines() if "No space left" in line]


def test_a_disk_that_fills_up_is_cleared_and_told_of_in_one_line(records, pretrained, tmp_path, monkeypatch, capsys):
    original = features._write

    def full_at_the_last(folder, *arguments):
        if folder.name == "view_1.partial":
            raise OSError(errno.ENOSPC, "No space left on device")
        original(folder, *arguments)

    monkeypatch.setattr(features, "_write", full_at_the_last)
    assert len(run_with_full_disk(records, pretrained, tmp_path / "run", capsys)) == 1


def test_a_disk_that_is_too_small_is_seen_beforehand(records, pretrained, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(features, "_write", None)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: types.SimpleNamespace(free=1 << 10))
    lines = run_with_full_disk(records, pretrained, tmp_path / "run", capsys)
    assert len(lines) == 1
    assert "0 MiB are free" in lines[0]
