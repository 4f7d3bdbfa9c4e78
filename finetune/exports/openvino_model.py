"""OpenVINO's files, model.xml with the layers and model.bin with the weights: made and run by the extra `openvino`.

Any number of images, `images`, float32 [B,H,W,C], prepared by the network's preprocessing, gives `logits` and
`probabilities`, float32 [B,num_classes]. The weights are float32. The names of the classes are in the file, as JSON, at
`class_names` of its rt_info. Batch norm is folded into the convolution before it when the file is compiled.

A file can't say which type its layers compute in: who compiles it does. Without a word OpenVINO takes bfloat16 where
the processor has units for it.
"""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tensorflow as tf

from finetune.exports.exported import Exported, answer, prepared_images
from finetune.exports.signatures import Signature, TensorDescription, describe_tensor
from finetune.model.openvino_network import CompiledNetwork, compile_network, convert, load_openvino, run
from finetune.model.tensorflow_paths import plain_folder
from finetune.prediction.classifier import Classifier
from finetune.types import Array

FILE = "model.xml"
WEIGHTS_FILE = "model.bin"
TOLERANCE = 1e-4
LOADING = (
    "openvino.Core().compile_model(file, 'CPU', {'INFERENCE_PRECISION_HINT': 'f32'})({'images': ...})['probabilities']"
)

_FLAG = "--format openvino"


def write_openvino(classifier: Classifier, folder: Path) -> Exported:
    """Writes model.xml and model.bin into `folder`.

    Raises:
        UserError: OpenVINO is not installed, or lacks one of the network's operations.
    """
    openvino = load_openvino(_FLAG)
    function = tf.function(lambda images: answer(classifier, images), autograph=False)
    network = convert(function.get_concrete_function(images=prepared_images(classifier, None)), _FLAG)
    network.input("images").node.set_layout(openvino.Layout("NHWC"))
    network.set_rt_info(json.dumps(classifier.class_names), "class_names")
    with plain_folder(folder) as plain:
        openvino.save_model(network, plain / FILE, compress_to_fp16=False)
        compiled = compile_network(openvino.Core().read_model(plain / FILE), "float32", _FLAG)
    num_bytes = sum((folder / name).stat().st_size for name in (FILE, WEIGHTS_FILE))
    return Exported("openvino", FILE, num_bytes, _runner(compiled), TOLERANCE, (_signature(compiled),), LOADING)


def _signature(compiled: CompiledNetwork) -> Signature:
    def describe(ports: list[CompiledNetwork]) -> tuple[TensorDescription, ...]:
        return tuple(
            describe_tensor(
                port.any_name,
                np.dtype(port.element_type.to_dtype()).name,
                tuple(None if size.is_dynamic else size.get_length() for size in port.partial_shape),
            )
            for port in ports
        )

    return Signature(None, describe(compiled.inputs), describe(compiled.outputs))


def _runner(compiled: CompiledNetwork) -> Callable[[Array, list[bytes]], Array]:
    def infer(images: Array, encoded: list[bytes]) -> Array:
        del encoded
        return run(compiled, images, "probabilities")

    return infer
