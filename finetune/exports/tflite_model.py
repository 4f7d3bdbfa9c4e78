"""TensorFlow Lite files, run by the LiteRT interpreter.

One image at a time, `images`, float32 [1,H,W,C], prepared by the network's preprocessing, gives `logits` and
`probabilities`, float32 [1,num_classes], whatever the weights are kept in. The converter folds batch norm into the
convolution before it, which is exact but for rounding.
"""

import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from finetune.exports.exported import Exported, answer, prepared_images
from finetune.exports.signatures import Signature, TensorDescription, describe_tensor
from finetune.model.tensorflow_paths import plain_folder
from finetune.prediction.classifier import Classifier
from finetune.types import Array

TOLERANCE = 1e-4
LOADING = "ai_edge_litert.interpreter.Interpreter(model_path=file).get_signature_runner(), called with images=..."

Infer = Any


def write_tflite(classifier: Classifier, folder: Path, quantization: str, calibration: Iterable[Array]) -> Exported:
    """Writes `model.tflite`, or `model_float16.tflite` or `model_int8.tflite`.

    Args:
        classifier: What to export.
        folder: Where to.
        quantization: "none": all in float32; "float16": weights rounded to half precision; "int8": weights, one scale
            for each output channel, and activations in 8 bits.
        calibration: Prepared images, float32 [1,H,W,C], that the ranges of int8 activations are taken from.
    """
    function = tf.function(lambda images: answer(classifier, images), autograph=False)
    concrete_function = function.get_concrete_function(images=prepared_images(classifier, 1))
    converter = tf.lite.TFLiteConverter.from_concrete_functions([concrete_function], classifier.model)
    if quantization != "none":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if quantization == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if quantization == "int8":
        converter.representative_dataset = lambda: _calibration_inputs(calibration)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    with warnings.catch_warnings():
        # The converter itself calibrates by the interpreter that it warns of.
        warnings.filterwarnings("ignore", r"\s*Warning: tf\.lite\.Interpreter is deprecated", UserWarning)
        content = converter.convert()
    precision = "float32" if quantization == "none" else quantization
    path = folder / f"model_{precision}.tflite"
    path.write_bytes(content)
    tolerance = TOLERANCE if quantization == "none" else None
    infer = _load(path)
    signatures = (_signature(infer),)
    return Exported(f"tflite {precision}", path.name, len(content), _runner(infer), tolerance, signatures, LOADING)


def _calibration_inputs(calibration: Iterable[Array]) -> Iterator[dict[str, Array]]:
    for images in calibration:
        yield {"images": images}


def _load(path: Path) -> Infer:
    from ai_edge_litert.interpreter import Interpreter

    with plain_folder(path.parent) as folder:
        return Interpreter(model_path=str(folder / path.name)).get_signature_runner()


def _signature(infer: Infer) -> Signature:
    def describe(details: dict[str, dict[str, Any]]) -> tuple[TensorDescription, ...]:
        return tuple(
            describe_tensor(
                name,
                np.dtype(tensor["dtype"]).name,
                tuple(tensor["shape"].tolist()),
                tensor=tensor["name"],
                quantization=_quantization(*tensor["quantization"]),
            )
            for name, tensor in details.items()
        )

    return Signature("serving_default", describe(infer.get_input_details()), describe(infer.get_output_details()))


def _quantization(scale: float, zero_point: int) -> dict[str, float] | None:
    """None where the interpreter's scale is 0, its word for numbers that are values themselves."""
    return {"scale": float(scale), "zero_point": int(zero_point)} if scale else None


def _runner(infer: Infer) -> Callable[[Array, list[bytes]], Array]:
    def run(images: Array, encoded: list[bytes]) -> Array:
        del encoded
        return np.concatenate([infer(images=image[np.newaxis])["probabilities"] for image in images])

    return run
