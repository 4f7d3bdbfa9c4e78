"""The peer: a script for Keras 3 in the manner of its tutorials of two stages.

    python scripts/benchmarks/keras_tutorial.py FOLDER --weights FILE --hidden 1024 --epochs 20 20

FOLDER holds train and validation folders of class folders. As in Chollet's "Building powerful image classification
models using very little data" and on the page "Keras Applications": images from `ImageDataGenerator`; the base frozen,
global average pooling, a dense layer with ReLU, one for the classes, RMSprop; then the layers from an index on, too,
SGD at 1e-4 with momentum. The base is called with training=False, as in the guide "Transfer learning & fine-tuning".

The last line of the output is JSON: when each stage ended, and its accuracy on the validation images.
"""

import argparse
import json
import math
import sys
import time
from pathlib import Path
from typing import Any

from measuring import HelpFormatter


def main() -> None:
    """Trains both stages, and prints what came out."""
    arguments = parse_arguments()
    import keras

    keras.utils.set_random_seed(arguments.seed)
    training, validation = read_images(arguments)
    base = make_base(arguments)
    model = make_model(base, arguments.hidden, training.num_classes)
    head_epochs, base_epochs = arguments.epochs

    base.trainable = False
    accuracies = [fit(model, keras.optimizers.RMSprop(), training, validation, head_epochs)]
    ends = [time.time()]

    base.trainable = True
    for layer in base.layers[: arguments.trainable_from]:
        layer.trainable = False
    slow = keras.optimizers.SGD(learning_rate=0.0001, momentum=0.9)
    accuracies.append(fit(model, slow, training, validation, base_epochs))
    ends.append(time.time())
    print(json.dumps({"stage_ends": ends, "accuracies": accuracies}))


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument("images_dir", type=Path, metavar="FOLDER", help="train and validation folders of class folders")
    parser.add_argument("--application", default="MobileNetV2", help="name of the base in keras.applications")
    parser.add_argument("--weights", type=Path, required=True, help="of the base without its top")
    parser.add_argument("--image-size", type=int, default=224, help="height and width in pixels")
    parser.add_argument("--batch-size", type=int, default=32, help="images in a step")
    parser.add_argument("--hidden", type=int, nargs="*", default=[], help="units of dense layers before the last one")
    parser.add_argument("--trainable-from", type=int, default=100, help="index of the first layer that stage 2 trains")
    parser.add_argument("--epochs", type=int, nargs=2, default=[20, 20], help="of each stage")
    parser.add_argument("--seed", type=int, default=0, help="of Python, NumPy and TensorFlow, and of the images' order")
    return parser.parse_args()


def read_images(arguments: argparse.Namespace) -> tuple[Any, Any]:
    """The training batches, each changed at random, and the validation batches: images for the base, and labels."""
    import keras
    import tensorflow as tf

    make_generator = tf.keras.preprocessing.image.ImageDataGenerator
    prepare = sys.modules[getattr(keras.applications, arguments.application).__module__].preprocess_input
    changed = make_generator(
        preprocessing_function=prepare,
        rotation_range=40,
        width_shift_range=0.2,
        height_shift_range=0.2,
        shear_range=math.degrees(0.2),  # The tutorial's 0.2, which was an angle in radians then.
        zoom_range=0.2,
        horizontal_flip=True,
        fill_mode="nearest",
    )

    def read(generator: Any, split: str) -> Any:
        return generator.flow_from_directory(
            str(arguments.images_dir / split),
            target_size=(arguments.image_size, arguments.image_size),
            batch_size=arguments.batch_size,
            class_mode="sparse",
            interpolation="bilinear",
            shuffle=split == "train",
            seed=arguments.seed,
        )

    return read(changed, "train"), read(make_generator(preprocessing_function=prepare), "validation")


def make_base(arguments: argparse.Namespace) -> Any:
    """The application without its top, with its weights."""
    import keras

    make = getattr(keras.applications, arguments.application)
    shape = (arguments.image_size, arguments.image_size, 3)
    return make(input_shape=shape, include_top=False, weights=str(arguments.weights))


def make_model(base: Any, hidden: list[int], num_classes: int) -> Any:
    """The base under a new head, from images to probabilities [B,num_classes]."""
    import keras

    inputs = keras.Input(shape=base.input_shape[1:])
    x = base(inputs, training=False)
    x = keras.layers.GlobalAveragePooling2D()(x)
    for units in hidden:
        x = keras.layers.Dense(units, activation="relu")(x)
    outputs = keras.layers.Dense(num_classes, activation="softmax")(x)
    return keras.Model(inputs, outputs)


def fit(model: Any, optimizer: Any, training: Any, validation: Any, epochs: int) -> float:
    """Trains what is trainable; the accuracy on the validation images after the last epoch."""
    model.compile(optimizer=optimizer, loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(training, epochs=epochs, verbose=2)
    return float(model.evaluate(validation, verbose=0, return_dict=True)["accuracy"])


if __name__ == "__main__":
    main()
