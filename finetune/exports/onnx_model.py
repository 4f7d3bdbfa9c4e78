"""ONNX files, made by tf2onnx and run by ONNX Runtime: the packages of the extra `onnx`.

Any number of images, `images`, float32 [B,H,W,C], prepared by the network's preprocessing, gives `logits` and
`probabilities`, float32 [B,num_classes]. The names of the classes are in the metadata, `class_names`, as JSON; where an
image has any number of labels `task` and `thresholds` are, too. The
converter folds batch norm into the convolution before it where it finds one, which is exact but for rounding.
"""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from finetune.errors import UserError
from finetune.exports.exported import Exported, answer, prepared_images
from finetune.exports.signatures import Signature, TensorDescription, describe_tensor
from finetune.model.tensorflow_paths import plain_folder
from finetune.prediction.classifier import Classifier
from finetune.types import Array

FILE = "model.onnx"
OPSET = 17
TOLERANCE = 1e-4
LOADING = "onnxruntime.InferenceSession(file).run(['logits', 'probabilities'], {'images': ...})"
DTYPES = {"tensor(float)": "float32"}

Session = Any


def write_onnx(classifier: Classifier, folder: Path) -> Exported:
    """Writes model.onnx into `folder`.

    Raises:
        UserError: The converter or the runtime is not installed.
    """
    try:
        import onnx
        import onnxruntime
        import tf2onnx
    except ImportError as error:
        raise UserError(
            f"--format onnx: {error.name} is not installed.", "It comes with the extra onnx: pip install '.[onnx]'"
        ) from error
    # It warns, with a traceback, of each optimisation that doesn't fit a graph, and goes on without it.
    logging.getLogger("tf2onnx").setLevel(logging.ERROR)
    images = prepared_images(classifier, None)
    function = tf.function(lambda images: answer(classifier, images), autograph=False, input_signature=[images])
    graph, _ = tf2onnx.convert.from_function(function, input_signature=[images], opset=OPSET)
    properties = {"class_names": json.dumps(classifier.class_names)}
    if classifier.is_multilabel:
        properties |= {"task": classifier.network.task, "thresholds": json.dumps(classifier.thresholds)}
    onnx.helper.set_model_props(graph, properties)
    path = folder / FILE
    onnx.save(graph, str(path))
    with plain_folder(folder) as plain:
        session = onnxruntime.InferenceSession(str(plain / FILE), providers=["CPUExecutionProvider"])
    return Exported("onnx", FILE, path.stat().st_size, _runner(session), TOLERANCE, (_signature(session),), LOADING)


def _signature(session: Session) -> Signature:
    def describe(tensors: list[Any]) -> tuple[TensorDescription, ...]:
        return tuple(describe_tensor(one.name, DTYPES[one.type], tuple(one.shape)) for one in tensors)

    return Signature(None, describe(session.get_inputs()), describe(session.get_outputs()))


def _runner(session: Session) -> Callable[[Array, list[bytes]], Array]:
    def run(images: Array, encoded: list[bytes]) -> Array:
        del encoded
        return np.asarray(session.run(["probabilities"], {"images": images})[0])

    return run
