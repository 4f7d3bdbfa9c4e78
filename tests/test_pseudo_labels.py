"""Pseudo-labels: which count, how many each batch has, and runs with them: resumed, verified, evaluated."""

import csv
import itertools
import re
import shutil

import numpy as np
import pytest
from image_files import encode, picture, write_file
from tiny_runs import CLASSES, write_run

from finetune.commands import evaluate, train
from finetune.datasets.description import write_labels
from finetune.datasets.records import Record, encode_record
from finetune.datasets.tfrecord import RecordWriter
from finetune.datasets.unlabelled import find_unlabelled
from finetune.errors import UserError
from finetune.model.checkpoint import Checkpoint
from finetune.model.checkpoint_names import PSEUDO_LABELS, PSEUDO_LABELS_STEP
from finetune.runs.provenance import read_provenance
from finetune.runs.run_folder import PSEUDO_LABELS_FILE, RunFolder
from finetune.settings.pseudo_labels import Threshold
from finetune.settings.settings_file import read_toml
from finetune.settings.train import TrainSettings
from finetune.training.label_thresholds import Choice, choose
from finetune.training.mixed_batches import UNUSED, MixedSteps, Mixture
from finetune.training.pseudo_labelling import PseudoLabelling
from finetune.training.pseudo_labels import PseudoLabels

