"""Mixup and cutmix: what is mixed with what, how much of it, and the loss of it."""

import numpy as np
import pytest
import scipy.stats
import tensorflow as tf

from finetune.training.losses import ClassificationLoss
from finetune.training.mixing import Mixing, beta, blend, paste

LABELS = np.array([0, 2, 1, 2, 0])
SEED = tf.constant([3, 4])


def pictures(num_images=5, height=12, width=9):
    """Each image has one value, its number."""
    values = np.arange(num_images, dtype=np.float32)[:, np.newaxis, np.newaxis, np.newaxis]
    return tf.constant(np.broadcast_to(values, [num_images, height, width, 3]).copy())


@pytest.mark.parametrize("mixing", [Mixing(3, mixup=0.4), Mixing(3, cutmix=1.0), Mixing(3, 0.4, 1.0)])
def test_labels_say_how_much_of_which_image_is_there(mixing):
    mixed = mixing(pictures(), tf.constant(LABELS), SEED)
    assert mixed.images.shape == pictures().shape
    assert mixed.weights is None
    np.testing.assert_allclose(tf.reduce_sum(mixed.labels, axis=1), 1, rtol=1e-6)
    one_hot = np.eye(3)[LABELS]
    for number, (image, labels) in enumerate(zip(mixed.images.numpy(), mixed.labels.numpy(), strict=True)):
        other = (number + 1) % 5
        share = (image.mean() - other) / (number - other)  # By the pixels, whichever way they were mixed.
        np.testing.assert_allclose(labels, share * one_hot[number] + (1 - share) * one_hot[other], atol=1e-5)


def test_the_same_seed_mixes_the_same():
    mixing = Mixing(3, 0.4, 1.0)
    first, again = (mixing(pictures(), tf.constant(LABELS), SEED) for _ in range(2))
    other = mixing(pictures(), tf.constant(LABELS), SEED + 1)
    np.testing.assert_array_equal(first.images, again.images)
    assert not np.array_equal(first.images, other.images)


def test_blended_by_numpy():
    shares = np.array([0.25, 1.0, 0.5], np.float32)
    images = np.random.default_rng(0).normal(size=[3, 4, 5, 3]).astype(np.float32)
    mixed, same = blend(tf.constant(images), tf.constant(shares))
    own = shares[:, np.newaxis, np.newaxis, np.newaxis]
    np.testing.assert_allclose(mixed, own * images + (1 - own) * images[[1, 2, 0]], rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(same, shares)


def test_what_is_pasted_is_a_rectangle_and_its_pixels_are_counted():
    shares = np.array([0.0, 1.0, 0.5, 0.9, 0.2], np.float32)
    mixed, left = paste(pictures(height=40, width=20), tf.constant(shares), SEED)
    assert left[1] == 1  # Nothing was to be pasted.
    sizes = []
    for number, image in enumerate(mixed.numpy()):
        is_pasted = (image != number).all(axis=-1)
        assert 1 - is_pasted.mean() == pytest.approx(float(left[number]))
        if is_pasted.any():
            rows, columns = np.flatnonzero(is_pasted.any(axis=1)), np.flatnonzero(is_pasted.any(axis=0))
            assert is_pasted[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
            sizes.append((len(rows), len(columns)))
        # A border may cut some off, never add to it but by rounding.
        assert left[number] >= shares[number] - 0.06
    assert len(sizes) >= 3


@pytest.mark.parametrize("alpha", [0.2, 1.0, 5.0])
def test_shares_are_of_a_beta_distribution(alpha):
    draws = beta(alpha, tf.constant(4000), SEED).numpy()
    assert scipy.stats.kstest(draws, scipy.stats.beta(alpha, alpha).cdf).pvalue > 0.01


def test_shares_of_a_tiny_alpha_are_numbers():
    draws = beta(1e-3, tf.constant(1000), SEED).numpy()
    assert np.isfinite(draws).all()
    assert 400 < (draws > 0.5).sum() < 600


def test_both_ways_take_half_of_the_batches_each():
    mixing = Mixing(3, 0.4, 1.0)
    mix = tf.function(lambda seed: mixing(pictures(), tf.constant(LABELS), seed).images, autograph=False)
    is_blended = [bool((mix(tf.constant([0, step])) % 1 != 0).numpy().any()) for step in range(200)]
    low, high = scipy.stats.binom.interval(0.999, 200, 0.5)
    assert low <= sum(is_blended) <= high


@pytest.mark.parametrize("focal_gamma", [None, 2.0])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_the_loss_of_a_mixed_image_is_that_of_its_parts_by_their_weights(label_smoothing, focal_gamma):
    weights = np.array([1.0, 5.0, 0.25, 0.0, 0.0], np.float32)
    logits = tf.constant(np.random.default_rng(1).normal(size=[5, 3]), tf.float32)
    mixing, loss = Mixing(3, mixup=1.0), ClassificationLoss(label_smoothing, focal_gamma)
    mixed = mixing(pictures(), tf.constant(LABELS), SEED, tf.constant(weights))
    shares = mixing(pictures(), tf.constant([0, 1, 0, 1, 2]), SEED).labels.numpy()[range(5), [0, 1, 0, 1, 2]]
    np.testing.assert_allclose(tf.reduce_sum(mixed.labels, axis=1), 1, rtol=1e-6)

    def loss_as(labels):
        return np.array([loss(logits[i : i + 1], None, tf.constant([label])) for i, label in enumerate(labels)])

    after = np.roll(np.arange(5), -1)
    expected = shares * weights * loss_as(LABELS) + (1 - shares) * weights[after] * loss_as(LABELS[after])
    np.testing.assert_allclose(loss(logits, None, mixed.labels, mixed.weights), expected.mean(), rtol=1e-5)


def test_images_of_another_type_and_any_number_of_them():
    mix = tf.function(
        lambda images, labels: Mixing(3, 0.4, 1.0)(images, labels, SEED),
        input_signature=[tf.TensorSpec([None, 12, 9, 3]), tf.TensorSpec([None], tf.int64)],
        autograph=False,
    )
    assert mix(pictures(2), tf.constant(LABELS[:2])).images.shape == [2, 12, 9, 3]
    assert Mixing(3, 0.4)(tf.cast(pictures(), tf.bfloat16), tf.constant(LABELS), SEED).images.dtype == tf.bfloat16
