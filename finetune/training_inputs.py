"""What a training step and a validation are given: images, or features that were computed once."""

import contextlib
import dataclasses
import logging
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from finetune.config import TrainSettings
from finetune.datasets.dataset import Dataset, content_hash
from finetune.datasets.pipeline import evaluation_batches, reading, training_batches, view_batches
from finetune.errors import UserError
from finetune.features import Features, compute_features, feature_batches, features_key, values_hash
from finetune.metrics import Scores
from finetune.model import Model, Outputs
from finetune.moving_averages import MovingAverages
from finetune.preprocessing import Preprocessing
from finetune.run_folder import RunFolder
from finetune.scopes import VariablePlan
from finetune.scoring import inference_function, score
from finetune.split_model import SplitModel

Tensor = Any

log = logging.getLogger("finetune")

FEATURES_FOLDER = "features"
# So many views of an image are kept where training augments it and nothing else is asked for.
AUTO_VIEWS = 4
# Two small batches of the validation split are scored before the first step.
REHEARSAL_BATCHES = 2
REHEARSAL_BATCH_SIZE = 4
NUM_SAMPLE_IMAGES = 8
MIB = 1 << 20
# A head on pooled features takes less time than a call of TensorFlow from Python: several steps share one.
STEPS_PER_CALL = 20
SMALL_FEATURES_BYTES = 64 << 10


@dataclasses.dataclass(frozen=True)
class TrainingData:
    """The splits and how their images are prepared; `validation` is None where there is no such split."""

    training: Dataset
    validation: Dataset | None
    preprocessing: Preprocessing


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


def make_inputs(
    settings: TrainSettings,
    run: RunFolder,
    model: Model,
    plan: VariablePlan,
    data: TrainingData,
    averages: MovingAverages | None,
) -> TrainingInputs:
    """Cached features where settings and plan allow it and it pays, else images; says which, and why.

    Raises:
        UserError: Features are asked for that can't be cached; the data is damaged.
    """
    num_views, split, why = _choose(settings, model, plan, data)
    if num_views and split is not None:
        try:
            inputs = _cached(settings, run, model, plan, data, averages, split, num_views)
        except OSError as error:
            why = f"the features can't be written to {run.path / FEATURES_FOLDER}: {error.strerror or error}"
        else:
            log.info("Features: %s", why)
            return inputs
    log.info("Features: computed in every step, since %s.", why)
    return _computed(settings, model, data, averages)


def first_batch(settings: TrainSettings, model: Model, data: TrainingData, num_images: int) -> tuple[Tensor, Tensor]:
    """The first training images of the files, as the network gets them, [B,H,W,C], and their labels [B]."""
    batches = view_batches(
        data.training,
        data.preprocessing,
        batch_size=num_images,
        seed=settings.seed,
        view=0,
        **_image_options(settings, model),
    )
    return next(iter(batches))


def _choose(
    settings: TrainSettings, model: Model, plan: VariablePlan, data: TrainingData
) -> tuple[int, SplitModel | None, str]:
    """The number of views to cache, 0 for none, the split model, and the reason in words."""
    if settings.cache_features == "off":
        return 0, None, "--cache-features is off"
    why_not = None
    split = None
    if tf.distribute.get_strategy().num_replicas_in_sync > 1:
        why_not = "several devices train"
    elif not plan.frozen:
        why_not = "nothing is frozen"
    elif settings.batch_norm == "slim":
        why_not = "slim's batch norm makes every layer depend on the batch"
    else:
        split = SplitModel(model, plan, is_training=True)
        if split.starts_at_images:
            why_not = "the first layers change in training"
    if settings.cache_features != "auto":
        if why_not is not None:
            raise UserError(f"--cache-features {settings.cache_features}: {why_not}.", "Give --cache-features off.")
        return _with_reason(int(settings.cache_features), split, data)
    if why_not is not None:
        return 0, None, why_not
    wanted = AUTO_VIEWS if data.preprocessing.is_random else 1
    num_images = data.training.num_examples
    if settings.max_steps is not None and settings.max_steps * settings.batch_size <= wanted * num_images:
        return 0, None, "the run is so short that caching would not pay"
    return _with_reason(wanted, split, data)


def _with_reason(num_views: int, split: SplitModel | None, data: TrainingData) -> tuple[int, SplitModel | None, str]:
    assert split is not None
    views = f"{num_views} augmented views of each" if data.preprocessing.is_random else "each"
    size = num_views * data.training.num_examples * split.num_bytes / MIB
    shapes = ", ".join(str(list(spec.shape[1:])) for spec in split.frontier)
    why = f"frozen layers run once for {views} of {data.training.num_examples} images, up to {shapes} ({size:.1f} MiB)"
    return num_views, split, f"{why}; --cache-features off runs them in every step."


