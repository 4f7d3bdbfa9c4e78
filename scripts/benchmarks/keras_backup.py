"""The peer under kills: a small network trained by Keras 3 with BackupAndRestore, as its documentation has it.

    python scripts/benchmarks/keras_backup.py FOLDER --backup-dir B --seen FILE --weights W.npz

FOLDER holds class folders. A seed for all, deterministic operations, and a tf.data pipeline that shuffles anew in each
epoch, from a seed; a backup every so many batches, or every epoch, and the one before kept beside it. Started again
after a kill it goes on as Keras goes on; at the end the weights are written.

What each update was given is noted in a file, a line of JSON: the update's number, and the numbers of the images.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from measuring import HelpFormatter
from PIL import Image

SEED = 0


def main() -> None:
    """Trains, or goes on with it."""
    arguments = parse_arguments()
    import keras
    import tensorflow as tf

    keras.utils.set_random_seed(SEED)
    tf.config.experimental.enable_op_determinism()

    def note(update: Any, numbers: Any) -> None:
        with arguments.seen.open("a", encoding="utf-8") as file:
            file.write(json.dumps([int(update), numbers.tolist()]) + "\n")

    class Noting(keras.Model):
        """Notes what each update is given."""

        def train_step(self, data: Any) -> Any:
            numbers, images, labels = data
            tf.numpy_function(note, [self.optimizer.iterations, numbers], [])
            return super().train_step((images, labels))

    images, labels = read_images(arguments.images_dir, arguments.image_size)
    model = Noting(*layers_for(arguments.image_size, int(labels.max()) + 1))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=keras.optimizers.Adam(), loss=loss, jit_compile=False)
    data = tf.data.Dataset.from_tensor_slices((np.arange(len(images)), images, labels))
    data = data.shuffle(len(images), seed=SEED, reshuffle_each_iteration=True).batch(arguments.batch_size)
    backup = keras.callbacks.BackupAndRestore(
        str(arguments.backup_dir), save_freq=arguments.save_freq, double_checkpoint=True
    )
    model.fit(data.prefetch(tf.data.AUTOTUNE), epochs=arguments.epochs, callbacks=[backup], verbose=0)
    np.savez(arguments.weights, *model.get_weights())


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument("images_dir", type=Path, metavar="FOLDER", help="class folders")
    parser.add_argument("--backup-dir", type=Path, required=True, help="of BackupAndRestore")
    parser.add_argument("--seen", type=Path, required=True, help="file that gets a line for each update")
    parser.add_argument("--weights", type=Path, required=True, help="file that the final weights are written to")
    parser.add_argument("--epochs", type=int, default=4, help="of training")
    parser.add_argument("--save-freq", type=save_freq, default=5, help='batches between backups, or "epoch"')
    parser.add_argument("--image-size", type=int, default=32, help="height and width in pixels")
    parser.add_argument("--batch-size", type=int, default=20, help="images in a step")
    return parser.parse_args()


def save_freq(text: str) -> int | str:
    """As BackupAndRestore takes it."""
    return text if text == "epoch" else int(text)


def read_images(folder: Path, size: int) -> tuple[Any, Any]:
    """Images [N,H,W,3] from 0 to 1, and labels [N], in the order of their names."""
    classes = sorted(path for path in folder.iterdir() if path.is_dir())
    files = [(path, label) for label, name in enumerate(classes) for path in sorted(name.iterdir())]
    images = [np.asarray(Image.open(path).convert("RGB").resize((size, size)), np.float32) / 255 for path, _ in files]
    return np.stack(images), np.array([label for _, label in files])


def layers_for(size: int, num_classes: int) -> tuple[Any, Any]:
    """Images and logits of a small network."""
    import keras

    images = keras.Input([size, size, 3])
    net = images
    for channels in (16, 32):
        net = keras.layers.Conv2D(channels, 3, activation="relu")(net)
        net = keras.layers.MaxPooling2D()(net)
    net = keras.layers.Dropout(0.2)(keras.layers.Flatten()(net))
    return images, keras.layers.Dense(num_classes)(net)


if __name__ == "__main__":
    main()
