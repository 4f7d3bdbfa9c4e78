"""How images become what an exported network takes, in numbers and words: for those who do it without this package.

From a file to pixels (`decoding`), from pixels to the network's input (`steps`, of the preprocessing's own module), and
what comes out (`result`). docs/preparing_images.md does what is said here with NumPy and Pillow.
"""

from collections.abc import Sequence
from typing import Any

from finetune.datasets.images import JPEG_QUALITY
from finetune.prediction.classifier import Classifier
from finetune.preprocessing.steps import Step, value_range
from finetune.settings.choices import MOST_SAMPLE_BITS

# What tf.io.decode_image does with a JPEG; it has no settings for it.
JPEG_DECODER = {"decoder": "tf.io.decode_jpeg", "dct_method": "INTEGER_FAST", "fancy_upscaling": True}
# Of red, green and blue in grey, in parts of 2 ** 15: the weights of libpng as tf.io.decode_png sets them.
GREY_WEIGHTS = (9797, 19234, 3737)
GREY_SHIFT = 15


def image_preparation(classifier: Classifier, *, by_caller: bool, more_steps: Sequence[Step] = ()) -> dict[str, Any]:
    """What export.json says of it.

    Args:
        classifier: Whose images these are.
        by_caller: Whether the export takes prepared images; else all of it is done inside.
        more_steps: What a format wants beside the network's preprocessing.
    """
    model, rules = classifier.model, classifier.image_rules
    steps = classifier.preprocessing.evaluation_steps(model.image_size, model.image_size, model.channels)
    steps += more_steps
    is_reversed = any(step["step"] == "reverse_channels" for step in more_steps)
    return {
        "done_by": "caller" if by_caller else "export",
        "in_words": "Decode the file as decoding says, do the steps in their order, and give the network the result."
        if by_caller
        else "Give the signature serving_default files, or images what decoding gives; the steps are done inside.",
        "decoding": decoding(
            model.channels, background=rules.background_rgb, sample_bits=rules.sample_bits or MOST_SAMPLE_BITS
        ),
        "steps": steps,
        "result": {
            "shape": [model.image_size, model.image_size, model.channels],
            "layout": "HWC",
            "batch_layout": "NHWC",
            "channel_order": _channel_order(model.channels)[:: -1 if is_reversed else 1],
            "dtype": "float32",
            "value_range": _value_range(steps),
        },
    }


def decoding(channels: int, *, background: tuple[int, int, int] | None = None, sample_bits: int = 16) -> dict[str, Any]:
    """From a file to uint8 [H,W,C], as `prepare_image` and then `decode_image` do it.

    Args:
        channels: 1 or 3.
        background: Red, green and blue, 0 to 255, that transparency is laid on; None: it is dropped.
        sample_bits: How many bits are used of the samples of files that have 16.
    """
    rules = {
        "channels": channels,
        "channel_order": _channel_order(channels),
        "dtype": "uint8",
        "in_words": "Grey is repeated for red, green and blue; palettes, CMYK and all other kinds of colour become RGB."
        if channels == 3
        else "One channel, grey; how colours become grey is said at grey.",
        "orientation": {
            "turned_upright": True,
            "jpeg_quality": JPEG_QUALITY,
            "jpeg_subsampling": "4:4:4",
            "in_words": "Turn the image upright where its EXIF orientation is 2 to 8. Such a JPEG is then encoded anew "
            f"by finetune-convert and finetune-predict, with quality {JPEG_QUALITY} and 4:4:4, and decoded as any "
            "other; without that, values differ by a few levels of 255.",
        },
        "jpeg": {
            **JPEG_DECODER,
            "in_words": "libjpeg-turbo with its fast integer transform (JDCT_IFAST) and smooth upsampling of the "
            "colours, which is what TensorFlow does by default. Most other programs take the accurate transform "
            "(JDCT_ISLOW): values then differ by a few levels of 255.",
        },
        "samples_of_16_bits": {
            "bits_used": sample_bits,
            "in_words": f"Of a sample of 16 bits take value / {1 << (sample_bits - 8)}, rounded down, at most 255.",
        },
        "transparency": {
            "background": background and list(background),
            "in_words": "The alpha channel is dropped, and the colours are taken as they are under it."
            if background is None
            else "What is transparent is laid on the background: (colour * alpha + background * (255 - alpha)) / 255, "
            "rounded to the nearest.",
        },
    }
    if channels == 1:
        rules["grey"] = {
            "weights": list(GREY_WEIGHTS),
            "right_shift": GREY_SHIFT,
            "in_words": "Of a JPEG take the luma channel alone, as its decoder gives it for grey output. Of all other "
            f"formats ({GREY_WEIGHTS[0]} * red + {GREY_WEIGHTS[1]} * green + {GREY_WEIGHTS[2]} * blue) / "
            f"{1 << GREY_SHIFT}, rounded down.",
        }
    return rules


def _channel_order(channels: int) -> str:
    return "RGB" if channels == 3 else "grey"


def _value_range(steps: list[dict[str, Any]]) -> dict[str, Any]:
    bounds = value_range(steps)
    if bounds is None:
        return {"least": None, "largest": None, "in_words": "Mean 0 and standard deviation 1 in each image."}
    return {"least": bounds[0], "largest": bounds[1], "in_words": "The least and the largest value of each channel."}
