"""The peer: a script for Keras 3 as its guide "Transfer learning & fine-tuning" on keras.io makes one.

    python scripts/benchmarks/keras_transfer.py FOLDER --application MobileNetV2 --weights FILE --epochs 20

FOLDER holds train and validation folders of class folders. As in the guide: an application without its top, called with
training=False; images flipped and rotated at random, batched, prefetched and cached, rescaled to -1 to 1; the mean over
all pixels, dropout of 0.2, one dense layer; Adam at its own rate for a new head, at 1e-5 for all of the network. Images
are read by image_dataset_from_directory, as the guide advises for one's own.

What the benchmarks need beside it: a stop at an accuracy or after a number of steps, and the time of every step. The
last line of the output says what came out, as JSON.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

from measuring import HelpFormatter

FINE_TUNING_RATE = 1e-5
# Keras computes accuracies in float32: 171 of 180 is a little less than 0.95 there.
ROUNDING = 1e-6


def main() -> None:
    """Trains, and prints what came out."""
    arguments = parse_arguments()
    import keras

    class Watch(keras.callbacks.Callback):
        """Notes when each step ended, and stops at the accuracy that is wanted."""

        def __init__(self) -> None:
            super().__init__()
            self.step_ends: list[float] = []

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            self.step_ends.append(time.time())

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            target = arguments.target_accuracy
            if target is not None and logs["val_accuracy"] >= target - ROUNDING:
                self.model.stop_training = True

    training, validation, num_classes = read_images(arguments)
    model = make_model(arguments, num_classes)
    model.compile(
        optimizer=keras.optimizers.Adam(FINE_TUNING_RATE) if arguments.train_base else keras.optimizers.Adam(),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=[keras.metrics.SparseCategoricalAccuracy(name="accuracy")],
    )
    watch = Watch()
    history = model.fit(
        training.repeat() if arguments.steps else training,
        steps_per_epoch=arguments.steps,
        epochs=1 if arguments.steps else arguments.epochs,
        validation_data=validation if arguments.validate else None,
        callbacks=[watch],
        verbose=2,
    )
    print(json.dumps({"step_ends": watch.step_ends, "accuracies": history.history.get("val_accuracy", [])}))


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument("images_dir", type=Path, metavar="FOLDER", help="train and validation folders of class folders")
    parser.add_argument("--application", default="MobileNetV2", help="of keras.applications")
    parser.add_argument("--weights", type=Path, help="of the application without its top; not given: random ones")
    parser.add_argument("--image-size", type=int, default=224, help="height and width in pixels")
    parser.add_argument("--batch-size", type=int, default=32, help="images in a step")
    parser.add_argument("--epochs", type=int, default=2, help="at most")
    parser.add_argument("--target-accuracy", type=float, help="stop after the epoch that reaches it")
    parser.add_argument("--steps", type=int, help="make so many steps in place of epochs")
    parser.add_argument("--train-base", action="store_true", help="train all of the network")
    parser.add_argument("--batch-statistics", action="store_true", help="call the base without training=False")
    parser.add_argument("--rotate", action=argparse.BooleanOptionalAction, default=True, help="rotate at random")
    parser.add_argument("--cache", action=argparse.BooleanOptionalAction, default=True, help="cache prepared images")
    parser.add_argument("--validate", action=argparse.BooleanOptionalAction, default=True, help="after each epoch")
    return parser.parse_args()


def read_images(arguments: argparse.Namespace) -> tuple[Any, Any, int]:
    """The training batches, the validation batches, and the number of classes."""
    import keras
    from tensorflow import data as tf_data

    def read(split: str) -> Any:
        return keras.utils.image_dataset_from_directory(
            arguments.images_dir / split,
            image_size=(arguments.image_size, arguments.image_size),
            batch_size=arguments.batch_size,
            shuffle=split == "train",
            seed=0,
        )

    augmentation = [keras.layers.RandomFlip("horizontal")]
    if arguments.rotate:
        augmentation.append(keras.layers.RandomRotation(0.1))

    def augment(images: Any, labels: Any) -> tuple[Any, Any]:
        for layer in augmentation:
            images = layer(images, training=True)
        return images, labels

    training, validation = read("train"), read("validation")
    num_classes = len(training.class_names)
    training = training.map(augment, num_parallel_calls=tf_data.AUTOTUNE).prefetch(tf_data.AUTOTUNE)
    validation = validation.prefetch(tf_data.AUTOTUNE)
    if arguments.cache:
        training, validation = training.cache(), validation.cache()
    return training, validation, num_classes


def make_model(arguments: argparse.Namespace, num_classes: int) -> Any:
    """The application under a new head, from pixels [B,H,W,3] of 0 to 255 to logits [B,num_classes]."""
    import keras

    shape = (arguments.image_size, arguments.image_size, 3)
    application = getattr(keras.applications, arguments.application)
    base = application(input_shape=shape, include_top=False, weights=arguments.weights and str(arguments.weights))
    base.trainable = arguments.train_base

    inputs = keras.Input(shape=shape)
    x = keras.layers.Rescaling(scale=1 / 127.5, offset=-1)(inputs)
    x = base(x) if arguments.batch_statistics else base(x, training=False)
    x = keras.layers.GlobalAveragePooling2D()(x)
    x = keras.layers.Dropout(0.2)(x)
    outputs = keras.layers.Dense(num_classes)(x)
    return keras.Model(inputs, outputs)


if __name__ == "__main__":
    main()
