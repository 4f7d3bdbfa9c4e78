"""Training and validation from images: what a run is fed where nothing is computed beforehand."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf

from finetune.datasets.dataset import Dataset, content_hash
from finetune.datasets.pipeline import evaluation_batches, reading, training_batches, view_batches
from finetune.evaluation.metrics import Scores
from finetune.evaluation.scoring import inference_function, score
from finetune.model.model import Model, Outputs
from finetune.preprocessing import Preprocessing
from finetune.settings.config import TrainSettings
from finetune.training.moving_averages import MovingAverages
from finetune.training.run_log import NUM_SAMPLE_IMAGES
from finetune.types import Tensor

# Two small batches of the validation split are scored before the first step.
REHEARSAL_BATCHES = 2
REHEARSAL_BATCH_SIZE = 4


@dataclasses.dataclass(frozen=True)
class TrainingData:
    """The splits and how their images are prepared.

    Attributes:
        training: The split to train on.
        validation: None where there is no such split.
        preprocessing: Of both.
        class_names: By label, as the run keeps them; None: they aren't known.
    """

    training: Dataset
    validation: Dataset | None
    preprocessing: Preprocessing
    class_names: tuple[str, ...] | None

    @functools.cached_property
    def hashes(self) -> dict[str, str]:
        """Of each split's bytes, by its name; to be had once, since without dataset.json all of them are read."""
        datasets = [dataset for dataset in (self.training, self.validation) if dataset is not None]
        return {dataset.split: content_hash(dataset) for dataset in datasets}


@dataclasses.dataclass(frozen=True)
class TrainingInputs:
    """What feeds a run.

    Attributes:
        forward: The training pass, from a batch's inputs and a dropout seed [2] to outputs.
        batches: Inputs and labels without end, from a step on.
        validate: Scores the validation split; None where there is none.
        sample_images: A few training images as the network gets them, [B,H,W,C].
        steps_per_call: How many steps are made in one call.
    """

    forward: Callable[[Any, Tensor], Outputs]
    batches: Callable[[int], Iterator[Any]]
    validate: Callable[[], Scores] | None
    sample_images: Callable[[], Tensor]
    steps_per_call: int = 1


def image_inputs(
    settings: TrainSettings, model: Model, data: TrainingData, averages: MovingAverages | None
) -> TrainingInputs:
    """Every step is given augmented images of its own."""
    strategy = tf.distribute.get_strategy()
    options = image_options(settings, model)
    images_per_step = settings.batch_size * strategy.num_replicas_in_sync

    def make(first_step: int) -> tf.data.Dataset:
        return training_batches(
            data.training,
            data.preprocessing,
            batch_size=images_per_step,
            seed=settings.seed,
            start_step=first_step,
            **options,
        )

    validate = None
    if data.validation is not None:
        batches = evaluation_batches(data.validation, data.preprocessing, batch_size=settings.batch_size, **options)
        rehearsal = evaluation_batches(data.validation, data.preprocessing, batch_size=REHEARSAL_BATCH_SIZE, **options)
        infer = inference_function(model)
        validate = validation(data.validation, settings, averages, lambda: score(infer, batches))
        with reading(data.validation, settings.labels_offset):
            # What fails in a validation should do so before hours of training, not after.
            score(infer, rehearsal.take(REHEARSAL_BATCHES))
    return TrainingInputs(
        forward=lambda images, seed: model(images, is_training=True, seed=seed),
        batches=lambda first_step: iter(strategy.experimental_distribute_dataset(make(first_step))),
        validate=validate,
        sample_images=lambda: first_batch(settings, model, data, NUM_SAMPLE_IMAGES)[0],
    )


def first_batch(settings: TrainSettings, model: Model, data: TrainingData, num_images: int) -> tuple[Tensor, Tensor]:
    """The first training images of the files, as the network gets them, [B,H,W,C], and their labels [B]."""
    batches = view_batches(
        data.training,
        data.preprocessing,
        batch_size=num_images,
        seed=settings.seed,
        view=0,
        **image_options(settings, model),
    )
    return next(iter(batches))


def validation(
    dataset: Dataset, settings: TrainSettings, averages: MovingAverages | None, run: Callable[[], Scores]
) -> Callable[[], Scores]:
    """With the moving averages where they are kept, for they are what will be used."""

    def validate() -> Scores:
        in_place = averages.in_place() if averages is not None else contextlib.nullcontext()
        with reading(dataset, settings.labels_offset), in_place:
            return run()

    return validate


def image_options(settings: TrainSettings, model: Model) -> dict[str, Any]:
    """The arguments that all of the pipeline's functions take."""
    return {
        "image_size": model.image_size,
        "channels": model.channels,
        "labels_offset": settings.labels_offset,
        "num_parallel_calls": settings.num_preprocessing_threads,
    }
