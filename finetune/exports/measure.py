"""Exported classifiers beside the network they were made of, on the same images: how far apart, how often right."""

import dataclasses
import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from PIL import Image

from finetune.datasets.dataset import Dataset
from finetune.datasets.decoding import decode_image
from finetune.datasets.pipeline import evaluation_batches
from finetune.datasets.record_streams import records_in_order
from finetune.datasets.schema import parse_record
from finetune.errors import UserError
from finetune.evaluation.curves import areas_of, mean_areas
from finetune.evaluation.metrics import check_finite
from finetune.exports.exif_turning import UPRIGHT, exif_orientation
from finetune.exports.exported import Exported, answer, prepared_images
from finetune.prediction.classifier import Classifier
from finetune.types import Array, Tensor

NUM_FIXED_IMAGES = 8


class Batch(NamedTuple):
    """Images in both forms that exported classifiers take.

    Attributes:
        images: float32 [B,H,W,C], prepared.
        labels: int64 [B], or where an image has any number of them uint8 [B,num_classes]; None: they aren't known.
        encoded: The files' bytes, B of them.
    """

    images: Array
    labels: Array | None
    encoded: list[bytes]


@dataclasses.dataclass(frozen=True)
class Measured:
    """How an exported classifier, or the network itself, does.

    Attributes:
        name: As `Exported.name`, or "network".
        file: As `Exported.file`; None for the network.
        num_bytes: Size of its files; of the network, of its weights.
        largest_difference: Of a probability from the network's, 0 to 1.
        accuracy: Share of the images that it is right on; None where the labels aren't known, or an image has any
            number of them.
        mean_average_precision: Where it has, the mean over the classes; else None.
    """

    name: str
    file: str | None
    num_bytes: int
    largest_difference: float
    accuracy: float | None
    mean_average_precision: float | None = None


def batches_of_split(
    classifier: Classifier, dataset: Dataset, batch_size: int, max_num_batches: int | None = None
) -> Iterator[Batch]:
    """The records of a split as an evaluation sees them, or only the first ones; iterate within `reading`."""

    def as_file(record: Tensor) -> Tensor:
        """The record's bytes, or where these would come out otherwise as a file, what an evaluation sees of them."""
        encoded = parse_record(record, dataset.schema).encoded
        is_alike = tf.constant(dataset.image_rules == classifier.image_rules) & (exif_orientation(encoded) == UPRIGHT)
        return tf.cond(
            is_alike,
            lambda: encoded,
            lambda: tf.io.encode_png(decode_image(encoded, classifier.model.channels)),
        )

    prepared = evaluation_batches(dataset, classifier.read_options, batch_size=batch_size)
    encoded = records_in_order(dataset).map(as_file).batch(batch_size)
    batches = tf.data.Dataset.zip(prepared, encoded).take(-1 if max_num_batches is None else max_num_batches)
    for (images, labels, _), files in batches:
        yield Batch(images.numpy(), labels.numpy(), list(files.numpy()))


def fixed_batch(classifier: Classifier) -> Batch:
    """Some pictures that are always the same, to compare on where there is no data set."""
    random = np.random.RandomState(0)
    encoded = []
    for width in range(NUM_FIXED_IMAGES):
        noise = Image.fromarray(random.randint(0, 256, [6, 8, 3]).astype(np.uint8))
        file = io.BytesIO()
        noise.resize((300 + 10 * width, 280), Image.Resampling.BICUBIC).save(file, "JPEG")
        encoded.append(file.getvalue())
    return Batch(np.stack([classifier.prepare(tf.constant(file)).numpy() for file in encoded]), None, encoded)


def measure(
    classifier: Classifier,
    exported: Sequence[Exported],
    batches: Iterable[Batch],
    on_batch: Callable[[int], None] = lambda num_images: None,
) -> list[Measured]:
    """Runs the network, which is the first in the result, and all exported classifiers on the same images.

    Raises:
        UserError: One is further from the network than it may be, or gives no finite numbers; the network itself does.
    """
    function = tf.function(lambda images: answer(classifier, images)["probabilities"], autograph=False)
    infer = function.get_concrete_function(prepared_images(classifier, None))
    tallies = [_Tally() for _ in exported]
    network_tally = _Tally()
    for batch in batches:
        expected = infer(tf.constant(batch.images)).numpy()
        check_finite(expected)
        network_tally.add(expected, expected, batch.labels)
        for one, tally in zip(exported, tallies, strict=True):
            tally.add(one.run(batch.images, batch.encoded), expected, batch.labels)
        on_batch(len(batch.encoded))
    for one, tally in zip(exported, tallies, strict=True):
        _refuse_difference(one, tally.largest_difference)
    num_bytes = sum(variable.shape.num_elements() * variable.dtype.size for variable in infer.variables)
    return [
        Measured("network", None, num_bytes, 0.0, network_tally.accuracy(), network_tally.average()),
        *(
            Measured(one.name, one.file, one.num_bytes, tally.largest_difference, tally.accuracy(), tally.average())
            for one, tally in zip(exported, tallies, strict=True)
        ),
    ]


class _Tally:
    """What is counted of one classifier."""

    def __init__(self) -> None:
        self.largest_difference = 0.0
        self._num_right = 0
        self._num_labels = 0
        self._of_labels: list[tuple[Array, Array]] = []

    def add(self, probabilities: Array, expected: Array, labels: Array | None) -> None:
        # Of a NaN the maximum is NaN, which no comparison finds small enough.
        self.largest_difference = float(np.maximum(self.largest_difference, np.abs(probabilities - expected).max()))
        if labels is not None and labels.ndim == 2:
            self._of_labels.append((probabilities, labels))
        elif labels is not None:
            self._num_right += int((probabilities.argmax(axis=1) == labels).sum())
            self._num_labels += len(labels)

    def accuracy(self) -> float | None:
        return self._num_right / self._num_labels if self._num_labels else None

    def average(self) -> float | None:
        """The mean average precision over the classes."""
        if not self._of_labels:
            return None
        probabilities, labels = (np.concatenate(parts) for parts in zip(*self._of_labels, strict=True))
        columns = zip(probabilities.T, labels.T, strict=True)
        return mean_areas([areas_of(column, is_positive) for column, is_positive in columns]).average_precision


def _refuse_difference(one: Exported, difference: float) -> None:
    if not np.isfinite(difference):
        raise UserError(
            f"{one.name}: its probabilities are not finite, the network's are. Nothing was written.",
            "Its numbers are too narrow for these weights: leave it out of --quantize, or try another --format.",
        )
    if one.tolerance is not None and not difference <= one.tolerance:
        raise UserError(
            f"{one.name}: probabilities differ by up to {difference:.1e} from the network's, more than "
            f"{one.tolerance:.0e}. Nothing was written.",
            "The converter or its interpreter computes this network differently; try another --format.",
        )
