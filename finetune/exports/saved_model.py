"""A SavedModel that needs nothing of this package: preprocessing and names of the classes are in it.

Signatures:

    serving_default   encoded: string [B], JPEG, PNG, GIF or BMP files
    images            images: uint8 [B,H,W,C], of any size
    class_names       nothing; gives class_names: string [num_classes]

The first two give `logits` and `probabilities`, float32 [B,num_classes], `prediction`, int64 [B], the likeliest class
or the one that a threshold decides for, and `prediction_name`, string [B]. Where an image has any number of labels they
give in place of the last two `predictions`, bool [B,num_classes], and there is a signature `thresholds`, by which these
are made, float32 [num_classes].

Files come out as in a prediction, but for what file_decoding.py names. Batch norm stays a layer of its own; TensorFlow
fuses it with the convolution before it when it runs the graph.
"""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from finetune.datasets.description import LABELS_FILE
from finetune.exports.exported import Exported, answer, prepared_images
from finetune.exports.file_decoding import decode_file
from finetune.exports.signatures import PIXELS, Signature, TensorDescription, describe_tensor
from finetune.model.tensorflow_paths import is_pattern, plain_folder
from finetune.prediction.classifier import Classifier
from finetune.types import Array, Tensor

log = logging.getLogger("finetune")

TOLERANCE = 1e-5
LOADING = "tf.saved_model.load(folder).signatures[name], called with the input's name, as in encoded=..."


def write_saved_model(classifier: Classifier, folder: Path) -> Exported:
    """Writes the SavedModel into `folder`, where labels.txt is already, and loads it as its users will."""
    signatures = _signatures(classifier)
    served = tf.Module()
    served.weights = list(signatures["serving_default"].variables)
    with plain_folder(folder) as path:
        served.labels_file = tf.saved_model.Asset(str(path / LABELS_FILE))
        tf.saved_model.save(served, str(path), signatures=signatures)
        loaded = tf.saved_model.load(str(path)).signatures
    serve = loaded["serving_default"]

    def run(images: Array, encoded: list[bytes]) -> Array:
        del images
        return np.asarray(serve(encoded=tf.constant(encoded))["probabilities"])

    if is_pattern(folder):
        log.warning("TensorFlow can't load a SavedModel from a path with *, ?, [, ] or \\ in it: move it for its use.")
    num_bytes = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    descriptions = tuple(_describe(name, signature) for name, signature in loaded.items())
    return Exported("saved_model", ".", num_bytes, run, TOLERANCE, descriptions, LOADING)


def _signatures(classifier: Classifier) -> dict[str, Any]:
    names = [name.encode("utf-8", "surrogateescape") for name in classifier.class_names]
    size = prepared_images(classifier, None).shape[1:]

    def prepare_file(encoded: Tensor) -> Tensor:
        return classifier.prepare_pixels(decode_file(encoded, classifier.model.channels, classifier.image_rules))

    def named_answer(images: Tensor) -> dict[str, Tensor]:
        answers = answer(classifier, images)
        if classifier.is_multilabel:
            return {
                **answers,
                "predictions": answers["probabilities"] >= tf.constant(classifier.thresholds, tf.float32),
            }
        cut = classifier.cut
        prediction = tf.argmax(answers["logits"], axis=1) if cut is None else _decide(answers["probabilities"], *cut)
        return {**answers, "prediction": prediction, "prediction_name": tf.gather(names, prediction)}

    def classify_encoded(encoded: Tensor) -> dict[str, Tensor]:
        return named_answer(tf.map_fn(prepare_file, encoded, fn_output_signature=tf.TensorSpec(size)))

    def classify_images(images: Tensor) -> dict[str, Tensor]:
        return named_answer(tf.map_fn(classifier.prepare_pixels, images, fn_output_signature=tf.TensorSpec(size)))

    def class_names() -> dict[str, Tensor]:
        return {"class_names": tf.constant(names)}

    def thresholds() -> dict[str, Tensor]:
        return {"thresholds": tf.constant(classifier.thresholds, tf.float32)}

    return {
        "serving_default": _trace(classify_encoded, encoded=tf.TensorSpec([None], tf.string)),
        "images": _trace(classify_images, images=tf.TensorSpec([None, None, None, size[-1]], tf.uint8)),
        "class_names": _trace(class_names),
        **({"thresholds": _trace(thresholds)} if classifier.is_multilabel else {}),
    }


def _decide(probabilities: Tensor, positive: int, threshold: float) -> Tensor:
    """The class of each row, int64 [B], as `evaluation.decisions.decide` has it."""
    others = tf.one_hot(positive, probabilities.shape[1], on_value=-1.0, off_value=0.0)
    likeliest_other = tf.argmax(tf.where(others < 0, others, probabilities), axis=1)
    return tf.where(probabilities[:, positive] >= threshold, tf.constant(positive, tf.int64), likeliest_other)


def _describe(name: str, signature: Any) -> Signature:
    def describe(specs: dict[str, tf.TensorSpec]) -> tuple[TensorDescription, ...]:
        return tuple(
            describe_tensor(
                key, spec.dtype.name, tuple(spec.shape), in_words=PIXELS if spec.dtype == tf.uint8 else None
            )
            for key, spec in sorted(specs.items())
        )

    return Signature(name, describe(signature.structured_input_signature[1]), describe(signature.structured_outputs))


def _trace(function: Any, **inputs: tf.TensorSpec) -> Any:
    return tf.function(function, autograph=False).get_concrete_function(**inputs)
