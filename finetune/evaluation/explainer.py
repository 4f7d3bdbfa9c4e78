"""What in images of a split spoke for their classes: heat maps, for the report."""

from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from finetune.datasets.dataset import Dataset
from finetune.datasets.decoding import ReadOptions, decode_image
from finetune.evaluation.thumbnails import as_jpeg, read_encoded
from finetune.explanation.class_activation_maps import ClassActivationMaps
from finetune.explanation.overlays import overlay, shown_picture
from finetune.model.model import Model

# A report has few mistakes, and gradients take memory.
BATCH_SIZE = 8


class Explainer:
    """A network that shows what spoke for two classes of an image: that which it was taken for, and its own.

    Attributes:
        method: One of `EXPLANATIONS`.
    """

    def __init__(self, model: Model, method: str, options: ReadOptions) -> None:
        """Finds the network's feature map.

        Args:
            model: With the weights that it has when it is asked.
            method: One of `EXPLANATIONS`.
            options: How images are read for it.

        Raises:
            UserError: The network has no feature map.
        """
        self.method = method
        self._maps = ClassActivationMaps(model, method, num_maps=2)
        self._options = options

    def overlays(
        self, dataset: Dataset, classes: Mapping[int, tuple[int, int]], size_pixels: int
    ) -> dict[int, list[bytes]]:
        """JPEG files of images under their maps.

        Args:
            dataset: The split.
            classes: By an image's position in the split, the outputs whose maps are wanted.
            size_pixels: Longer side of what is given.

        Returns:
            By the position a file for each class.
        """
        size, channels, preprocessing = (
            self._options.image_size,
            self._options.channels,
            self._options.preprocessing,
        )
        steps = preprocessing.evaluation_steps(size, size, channels)
        files = list(read_encoded(dataset, classes))
        overlays = {}
        for start in range(0, len(files), BATCH_SIZE):
            positions, encoded = zip(*files[start : start + BATCH_SIZE], strict=True)
            decoded = [decode_image(tf.constant(content), channels) for content in encoded]
            images = np.stack([preprocessing.evaluate(image, size, size) for image in decoded])
            batch_of_maps = self._maps(images, np.array([classes[position] for position in positions]))
            for position, image, maps in zip(positions, decoded, batch_of_maps, strict=True):
                shown = shown_picture(image.numpy(), steps, least_side=size_pixels, most_side=size_pixels)
                overlays[position] = [as_jpeg(overlay(shown, activation)) for activation in maps]
        return overlays
