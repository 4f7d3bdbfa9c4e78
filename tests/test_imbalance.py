"""Classes and images that count for more than others, or are drawn more often: loss, order, records, probe, runs."""

import gzip
import json
import shutil
from collections import Counter

import numpy as np
import pytest
import scipy.stats
import sklearn.linear_model
import sklearn.metrics
import sklearn.utils.class_weight
import tensorflow as tf
from image_files import encode, picture
from tiny_runs import CLASSES, write_records, write_run

from finetune.commands import convert, evaluate, train
from finetune.datasets.bad_records import reading
from finetune.datasets.balanced_draws import BalancedDraws
from finetune.datasets.dataset import content_hash
from finetune.datasets.dataset_search import find_dataset
from finetune.datasets.decoding import ReadOptions
from finetune.datasets.pipeline import fingerprints_in_order, training_batches
from finetune.datasets.record_index import index_records
from finetune.errors import UserError
from finetune.model.checkpoint import Checkpoint
from finetune.model.model import Outputs
from finetune.preprocessing import get_preprocessing
from finetune.settings.stage import OptimizerSettings, StageSettings
from finetune.settings.train import TrainSettings
from finetune.training.devices import choose_strategy
from finetune.training.example_weights import balanced_weights, check_class_names, class_weights, weights_of_probe
from finetune.training.logistic_regression import Problem, choose_decay, fit
from finetune.training.loss_gap import LossGap
from finetune.training.losses import ClassificationLoss, TrainingLoss
from finetune.training.mixing import Mixing
from finetune.training.optimizers import Optimizer
from finetune.training.step import TrainingStep

NETWORK = ["--model=lenet", "--image-size=8", "--batch-size=4", "--log-every=1", "--eval-every=0"]
UNEQUAL = ("blue", "blue", "blue", "green", "red", "blue", "blue", "red", "blue", "blue")
OUTPUTS = np.array([0] * 40 + [1] * 7 + [3] * 2 + [4])  # No image of the class 2.


def random_logits(num_images, num_classes=3, scale=2.0):
    return np.random.default_rng(5).normal(scale=scale, size=[num_images, num_classes]).astype(np.float32)


# The loss


def test_weighted_cross_entropy_is_scikit_learns_over_the_number_of_images():
    logits, labels = random_logits(6), np.array([0, 0, 0, 0, 1, 2])
    own, of_classes = np.array([1, 0.5, 0, 3, 1, 1], np.float32), (0.5, 2.0, 4.0)
    loss = TrainingLoss(class_weights=of_classes)
    weights = loss.weights_of(tf.constant(labels), tf.constant(own))
    losses = loss(Outputs(tf.constant(logits), None, {}), tf.constant(labels), weights)
    probabilities = tf.nn.softmax(logits.astype(np.float64)).numpy()
    expected = sklearn.metrics.log_loss(
        labels, probabilities, sample_weight=own * np.array(of_classes)[labels], normalize=False
    )
    np.testing.assert_allclose(losses, [expected / 6, 0], rtol=1e-5)


def test_class_weights_raise_a_rare_classs_share_of_the_gradient_by_themselves():
    """45 images of two classes, 5 of the third: with balanced weights each class's gradient is so many times larger."""
    labels = np.array([0] * 25 + [1] * 20 + [2] * 5)
    logits = tf.zeros([50, 3])
    counts = np.bincount(labels)

    def gradient_by_class(weights):
        with tf.GradientTape() as tape:
            tape.watch(logits)
            loss = ClassificationLoss()(logits, None, tf.constant(labels), weights)
        sizes = tf.reduce_sum(tf.abs(tape.gradient(loss, logits)), axis=1).numpy()
        return np.array([sizes[labels == label].sum() for label in range(3)])

    of_classes = TrainingLoss(class_weights=balanced_weights(counts)).weights_of(tf.constant(labels))
    plain, weighted = gradient_by_class(None), gradient_by_class(of_classes)
    np.testing.assert_allclose(plain / plain.sum(), counts / 50, rtol=1e-5)
    np.testing.assert_allclose(weighted / plain, 50 / (3 * counts), rtol=1e-5)
    np.testing.assert_allclose(weighted / weighted.sum(), [1 / 3] * 3, rtol=1e-5)


