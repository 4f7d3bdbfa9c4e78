"""Weights for both programs to start from.

python scripts/benchmarks/weights.py random inception_v3 PREFIX      # slim's format
python scripts/benchmarks/weights.py keras CHECKPOINT FILE           # MobileNetV2 without its top, for Keras
python scripts/benchmarks/weights.py keras-random InceptionV3 FILE   # any application without its top, for Keras
"""

import argparse
from pathlib import Path

from measuring import HelpFormatter


def main() -> None:
    """Writes what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument("kind", choices=("random", "keras", "keras-random"))
    parser.add_argument("source", help="name of a network or application, or prefix of slim's mobilenet_v2 checkpoint")
    parser.add_argument("output", type=Path, help="what to write: a prefix, or a file .weights.h5")
    arguments = parser.parse_args()

    from finetune.commands.tensorflow_start import start_tensorflow

    start_tensorflow()
    if arguments.kind == "random":
        write_random(arguments.source, arguments.output)
    elif arguments.kind == "keras":
        write_for_keras(Path(arguments.source), arguments.output)
    else:
        write_random_for_keras(arguments.source, arguments.output)


def write_random(network: str, prefix: Path) -> None:
    """A checkpoint of a network's initial values."""
    import numpy as np

    from finetune.model.checkpoint import write_checkpoint
    from finetune.model.model import Model
    from finetune.nets import get_spec

    variables = Model(get_spec(network), 1001).model_variables
    write_checkpoint(prefix, {name: np.asarray(variable) for name, variable in variables.items()})


def write_for_keras(checkpoint: Path, path: Path) -> None:
    """MobileNet V2 out of slim's format, for `keras.applications.MobileNetV2(include_top=False, weights=path)`."""
    import keras

    from finetune.foreign_weights.keras_weights import write_keras_weights
    from finetune.prediction.classifier import restore_classifier
    from finetune.settings.classifier import ClassifierSettings

    classifier = restore_classifier(ClassifierSettings(checkpoint=checkpoint, model="mobilenet_v2"))
    whole = write_keras_weights(classifier.model, path)
    base = keras.applications.MobileNetV2(include_top=False, weights=None, input_shape=whole.input_shape[1:])
    for layer in base.layers:
        layer.set_weights(whole.get_layer(layer.name).get_weights() if layer.weights else [])
    base.save_weights(path)


def write_random_for_keras(application: str, path: Path) -> None:
    """An application's initial values, without its top."""
    import keras

    keras.utils.set_random_seed(0)
    getattr(keras.applications, application)(include_top=False, weights=None).save_weights(path)


if __name__ == "__main__":
    main()
