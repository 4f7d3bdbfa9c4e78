"""Classifiers in other programs' formats, one module for each, and how near each is to its network.

The names below are loaded when they are first used, for each format needs another library.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "keras_model": ["write_keras_model"],
        "keras_weights_file": ["write_keras_weights_file"],
        "measure": ["Measured"],
        "onnx_model": ["write_onnx"],
        "openvino_model": ["write_openvino"],
        "saved_model": ["write_saved_model"],
        "tflite_model": ["write_tflite"],
    },
)
