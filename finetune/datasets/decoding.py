"""From an image file's bytes to pixels: whole images, and what training sees of them."""

import dataclasses

import numpy as np
import tensorflow as tf

from finetune.preprocessing import Preprocessing
from finetune.preprocessing.geometry import crop
from finetune.types import Tensor

# To which part of its size a JPEG can be decoded.
JPEG_RATIOS = np.array([1, 2, 4, 8])

# TensorFlow quotes what it can't parse in its message, and then may fail to make a Python string of it.
BAD_DATA_ERRORS = (tf.errors.InvalidArgumentError, UnicodeDecodeError)


@dataclasses.dataclass(frozen=True)
class ReadOptions:
    """What is made of a record's image and label.

    Attributes:
        preprocessing: What images go through.
        image_size: Height and width of what comes out, in pixels.
        channels: 1 or 3. Images of another kind are converted as they are decoded.
        labels_offset: Subtracted from each label (slim: 1 for networks without a background class).
        num_parallel_calls: How many images are decoded at a time; None: chosen while running.
        num_readers: How many shards are read at a time; None: chosen while running.
    """

    preprocessing: Preprocessing
    image_size: int
    channels: int
    labels_offset: int = 0
    num_parallel_calls: int | None = None
    num_readers: int | None = None


def decode_image(encoded: Tensor, channels: int) -> Tensor:
    """Decodes JPEG, PNG, GIF (its first picture) or BMP bytes to uint8 [H,W,channels].

    Grey is repeated for 3 channels, colour is weighted for 1, transparency and the low byte of 16 bits are dropped.
    """
    if channels == 3:
        image = tf.io.decode_image(encoded, channels=3, expand_animations=False)
    else:
        # For the rarer formats TensorFlow decodes to colour only.
        image = tf.cond(
            _starts_with(encoded, b"\xff\xd8\xff") | _starts_with(encoded, b"\x89PNG"),
            lambda: tf.io.decode_image(encoded, channels=1, expand_animations=False),
            lambda: tf.image.rgb_to_grayscale(tf.io.decode_image(encoded, channels=3, expand_animations=False)),
        )
    return tf.ensure_shape(image, [None, None, channels])


def training_image(encoded: Tensor, options: ReadOptions, epoch_seed: Tensor) -> tuple[Tensor, Tensor]:
    """An image as training has it in an epoch, [H,W,C], and the hash of its file, by which its augmentation differs."""
    image_hash = hash_of_image(encoded)
    image_seed = tf.stack([epoch_seed, image_hash])
    window = decode_training_window(encoded, options, image_seed)
    image = options.preprocessing.finish_training(window, options.image_size, options.image_size, image_seed)
    return image, image_hash


def decode_training_window(encoded: Tensor, options: ReadOptions, image_seed: Tensor) -> Tensor:
    """Decodes what the preprocessing trains on, uint8 [H,W,channels].

    Of a JPEG no more than the window that is cut out, and at a half, a quarter or an eighth of its size where that
    still has `image_size` pixels: what the decoder leaves out costs no time, and resizing would leave it out anyway.
    """
    size, channels = options.image_size, options.channels

    def window_of(height_width_channels: Tensor) -> Tensor:
        return options.preprocessing.training_window(height_width_channels, size, size, image_seed)

    def from_jpeg() -> Tensor:
        # The chroma of the window's last column may differ by a few levels from that of a decoded and cut image.
        window = window_of(tf.io.extract_jpeg_shape(encoded))
        decoders = [
            lambda ratio=ratio: tf.io.decode_and_crop_jpeg(encoded, window // ratio, channels=channels, ratio=ratio)
            for ratio in JPEG_RATIOS
        ]
        num_halvings = tf.reduce_sum(tf.cast(tf.reduce_min(window[2:]) >= size * JPEG_RATIOS[1:], tf.int32))
        return tf.switch_case(num_halvings, decoders)

    def from_other() -> Tensor:
        image = decode_image(encoded, channels)
        return crop(image, window_of(tf.shape(image)))

    crops_first = window_of(tf.constant([1, 1, channels])) is not None
    if not crops_first:
        return decode_image(encoded, channels)
    window = tf.cond(_starts_with(encoded, b"\xff\xd8\xff"), from_jpeg, from_other)
    return tf.ensure_shape(window, [None, None, channels])


def hash_of_image(encoded: Tensor) -> Tensor:
    """Of an image file's bytes, int64."""
    return tf.strings.to_hash_bucket_fast(encoded, tf.int64.max)


def _starts_with(encoded: Tensor, magic: bytes) -> Tensor:
    return tf.strings.substr(encoded, 0, len(magic)) == magic
