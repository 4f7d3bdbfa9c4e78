"""Training and validation from features: what the frozen trunk makes of images, computed before the first step."""

import dataclasses
import errno
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from finetune.datasets.dataset import Dataset
from finetune.datasets.pipeline import evaluation_batches, reading, view_batches
from finetune.evaluation.metrics import Scores
from finetune.evaluation.scoring import score
from finetune.model.model import Model
from finetune.model.scopes import VariablePlan
from finetune.runs.run_folder import FEATURES_FOLDER, RunFolder
from finetune.settings.config import TrainSettings
from finetune.training.image_inputs import (
    TrainingData,
    TrainingInputs,
    first_batch,
    image_options,
    validation,
)
from finetune.training.moving_averages import MovingAverages
from finetune.training.run_log import NUM_SAMPLE_IMAGES
from finetune.trunk.features import Features, compute_features, feature_batches, features_key, values_hash
from finetune.trunk.split_model import SplitModel
from finetune.types import Tensor

Trunk = Callable[[Tensor], list[Tensor]]

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
    store = _FeatureStore(folder, settings, model, plan, data)
    trunk = _function_of_images(split, model)
    validate = None
    try:
        if data.validation is not None and evaluation_split is not None:
            features = store.validation(data.validation, evaluation_split)
            validate = _validate_on(features, evaluation_split, data.validation, settings, averages)
        views = [store.view(number, num_views, split, trunk) for number in range(num_views)]
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


class _FeatureStore:
    """Computes a run's features into memory, where `folder` is None, or takes them up from files that it keeps."""

    def __init__(
        self, folder: Path | None, settings: TrainSettings, model: Model, plan: VariablePlan, data: TrainingData
    ) -> None:
        self._folder = folder
        self._settings = settings
        self._model = model
        self._data = data
        self._options = image_options(settings, model)
        self._dependencies = self._find_dependencies(plan) if folder is not None else {}

    def view(self, number: int, num_views: int, split: SplitModel, trunk: Trunk) -> Features:
        """Of the training images under one outcome of the augmentation; `trunk` is the split's, traced once for all."""
        batches = view_batches(
            self._data.training,
            self._data.preprocessing,
            batch_size=self._settings.batch_size,
            seed=self._settings.seed,
            view=number,
            **self._options,
        )
        what = f"view {number + 1} of {num_views}" if num_views > 1 else "the training images"
        return self._compute(f"view_{number}", split, trunk, self._data.training, batches, what)

    def validation(self, dataset: Dataset, split: SplitModel) -> Features:
        """Of the validation images."""
        batches = evaluation_batches(
            dataset, self._data.preprocessing, batch_size=self._settings.batch_size, **self._options
        )
        trunk = _function_of_images(split, self._model)
        return self._compute("validation", split, trunk, dataset, batches, "the validation images")

    def _compute(
        self, name: str, split: SplitModel, trunk: Trunk, dataset: Dataset, batches: tf.data.Dataset, what: str
    ) -> Features:
        folder, key = None, ""
        if self._folder is not None:
            folder = self._folder / name
            frontier = [(list(spec.shape), spec.dtype.name) for spec in split.frontier]
            data = self._data.hashes[dataset.split]
            key = features_key(name=name, data=data, outputs=dataset.outputs, frontier=frontier, **self._dependencies)
        with reading(dataset, self._settings.labels_offset):
            return compute_features(trunk, batches, num_images=dataset.num_examples, folder=folder, key=key, what=what)

    def _find_dependencies(self, plan: VariablePlan) -> dict[str, Any]:
        """What all features depend on, beside the images."""
        frozen = ((variable.name, self._model.model_variables[variable.name].numpy()) for variable in plan.frozen)
        return {
            "model": self._settings.model,
            "trainable_scopes": plan.trainable_scopes,
            "batch_norm": self._settings.batch_norm,
            "precision": self._settings.precision,
            "weights": values_hash(frozen),
            "preprocessing": dataclasses.asdict(self._data.preprocessing),
            "images": self._options,
            "seed": self._settings.seed,
        }


def _refuse_full_disk(folder: Path, num_bytes: int) -> None:
    """Beforehand, for it may take hours until the disk is full. The folder's files count as free: most are reused."""
    held = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    free = shutil.disk_usage(folder.parent).free + held
    if num_bytes > free:
        sizes = f"{num_bytes / MIB:,.0f} MiB are needed, {free / MIB:,.0f} MiB are free"
        raise OSError(errno.ENOSPC, f"No space left on device: {sizes}")


def _validate_on(
    features: Features,
    split: SplitModel,
    dataset: Dataset,
    settings: TrainSettings,
    averages: MovingAverages | None,
) -> Callable[[], Scores]:
    """Scores the validation split by the head alone."""
    specs = [tf.TensorSpec([None, *spec.shape[1:]], spec.dtype) for spec in split.frontier]
    function = tf.function(lambda *values: split.head(list(values), tf.zeros([2], tf.int32)).logits, autograph=False)
    infer = function.get_concrete_function(*specs)

    def feature_rows() -> Iterator[tuple[Any, Any, Any]]:
        for start in range(0, dataset.num_examples, settings.batch_size):
            values, labels = features.batch(slice(start, start + settings.batch_size))
            yield values, labels, np.full(len(labels), b"")

    return validation(dataset, settings, averages, lambda: score(lambda values: infer(*values), feature_rows()))


def _function_of_images(split: SplitModel, model: Model) -> Trunk:
    """The trunk traced here, for batches of any size: a network's trace takes seconds."""
    shape = [None, model.image_size, model.image_size, model.channels]
    function: Trunk = tf.function(split.trunk, autograph=False).get_concrete_function(tf.TensorSpec(shape, tf.float32))
    return function