def _computed(
    settings: TrainSettings, model: Model, data: TrainingData, averages: MovingAverages | None
) -> TrainingInputs:
    strategy = tf.distribute.get_strategy()
    options = _image_options(settings, model)
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
        validate = _validation(data.validation, settings, averages, lambda: score(infer, batches))
        with reading(data.validation, settings.labels_offset):
            # What fails in a validation should do so before hours of training, not after.
            score(infer, rehearsal.take(REHEARSAL_BATCHES))
    return TrainingInputs(
        forward=lambda images, seed: model(images, is_training=True, seed=seed),
        batches=lambda first_step: iter(strategy.experimental_distribute_dataset(make(first_step))),
        validate=validate,
        sample_images=lambda: first_batch(settings, model, data, NUM_SAMPLE_IMAGES)[0],
    )


def _cached(
    settings: TrainSettings,
    run: RunFolder,
    model: Model,
    plan: VariablePlan,
    data: TrainingData,
    averages: MovingAverages | None,
    split: SplitModel,
    num_views: int,
) -> TrainingInputs:
    options = _image_options(settings, model)
    num_bytes = num_views * data.training.num_examples * split.num_bytes
    folder = run.path / FEATURES_FOLDER if num_bytes > settings.cache_memory * MIB else None
    weights = values_hash((v.name, model.model_variables[v.name].numpy()) for v in plan.frozen) if folder else ""
    trunk = _function_of_images(split, model)

    def view(number: int) -> tf.data.Dataset:
        return view_batches(
            data.training,
            data.preprocessing,
            batch_size=settings.batch_size,
            seed=settings.seed,
            view=number,
            **options,
        )

    def features(number: int) -> Features:
        key = features_key(
            model=settings.model,
            trainable_scopes=plan.trainable_scopes,
            batch_norm=settings.batch_norm,
            precision=settings.precision,
            weights=weights,
            data=content_hash(data.training) if folder else "",
            preprocessing=dataclasses.asdict(data.preprocessing),
            images=options,
            seed=settings.seed,
            view=number,
            frontier=[(list(spec.shape), spec.dtype.name) for spec in split.frontier],
        )
        with reading(data.training, settings.labels_offset):
            return compute_features(
                trunk,
                view(number),
                num_images=data.training.num_examples,
                folder=folder / f"view_{number}" if folder else None,
                key=key,
                what=f"view {number + 1} of {num_views}" if num_views > 1 else "the training images",
            )

    views = [features(number) for number in range(num_views)]
    return TrainingInputs(
        forward=split.head,
        batches=lambda first_step: feature_batches(
            views, batch_size=settings.batch_size, seed=settings.seed, start_step=first_step
        ),
        validate=_cached_validation(settings, model, plan, data, averages),
        sample_images=lambda: first_batch(settings, model, data, NUM_SAMPLE_IMAGES)[0],
        steps_per_call=STEPS_PER_CALL if split.num_bytes <= SMALL_FEATURES_BYTES else 1,
    )


def _cached_validation(
    settings: TrainSettings,
    model: Model,
    plan: VariablePlan,
    data: TrainingData,
    averages: MovingAverages | None,
) -> Callable[[], Scores] | None:
    """Scores the validation split from features of its own, kept in memory."""
    dataset = data.validation
    if dataset is None:
        return None
    split = SplitModel(model, plan, is_training=False)
    batches = evaluation_batches(
        dataset, data.preprocessing, batch_size=settings.batch_size, **_image_options(settings, model)
    )
    with reading(dataset, settings.labels_offset):
        features = compute_features(
            _function_of_images(split, model),
            batches,
            num_images=dataset.num_examples,
            folder=None,
            key="",
            what="the validation images",
        )
    specs = [tf.TensorSpec([None, *spec.shape[1:]], spec.dtype) for spec in split.frontier]
    infer = tf.function(
        lambda *values: split.head(list(values), tf.zeros([2], tf.int32)).logits,
        autograph=False,
        input_signature=specs,
    )

    def feature_rows() -> Iterator[tuple[Any, Any, Any]]:
        for start in range(0, dataset.num_examples, settings.batch_size):
            values, labels = features.batch(slice(start, start + settings.batch_size))
            yield values, labels, np.full(len(labels), b"")

    return _validation(dataset, settings, averages, lambda: score(lambda values: infer(*values), feature_rows()))


def _validation(
    dataset: Dataset, settings: TrainSettings, averages: MovingAverages | None, run: Callable[[], Scores]
) -> Callable[[], Scores]:
    """With the moving averages where they are kept, for they are what will be used."""

    def validate() -> Scores:
        in_place = averages.in_place() if averages is not None else contextlib.nullcontext()
        with reading(dataset, settings.labels_offset), in_place:
            return run()

    return validate


def _function_of_images(split: SplitModel, model: Model) -> Callable[[Tensor], list[Tensor]]:
    shape = [None, model.image_size, model.image_size, model.channels]
    function: Callable[[Tensor], list[Tensor]] = tf.function(
        split.trunk, autograph=False, input_signature=[tf.TensorSpec(shape, tf.float32)]
    )
    return function


def _image_options(settings: TrainSettings, model: Model) -> dict[str, Any]:
    return {
        "image_size": model.image_size,
        "channels": model.channels,
        "labels_offset": settings.labels_offset,
        "num_parallel_calls": settings.num_preprocessing_threads,
    }
