"""RandAugment: some operations of fourteen, all as strong.

Source: Cubuk et al., "RandAugment: Practical automated data augmentation with a reduced search space",
https://arxiv.org/abs/1909.13719. Strengths run from 0 to 10, which is the end of the ranges of Cubuk et al.,
"AutoAugment", https://arxiv.org/abs/1805.09501, table 6. More strength is more of a change for every operation, and
what has two directions takes either: in the authors' program posterizing and solarizing get weaker, and colour,
contrast, brightness and sharpness only rise.
"""

from collections.abc import Callable, Mapping

import tensorflow as tf

from finetune.preprocessing import operations
from finetune.preprocessing.seeds import Decision, seed_for
from finetune.types import Tensor

MOST_STRENGTH = 10
# At the most strength.
MOST_DEGREES = 30.0
MOST_SHEAR = 0.3
MOST_TRANSLATION = 150 / 331  # Of the side; AutoAugment's images had 331 pixels.
MOST_FACTOR_CHANGE = 0.9
MOST_LOST_BITS = 4

# An image, a direction of 1 or -1, and a strength of up to 1.
Operation = Callable[[Tensor, Tensor, float], Tensor]

OPERATIONS: Mapping[str, Operation] = {
    "identity": lambda image, direction, strength: image,
    "autocontrast": lambda image, direction, strength: operations.autocontrast(image),
    "equalize": lambda image, direction, strength: operations.equalize(image),
    "rotate": lambda image, direction, strength: operations.rotate(image, direction * strength * MOST_DEGREES),
    "solarize": lambda image, direction, strength: operations.solarize(image, 256.0 * (1 - strength)),
    "color": lambda image, direction, strength: operations.color(image, _factor(direction, strength)),
    "posterize": lambda image, direction, strength: operations.posterize(image, 8 - round(MOST_LOST_BITS * strength)),
    "contrast": lambda image, direction, strength: operations.contrast(image, _factor(direction, strength)),
    "brightness": lambda image, direction, strength: operations.brightness(image, _factor(direction, strength)),
    "sharpness": lambda image, direction, strength: operations.sharpness(image, _factor(direction, strength)),
    "shear_x": lambda image, direction, strength: operations.shear_x(image, direction * strength * MOST_SHEAR),
    "shear_y": lambda image, direction, strength: operations.shear_y(image, direction * strength * MOST_SHEAR),
    "translate_x": lambda image, direction, strength: operations.translate_x(
        image, direction * strength * MOST_TRANSLATION
    ),
    "translate_y": lambda image, direction, strength: operations.translate_y(
        image, direction * strength * MOST_TRANSLATION
    ),
}


def randaugment(image: Tensor, num_operations: int, strength: int, seed: Tensor) -> Tensor:
    """Does so many operations, of strength 1 to 10, to an image float32 [H,W,C] in [0, 255], each drawn from all."""
    drawn = tf.random.stateless_uniform(
        [num_operations], seed_for(Decision.OPERATION, seed), 0, len(OPERATIONS), dtype=tf.int32
    )
    is_back = tf.random.stateless_uniform([num_operations], seed_for(Decision.DIRECTION, seed)) < 0.5
    directions = tf.where(is_back, -1.0, 1.0)
    for number in range(num_operations):
        image = _one(image, drawn[number], directions[number], strength / MOST_STRENGTH)
    return image


def _one(image: Tensor, index: Tensor, direction: Tensor, strength: float) -> Tensor:
    branches = [lambda each=each: each(image, direction, strength) for each in OPERATIONS.values()]
    return tf.ensure_shape(tf.switch_case(index, branches), image.shape)


def _factor(direction: Tensor, strength: float) -> Tensor:
    return 1.0 + direction * strength * MOST_FACTOR_CHANGE