def linear_step(kernel, **options):
    """Steps of plain gradient descent on a kernel."""

    def forward(inputs, seed):
        return Outputs(tf.reshape(inputs, [tf.shape(inputs)[0], 12]) @ kernel, None, {})

    optimizer = Optimizer(OptimizerSettings("sgd"), [kernel], {})
    return TrainingStep(forward, TrainingLoss(class_weights=(0.5, 2.0, 4.0)), optimizer, **options)


def test_weights_make_the_same_step_in_passes_and_on_devices():
    images = np.random.default_rng(3).normal(size=[8, 2, 2, 3]).astype(np.float32)
    labels, own = np.array([0, 0, 0, 0, 0, 1, 0, 2]), np.array([1, 1, 0.5, 3, 0, 1, 1, 2], np.float32)

    def trained(num_devices, num_passes):
        strategy = choose_strategy(num_devices, on_cpu=True)
        with strategy.scope():
            kernel = tf.Variable(tf.zeros([12, 3]), name="kernel")
            step = linear_step(kernel, num_passes=num_passes)
            dataset = tf.data.Dataset.from_tensors((images, labels, own)).unbatch().batch(8)
            (batch,) = strategy.experimental_distribute_dataset(dataset)
            return step(batch, 0, 0.1).numpy()[0], kernel.numpy()

    loss, kernel = trained(1, 1)
    assert loss == pytest.approx(np.log(3) * (np.array([0.5, 2, 4])[labels] * own).mean(), rel=1e-5)
    for devices, passes in ((1, 2), (2, 1)):
        other_loss, other_kernel = trained(devices, passes)
        assert other_loss == pytest.approx(loss, rel=1e-5)
        np.testing.assert_allclose(other_kernel, kernel, rtol=1e-5, atol=1e-7)


def test_each_step_and_each_pass_mixes_by_chance_of_its_own():
    seen = []

    def forward(inputs, seed):
        tf.numpy_function(lambda values: seen.append(values) or np.int64(0), [inputs], tf.int64)
        return Outputs(tf.reshape(inputs, [tf.shape(inputs)[0], 12]) @ kernel, None, {})

    kernel = tf.Variable(tf.zeros([12, 3]), name="kernel")
    optimizer = Optimizer(OptimizerSettings("sgd"), [kernel], {})
    step = TrainingStep(forward, TrainingLoss(), optimizer, mixing=Mixing(3, mixup=1.0), num_passes=2)
    two = np.random.default_rng(3).normal(size=[2, 2, 2, 3]).astype(np.float32)
    batch = tf.constant(np.concatenate([two, two])), tf.constant([0, 1, 0, 1])
    for number in (0, 1, 0):
        step(batch, number, 0.1)
    first, second, third, fourth, again, _ = seen
    assert not np.allclose(first, second)
    assert not np.allclose(first, third)
    assert not np.allclose(third, fourth)
    np.testing.assert_array_equal(first, again)


def test_auxiliary_logits_are_weighed_likewise():
    logits, labels, weights = tf.constant(random_logits(4)), tf.constant([0, 1, 2, 0]), tf.constant([1.0, 0, 2, 5])
    plain = ClassificationLoss()(logits, None, labels, weights)
    np.testing.assert_allclose(ClassificationLoss()(logits, logits, labels, weights), 1.4 * plain, rtol=1e-6)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_loss_by_numpy(gamma):
    logits, labels = random_logits(8), np.arange(8) % 3
    probabilities = tf.nn.softmax(logits.astype(np.float64)).numpy()[range(8), labels]
    expected = -((1 - probabilities) ** gamma) * np.log(probabilities)
    loss = ClassificationLoss(focal_gamma=gamma)(tf.constant(logits), None, tf.constant(labels))
    np.testing.assert_allclose(loss, expected.mean(), rtol=1e-5)


