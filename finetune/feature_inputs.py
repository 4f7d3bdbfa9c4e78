"""Training and validation from features: what the frozen trunk makes of images, computed before the first step."""

import dataclasses
import errno
import logging
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from finetune.config import TrainSettings
from finetune.datasets.dataset import Dataset, content_hash
from finetune.datasets.pipeline import evaluation_batches, reading, view_batches
from finetune.features import Features, compute_features, feature_batches, features_key, values_hash
from finetune.image_inputs import (
    NUM_SAMPLE_IMAGES,
    TrainingData,
    TrainingInputs,
    first_batch,
    image_options,
    validation,
)
from finetune.metrics import Scores
from finetune.model import Model
from finetune.moving_averages import MovingAverages
from finetune.run_folder import RunFolder
from finetune.scopes import VariablePlan
from finetune.scoring import score
from finetune.split_model import SplitModel

Tensor = Any

log = logging.getLogger("finetune")

FEATURES_FOLDER = "features"
MIB = 1 << 20
# A head on pooled features takes less time than a call of TensorFlow from Python: several steps share one.
STEPS_PER_CALL = 20
SMALL_FEATURES_BYTES = 64 << 10


def feature_inputs(
    settings: TrainSettings,
    run: RunFolder,
    model: Model,
    plan: VariablePlan,
    data: TrainingData,
    averages: MovingAverages | None,
    split: SplitModel,
    num_views: int,
) -> TrainingInputs:
    """Runs the trunk over `num_views` augmentations of each training image, and over each validation image.

    Raises:
        OSError: The disk is full, or can't be written. No features are left on it.
    """
    evaluation_split = SplitModel(model, plan, is_training=False) if data.validation is not None else None
    num_bytes = num_views * data.training.num_examples * split.num_bytes
    if data.validation is not None and evaluation_split is not None:
        num_bytes += data.validation.num_examples * evaluation_split.num_bytes
    folder = run.path / FEATURES_FOLDER if num_bytes > settings.cache_memory * MIB else None
    if folder is not None:
        _refuse_full_disk(folder, num_bytes)
    store = _make_store(folder, settings, model, plan, data)
    validate = None
    try:
        if data.validation is not None and evaluation_split is not None:
            features = _validation_features(settings, model, data, data.validation, evaluation_split, store)
            validate = _validate_on(features, evaluation_split, data.validation, settings, averages)
        views = [_view(settings, model, data, split, store, number, num_views) for number in range(num_views)]
    except OSError:
        if folder is not None:  # Checkpoints need the room.
            shutil.rmtree(folder, ignore_errors=True)
        raise
    return TrainingInputs(
        forward=split.head,
        batches=lambda first_step: feature_batches(
            views, batch_size=settings.batch_size, seed=settings.seed, start_step=first_step
        ),
        validate=validate,
        sample_images=lambda: first_batch(settings, model, data, NUM_SAMPLE_IMAGES)[0],
        steps_per_call=STEPS_PER_CALL if split.num_bytes <= SMALL_FEATURES_BYTES else 1,
    )


@dataclasses.dataclass(frozen=True)
class _Store:
    """Where features are kept, in memory if `folder` is None, and what they depend on: all, and those of a split."""

    folder: Path | None
    model: Model
    dependencies: Mapping[str, Any]
    data_hashes: Mapping[str, str]

    def compute(
        self, name: str, split: SplitModel, dataset: Dataset, batches: tf.data.Dataset, labels_offset: int, what: str
    ) -> Features:
        """What the trunk makes of a data set's images, or made of them before under the same name and dependencies."""
        frontier = [(list(spec.shape), spec.dtype.name) for spec in split.frontier]
        data = self.data_hashes.get(dataset.split)
        with reading(dataset, labels_offset):
            return compute_features(
                _function_of_images(split, self.model),
                batches,
                num_images=dataset.num_examples,
                folder=self.folder / name if self.folder is not None else None,
                key=features_key(name=name, data=data, frontier=frontier, **self.dependencies),
                what=what,
            )


def _make_store(
    folder: Path | None, settings: TrainSettings, model: Model, plan: VariablePlan, data: TrainingData
) -> _Store:
    if folder is None:
        return _Store(None, model, {}, {})
    frozen = ((variable.name, model.model_variables[variable.name].numpy()) for variable in plan.frozen)
    dependencies = {
        "model": settings.model,
        "trainable_scopes": plan.trainable_scopes,
        "batch_norm": settings.batch_norm,
        "precision": settings.precision,
        "weights": values_hash(frozen),
        "preprocessing": dataclasses.asdict(data.preprocessing),
        "images": image_options(settings, model),
        "seed": settings.seed,
    }
    datasets = [dataset for dataset in (data.training, data.validation) if dataset is not None]
    return _Store(folder, model, dependencies, {dataset.split: content_hash(dataset) for dataset in datasets})


def _refuse_full_disk(folder: Path, num_bytes: int) -> None:
    """Beforehand, for it may take hours until the disk is full. What is in the folder is taken up or given up."""
    held = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    free = shutil.disk_usage(folder.parent).free + held
    if num_bytes > free:
        sizes = f"{num_bytes / MIB:,.0f} MiB are needed, {free / MIB:,.0f} MiB are free"
        raise OSError(errno.ENOSPC, f"No space left on device: {sizes}")


def _view(
    settings: TrainSettings,
    model: Model,
    data: TrainingData,
    split: SplitModel,
    store: _Store,
    number: int,
    num_views: int,
) -> Features:
    """Of the training images under one outcome of the augmentation."""
    batches = view_batches(
        data.training,
        data.preprocessing,
        batch_size=settings.batch_size,
        seed=settings.seed,
        view=number,
        **image_options(settings, model),
    )
    what = f"view {number + 1} of {num_views}" if num_views > 1 else "the training images"
    return store.compute(f"view_{number}", split, data.training, batches, settings.labels_offset, what)


def _validation_features(
    settings: TrainSettings, model: Model, data: TrainingData, dataset: Dataset, split: SplitModel, store: _Store
) -> Features:
    batches = evaluation_batches(
        dataset, data.preprocessing, batch_size=settings.batch_size, **image_options(settings, model)
    )
    return store.compute("validation", split, dataset, batches, settings.labels_offset, "the validation images")


def _validate_on(
    features: Features,
    split: SplitModel,
    dataset: Dataset,
    settings: TrainSettings,
    averages: MovingAverages | None,
) -> Callable[[], Scores]:
    """Scores the validation split by the head alone."""
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

    return validation(dataset, settings, averages, lambda: score(lambda values: infer(*values), feature_rows()))


def _function_of_images(split: SplitModel, model: Model) -> Callable[[Tensor], list[Tensor]]:
    shape = [None, model.image_size, model.image_size, model.channels]
    function: Callable[[Tensor], list[Tensor]] = tf.function(
        split.trunk, autograph=False, input_signature=[tf.TensorSpec(shape, tf.float32)]
    )
    return function
