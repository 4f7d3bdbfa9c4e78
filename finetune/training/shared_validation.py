"""Several workers that validate: each scores its share of the split, and all come to the same figures of the whole."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from finetune.datasets.dataset import Dataset
from finetune.datasets.decoding import ReadOptions
from finetune.datasets.pipeline import evaluation_batches
from finetune.datasets.record_ranges import records_within
from finetune.evaluation.metrics import NotFiniteError, Scores
from finetune.evaluation.multilabel_metrics import AnyScores
from finetune.evaluation.scoring import SCORERS, Infer, score
from finetune.files.shares import Share
from finetune.types import Array

# A row of a share in which a logit isn't finite: the others are told by it, for they wait for this worker's rows.
_NOT_FINITE = np.full([1, 5], np.nan)


def scorer(
    infers: Sequence[Infer],
    dataset: Dataset,
    options: ReadOptions,
    strategy: Any,
    *,
    batch_size: int,
    num_classes: int,
) -> Callable[[], AnyScores]:
    """Scores a split, shared out to the workers of the strategy where it has several.

    The scores hold no names of files then.

    Args:
        infers: From images to logits, by each device that this worker has.
        dataset: The split.
        options: How its records are read.
        strategy: In whose scope it is called.
        batch_size: Images at a time.
        num_classes: Number of logits.
    """
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        whole = evaluation_batches(dataset, options, batch_size=batch_size)
        return lambda: SCORERS[dataset.task](infers, whole)
    resolver = strategy.cluster_resolver
    share = Share(resolver.task_id + 1, resolver.cluster_spec().num_tasks("worker"))
    own = records_within(dataset, share.part_of(dataset.num_examples))
    batches = evaluation_batches(own, options, batch_size=batch_size) if own.shards else ()
    # Each device of a worker has the same: one of them counts.
    num_devices = strategy.num_replicas_in_sync // share.count
    gather = tf.function(lambda rows: strategy.gather(rows, axis=0), autograph=False)

    def run() -> Scores:
        try:
            rows = _rows_of(score(infers, batches)) if own.shards else np.empty([0, 5])
        except NotFiniteError:
            rows = _NOT_FINITE
        on_devices = [rows] + [rows[:0]] * (num_devices - 1)
        of_each = strategy.experimental_distribute_values_from_function(
            lambda context: tf.constant(on_devices[context.replica_id_in_sync_group % num_devices], tf.float64)
        )
        return _scores_of(gather(of_each).numpy(), num_classes)

    return run


def _rows_of(scores: Scores) -> Array:
    """Float64 [N,5]."""
    columns = (scores.labels, scores.predictions, scores.probabilities, scores.ranks, scores.losses)
    return np.stack(columns, axis=1).astype(np.float64)


def _scores_of(rows: Array, num_classes: int) -> Scores:
    """What `_rows_of` was given, without names of files.

    Raises:
        NotFiniteError: In a worker's share a logit wasn't finite.
    """
    if np.isnan(rows).any():
        raise NotFiniteError("A logit is not finite.")
    labels, predictions, probabilities, ranks, losses = rows.T
    return Scores(
        filenames=[""] * len(rows),
        labels=labels.astype(np.int64),
        predictions=predictions.astype(np.int64),
        probabilities=probabilities,
        ranks=ranks.astype(np.int64),
        losses=losses,
        num_classes=num_classes,
    )