@pytest.mark.parametrize("dtype", [tf.float32, tf.bfloat16])
@pytest.mark.parametrize("gamma", [None, 0.5, 2.0])
def test_losses_of_huge_logits_and_their_gradients_are_finite(gamma, dtype):
    logits = tf.constant([[1e4, -1e4, 0], [-1e4, 1e4, 0], [0, 0, 0], [1e4, 1e4, 1e4]], dtype)
    with tf.GradientTape() as tape:
        tape.watch(logits)
        loss = ClassificationLoss(focal_gamma=gamma)(logits, None, tf.constant([0, 0, 1, 2]))
    gradient = tf.cast(tape.gradient(loss, logits), tf.float32)
    assert np.isfinite(loss)
    assert np.isfinite(gradient).all()
    assert loss > 20000 / 4 - 100  # The second is told wrongly, with certainty.
    np.testing.assert_array_equal(gradient[0], 0)


def test_a_focal_loss_is_not_compared_with_a_validations(caplog):
    for is_comparable in (False, True):
        gap = LossGap(has_stale_statistics=False, is_comparable=is_comparable)
        gap.note([0.01])
        gap.compare(1, 9.0, 3)
        assert ("pure chance" in caplog.text) is is_comparable


# Weights of classes


def test_balanced_weights_are_scikit_learns():
    expected = sklearn.utils.class_weight.compute_class_weight("balanced", classes=np.unique(OUTPUTS), y=OUTPUTS)
    weights = np.array(balanced_weights(np.bincount(OUTPUTS)))
    np.testing.assert_allclose(weights[[0, 1, 3, 4]], expected)
    assert weights[2] == 1
    assert weights[OUTPUTS].mean() == pytest.approx(1)


def objective(*texts, **values):
    return StageSettings(class_weights=texts, **values).objective


def test_weights_go_by_the_names_of_classes(caplog):
    assert class_weights(objective("red=2", "a=b=0.5"), ["blue", "a=b", "red"], 3, None) == (1, 0.5, 2)
    assert "Class weights: red 2, blue 1, a=b 0.5." in caplog.text
    assert class_weights(objective(), ["blue", "red"], 2, None) == ()


def test_of_many_classes_few_are_named(caplog):
    class_weights(objective("c7=9"), [f"c{number}" for number in range(1000)], 1000, None)
    assert "of 1000 classes the heaviest are c7 9, c0 1, c1 1, the lightest c997 1" in caplog.text


@pytest.mark.parametrize(
    ("texts", "names", "what"),
    [
        (["rde=2"], CLASSES, "no class 'rde' in the data.\n  Did you mean red"),
        (["red=2"], None, "no names of classes"),
        (["red=2"], ("red", "red"), "more than one class 'red'"),
        (["red=0", "blue=0", "green=0"], CLASSES, "all classes the weight 0"),
    ],
)
def test_classes_that_are_none_of_the_data(texts, names, what):
    with pytest.raises(UserError, match=what):
        check_class_names(objective(*texts), names)


@pytest.mark.parametrize(
    ("values", "what"),
    [
        ({"class_weights": ["red"]}, "'red' is not CLASS=WEIGHT"),
        ({"class_weights": ["red=-1"]}, "'red=-1' is not CLASS=WEIGHT"),
        ({"class_weights": ["red=nan"]}, "'red=nan' is not CLASS=WEIGHT"),
        ({"class_weights": ["=1"]}, "'=1' is not CLASS=WEIGHT"),
        ({"class_weights": ["balanced", "red=1"]}, "Give balanced alone"),
        ({"class_weights": ["red=1", "red=1"]}, "'red' twice"),
        ({"class_weights": ["balanced"], "balanced_sampling": True}, "Give one of them"),
        ({"focal_gamma": 3.0}, "Give --loss focal"),
        ({"loss": "focal", "label_smoothing": 0.1}, "work against each other"),
        ({"mixup": 0.2, "batch_size": 1}, "--mixup mixes images of a batch"),
        ({"cutmix": 0.2, "cache_features": "2"}, "Give --cache-features off"),
        ({"mixup": -0.1}, "--mixup is -0.1, but must be at least 0"),
        ({"mixup": 0.2, "probe": True, "max_steps": 0}, "--mixup would have no effect"),
        ({"loss": "focal", "probe": True, "max_steps": 0}, "--loss focal would have no effect"),
    ],
)
def test_settings_that_are_refused(values, what, tmp_path):
    with pytest.raises(UserError, match=what):
        TrainSettings(dataset_dir=tmp_path, **values)


