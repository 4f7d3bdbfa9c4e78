"""What is put into an exported network and what it gives, by the names that its format has for them."""

import dataclasses
from collections.abc import Mapping
from typing import Any

# Each name means the same in every format.
MEANINGS = {
    "images": "prepared images, as image_preparation says",
    "encoded": "contents of JPEG, PNG, GIF or BMP files, which are set upright as EXIF says; a GIF's transparency "
    "isn't seen, and the colours of a CMYK JPEG differ",
    "logits": "before the softmax, one for each class; output i is class_names[i]",
    "probabilities": "softmax of the logits, 0 to 1 with sum 1; output i is class_names[i]",
    "prediction": "index of the likeliest class in class_names",
    "prediction_name": "name of the likeliest class, UTF-8",
    "predictions": "whether the image has the class: its probability is at least the class's threshold",
    "thresholds": "probabilities from which on an image has a class; output i is class_names[i]",
    "class_names": "names of the classes in the order of the outputs, UTF-8",
}
# The same where an image has any number of labels.
MEANINGS_OF_LABELS = {
    "logits": "before the sigmoid, one for each class; output i is class_names[i]",
    "probabilities": "sigmoid of the logits, 0 to 1, each for itself; output i is class_names[i]",
}
PIXELS = "pixels as image_preparation's decoding gives them, 0 to 255, of any size, the same for all images of a call"


@dataclasses.dataclass(frozen=True)
class TensorDescription:
    """An input or output.

    Attributes:
        name: In the signature.
        tensor: Name in the file, where it is another one.
        dtype: NumPy's word, or "string".
        shape: With None for sizes that may be any.
        quantization: "scale" and "zero_point" where a number stands for (number - zero_point) * scale; None: it is the
            value itself.
        in_words: What it is.
    """

    name: str
    tensor: str | None
    dtype: str
    shape: tuple[int | None, ...]
    quantization: Mapping[str, float] | None
    in_words: str


@dataclasses.dataclass(frozen=True)
class Signature:
    """A way to call an exported network; `name` is None where the file has one only, without a name."""

    name: str | None
    inputs: tuple[TensorDescription, ...]
    outputs: tuple[TensorDescription, ...]


def of_labels(signature: Signature) -> Signature:
    """The signature of a network that tells any number of labels an image, in its words."""
    outputs = tuple(
        dataclasses.replace(output, in_words=MEANINGS_OF_LABELS.get(output.name, output.in_words))
        for output in signature.outputs
    )
    return dataclasses.replace(signature, outputs=outputs)


def describe_tensor(
    name: str,
    dtype: str,
    shape: tuple[Any, ...],
    *,
    tensor: str | None = None,
    quantization: Mapping[str, float] | None = None,
    in_words: str | None = None,
) -> TensorDescription:
    """A tensor by a name of `MEANINGS`; what is no number in `shape` may be any."""
    sizes = tuple(int(size) if isinstance(size, int) else None for size in shape)
    return TensorDescription(name, tensor, dtype, sizes, quantization, in_words or MEANINGS[name])
