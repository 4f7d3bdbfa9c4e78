"""One seed per image goes in; every random decision on that image draws from a seed of its own."""

import enum

import tensorflow as tf

from finetune.types import Tensor


class Decision(enum.IntEnum):
    """What is decided at random. The numbers are part of what a seed means: new decisions take new numbers."""

    WINDOW = 1
    SIDE = 2
    FLIP = 3
    BRIGHTNESS = 4
    SATURATION = 5
    CONTRAST = 6
    TURN = 7
    AFFINE = 8
    OPERATION = 9
    DIRECTION = 10
    ERASURE = 11
    RECTANGLE = 12
    NOISE = 13


def seed_for(decision: Decision, seed: Tensor) -> Tensor:
    """The seed, int32[2], of one decision on the image whose seed, int32[2] or int64[2], is given."""
    return tf.random.experimental.stateless_fold_in(seed, int(decision))
