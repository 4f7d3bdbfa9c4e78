"""Image files to predictions, as a stream: order is kept, memory doesn't grow with their number, bad files are told."""

import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import tensorflow as tf

from finetune.datasets.decoding import BAD_DATA_ERRORS
from finetune.datasets.images import BrokenImageError, prepare_image, read_image_file
from finetune.evaluation.decisions import decide
from finetune.evaluation.metrics import log_softmax
from finetune.evaluation.multilabel_metrics import sigmoid
from finetune.evaluation.scoring import inference_function
from finetune.prediction.classifier import Classifier
from finetune.prediction.writers import Guess, Prediction
from finetune.types import Array

Item = TypeVar("Item")
Outcome = TypeVar("Outcome")


class _LoadedImage(NamedTuple):
    filename: str
    image: Array | None
    error: str | None
    changes: tuple[str, ...] = ()


def classify(
    classifier: Classifier,
    filenames: Iterable[str],
    *,
    top_k: int,
    batch_size: int,
    num_threads: int | None = None,
    reject_below: float | None = None,
) -> Iterator[Prediction]:
    """Predicts the class of each image file: the pixels and the network are those of an evaluation.

    Args:
        classifier: The network.
        filenames: Read as they are needed, some ahead of the predictions.
        top_k: How many guesses for each.
        batch_size: Images at a time; the result doesn't depend on it.
        num_threads: That read and decode; None: a few more than there are cores.
        reject_below: Images whose likeliest class has a lower probability are rejected; None: none are.

    Yields:
        A prediction for each file, in their order.

    Raises:
        NotFiniteError: The network's logits are not finite.
    """
    infer = inference_function(classifier.model)
    images = _map_in_order(_image_loader(classifier), filenames, num_threads, num_ahead=batch_size)
    for batch in _batches(images, batch_size):
        yield from _predict(infer, batch, classifier, top_k, reject_below)


def _image_loader(classifier: Classifier) -> Callable[[str], _LoadedImage]:
    function = tf.function(classifier.prepare, autograph=False)
    # Traced here, once: threads that call a new function at the same time would each trace it.
    prepare = function.get_concrete_function(tf.TensorSpec([], tf.string))

    def load(filename: str) -> _LoadedImage:
        try:
            rules = classifier.image_rules
            image = prepare_image(read_image_file(Path(filename), rules), rules)
            pixels = prepare(tf.constant(image.encoded)).numpy()
            return _LoadedImage(filename, pixels, None, image.changes)
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
    classifier: Classifier,
    top_k: int,
    reject_below: float | None,
) -> Iterator[Prediction]:
    images = [loaded.image for loaded in batch if loaded.image is not None]
    logits = infer(np.stack(images)).numpy() if images else np.zeros([0, len(classifier.class_names)])
    if classifier.is_multilabel:
        yield from _with_labels(batch, sigmoid(logits), classifier)
        return
    guesses = _guess(logits, classifier, top_k) if images else iter(())
    for loaded in batch:
        if loaded.image is None:
            yield Prediction(loaded.filename, (), loaded.error)
        else:
            highest, best = next(guesses)
            is_rejected = reject_below is not None and highest < reject_below
            yield Prediction(loaded.filename, best, changes=loaded.changes, is_rejected=is_rejected)


def _with_labels(batch: list[_LoadedImage], probabilities: Array, classifier: Classifier) -> Iterator[Prediction]:
    """Of each image all classes that reach their thresholds, likeliest first, and all classes."""
    rows = iter(probabilities.tolist())
    for loaded in batch:
        if loaded.image is None:
            yield Prediction(loaded.filename, (), loaded.error)
            continue
        named = zip(classifier.class_names, next(rows), strict=True)
        classes = tuple(Guess(label, name, probability) for label, (name, probability) in enumerate(named))
        reached = [guess for guess in classes if guess.probability >= classifier.thresholds[guess.class_id]]
        guesses = tuple(sorted(reached, key=lambda guess: -guess.probability))
        yield Prediction(loaded.filename, guesses, changes=loaded.changes, all_classes=classes)


def _guess(logits: Array, classifier: Classifier, top_k: int) -> Iterator[tuple[float, tuple[Guess, ...]]]:
    """For each row of logits [B,num_classes] its highest probability, and its guesses: what is decided for first."""
    names = classifier.class_names
    probabilities = np.exp(log_softmax(logits, classifier.decision.divisor))
    order = np.argsort(-logits, axis=1, kind="stable")
    if classifier.cut is not None:
        decisions = decide(probabilities, classifier.cut)
        order = np.stack([[decision, *row[row != decision]] for decision, row in zip(decisions, order, strict=True)])
    for row, class_ids in zip(probabilities, order[:, :top_k], strict=True):
        guesses = (Guess(int(class_id), names[class_id], float(row[class_id])) for class_id in class_ids)
        yield float(row.max()), tuple(guesses)


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
