"""Image files to predictions, as a stream: order is kept, memory doesn't grow with their number, bad files are told."""

import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import tensorflow as tf

from finetune.datasets.decoding import BAD_DATA_ERRORS, decode_image
from finetune.datasets.images import BrokenImageError, prepare_image, read_image_file
from finetune.evaluation.metrics import log_softmax
from finetune.evaluation.scoring import inference_function
from finetune.explanation.overlays import ShownPicture
from finetune.prediction.classifier import Classifier
from finetune.prediction.heat_maps import HeatMaps
from finetune.prediction.writers import Guess, Prediction
from finetune.types import Array, Tensor

Item = TypeVar("Item")
Outcome = TypeVar("Outcome")


class _LoadedImage(NamedTuple):
    filename: str
    image: Array | None
    error: str | None
    changes: tuple[str, ...] = ()
    shown: ShownPicture | None = None


def classify(
    classifier: Classifier,
    filenames: Iterable[str],
    *,
    top_k: int,
    batch_size: int,
    num_threads: int | None = None,
    heat_maps: HeatMaps | None = None,
) -> Iterator[Prediction]:
    """Predicts the class of each image file: the pixels and the network are those of an evaluation.

    Args:
        classifier: The network.
        filenames: Read as they are needed, some ahead of the predictions.
        top_k: How many guesses for each.
        batch_size: Images at a time; the result doesn't depend on it.
        num_threads: That read and decode; None: a few more than there are cores.
        heat_maps: Of the same classifier, for as many guesses; None: no pictures are made.

    Yields:
        A prediction for each file, in their order.

    Raises:
        NotFiniteError: The network's logits are not finite.
        UserError: A picture can't be written.
    """
    infer = inference_function(classifier.model)
    images = _map_in_order(_image_loader(classifier, heat_maps), filenames, num_threads, num_ahead=batch_size)
    for batch in _batches(images, batch_size):
        yield from _predict(infer, batch, classifier.class_names, top_k, heat_maps)


def _image_loader(classifier: Classifier, heat_maps: HeatMaps | None) -> Callable[[str], _LoadedImage]:
    def decode_and_prepare(encoded: Tensor) -> tuple[Tensor, Tensor]:
        decoded = decode_image(encoded, classifier.model.channels)
        return decoded, classifier.prepare_pixels(decoded)

    function = tf.function(decode_and_prepare, autograph=False)
    # Traced here, once: threads that call a new function at the same time would each trace it.
    prepare = function.get_concrete_function(tf.TensorSpec([], tf.string))

    def load(filename: str) -> _LoadedImage:
        try:
            rules = classifier.image_rules
            image = prepare_image(read_image_file(Path(filename), rules), rules)
            decoded, pixels = prepare(tf.constant(image.encoded))
            shown = None if heat_maps is None else heat_maps.shown(decoded)
            return _LoadedImage(filename, pixels.numpy(), None, image.changes, shown)
        except BrokenImageError as error:
            reason = " ".join(str(error).split())
        except (MemoryError, tf.errors.ResourceExhaustedError):
            reason = "too large for the memory"
        except BAD_DATA_ERRORS:
            reason = f"can't be preprocessed for {classifier.model.spec.name}"
        return _LoadedImage(filename, None, reason)

    return load


def _predict(
    infer: Callable[[Any], Any],
    batch: list[_LoadedImage],
    class_names: tuple[str, ...],
    top_k: int,
    heat_maps: HeatMaps | None,
) -> Iterator[Prediction]:
    images = [loaded.image for loaded in batch if loaded.image is not None]
    guesses = _guess(infer(np.stack(images)).numpy(), class_names, top_k) if images else iter(())
    if images and heat_maps is not None:
        pictures = [(loaded.filename, loaded.shown) for loaded in batch if loaded.shown is not None]
        guesses = iter(heat_maps.explained(np.stack(images), list(guesses), pictures))
    for loaded in batch:
        if loaded.image is None:
            yield Prediction(loaded.filename, (), loaded.error)
        else:
            yield Prediction(loaded.filename, next(guesses), changes=loaded.changes)


def _guess(logits: Array, class_names: tuple[str, ...], top_k: int) -> Iterator[tuple[Guess, ...]]:
    """For each row of logits [B,num_classes] its likeliest classes."""
    probabilities = np.exp(log_softmax(logits))
    best = np.argsort(-logits, axis=1, kind="stable")[:, :top_k]
    for row, class_ids in zip(probabilities, best, strict=True):
        yield tuple(Guess(int(class_id), class_names[class_id], float(row[class_id])) for class_id in class_ids)


def _map_in_order(
    function: Callable[[Item], Outcome], items: Iterable[Item], num_threads: int | None, num_ahead: int
) -> Iterator[Outcome]:
    """The outcomes in the order of the items, of which no more than `num_ahead` are under way or done and waiting."""
    pending: deque[Future[Outcome]] = deque()
    executor = ThreadPoolExecutor(num_threads)
    try:
        # prepare_image sets warnings aside, which is the whole process's affair and not a thread's: without this, one
        # thread would put back what another one has just set aside.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for item in items:
                pending.append(executor.submit(function, item))
                if len(pending) > num_ahead:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
    finally:
        executor.shutdown(cancel_futures=True)


def _batches(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    batch: list[Item] = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
