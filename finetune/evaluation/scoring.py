"""One exact pass over a split: every record scored once, whatever the batch size. Training and evaluation share it."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from finetune.errors import UserError
from finetune.evaluation.metrics import Scores, join_scores, score_batch
from finetune.evaluation.multilabel_metrics import (
    AnyScores,
    MultilabelScores,
    join_label_scores,
    score_label_batch,
)
from finetune.evaluation.side_by_side import in_turn
from finetune.model.model import Model
from finetune.model.out_of_memory import out_of_memory_told
from finetune.settings.choices import MULTILABEL, SINGLE_LABEL
from finetune.types import Array, Tensor

Infer = Callable[[Any], Tensor]  # From images [B,H,W,C], or what else is given, to logits [B,num_classes].


def inference_function(model: Model, device: str | None = None) -> Callable[[Tensor], Tensor]:
    """The model's evaluation pass, traced here and once: from images [B,H,W,C], any B, to logits [B,num_classes].

    Args:
        model: Whose variables are on that device, or have a copy there.
        device: What computes; None: what TensorFlow chooses.
    """
    if device is None:
        return _traced(model)

    def logits(images: Tensor) -> Tensor:
        with tf.device(device):
            return infer(images)

    with tf.device(device):
        infer = _traced(model)
    return logits


def _traced(model: Model) -> Callable[[Tensor], Tensor]:
    shape = [None, model.image_size, model.image_size, model.channels]
    strategy = tf.distribute.get_strategy()

    def logits(images: Tensor) -> Tensor:
        return model(images, is_training=False).logits

    def logits_here(images: Tensor) -> Tensor:
        """By this worker's own copies of the variables: read as those of all, each would be summed up among them."""
        return strategy.experimental_local_results(strategy.run(logits, args=(images,)))[0]

    is_one_of_several = isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)
    function = tf.function(logits_here if is_one_of_several else logits, autograph=False)
    infer: Callable[[Tensor], Tensor] = function.get_concrete_function(tf.TensorSpec(shape, tf.float32))
    return infer


def with_outputs_in_order(infer: Callable[[Tensor], Tensor], order: Sequence[int]) -> Callable[[Tensor], Tensor]:
    """The function with its logits in another order: the first is that of output `order[0]`."""
    if list(order) == sorted(order):
        return infer
    return lambda images: tf.gather(infer(images), order, axis=1)


def score(
    infers: Sequence[Infer],
    batches: Iterable[tuple[Any, Any, Any]],
    *,
    keep_logits: bool = False,
    on_batch: Callable[[int], None] = lambda num_images: None,
) -> Scores:
    """Scores every image of the batches once.

    Args:
        infers: From images [B,H,W,C], or what else the batches hold, to logits [B,num_classes]; one for each device,
            which take batches in turn.
        batches: Images, labels [B] and file names [B]; the last batch may be smaller.
        keep_logits: Whether the scores hold the logits.
        on_batch: Told the number of images after each batch.

    Raises:
        UserError: There are no images.
        NotFiniteError: A logit is not finite.
    """
    of_batches = _logits_of(infers, batches, on_batch)
    return join_scores([score_batch(*of_batch, keep_logits=keep_logits) for of_batch in of_batches])


def score_labels(
    infers: Sequence[Infer],
    batches: Iterable[tuple[Any, Any, Any]],
    *,
    on_batch: Callable[[int], None] = lambda num_images: None,
) -> MultilabelScores:
    """As `score`, where an image has any number of labels: 1 or 0 for each class [B,num_classes]."""
    return join_label_scores([score_label_batch(*of_batch) for of_batch in _logits_of(infers, batches, on_batch)])


# By the task of a data set, what scores its splits.
SCORERS: Mapping[str, Callable[..., AnyScores]] = {SINGLE_LABEL: score, MULTILABEL: score_labels}


def _logits_of(
    infers: Sequence[Infer], batches: Iterable[tuple[Any, Any, Any]], on_batch: Callable[[int], None]
) -> Iterator[tuple[Array, Array, list[str]]]:
    """Logits, labels and file names of each batch."""
    has_images = False
    for (_, labels, filenames), logits in in_turn([_logits_of_batch(infer) for infer in infers], batches):
        names = [name.decode("utf-8", "surrogateescape") for name in np.asarray(filenames)]
        yield logits, np.asarray(labels), names
        on_batch(len(names))
        has_images = True
    if not has_images:
        raise UserError("There are no images to evaluate: the split is empty.")


def _logits_of_batch(infer: Infer) -> Callable[[tuple[Any, Any, Any]], Array]:
    def logits(batch: tuple[Any, Any, Any]) -> Array:
        images, labels, _ = batch
        with out_of_memory_told(len(labels)):
            return np.asarray(infer(images))

    return logits
