"""Heat maps of predictions: a picture for each guess that shows what of the image spoke for its class."""

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from finetune.errors import UserError
from finetune.explanation.class_activation_maps import ClassActivationMaps
from finetune.explanation.overlays import ShownPicture, as_png, overlay, shown_picture
from finetune.files.whole_files import make_writable, write_bytes
from finetune.files.write_errors import write_errors_told
from finetune.prediction.classifier import Classifier
from finetune.prediction.writers import Guess
from finetune.remote.urls import named
from finetune.types import Array, Tensor

# Of a name that may be longer than a file's can be.
MOST_LETTERS = 80


class HeatMaps:
    """A folder that pictures of guesses go to."""

    def __init__(self, classifier: Classifier, method: str, folder: Path, num_guesses: int) -> None:
        """Makes the folder, where there is none.

        Args:
            classifier: Whose guesses they are.
            method: One of `EXPLANATIONS`.
            folder: What lies in it stays, but for files of the same names.
            num_guesses: Of each image, so many.

        Raises:
            UserError: It can't be written; the network has no feature map.
        """
        size, channels = classifier.model.image_size, classifier.model.channels
        self._maps = ClassActivationMaps(classifier.model, method, min(num_guesses, classifier.model.num_classes))
        self._steps = classifier.preprocessing.evaluation_steps(size, size, channels)
        self._folder = folder
        try:
            make_writable(folder)
        except OSError as error:
            raise UserError(
                f"--explain-dir: {folder} can't be written: {error.strerror}.", "Give another --explain-dir."
            ) from error

    def shown(self, pixels: Tensor) -> ShownPicture:
        """What is kept of a decoded image, uint8 [H,W,C], until it is explained."""
        return shown_picture(np.asarray(pixels), self._steps)

    def explained(
        self, images: Array, guesses: Sequence[tuple[Guess, ...]], pictures: Sequence[tuple[str, ShownPicture]]
    ) -> list[tuple[Guess, ...]]:
        """Writes the pictures of a batch.

        Args:
            images: float32 [B,image_size,image_size,C], as the network takes them.
            guesses: Of each image.
            pictures: Of each image, the file's name and what is shown of it.

        Returns:
            The guesses, each with its picture's path.

        Raises:
            UserError: A picture can't be written.
        """
        maps = self._maps(images, np.array([[guess.class_id for guess in of_image] for of_image in guesses]))
        with write_errors_told():
            return [
                self._explained(of_image, of_maps, *picture)
                for of_image, of_maps, picture in zip(guesses, maps, pictures, strict=True)
            ]

    def _explained(
        self, guesses: tuple[Guess, ...], maps: Array, filename: str, shown: ShownPicture
    ) -> tuple[Guess, ...]:
        explained = []
        for rank, (guess, activation) in enumerate(zip(guesses, maps, strict=True), start=1):
            path = self._folder / heat_map_name(named(filename), rank)
            write_bytes(path, as_png(overlay(shown, activation)))
            explained.append(guess._replace(heatmap=named(str(path))))
        return tuple(explained)


def heat_map_name(filename: str, rank: int) -> str:
    """Name of the picture for an image's guess, which those of other images and guesses don't share.

    Args:
        filename: Of the image, as it was given: two of the same name in different folders have different hashes.
        rank: Of the guess, from 1.
    """
    digest = hashlib.sha256(filename.encode("utf-8", "surrogateescape")).hexdigest()[:16]
    stem = re.sub(r"[^\w-]+", "_", Path(filename).stem, flags=re.ASCII)[:MOST_LETTERS]
    return f"{stem}-{digest}.png" if rank == 1 else f"{stem}-{digest}-{rank}.png"
