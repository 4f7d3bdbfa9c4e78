"""The data sets that slim knows by name: their classes, and where they are published. TensorFlow is not needed.

The numbers of classes are slim's (datasets/*.py). How many records there are is counted from the files.
"""

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class KnownDataset:
    """One of slim's data sets.

    Attributes:
        name: As `--dataset-name` and `finetune-download` take it.
        num_classes: Where no labels.txt says otherwise.
        has_background: Whether the label 0 is a background that no image shows.
        urls: Addresses of the files that it is published in, where it is one of `PUBLISHED_DATASETS`.
        writer: "module:function", called with these files and a folder, which then holds train and test folders of
            class folders; None: there is one file, an archive of class folders.
        how_to_get: Of one that can't be downloaded: why, and what to do instead.
    """

    name: str
    num_classes: int
    has_background: bool = False
    urls: tuple[str, ...] = ()
    writer: str | None = None
    how_to_get: tuple[str, str] | None = None

    def load_writer(self) -> Callable[[Sequence[Path], Path], None] | None:
        """Imports the writer, and with it what it reads images by."""
        if self.writer is None:
            return None
        module_name, _, function_name = self.writer.partition(":")
        writer: Callable[[Sequence[Path], Path], None] = getattr(importlib.import_module(module_name), function_name)
        return writer


# The addresses are those that slim's converters used. MNIST's first host has given it up; of CIFAR-10 the archive of
# plain bytes is taken instead of the one of Python objects.
KNOWN_DATASETS = {
    known.name: known
    for known in (
        KnownDataset(
            "flowers", num_classes=5, urls=("https://download.tensorflow.org/example_images/flower_photos.tgz",)
        ),
        KnownDataset(
            "cifar10",
            num_classes=10,
            urls=("https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",),
            writer="finetune.published.cifar10_mnist:write_cifar10",
        ),
        KnownDataset(
            "mnist",
            num_classes=10,
            urls=tuple(
                f"https://storage.googleapis.com/cvdf-datasets/mnist/{split}-{kind}-ubyte.gz"
                for split in ("train", "t10k")
                for kind in ("images-idx3", "labels-idx1")
            ),
            writer="finetune.published.cifar10_mnist:write_mnist",
        ),
        KnownDataset(
            "imagenet",
            num_classes=1001,
            has_background=True,
            how_to_get=(
                "ImageNet may only be had from image-net.org, after agreeing to its terms.",
                "Convert a copy of your own: finetune-convert --dataset-name imagenet --images-dir FOLDER, where "
                "FOLDER holds train and validation folders of one folder for each synset.",
            ),
        ),
        KnownDataset("visualwakewords", num_classes=2),
    )
}
