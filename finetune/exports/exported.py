"""What every format's module gives: files, and a way to run them as their users will."""

import dataclasses
from collections.abc import Callable

import tensorflow as tf

from finetune.exports.signatures import Signature
from finetune.prediction.classifier import Classifier
from finetune.preprocessing.steps import Step
from finetune.types import Array, Tensor


@dataclasses.dataclass(frozen=True)
class Exported:
    """A classifier in another format.

    Attributes:
        name: What the user calls it, such as "tflite int8".
        file: Its file in the output folder; "." where the folder itself is what is loaded.
        num_bytes: Size of all its files.
        run: Runs it by the format's own interpreter: from prepared images, float32 [B,H,W,C], and the encoded images
            [B] that they were made of, of which a format takes one, to probabilities [B,num_classes].
        tolerance: How far a probability may be from the network's; None: any distance is only told.
        signatures: What it takes and gives, as its format's own interpreter reads it from the file.
        loading: How it is loaded and called, in words or a line of Python.
        more_steps: Of the preparation of its images, behind those of the network's preprocessing.
    """

    name: str
    file: str
    num_bytes: int
    run: Callable[[Array, list[bytes]], Array]
    tolerance: float | None
    signatures: tuple[Signature, ...]
    loading: str
    more_steps: tuple[Step, ...] = ()


def answer(classifier: Classifier, images: Tensor) -> dict[str, Tensor]:
    """`logits` and `probabilities`, [B,num_classes], of prepared images, float32 [B,H,W,C]; for a graph.

    The logits are those that the probabilities are of: divided by the temperature, where there is one.
    """
    logits = classifier.model(images, is_training=False).logits
    if classifier.decision.temperature is not None:
        logits = logits / classifier.decision.divisor
    return {
        "logits": logits,
        "probabilities": tf.sigmoid(logits) if classifier.is_multilabel else tf.nn.softmax(logits),
    }


def prepared_images(classifier: Classifier, num_images: int | None) -> tf.TensorSpec:
    """What `answer` takes, called `images`; `num_images` None: any number."""
    model = classifier.model
    return tf.TensorSpec([num_images, model.image_size, model.image_size, model.channels], tf.float32, name="images")
