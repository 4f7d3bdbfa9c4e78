"""Image files to pixels in a TensorFlow graph, as `datasets.images` makes them of the same files.

All comes out as it does in a conversion, to the bit, but for three kinds: a JPEG that is turned as EXIF says is not
encoded anew before it is decoded, which makes a few levels of difference; TensorFlow doesn't tell which colour of a GIF
is transparent; and it has another rule for the colours of a CMYK JPEG.
"""

import tensorflow as tf

from finetune.datasets import jpeg
from finetune.datasets.decoding import decode_image
from finetune.datasets.image_rules import ImageRules
from finetune.datasets.png import BIT_DEPTH_OFFSET, SIGNATURE
from finetune.exports.exif_turning import turned_upright
from finetune.types import Tensor

WITH_ALPHA = 4


def decode_file(encoded: Tensor, channels: int, rules: ImageRules) -> Tensor:
    """Decodes the bytes of a JPEG, PNG, GIF (its first picture) or BMP file, a scalar string, to uint8 [H,W,channels].

    The image is set upright as EXIF says. Transparency of PNG files is laid on the rules' background, and their 16-bit
    samples are scaled by the rules' bits.
    """

    def from_png() -> Tensor:
        is_deep = tf.strings.substr(encoded, BIT_DEPTH_OFFSET, 1) == b"\x10"
        samples = tf.cond(
            is_deep,
            lambda: _decode_deep(encoded, rules.sample_bits or 16),
            lambda: _decode_with_alpha(encoded),
        )
        return _as_png(_lay_on(samples, rules.background_rgb), channels)

    def is_like(start: bytes) -> Tensor:
        return tf.strings.substr(encoded, 0, len(start)) == start

    is_kept = is_like(jpeg.START)
    if rules.background is None and rules.sample_bits in (None, 16):
        is_kept |= is_like(SIGNATURE)
    image = tf.case(
        [(is_kept, lambda: decode_image(encoded, channels)), (is_like(SIGNATURE), from_png)],
        default=lambda: _as_png(decode_image(encoded, 3), channels),
    )
    return tf.ensure_shape(turned_upright(image, encoded), [None, None, channels])


def _as_png(colours: Tensor, channels: int) -> Tensor:
    """A conversion writes such an image anew, as a PNG file, whose decoder makes grey of the colours."""
    return colours if channels == 3 else tf.io.decode_png(tf.io.encode_png(colours), channels=channels)


def _decode_with_alpha(encoded: Tensor) -> Tensor:
    """Samples of up to 8 bits to uint8 [H,W,4]."""
    image = tf.io.decode_png(encoded, channels=WITH_ALPHA)
    # Where a file of 1, 2 or 4 bits a sample has no transparency, the decoder adds the largest alpha of so many bits,
    # which is nearly invisible in 8.
    num_bits = tf.cast(tf.io.decode_raw(tf.strings.substr(encoded, BIT_DEPTH_OFFSET, 1), tf.uint8)[0], tf.int32)
    added = tf.cast(tf.bitwise.left_shift(1, num_bits) - 1, tf.uint8)
    colours, alpha = image[..., :3], image[..., 3:]
    return tf.concat([colours, tf.where(tf.reduce_all(alpha == added), tf.constant(0xFF, tf.uint8), alpha)], axis=2)


def _decode_deep(encoded: Tensor, bits: int) -> Tensor:
    """Samples of 16 bits, of which the colours use so many, to uint8 [H,W,4]."""
    samples = tf.cast(tf.io.decode_png(encoded, channels=WITH_ALPHA, dtype=tf.uint16), tf.int32)
    colours, alpha = samples[..., :3], samples[..., 3:]
    alpha_divisor = tf.where(tf.reduce_max(alpha) < 1 << bits, 1 << (bits - 8), 1 << 8)
    scaled = tf.concat([colours // (1 << (bits - 8)), alpha // alpha_divisor], axis=2)
    return tf.cast(tf.minimum(scaled, 0xFF), tf.uint8)


def _lay_on(image: Tensor, background: tuple[int, int, int] | None) -> Tensor:
    """Red, green, blue and alpha, uint8 [H,W,4], to what is seen on an opaque ground, rounded to the nearest."""
    if background is None:
        return image[..., :3]
    values = tf.cast(image, tf.int32)
    colours, alpha = values[..., :3], values[..., 3:]
    mixed = colours * alpha + tf.constant(background) * (0xFF - alpha)
    return tf.cast((mixed + 0xFF // 2) // 0xFF, tf.uint8)