NETWORK = ["--model=lenet", "--image-size=8", "--optimizer=adam", "--learning-rate=0.001", "--precision=float32"]
STEPS = ["--batch-size=4", "--log-every=1", "--eval-every=0", "--max-steps=8"]
ALL_COUNT = ["--pseudo-label-threshold=0", "--pseudo-label-refresh=3"]
KEEP_ALL = ["--save-interval-seconds=0", "--max-to-keep=99"]
IMAGES = ["--cache-features=off"]
FEATURES = ["--cache-features=2", "--trainable-layers=head"]
# In batches of four no last one is of a single image, which other kernels compute: in a process that has run thousands
# of other tests, and nowhere else, its last bits were seen to differ from run to run.
NUM_UNLABELLED = 6


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Records, beside them photographs without labels at some depth, and weights to begin from."""
    folder = tmp_path_factory.mktemp("pseudo") / "records"
    (folder.parent / "weights").mkdir()
    write_run(folder.parent / "weights", "lenet", image_size=8)
    for number in range(NUM_UNLABELLED):
        write_file(folder.parent / f"photos/of/day{number % 2}/{number}.jpg", encode(picture(500 + number, width=44)))
    write_split(folder, "validation", num_images=6, first=100)
    return write_split(folder, "train", num_images=10, first=200)


def write_split(folder, split, *, num_images, first, classes=CLASSES, more=()):
    """Record files of pictures from number `first` on, and of other contents, and the pictures in `folder`/images."""
    contents = {f"{split}_{n:02d}.jpg": encode(picture(first + n, width=40 + n)) for n in range(num_images)}
    for name, content in contents.items():
        write_file(folder / "images" / name, content)
    with RecordWriter(folder / f"tiny_{split}_00000-of-00001.tfrecord") as writer:
        for number, (name, content) in enumerate([*contents.items(), *more]):
            writer.write(encode_record(Record(content, "jpg", number % len(classes), 32, 40 + number, name)))
    write_labels(folder / "labels.txt", classes)
    return folder


def begin(data, run, *words, unlabelled="photos"):
    given = [f"--dataset-dir={data}", f"--train-dir={run}", f"--checkpoint={data.parent / 'weights'}"]
    given += [f"--unlabeled-dir={data.parent / unlabelled}"] if unlabelled else []
    return train.main([*given, *NETWORK, *STEPS, *words])


def values_at(run, step):
    checkpoint = Checkpoint(str(run / f"model.ckpt-{step}"))
    return {name: checkpoint.read(name) for name in checkpoint.shapes}


def rows_of(run):
    with (run / PSEUDO_LABELS_FILE).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def chain_of(run):
    return [line["data_chain"] for line in RunFolder(run).read_metrics() if "data_chain" in line]


def assert_equal_runs(run, whole, step=8):
    values, expected = values_at(run, step), values_at(whole, step)
    assert values.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(values[name], value, err_msg=name)
    chains = [
        [line["data_chain"] for line in RunFolder(each).read_metrics() if "data_chain" in line] for each in (run, whole)
    ]
    assert chains[0] == chains[1]
    assert (run / PSEUDO_LABELS_FILE).read_bytes() == (whole / PSEUDO_LABELS_FILE).read_bytes()


# Thresholds


def probabilities_of(*rows):
    return np.array(rows, np.float64)


def test_a_fixed_threshold_is_that_of_each_class():
    choice = choose(probabilities_of([0.9, 0.1], [0.2, 0.8], [0.45, 0.55]), Threshold(0.8, is_adaptive=False))
    np.testing.assert_array_equal(choice.labels, [0, 1, 1])
    np.testing.assert_array_equal(choice.thresholds, [0.8, 0.8])
    np.testing.assert_array_equal(choice.is_used, [True, False, False])  # Above, not at the threshold.


def test_an_adaptive_threshold_is_lower_for_classes_that_are_learned_less():
    """FlexMatch, by hand: of 8 images 4 are surely of class 0, 2 of class 1, none of class 2; 2 of none."""
    sure = [[0.98, 0.01, 0.01]] * 4 + [[0.01, 0.97, 0.02]] * 2
    choice = choose(probabilities_of(*sure, [0.1, 0.3, 0.6], [0.4, 0.35, 0.25]), Threshold(0.9, is_adaptive=True))
    learned = np.array([4 / 4, 2 / 4, 0])
    np.testing.assert_allclose(choice.thresholds, 0.9 * learned / (2 - learned))
    np.testing.assert_array_equal(choice.is_used, [True] * 7 + [False])


def test_an_adaptive_threshold_warms_up_by_the_images_that_no_class_has():
    choice = choose(probabilities_of([0.95, 0.05], *[[0.6, 0.4]] * 9), Threshold(0.9, is_adaptive=True))
    np.testing.assert_allclose(choice.thresholds, [0.9 * (1 / 9) / (2 - 1 / 9), 0])
    assert choice.is_used.all()


@pytest.mark.parametrize(
    ("text", "threshold"),
    [
        ("0.8", Threshold(0.8, is_adaptive=False)),
        ("0", Threshold(0.0, is_adaptive=False)),
        ("adaptive", Threshold(0.95, is_adaptive=True)),
        ("adaptive:0.7", Threshold(0.7, is_adaptive=True)),
    ],
)
def test_a_threshold_in_words(text, threshold):
    assert Threshold.of_text(text) == threshold


@pytest.mark.parametrize("text", ["1", "-0.1", "nan", "often", "adaptive:", "adaptive:2", "fixed:0.5", ""])
def test_words_that_are_no_threshold(text):
    with pytest.raises(UserError, match="--pseudo-label-threshold is"):
        Threshold.of_text(text)


# How many of each batch


@pytest.mark.parametrize("fraction", [0.25, 0.3, 1 / 3, 0.5, 0.01])
@pytest.mark.parametrize(("batch_size", "batches_per_step"), [(32, 1), (10, 1), (1, 1), (7, 2), (8, 3)])
def test_the_part_of_each_batch_is_the_fraction_in_whole_images(fraction, batch_size, batches_per_step):
    mixture = Mixture.of(batch_size, batches_per_step, fraction)
    numbers = [number for step in range(50) for number in mixture.num_in_batches(step)]
    exact = batch_size * fraction
    assert len(numbers) == 50 * batches_per_step
    assert set(numbers) <= {int(exact + 1e-9), int(exact + 1e-9) + 1}
    for batches, total in enumerate(itertools.accumulate(numbers), start=1):
        assert 0 <= batches * exact - total + 1e-9 < 1 + 1e-6
    assert mixture.num_before_step(50) == sum(numbers)


def test_a_batch_of_32_has_8_or_10_and_11():
    assert {number for step in range(99) for number in Mixture.of(32, 1, 0.25).num_in_batches(step)} == {8}
    assert [Mixture.of(32, 1, 1 / 3).num_in_batches(step)[0] for step in range(6)] == [10, 11, 10, 11, 11, 10]


def mixed_steps(labels, first_step=0, num_pseudo_before=0):
    mixture = Mixture.of(4, 1, 0.25)
    return MixedSteps(mixture, np.array(labels), 0, first_step, 3 * first_step, num_pseudo_before, seed=1)


def test_each_pseudo_labelled_image_comes_once_in_an_epoch_and_from_anywhere_on():
    labels = [UNUSED, 2, 0, UNUSED, 1]
    picks = list(itertools.islice(mixed_steps(labels).picks(), 12))
    for epoch in range(4):
        of_epoch = picks[3 * epoch : 3 * epoch + 3]
        assert {(number, label) for number, label, _ in of_epoch} == {(1, 2), (2, 0), (4, 1)}
        assert {number for *_, number in of_epoch} == {epoch}
    assert [number for number, *_ in picks] != [1, 2, 4] * 4
    for before in range(8):
        later = mixed_steps(labels, num_pseudo_before=before).picks()
        assert list(itertools.islice(later, 4)) == picks[before : before + 4]


def test_without_pseudo_labels_batches_are_of_labelled_images_alone():
    steps = mixed_steps([UNUSED] * 3)
    assert not steps.has_pseudo_labels
    assert steps.num_in_batches(0) == [0]
    assert list(steps.picks()) == []


# What changes


def test_labels_that_are_new_other_or_gone():
    labels = PseudoLabels(4)
    choice = Choice(np.array([0, 1, 1, 0]), np.array([0.9, 0.9, 0.1, 0.9]), np.array([0.5, 0.5]))
    assert str(labels.replace(choice, 3)) == "3 new, 0 with another label, 0 gone"
    choice = Choice(np.array([1, 1, 1, 0]), np.array([0.9, 0.1, 0.9, 0.9]), np.array([0.5, 0.5]))
    assert str(labels.replace(choice, 6)) == "1 new, 1 with another label, 1 gone"
    kept = PseudoLabels(4)
    kept.restore(labels.values())
    np.testing.assert_array_equal(kept.labels, [1, UNUSED, 1, 0])
    assert kept.made_at == 6
    other = PseudoLabels(3)
    other.restore(labels.values())
    assert (other.made_at, set(other.labels)) == (-1, {UNUSED})


# Runs


@pytest.fixture(scope="module", params=[IMAGES, FEATURES], ids=["images", "features"])
def trained(request, data, tmp_path_factory):
    """An unbroken run, every checkpoint of which is kept, and what its steps were given."""
    run = tmp_path_factory.mktemp("runs") / "run"
    given = {}

    def noting(self, first_step):
        for step, batch in enumerate(batches(self, first_step), start=first_step):
            given[step] = batch
            yield batch

    batches = PseudoLabelling.batches
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PseudoLabelling, "batches", noting)
        more = ["--moving-average-decay=0.5", "--accumulate-steps=2"]
        assert begin(data, run, *request.param, *ALL_COUNT, *KEEP_ALL, *more, "--batch-size=4") == 0
    return run, given


def test_each_part_of_each_batch_has_its_pseudo_labelled_images(trained):
    _, given = trained
    assert sorted(given) == list(range(8))
    for step, (_, labels, records) in given.items():
        is_unlabelled = (records[:, 0] < 0).reshape([2, 4])  # Two passes of four images.
        assert is_unlabelled.tolist() == [[False] * 3 + [step >= 3]] * 2
        assert np.asarray(labels).shape == (8,)
    seen = [-1 - number for step in range(3, 6) for number in given[step][2][:, 0] if number < 0]
    assert sorted(seen[:NUM_UNLABELLED]) == list(range(NUM_UNLABELLED))
    # Of the labelled ones each comes once before one comes again.
    labelled = [number for step in range(8) for number in given[step][2][:, 0] if number >= 0]
    for epoch in range(len(labelled) // 10):
        assert sorted(labelled[10 * epoch : 10 * epoch + 10]) == list(range(10))


def test_the_labels_that_steps_are_given_are_those_of_the_checkpoint(trained):
    run, given = trained
    assert PSEUDO_LABELS in values_at(run, 1)
    assert values_at(run, 3)[PSEUDO_LABELS_STEP] == -1
    for step in range(4, 9):
        values = values_at(run, step)
        assert values[PSEUDO_LABELS_STEP] == 3 * ((step - 1) // 3)
        _, labels, records = given[step - 1]
        for label, number in zip(np.asarray(labels), records[:, 0], strict=True):
            if number < 0:
                assert label == values[PSEUDO_LABELS][-1 - number]


def test_the_file_says_which_images_have_which_labels(trained):
    run, _ = trained
    rows = rows_of(run)
    assert sorted(row["path"] for row in rows) == [
        "of/day0/0.jpg",
        "of/day0/2.jpg",
        "of/day0/4.jpg",
        "of/day1/1.jpg",
        "of/day1/3.jpg",
        "of/day1/5.jpg",
    ]
    assert {row["used"] for row in rows} == {"true"}
    assert all(row["label"] in CLASSES and 1 / 3 < float(row["confidence"]) <= 1 for row in rows)
    newest = values_at(run, 8)[PSEUDO_LABELS]
    assert [CLASSES.index(row["label"]) for row in rows] == newest.tolist()


@pytest.mark.parametrize("step", [3, 4, 7])
def test_a_run_broken_off_anywhere_ends_as_the_unbroken_one(trained, step, tmp_path):
    whole, _ = trained
    run = shutil.copytree(whole, tmp_path / "run")
    for later in range(step + 1, 9):
        for path in run.glob(f"model.ckpt-{later}.*"):
            path.unlink()
    # A file of labels that were made after the checkpoint is not what the run goes on with.
    (run / PSEUDO_LABELS_FILE).write_text("path,label\n")
    if step >= 7:
        shutil.copy(whole / PSEUDO_LABELS_FILE, run)
    assert train.main(["--resume", f"--train-dir={run}"]) == 0
    assert_equal_runs(run, whole)


def test_steps_are_verified(trained, tmp_path, capsys):
    whole, _ = trained
    run = shutil.copytree(whole, tmp_path / "run")
    for step in (5, 6, 7):
        for path in run.glob(f"model.ckpt-{step}.*"):
            path.unlink()
    assert train.main(["--resume", "--verify", f"--train-dir={run}"]) == 0  # New labels lie between the two.
    assert "steps 5 to 8" in capsys.readouterr().out


def test_a_run_knows_its_unlabelled_images_by_their_hash(trained, tmp_path, capsys):
    whole, _ = trained
    run = shutil.copytree(whole, tmp_path / "run")
    assert read_provenance(run)["unlabeled"]["num_examples"] == NUM_UNLABELLED
    (run.parent / "others").mkdir()
    write_file(run.parent / "others/new.jpg", encode(picture(900)))
    words = ["--resume", f"--train-dir={run}", f"--unlabeled-dir={run.parent / 'others'}", "--max-steps=9"]
    assert train.main(words) == 2
    assert "unlabeled (sha256) is" in (said := capsys.readouterr().err)
    assert "--allow-changed unlabeled" in said
    assert train.main([*words, "--allow-changed=unlabeled"]) == 0
    assert len(values_at(run, 9)[PSEUDO_LABELS]) == 1
    assert train.main(["--resume", f"--train-dir={run}", "--pseudo-label-fraction=0.5", "--max-steps=10"]) == 2
    assert "pseudo_label_fraction is 0.5, was 0.25" in capsys.readouterr().err


def test_what_is_said(data, tmp_path, capsys):
    assert begin(data, tmp_path / "run", *FEATURES, *ALL_COUNT) == 0
    said = capsys.readouterr().err
    assert "Converted 6 unlabelled images into" in said
    assert re.search(r"step 3  pseudo-labels: 6 of 6 images are used, each 0.5 times up to step 6\n", said)
    assert "step 3  pseudo-labels: 6 new, 0 with another label, 0 gone; threshold 0.00\n" in said
    assert "step 6  pseudo-labels: 0 new, " in said
    assert begin(data, tmp_path / "again", *FEATURES, "--pseudo-label-threshold=0.999", "--pseudo-label-refresh=3") == 0
    said = capsys.readouterr().err
    assert "nothing has changed since it was converted" in said
    assert "step 3  pseudo-labels: none of 6 images is sure enough: up to step 6 the labelled ones are alone" in said
    assert {row["used"] for row in rows_of(tmp_path / "again")} == {"false"}
    recorded = read_toml(TrainSettings, tmp_path / "again/config.toml")["unlabeled_dir"]
    assert recorded.parent == tmp_path / "records"


def test_two_devices_have_their_part_each(data, tmp_path, monkeypatch):
    given = []
    batches = PseudoLabelling.batches

    def noting(self, first_step):
        for batch in batches(self, first_step):
            given.append(batch[-1])
            yield batch

    monkeypatch.setattr(PseudoLabelling, "batches", noting)
    words = [*IMAGES, *ALL_COUNT, "--num-clones=2", "--batch-size=2", "--pseudo-label-fraction=0.5"]
    assert begin(data, tmp_path / "run", *words, *KEEP_ALL) == 0
    for step, records in enumerate(given):
        assert (records[:, 0] < 0).tolist() == [False, step >= 3] * 2
    run = shutil.copytree(tmp_path / "run", tmp_path / "broken")
    for step in range(5, 9):
        for path in run.glob(f"model.ckpt-{step}.*"):
            path.unlink()
    assert train.main(["--resume", f"--train-dir={run}"]) == 0
    assert_equal_runs(run, tmp_path / "run")


def test_the_first_of_several_stages_has_no_pseudo_labels(data, tmp_path, capsys):
    words = [*IMAGES, *ALL_COUNT, *KEEP_ALL, "--stages=head:4:0.1,all:4:0.01"]
    words = [f"--dataset-dir={data}", f"--unlabeled-dir={data.parent / 'photos'}", *words]
    words += [*NETWORK[:3], "--batch-size=4", "--log-every=1", "--eval-every=0"]
    words += [f"--checkpoint={data.parent / 'weights'}"]
    assert train.main([*words, f"--train-dir={tmp_path / 'run'}"]) == 0
    said = re.findall(r"step (\d+)  pseudo-labels: \d of", capsys.readouterr().err)
    assert said == ["4", "7"]
    run = shutil.copytree(tmp_path / "run", tmp_path / "broken")
    for step in range(6, 9):
        for path in run.glob(f"model.ckpt-{step}.*"):
            path.unlink()
    assert train.main(["--resume", f"--train-dir={run}"]) == 0
    assert_equal_runs(run, tmp_path / "run")


def test_after_a_probe_there_are_labels_from_the_first_step_on(data, tmp_path, capsys):
    assert begin(data, tmp_path / "run", *FEATURES, *ALL_COUNT, "--probe") == 0
    assert re.findall(r"step (\d+)  pseudo-labels: \d of", capsys.readouterr().err) == ["0", "3", "6"]


# The images


def test_images_that_are_trained_on_with_their_labels_are_left_out(data, tmp_path, capsys):
    """The folder that records were made of; those of validation may be trained on without their labels."""
    assert begin(data, tmp_path / "run", *FEATURES, *ALL_COUNT, unlabelled="records/images") == 0
    said = capsys.readouterr().err
    assert "Unlabelled images: 10 are left out, for they are trained on with their labels: train_0" in said
    assert "Unlabelled images: 6 are also validated on" in said
    assert {row["path"] for row in rows_of(tmp_path / "run")} == {f"validation_{number:02d}.jpg" for number in range(6)}
    assert evaluate.main([f"--checkpoint={tmp_path / 'run'}", f"--dataset-dir={data}"]) == 0
    assert "trained on these images, their labels unseen" in " ".join(capsys.readouterr().out.split())


def test_the_labels_of_a_split_are_never_read(data, tmp_path, capsys):
    """Of test records whose labels are no classes."""
    write_split(tmp_path / "others", "train", num_images=2, first=300)
    write_split(tmp_path / "others", "test", num_images=5, first=400, classes=tuple("abcdefghij"))
    words = [f"--dataset-dir={data}", f"--train-dir={tmp_path / 'run'}", f"--checkpoint={data.parent / 'weights'}"]
    words += [*NETWORK, *STEPS, *FEATURES, *ALL_COUNT, f"--unlabeled-dir={tmp_path / 'others'}"]
    assert train.main(words) == 2
    assert "holds several splits: test, train.\n  Name one of them with --unlabeled-split" in capsys.readouterr().err
    assert train.main([*words, "--unlabeled-split=test"]) == 0
    assert {row["path"] for row in rows_of(tmp_path / "run")} == {f"test_{number:02d}.jpg" for number in range(5)}


def test_photographs_that_cannot_be_read(data, tmp_path, capsys):
    for path in (data.parent / "photos/of/day0").iterdir():
        write_file(tmp_path / "photos" / path.name, path.read_bytes())
    write_file(tmp_path / "photos/bad.jpg", b"\xff\xd8\xffno picture")
    words = [*FEATURES, *ALL_COUNT]
    assert begin(data, tmp_path / "run", *words, unlabelled=tmp_path / "photos") == 2
    said = capsys.readouterr().err
    assert "1 of 4 unlabelled files can't be read as images; nothing was written:\n  bad.jpg" in said
    assert not (tmp_path / "records").exists()
    assert begin(data, tmp_path / "run", *words, "--on-corrupt=skip", unlabelled=tmp_path / "photos") == 0
    assert "1 of 4 unlabelled files can't be read as images and are left out" in capsys.readouterr().err
    assert len(rows_of(tmp_path / "run")) == 3


def test_records_that_cannot_be_decoded(data, tmp_path, capsys):
    write_split(tmp_path / "others", "test", num_images=4, first=400, more=[("bad.jpg", b"\xff\xd8\xffno picture")])
    for inputs in (IMAGES, FEATURES):
        words = [*inputs, *ALL_COUNT]
        assert begin(data, tmp_path / "run", *words, unlabelled=tmp_path / "others") == 2
        assert "--unlabeled-dir: bad.jpg can't be decoded as an image" in capsys.readouterr().err
    assert begin(data, tmp_path / "run", *words, "--on-corrupt=skip", unlabelled=tmp_path / "others") == 0
    assert "1 unlabelled images can't be decoded and are left out: bad.jpg" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--pseudo-label-fraction=0.3"], "--pseudo-label-fraction would have no effect: there are no unlabelled"),
        (["--unlabeled-split=test"], "--unlabeled-split would have no effect"),
        (["--unlabeled-dir={photos}"], "ends after 8 steps, and images are labelled after the first"),
        (["--unlabeled-dir={photos}", "--unlabeled-split=test"], "--unlabeled-split is of records"),
        (["--unlabeled-dir={photos}/nowhere"], "--unlabeled-dir: there is no folder"),
        (["--unlabeled-dir={data}/images", "--split=validation"], None),
    ],
)
def test_what_is_refused(words, message, data, tmp_path, capsys):
    given = [word.format(photos=data.parent / "photos", data=data) for word in words]
    status = begin(data, tmp_path / "run", *FEATURES, *given, unlabelled=None)
    assert status == 2
    assert (message or "ends after 8 steps") in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_folder_of_the_training_images_alone(data, tmp_path, capsys):
    for path in (data / "images").glob("train_*"):
        write_file(tmp_path / "photos" / path.name, path.read_bytes())
    assert begin(data, tmp_path / "run", *FEATURES, *ALL_COUNT, unlabelled=tmp_path / "photos") == 2
    assert "all 10 images of" in (said := capsys.readouterr().err)
    assert "are trained on with their labels" in said


def test_unlabelled_records_are_read_one_by_one_and_known_again(data, tmp_path):
    write_split(tmp_path / "others", "test", num_images=4, first=400)
    images = find_unlabelled(tmp_path / "others", None, None, "image/encoded", "fail")
    contents = [(tmp_path / "others/images" / record.name).read_bytes() for record in images.records]
    assert [images.encoded(number) for number in range(4)] == contents
    write_split(tmp_path / "others", "test", num_images=5, first=400)
    other = find_unlabelled(tmp_path / "others", None, None, "image/encoded", "fail")
    assert other.sha256 != images.sha256
    shard = tmp_path / "others/tiny_test_00000-of-00001.tfrecord"
    shard.write_bytes(shard.read_bytes()[: images.records[3].offset + 4])
    with pytest.raises(UserError, match=r"test_03.jpg can't be read any more"):
        images.encoded(3)


def test_a_folder_of_several_data_sets_is_refused_with_advice_that_mends(tmp_path):
    for name in ("one", "two"):
        (tmp_path / f"{name}_train_00000-of-00001.tfrecord").touch()
    with pytest.raises(UserError, match="holds several data sets: one, two") as refused:
        find_unlabelled(tmp_path, None, None, "image/encoded", "fail")
    assert str(refused.value).startswith("--unlabeled-dir: ") and "--dataset-" not in str(refused.value)
