"""Drop path: all of an image or nothing, a function of the seed and the layer, and off where nothing is trained."""

import numpy as np
import tensorflow as tf

from finetune.nets.layers import drop_path, layer_modes

NUM_IMAGES = 400


def _kept(seed: int = 1, scope: str = "cell", is_training: bool = True, is_frozen: bool = False) -> np.ndarray:
    """What 0.7 of keeping leaves of images of ones: a factor for each image."""

    def run(images):
        with layer_modes(is_training, lambda scope: is_frozen, tf.constant([0, seed, 0])):
            return drop_path(images, 0.7, scope=scope)

    outputs = tf.function(run, autograph=False)(tf.ones([NUM_IMAGES, 2, 2, 3])).numpy()
    assert (outputs == outputs[:, :1, :1, :1]).all()
    return outputs[:, 0, 0, 0]


def test_images_are_dropped_whole_and_the_mean_is_kept():
    kept = _kept()
    assert set(kept.tolist()) == {0.0, np.float32(1 / 0.7).item()}
    assert abs((kept > 0).mean() - 0.7) < 0.08


def test_the_seed_and_the_layer_decide():
    assert (_kept() == _kept()).all()
    assert (_kept() != _kept(seed=2)).any()
    assert (_kept() != _kept(scope="another_cell")).any()


def test_nothing_is_dropped_in_a_frozen_layer_or_outside_training():
    assert (_kept(is_frozen=True) == 1.0).all()
    assert (_kept(is_training=False) == 1.0).all()
