"""Images of a batch mixed with each other, their labels likewise: mixup (arXiv:1710.09412), cutmix (arXiv:1905.04899).

Each image is mixed with the one after it in the batch, the last with the first: the batch comes in random order. How
much of each is left is drawn for each image by itself from Beta(alpha, alpha). All is a function of the seed.

The loss of a mixed image is the sum of the losses that its two labels would have, each by its image's share and its
image's weight: as mixup defines it, and as PyTorch has it for shares of classes that have weights.
"""

import dataclasses
from typing import NamedTuple

import tensorflow as tf

from finetune.types import Tensor


class MixedBatch(NamedTuple):
    """What a step is given in place of a batch.

    Attributes:
        images: As they were given, [B,H,W,C].
        labels: Shares of the classes, float32 [B,num_classes]; each row sums to 1. Where two images have weights that
            differ, these move the shares.
        weights: How much each image counts, float32 [B]; None: all alike.
    """

    images: Tensor
    labels: Tensor
    weights: Tensor | None


@dataclasses.dataclass(frozen=True)
class Mixing:
    """How images of a batch are mixed; where both ways are asked for, each batch takes one of them by even chance.

    Attributes:
        num_classes: That labels are of.
        mixup: Alpha of images that are blended; 0: none are.
        cutmix: Alpha of images into which a piece of another is pasted; 0: none are.
    """

    num_classes: int
    mixup: float = 0.0
    cutmix: float = 0.0

    def __call__(self, images: Tensor, labels: Tensor, seed: Tensor, weights: Tensor | None = None) -> MixedBatch:
        """Mixes a batch.

        Args:
            images: Float [B,H,W,C], of two images or more.
            labels: Class ids [B]; where an image has any number of labels 1 or 0 for each class [B,num_classes], whose
                shares then sum to anything.
            seed: Integers [2].
            weights: How much each image counts [B]; None: all alike.
        """
        of_choice, of_ratio, of_place = tf.unstack(tf.random.experimental.stateless_split(seed, 3))

        def blended() -> tuple[Tensor, Tensor]:
            return blend(images, beta(self.mixup, tf.shape(images)[0], of_ratio))

        def pasted() -> tuple[Tensor, Tensor]:
            return paste(images, beta(self.cutmix, tf.shape(images)[0], of_ratio), of_place)

        if self.mixup and self.cutmix:
            mixed, shares = tf.cond(tf.random.stateless_uniform([], of_choice) < 0.5, blended, pasted)
        else:
            mixed, shares = blended() if self.mixup else pasted()
        return MixedBatch(tf.ensure_shape(mixed, images.shape), *self._mixed_labels(labels, shares, weights))

    def _mixed_labels(self, labels: Tensor, shares: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor | None]:
        classes = tf.cast(labels, tf.float32) if labels.shape.rank == 2 else tf.one_hot(labels, self.num_classes)
        if weights is None:
            own = shares[:, tf.newaxis]
            return own * classes + (1.0 - own) * _next(classes), None
        first, second = shares * weights, (1.0 - shares) * _next(weights)
        # Where neither image counts, any shares do.
        own = tf.where(first + second > 0, tf.math.divide_no_nan(first, first + second), shares)[:, tf.newaxis]
        return own * classes + (1.0 - own) * _next(classes), first + second


def blend(images: Tensor, shares: Tensor) -> tuple[Tensor, Tensor]:
    """Mixup: the weighted mean of each image and the next.

    Args:
        images: Float [B,H,W,C].
        shares: Of each image, 0 to 1, float32 [B].

    Returns:
        The mixed images, and the shares.
    """
    own = tf.cast(shares, images.dtype)[:, tf.newaxis, tf.newaxis, tf.newaxis]
    return own * images + (1 - own) * _next(images), shares


def paste(images: Tensor, shares: Tensor, seed: Tensor) -> tuple[Tensor, Tensor]:
    """Cutmix: a rectangle of the next image in its place in each image, of the image's proportions.

    Args:
        images: [B,H,W,C].
        shares: Of each image that are to be left, 0 to 1, float32 [B].
        seed: Integers [2], of the rectangles' middles: anywhere in the image, at whose borders they are cut off.

    Returns:
        The mixed images, and the shares that are really left, by pixels.
    """
    num_images, height, width = tf.unstack(tf.shape(images)[:3])
    side, middles = tf.sqrt(1.0 - shares), tf.random.stateless_uniform([2, num_images], seed)
    rows = _between(height, middles[0], side)
    columns = _between(width, middles[1], side)
    is_pasted = rows[:, :, tf.newaxis] & columns[:, tf.newaxis, :]
    left = 1.0 - tf.reduce_mean(tf.cast(is_pasted, tf.float32), axis=[1, 2])
    return tf.where(is_pasted[..., tf.newaxis], _next(images), images), left


def beta(alpha: float, num_draws: Tensor, seed: Tensor) -> Tensor:
    """Draws of Beta(alpha, alpha), float32 [num_draws].

    By logarithms of two gamma variates, each that of alpha + 1 plus log(u) / alpha (Marsaglia and Tsang, 2000): the
    variates of a small alpha themselves would often be 0.
    """
    of_gamma, of_uniform = tf.unstack(tf.random.experimental.stateless_split(seed, 2))
    gammas = tf.random.stateless_gamma([2, num_draws], of_gamma, alpha + 1.0)
    uniforms = 1.0 - tf.random.stateless_uniform([2, num_draws], of_uniform)  # Above 0.
    logarithms = tf.math.log(gammas) + tf.math.log(uniforms) / alpha
    return tf.sigmoid(logarithms[0] - logarithms[1])


def _between(size: Tensor, middles: Tensor, sides: Tensor) -> Tensor:
    """Which of so many rows or columns lie in a stretch, by its middle and its length as shares; bool [B,size]."""
    pixels, half = tf.range(size)[tf.newaxis], tf.cast(size, tf.float32) * sides / 2.0
    centres = tf.cast(size, tf.float32) * middles
    first, end = (tf.cast(tf.round(edge), tf.int32)[:, tf.newaxis] for edge in (centres - half, centres + half))
    return (pixels >= first) & (pixels < end)


def _next(values: Tensor) -> Tensor:
    return tf.roll(values, -1, axis=0)
