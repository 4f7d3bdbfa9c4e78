"""What computes a network's logits: TensorFlow, or OpenVINO in its place."""

import logging
import time
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from finetune.evaluation.scoring import inference_function
from finetune.model.model import Model
from finetune.model.openvino_network import compile_network, convert, load_openvino, run
from finetune.types import Array

log = logging.getLogger("finetune")

Infer = Callable[[Array], Array]


def inference_by(engine: str, model: Model, device: str | None = None) -> Infer:
    """The model's evaluation pass, from images float32 [B,H,W,C], any B, to logits [B,num_classes].

    Args:
        engine: One of `settings.choices.ENGINES`.
        model: Whose layers compute in its `compute_dtype`, by either engine.
        device: Of TensorFlow's; None: what it chooses.

    Raises:
        UserError: OpenVINO is not installed, lacks one of the network's operations, or the type on this processor.
    """
    if engine == "openvino":
        return _by_openvino(model, f"--engine {engine}")
    infer = inference_function(model, device)
    return lambda images: np.asarray(infer(images))


def _by_openvino(model: Model, flag: str) -> Infer:
    start = time.perf_counter()
    precision = model.compute_dtype.name
    compiled = compile_network(convert(_in_float32(model), flag), precision, flag)
    seconds = time.perf_counter() - start
    version = load_openvino(flag).__version__.partition("-")[0]
    log.info("OpenVINO %s computes, in %s; made ready in %.1f seconds.", version, precision, seconds)
    return lambda images: run(compiled, images, "logits")


def _in_float32(model: Model) -> object:
    """The traced pass, without changes of type: OpenVINO makes its own where it computes in another one."""
    shape = [None, model.image_size, model.image_size, model.channels]
    function = tf.function(lambda images: {"logits": model(images, is_training=False).logits}, autograph=False)
    kept_dtype, model.compute_dtype = model.compute_dtype, tf.float32
    try:
        return function.get_concrete_function(images=tf.TensorSpec(shape, tf.float32, name="images"))
    finally:
        model.compute_dtype = kept_dtype