def test_a_recipe_whose_first_stage_is_a_probe_takes_what_is_of_steps(tmp_path):
    settings = TrainSettings(dataset_dir=tmp_path, recipe="last-blocks", mixup=0.2, loss="focal", cache_features="off")
    first, second = (stage.settings(settings.stage) for stage in settings.course.stages)
    assert (first.objective.loss, first.objective.mixing_flag) == ("cross-entropy", "")
    assert (second.objective.loss, second.objective.mixing_flag) == ("focal", "--mixup")
    with pytest.raises(UserError, match="Give --cache-features off"):  # The recipe's is 2.
        TrainSettings(dataset_dir=tmp_path, recipe="last-blocks", mixup=0.2)


# Balanced sampling


def test_each_class_is_drawn_equally_often_and_its_images_in_turns():
    draws, total, per_image = BalancedDraws(OUTPUTS, seed=3), Counter(), Counter()
    for epoch in range(30):
        numbers, rounds = draws.epoch(epoch)
        assert len(numbers) == len(OUTPUTS)
        counts = Counter(OUTPUTS[numbers].tolist())
        assert set(counts) == {0, 1, 3, 4}
        assert max(counts.values()) - min(counts.values()) <= 1
        total.update(counts)
        for number, before in zip(numbers.tolist(), rounds.tolist(), strict=True):
            per_image[number, before] += 1
    assert max(total.values()) - min(total.values()) <= 1
    assert set(per_image.values()) == {1}  # Each round of an image comes once,
    for output in total:
        drawn = Counter(number for number, _ in per_image if OUTPUTS[number] == output)
        assert max(drawn.values()) - min(drawn.values()) <= 1  # and none before all others of its class had theirs.


def test_batches_hold_classes_as_chance_has_it():
    draws = BalancedDraws(OUTPUTS, seed=4)
    firsts = [OUTPUTS[draws.epoch(epoch)[0][0]] for epoch in range(200)]
    low, high = scipy.stats.binom.interval(0.9999, 200, 1 / 4)
    assert all(low <= count <= high for count in Counter(firsts).values())
    assert set(firsts) == {0, 1, 3, 4}


