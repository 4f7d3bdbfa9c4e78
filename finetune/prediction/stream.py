"""Image files to predictions, as a stream: order is kept, memory doesn't grow with their number, bad files are told."""

import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import tensorflow as tf

from finetune.datasets.decoding import BAD_DATA_ERRORS, decode_image
from finetune.datasets.images import BrokenImageError, prepare_image, read_image_file
from finetune.embeddings.neighbours import NearestImages
from finetune.embeddings.pooled_features import PooledFeatures
from finetune.evaluation.decisions import decide
from finetune.evaluation.metrics import log_softmax
from finetune.evaluation.multilabel_metrics import sigmoid
from finetune.evaluation.side_by_side import in_turn
from finetune.explanation.overlays import ShownPicture
from finetune.prediction.classifier import Classifier
from finetune.prediction.engines import Infer, inference_by
from finetune.prediction.heat_maps import HeatMaps
from finetune.prediction.writers import Guess, Prediction
from finetune.types import Array, Tensor

Item = TypeVar("Item")
Outcome = TypeVar("Outcome")


# Logits [B,num_classes], and features [B,D] where they are wanted.
_Outcome = tuple[Array, Array | None]
_Pass = Callable[[Array], _Outcome]  # From images [B,H,W,C].


class _Guesses(NamedTuple):
    """Of one image: what is told, the highest probability, and all classes where it has any number of labels."""

    guesses: tuple[Guess, ...]
    highest: float
    all_classes: tuple[Guess, ...] = ()


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
    reject_below: float | None = None,
    engine: str = "tensorflow",
    features: PooledFeatures | None = None,
    nearest: NearestImages | None = None,
    heat_maps: HeatMaps | None = None,
) -> Iterator[Prediction]:
    """Predicts the class of each image file: the pixels and the network are those of an evaluation.

    Args:
        classifier: The network.
        filenames: Read as they are needed, some ahead of the predictions.
        top_k: How many guesses for each.
        batch_size: Images at a time; the result doesn't depend on it.
        num_threads: That read and decode; None: a few more than there are cores.
        reject_below: Images whose likeliest class has a lower probability are rejected; None: none are.
        engine: What computes the logits.
        features: Of the classifier's network, which then are part of the predictions.
        nearest: By features, finds similar images.
        heat_maps: Of the same classifier, for as many guesses; None: no pictures are made.

    Yields:
        A prediction for each file, in their order.

    Raises:
        NotFiniteError: The network's logits are not finite.
        UserError: As `inference_by`; a picture can't be written.
    """
    passes = [features] if features is not None else _passes(classifier, engine)
    images = _map_in_order(_image_loader(classifier, heat_maps), filenames, num_threads, num_ahead=batch_size)
    for batch, outcome in in_turn([_of_batch(each) for each in passes], _batches(images, batch_size)):
        yield from _predictions(batch, outcome, classifier, top_k, reject_below, nearest, heat_maps)


def _passes(classifier: Classifier, engine: str) -> list[_Pass]:
    """Of each device."""

    def without_features(infer: Infer) -> _Pass:
        return lambda images: (infer(images), None)

    return [without_features(inference_by(engine, model, device)) for device, model in classifier.copies.items()]


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


def _of_batch(of_images: _Pass) -> Callable[[list[_LoadedImage]], _Outcome | None]:
    """From images, of which some may be none, to what is made of the others; None: all are none."""

    def outcome(batch: list[_LoadedImage]) -> _Outcome | None:
        images = [loaded.image for loaded in batch if loaded.image is not None]
        return of_images(np.stack(images)) if images else None

    return outcome


def _predictions(
    batch: list[_LoadedImage],
    outcome: _Outcome | None,
    classifier: Classifier,
    top_k: int,
    reject_below: float | None,
    nearest: NearestImages | None,
    heat_maps: HeatMaps | None,
) -> Iterator[Prediction]:
    logits, features = outcome if outcome is not None else (None, None)
    guesses: Iterator[_Guesses] = iter(())
    if logits is not None:
        guesses = _guess_labels(logits, classifier) if classifier.is_multilabel else _guess(logits, classifier, top_k)
    if logits is not None and heat_maps is not None:
        guesses = _explained(batch, list(guesses), heat_maps)
    similar = iter(nearest.of(features) if nearest is not None and features is not None else ())
    of_images = iter(features if features is not None else ())
    for loaded in batch:
        if loaded.image is None:
            yield Prediction(loaded.filename, (), loaded.error)
        else:
            guess = next(guesses)
            yield Prediction(
                loaded.filename,
                guess.guesses,
                changes=loaded.changes,
                is_rejected=reject_below is not None and guess.highest < reject_below,
                features=next(of_images, None),
                neighbours=next(similar, ()),
                all_classes=guess.all_classes,
            )


def _explained(batch: list[_LoadedImage], guesses: list[_Guesses], heat_maps: HeatMaps) -> Iterator[_Guesses]:
    """The guesses with their pictures, which are written."""
    images = np.stack([loaded.image for loaded in batch if loaded.image is not None])
    pictures = [(loaded.filename, loaded.shown) for loaded in batch if loaded.shown is not None]
    explained = heat_maps.explained(images, [each.guesses for each in guesses], pictures)
    for each, with_pictures in zip(guesses, explained, strict=True):
        yield each._replace(guesses=with_pictures)


def _guess_labels(logits: Array, classifier: Classifier) -> Iterator[_Guesses]:
    """For each row of logits [B,num_classes] the classes that reach their thresholds, likeliest first, and all."""
    for row in sigmoid(logits):
        named = zip(classifier.class_names, row.tolist(), strict=True)
        classes = tuple(Guess(label, name, probability) for label, (name, probability) in enumerate(named))
        reached = [guess for guess in classes if guess.probability >= classifier.thresholds[guess.class_id]]
        yield _Guesses(tuple(sorted(reached, key=lambda guess: -guess.probability)), float(row.max()), classes)


def _guess(logits: Array, classifier: Classifier, top_k: int) -> Iterator[_Guesses]:
    """For each row of logits [B,num_classes] what is decided for first, and the likeliest others."""
    names = classifier.class_names
    probabilities = np.exp(log_softmax(logits, classifier.decision.divisor))
    order = np.argsort(-logits, axis=1, kind="stable")
    if classifier.cut is not None:
        decisions = decide(probabilities, classifier.cut)
        order = np.stack([[decision, *row[row != decision]] for decision, row in zip(decisions, order, strict=True)])
    for row, class_ids in zip(probabilities, order[:, :top_k], strict=True):
        guesses = (Guess(int(class_id), names[class_id], float(row[class_id])) for class_id in class_ids)
        yield _Guesses(tuple(guesses), float(row.max()))


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