def test_draws_follow_from_seed_and_epoch():
    numbers, rounds = BalancedDraws(OUTPUTS, seed=3).epoch(5)
    again = BalancedDraws(OUTPUTS, seed=3)
    again.epoch(2)
    np.testing.assert_array_equal(again.epoch(5), (numbers, rounds))
    assert not np.array_equal(BalancedDraws(OUTPUTS, seed=-3).epoch(5)[0], numbers)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Records with weights, of which blue has most, and beside them weights of a network."""
    folder = tmp_path_factory.mktemp("imbalance") / "records"
    (folder.parent / "weights").mkdir()
    write_run(folder.parent / "weights", "lenet", image_size=8)
    write_records(folder, num_images=6, names=CLASSES, weights=(1.0, 2.0))
    return write_records(
        folder, num_images=20, split="train", classes=UNEQUAL, names=CLASSES, weights=(0.5, 1.0, 0.0, 2.0)
    )


def batches_of(dataset, index, start_step=0, num_batches=12):
    options = ReadOptions(get_preprocessing("lenet"), 8, 1)
    batches = training_batches(dataset, options, batch_size=4, seed=1, start_step=start_step, balanced=index)
    with reading(dataset):
        return [tuple(part.numpy() for part in batch) for batch in batches.take(num_batches)]


def test_records_are_read_from_their_places(data):
    dataset = find_dataset(data, None, "train")
    index = index_records(dataset, 0)
    assert np.bincount(index.outputs).tolist() == [14, 2, 4]
    assert index.weights.tolist() == [0.5, 1, 0, 2] * 5
    batches = batches_of(dataset, index)
    labels, weights, records = (np.concatenate(parts) for parts in list(zip(*batches, strict=True))[1:])
    numbers = records[:, 0]
    np.testing.assert_array_equal(labels, index.outputs[numbers])
    np.testing.assert_array_equal(weights, index.weights[numbers])
    with reading(dataset):
        fingerprints = np.concatenate([part.numpy() for part in fingerprints_in_order(dataset, 0)])
    np.testing.assert_array_equal(records[:, 1], fingerprints[numbers])
    assert len({tuple(record) for record in records.tolist()}) == 48  # Drawn again, an image is augmented anew.
    assert np.bincount(labels[:20]).tolist() in ([6, 7, 7], [7, 6, 7], [7, 7, 6])


def test_a_later_step_draws_what_it_would_have(data):
    dataset = find_dataset(data, None, "train")
    index = index_records(dataset, 0)
    whole = batches_of(dataset, index)
    for step in (1, 5, 11):
        for part, expected in zip(batches_of(dataset, index, step, 1)[0], whole[step], strict=True):
            np.testing.assert_array_equal(part, expected)


# Weights of images


def test_records_without_weights_are_as_before(tmp_path):
    plain, ones = (
        write_records(tmp_path / name, num_images=3, weights=weights)
        for name, weights in (("plain", None), ("ones", (1.0,)))
    )
    of_plain, of_ones = (find_dataset(folder, None, "validation") for folder in (plain, ones))
    assert (of_plain.schema.has_weights, of_ones.schema.has_weights) == (False, True)
    assert b"image/weight" not in of_plain.shards[0].path.read_bytes()
    seen = [
        np.concatenate([part.numpy() for part in fingerprints_in_order(dataset, 0)]) for dataset in (of_plain, of_ones)
    ]
    np.testing.assert_array_equal(*seen)


@pytest.mark.parametrize("weights", [(1.0, -1.0), (1.0, float("nan")), (1.0, float("inf"))])
def test_weights_that_are_none(tmp_path, weights):
    folder = write_records(tmp_path / "records", num_images=3, weights=weights)
    with pytest.raises(UserError, match=r"record 1 .*weight under image/weight"):
        index_records(find_dataset(folder, None, "validation"), 0)


def test_no_image_that_counts(tmp_path):
    folder = write_records(tmp_path / "records", num_images=3, weights=(0.0,))
    with pytest.raises(UserError, match="All images of the split validation have the weight 0"):
        index_records(find_dataset(folder, None, "validation"), 0)


def photographs(folder, rows):
    """Images in one folder, and a table of them with their classes and weights."""
    folder.mkdir()
    for number in range(len(rows)):
        (folder / f"{number}.png").write_bytes(encode(picture(number), "PNG"))
    lines = [f"{number}.png,{row}\n" for number, row in enumerate(rows)]
    (folder / "labels.csv").write_text("".join(["file,label,weight\n", *lines]))
    return folder


def converted(folder):
    settings = convert.ConvertSettings(
        dataset_dir=folder / "records", images_dir=folder, labels_csv=folder / "labels.csv", overwrite=True
    )
    convert.convert(settings)
    return find_dataset(folder / "records", None, "train")


def test_a_tables_weights_are_in_the_records_and_in_the_hash(tmp_path):
    rows = ["a,1", "a,0.5", "a,0", "b,2", "b,1", "b,1"]
    folder = photographs(tmp_path / "photos", rows)
    before = converted(folder)
    described = json.loads((folder / "records" / "dataset.json").read_text())
    assert described["weights"]["train"]["most"] <= 2
    index = index_records(before, 0)
    assert set(index.weights.tolist()) <= {0.0, 0.5, 1.0, 2.0}
    hash_before = content_hash(before)
    table = folder / "labels.csv"
    table.write_text(table.read_text().replace("a,0.5", "a,0.25"))
    assert content_hash(converted(folder)) != hash_before or 0.5 not in index.weights


@pytest.mark.parametrize(
    ("rows", "what"),
    [
        (["a,1", "b,-1"], "1 of the 2 rows of .* have a weight that is no number from 0 on \\(line 3"),
        (["a,1", "b,"], "no number from 0 on"),
        (["a,inf", "b,1"], "no number from 0 on"),
        (["a,nan", "b,half"], "2 of the 2 rows"),
        (["a,0", "b,0.0"], "weight 0 for all 2 images"),
    ],
)
def test_weights_in_a_table_that_are_none(tmp_path, rows, what):
    with pytest.raises(UserError, match=what):
        converted(photographs(tmp_path / "photos", rows))


def test_one_image_has_one_weight(tmp_path):
    folder = photographs(tmp_path / "photos", ["a,1", "b,1"])
    with (folder / "labels.csv").open("a") as table:
        table.write("0.png,a,1.0\n")
    converted(folder)  # The same in other words.
    with (folder / "labels.csv").open("a") as table:
        table.write("0.png,a,2\n")
    with pytest.raises(UserError, match="different weights to 1 image"):
        converted(folder)


# The probe


@pytest.mark.parametrize("class_weight", [None, "balanced", {0: 3.0, 1: 0.5, 2: 1.0}])
def test_the_probe_weighs_as_scikit_learn_does(class_weight):
    generator = np.random.default_rng(2)
    labels = np.array([0] * 30 + [1] * 8 + [2] * 4)
    features = generator.normal(size=[42, 5]) + labels[:, np.newaxis]
    # With both, scikit-learn balances the sums of weights, where ours balances the numbers of images.
    own = np.ones(42) if class_weight == "balanced" else generator.uniform(0, 2, size=42)
    of_classes = sklearn.utils.class_weight.compute_sample_weight(class_weight, labels)
    decay = 0.01
    solution = fit(Problem(features, labels, 3, weights=own * of_classes), decay)
    model = sklearn.linear_model.LogisticRegression(
        C=1 / (42 * decay), tol=1e-8, max_iter=5000, class_weight=class_weight
    )
    model.fit(features, labels, sample_weight=own)
    np.testing.assert_allclose(solution.kernel, model.coef_.T, atol=2e-4)
    difference = solution.bias - model.intercept_
    np.testing.assert_allclose(difference, difference.mean(), atol=5e-4)


def test_a_row_of_weight_two_is_as_good_as_two_rows():
    generator = np.random.default_rng(2)
    labels, images = np.arange(30) % 3, np.arange(30)
    features = generator.normal(size=[30, 4])
    weighted = Problem(features, labels, 3, weights=np.full(30, 2.0))
    twice = Problem(np.tile(features, [2, 1]), np.tile(labels, 2), 3)
    np.testing.assert_allclose(fit(weighted, 0.02).kernel, fit(twice, 0.01).kernel, atol=1e-5)
    losses = choose_decay(weighted, images, [0.02]).losses, choose_decay(twice, np.tile(images, 2), [0.01]).losses
    assert losses[0][0.02, False] == pytest.approx(2 * losses[1][0.01, False], rel=1e-3)


def test_balanced_sampling_comes_to_balanced_weights_in_the_probe(data):
    index = index_records(find_dataset(data, None, "train"), 0)
    balanced = balanced_weights(np.bincount(index.outputs))
    sampling = objective("red=2", balanced_sampling=True)
    np.testing.assert_allclose(weights_of_probe(sampling, (1, 1, 2), index, 3), np.array(balanced) * [1, 1, 2])
    np.testing.assert_allclose(weights_of_probe(objective(balanced_sampling=True), (), index, 3), balanced)
    assert weights_of_probe(objective(), (), None, 3) == ()


# Runs


def begin(data, run, *words):
    return train.main(
        [f"--dataset-dir={data}", f"--train-dir={run}", f"--checkpoint={data.parent / 'weights'}", *NETWORK, *words]
    )


def values_at(run, step):
    checkpoint = Checkpoint(str(run / f"model.ckpt-{step}"))
    return {name: checkpoint.read(name) for name in checkpoint.shapes}


HEAD = ["--trainable-layers=head", "--cache-features=2", "--augmentation=flip"]
WAYS = {
    "class weights": ["--class-weights=balanced", "--cache-features=off"],
    "focal": ["--loss=focal", "--class-weights=red=3", "--accumulate-steps=2"],
    "balanced": ["--balanced-sampling", "--cache-features=off"],
    "features": ["--balanced-sampling", *HEAD],
    "features in files": ["--balanced-sampling", "--loss=focal", "--cache-memory=0", *HEAD],
    "mixed": ["--mixup=0.2", "--cutmix=1", "--class-weights=balanced", "--trainable-layers=head"],
    "mixed on devices": ["--mixup=0.4", "--balanced-sampling", "--num-clones=2"],
}


@pytest.mark.slow  # Four trainings each, of which three are begun anew.
@pytest.mark.parametrize("words", WAYS.values(), ids=WAYS)
def test_a_run_that_is_broken_off_ends_as_an_unbroken_one(data, tmp_path, words, capfd):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    often = ["--save-interval-seconds=0", "--max-to-keep=9"]
    assert begin(data, whole, *words, "--max-steps=7") == 0
    assert begin(data, broken, *words, *often, "--max-steps=4") == 0
    assert train.main(["--resume", f"--train-dir={broken}", "--max-steps=7"]) == 0
    values, expected = values_at(broken, 7), values_at(whole, 7)
    assert values.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(values[name], value, err_msg=name)
    assert "Weights of images: from 0 to 2, 0.875 in the mean, 5 of 20 are 0." in capfd.readouterr().err
    assert train.main(["--resume", "--verify", f"--train-dir={broken}"]) == 0


def test_weights_change_what_is_trained(data, tmp_path):
    plain = tmp_path / "plain"
    shutil.copytree(data.parent / "weights", tmp_path / "weights")
    write_records(plain, num_images=6)
    write_records(plain, num_images=20, split="train", classes=UNEQUAL, names=CLASSES)
    begin(data, tmp_path / "a", *HEAD, "--max-steps=2")
    begin(plain, tmp_path / "b", *HEAD, "--max-steps=2")
    name = "LeNet/fc4/weights"
    assert not np.array_equal(values_at(tmp_path / "a", 2)[name], values_at(tmp_path / "b", 2)[name])


def test_a_mixed_run_says_why_it_caches_nothing_and_cannot_be_resumed_otherwise(data, tmp_path, capfd):
    words = ["--mixup=0.2", "--trainable-layers=head", "--max-steps=2"]
    assert begin(data, tmp_path / "run", *words) == 0
    assert "computed in every step, since --mixup mixes images in front of the frozen layers" in capfd.readouterr().err
    assert train.main(["--resume", f"--train-dir={tmp_path / 'run'}", "--max-steps=3", "--mixup=0.5"]) == 2
    assert "mixup is 0.5, was 0.2" in capfd.readouterr().err


def test_a_probe_before_mixed_steps(data, tmp_path, capfd):
    words = ["--mixup=0.2", "--trainable-layers=head", "--probe", "--class-weights=balanced", "--loss=focal"]
    assert begin(data, tmp_path / "run", *words, "--max-steps=2") == 0
    err = capfd.readouterr().err
    assert "weighted cross-entropy" in err
    assert "the probe is of cross-entropy" in err


def test_a_class_that_is_none_is_refused_before_any_stage(data, tmp_path, capfd):
    stages = "--stages=head:1,all:1"
    assert begin(data, tmp_path / "run", stages, "--class-weights=rde=2") == 2
    assert "there is no class 'rde' in the data.\n  Did you mean red" in capfd.readouterr().err
    assert not (tmp_path / "run" / "config.toml").exists()


def test_an_evaluation_says_that_it_weighs_nothing(data, tmp_path, capfd):
    run = write_run(tmp_path / "run", "lenet", image_size=8)
    words = [f"--checkpoint={run}", f"--dataset-dir={data}", f"--eval-dir={tmp_path / 'eval'}"]
    assert evaluate.main(words) == 0
    assert capfd.readouterr().err.count("images have weights, which count in training alone") == 1


def test_photographs_are_converted_anew_where_a_weight_has_changed(tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = photographs(tmp_path / "photos", [f"{name},1" for name in "aaaaabbbbb"])
    words = [str(folder / "labels.csv"), "--checkpoint=none", *NETWORK, "--max-steps=1", "--report=false"]
    for weight in ("1", "1", "0.5"):
        table = folder / "labels.csv"
        table.write_text(table.read_text().replace("0.png,a,1\n", f"0.png,a,{weight}\n"))
        assert train.main(words) == 0
    err = capfd.readouterr().err
    assert err.count("nothing has changed") == 1
    assert "since of its images are 1 changed (0.png)" in err


def test_compressed_shards_are_not_drawn_from(tmp_path, capfd, data):
    records = tmp_path / "records"
    shutil.copytree(data, records)
    shutil.copytree(data.parent / "weights", tmp_path / "weights")
    for shard in records.glob("*train*"):
        shard.write_bytes(gzip.compress(shard.read_bytes()))
    words = ["--balanced-sampling", "--max-steps=2"]
    assert begin(records, tmp_path / "run", *words, "--cache-features=off") == 2
    assert "is compressed (GZIP)" in capfd.readouterr().err
    assert begin(records, tmp_path / "cached", *words, *HEAD) == 0
