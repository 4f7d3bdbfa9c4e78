"""Training and validation from features: what the frozen trunk makes of images, computed before the first step."""

import dataclasses
import errno
import functools
import itertools
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from finetune.datasets.bad_records import reading
from finetune.datasets.balanced_draws import BalancedDraws
from finetune.datasets.dataset import Dataset, content_hash
from finetune.datasets.folds import rows_in_whole
from finetune.datasets.pipeline import evaluation_batches
from finetune.datasets.unlabelled import UnlabelledImages
from finetune.datasets.unlabelled_batches import (
    identity,
    reading_unlabelled,
    unlabelled_evaluation_batches,
    unlabelled_view_batches,
)
from finetune.evaluation.multilabel_metrics import AnyScores
from finetune.evaluation.scoring import SCORERS
from finetune.preprocessing import Preprocessing
from finetune.training.image_inputs import CachedFeatures, TrainingImages, TrainingInputs, plain_validation, validation
from finetune.training.mixed_batches import MixedSteps
from finetune.training.state import TrainingState
from finetune.trunk.features import (
    Drawn,
    FeatureFolder,
    Features,
    PickStream,
    compute_features,
    feature_batches,
    features_key,
    gather,
    identities,
    picks_by_epoch,
    values_hash,
)
from finetune.trunk.split_model import SplitModel
from finetune.types import Array, Tensor

Trunk = Callable[[Tensor], list[Tensor]]

MIB = 1 << 20
# A head on pooled features takes less time than a call of TensorFlow from Python: several steps share one.
STEPS_PER_CALL = 20
SMALL_FEATURES_BYTES = 64 << 10
# Of NumPy's generator, beside those of orders.
VIEWS_SEED = 3


@dataclasses.dataclass(frozen=True)
class CachedViews:
    """What is computed once.

    Attributes:
        split: The model in two, as training runs it.
        num_views: Outcomes of the augmentation that are kept of each training image.
    """

    split: SplitModel
    num_views: int

    def num_bytes(self, num_images: int) -> int:
        """Of the features of so many training images, or unlabelled ones."""
        return self.num_views * num_images * self.split.num_bytes


def feature_inputs(
    images: TrainingImages, state: TrainingState, views: CachedViews, folder: FeatureFolder, cache_bytes: int
) -> TrainingInputs:
    """Runs the trunk over some augmentations of each training image, and over each validation image.

    Features of a part of a split are rows of those of the whole, whether other parts need them, too, or not: in other
    batches they would differ in their last bits.

    Args:
        images: Of the run.
        state: Of the run.
        views: Which features.
        folder: Where they go if they take more than `cache_bytes`, or are shared.
        cache_bytes: How much may be kept in memory.

    Raises:
        OSError: The disk is full, or can't be written. Features that are whole stay there.
    """
    data, split, unlabelled = images.data, views.split, images.data.unlabelled
    num_unlabelled = len(unlabelled.records) if unlabelled is not None else 0
    num_evaluated = num_unlabelled + (data.validation.num_examples if data.validation is not None else 0)
    evaluation_split = split.of_evaluation() if num_evaluated else None
    num_bytes = views.num_bytes(_computed(data.training).num_examples + num_unlabelled)
    if evaluation_split is not None:
        num_bytes += num_evaluated * evaluation_split.num_bytes
    is_small = num_bytes <= cache_bytes
    kept_in = None if is_small and not folder.is_shared else folder
    if kept_in is not None:
        _refuse_full_disk(kept_in.path, num_bytes)
    store = _FeatureStore(kept_in, images, split)
    validate = validate_plain = None
    if data.validation is not None and evaluation_split is not None:
        features = store.validation(data.validation, evaluation_split)
        run = _scores_of(features, evaluation_split, images.batch_size, data.validation.task)
        validate, validate_plain = validation(images, state, run), plain_validation(images, state, run)
    kept = store.views(views, in_memory=is_small)
    drawn = BalancedDraws(images.balanced.outputs, images.seed).epoch if images.balanced is not None else None
    mixed_batches = unlabelled_logits = None
    if unlabelled is not None and evaluation_split is not None:
        mixed_batches = functools.partial(_mixed_batches, kept, store.unlabelled_views(views, unlabelled), drawn)
        evaluated = store.unlabelled(unlabelled, evaluation_split)
        unlabelled_logits = functools.partial(_logits, evaluated, evaluation_split, images.batch_size)
    return TrainingInputs(
        forward=split.head,
        batches=lambda first_step: feature_batches(
            kept, batch_size=images.images_per_step, seed=images.seed, start_step=first_step, drawn=drawn
        ),
        validate=validate,
        eval_split=data.eval_split,
        batch_size=images.batch_size,
        steps_per_call=STEPS_PER_CALL if split.num_bytes <= SMALL_FEATURES_BYTES else 1,
        num_views=views.num_views,
        features=tuple(store.names),
        validate_plain=validate_plain,
        cached=CachedFeatures(split, kept),
        mixed_batches=mixed_batches,
        unlabelled_logits=unlabelled_logits,
    )


def _mixed_batches(
    labelled: Sequence[Features], unlabelled: Sequence[Features], drawn: Drawn | None, steps: MixedSteps
) -> Iterator[tuple[Any, ...]]:
    """As `feature_batches`, with pseudo-labelled images among them; they come in views by chance, and weigh 1."""
    of_labelled = PickStream(
        picks_by_epoch(labelled, seed=steps.seed, num_before=steps.num_labelled_before, drawn=drawn)
    )
    of_unlabelled = PickStream(_unlabelled_picks(len(unlabelled), steps))
    for step in itertools.count(steps.first_step):
        parts = []
        for number in steps.num_in_batches(step):
            picks = of_labelled.take(steps.mixture.batch_size - number)
            parts.append((*gather(labelled, picks), identities(labelled, picks)))
            if number:
                picks = of_unlabelled.take(number)
                labels = steps.labels[picks[:, 1]]
                numbers, fingerprints, views = identities(unlabelled, picks).T
                identity_of_each = np.stack(identity(numbers, fingerprints, labels, views), axis=1)
                weights = () if labelled[0].weights is None else (np.ones([number], np.float32),)
                parts.append((gather(unlabelled, picks)[0], labels, *weights, identity_of_each))
        every_values, *others = zip(*parts, strict=True)
        values = [np.concatenate(of_tensor) for of_tensor in zip(*every_values, strict=True)]
        yield values, *(np.concatenate(of_parts) for of_parts in others)


def _unlabelled_picks(num_views: int, steps: MixedSteps) -> Iterator[Array]:
    for epoch, numbers in steps.epochs():
        views = np.random.default_rng([steps.seed % 2**32, VIEWS_SEED, epoch]).integers(num_views, size=len(numbers))
        yield np.stack([views, numbers], axis=1)


def _logits(features: Features, split: SplitModel, batch_size: int) -> Array:
    infer = _head_of(split)
    starts = range(0, len(features.labels), batch_size)
    return np.concatenate([infer(*features.batch(slice(start, start + batch_size))[0]).numpy() for start in starts])


class _FeatureStore:
    """Computes a run's features into memory, where `folder` is None, or takes them up from files that it keeps.

    Attributes:
        names: Of the folders of these files.
    """

    def __init__(self, folder: FeatureFolder | None, images: TrainingImages, split: SplitModel) -> None:
        self.names: list[str] = []
        self._folder = folder
        self._images = images
        self._dependencies = self._find_dependencies(split) if folder is not None else {}

    def views(self, views: CachedViews, *, in_memory: bool) -> list[Features]:
        """Of the training images under each outcome of the augmentation; the trunk is traced once for all."""
        trunk, training = function_of_images(views.split), self._images.data.training
        computed = [self._view(number, views, trunk) for number in range(views.num_views)]
        if _computed(training) is training:
            return computed
        rows = rows_in_whole(training)
        return [features.part(rows, in_memory=in_memory) for features in computed]

    def _view(self, number: int, views: CachedViews, trunk: Trunk) -> Features:
        what = f"view {number + 1} of {views.num_views}" if views.num_views > 1 else "the training images"
        dataset = _computed(self._images.data.training)
        images = dataclasses.replace(self._images, data=dataclasses.replace(self._images.data, training=dataset))
        return self._of_dataset(f"view_{number}", views.split, trunk, dataset, images.view_batches(number), what)

    def validation(self, dataset: Dataset, split: SplitModel) -> Features:
        """Of the validation images."""
        named = evaluation_batches(dataset, self._images.options, batch_size=self._images.batch_size)
        batches = named.map(lambda images, labels, _: (images, labels))
        trunk = function_of_images(split)
        return self._of_dataset("validation", split, trunk, dataset, batches, "the validation images")

    def unlabelled_views(self, views: CachedViews, images: UnlabelledImages) -> list[Features]:
        """Of the unlabelled images as training has them."""
        trunk, options, seed = function_of_images(views.split), self._images.options, self._images.seed
        size = self._images.batch_size
        return [
            self._of_unlabelled(
                f"unlabeled_view_{number}",
                views.split,
                trunk,
                images,
                unlabelled_view_batches(images, options, batch_size=size, seed=seed, view=number),
                f"view {number + 1} of {views.num_views}, unlabelled",
            )
            for number in range(views.num_views)
        ]

    def unlabelled(self, images: UnlabelledImages, split: SplitModel) -> Features:
        """Of the unlabelled images as evaluation has them, by which they are labelled."""
        batches = unlabelled_evaluation_batches(images, self._images.options, batch_size=self._images.batch_size)
        trunk = function_of_images(split)
        return self._of_unlabelled("unlabeled", split, trunk, images, batches, "the unlabelled images")

    def _of_dataset(
        self, name: str, split: SplitModel, trunk: Trunk, dataset: Dataset, batches: tf.data.Dataset, what: str
    ) -> Features:
        data = self._what_it_holds(dataset) if self._folder is not None else {}
        with reading(dataset, self._images.options.labels_offset):
            return self._compute(name, split, trunk, data, dataset.num_examples, batches, what)

    def _what_it_holds(self, dataset: Dataset) -> dict[str, Any]:
        known = self._images.data.training, self._images.data.validation
        sha256 = self._images.data.hashes[dataset.split] if dataset in known else content_hash(dataset)
        of_images = {"weights_of_images": True} if dataset.schema.has_weights else {}
        of_labels = {"labels": [dataset.task, dataset.num_network_outputs]} if dataset.schema.has_lists else {}
        return {"data": sha256, "outputs": dataset.outputs, **of_images, **of_labels}

    def _of_unlabelled(
        self, name: str, split: SplitModel, trunk: Trunk, images: UnlabelledImages, batches: tf.data.Dataset, what: str
    ) -> Features:
        with reading_unlabelled(images):
            return self._compute(name, split, trunk, {"data": images.sha256}, len(images.records), batches, what)

    def _compute(
        self,
        name: str,
        split: SplitModel,
        trunk: Trunk,
        data: dict[str, Any],
        num_images: int,
        batches: tf.data.Dataset,
        what: str,
    ) -> Features:
        folder, key = None, ""
        if self._folder is not None:
            frontier = [(list(spec.shape), spec.dtype.name) for spec in split.frontier]
            key = features_key(name=name, frontier=frontier, **data, **self._dependencies)
            self.names.append(self._folder.name_of(name, key))
            folder = self._folder.path / self.names[-1]
        return compute_features(trunk, batches, num_images=num_images, folder=folder, key=key, what=what)

    def _find_dependencies(self, split: SplitModel) -> dict[str, Any]:
        """What all features depend on, beside the images."""
        model, options = split.model, self._images.options
        # What the trunk ends with, and what has no weights: a head's pooling.
        of_head = {"head_pooling": model.spec.head.pooling} if model.spec.head is not None else {}
        frozen = ((variable.name, model.model_variables[variable.name].numpy()) for variable in split.plan.frozen)
        return {
            "model": model.spec.name,
            **of_head,
            "trainable_scopes": split.plan.trainable_scopes,
            "precision": model.compute_dtype.name,
            "weights": values_hash(frozen),
            "preprocessing": _said(options.preprocessing),
            "images": [options.image_size, options.channels, options.labels_offset],
            "seed": self._images.seed,
        }


def _said(preprocessing: Preprocessing) -> dict[str, Any]:
    """Without what isn't given: features of older runs, which didn't know of it, are the same."""
    all_of_it = {
        "name": preprocessing.name,
        **dataclasses.asdict(preprocessing.augmentation),
        "resize": preprocessing.resize,
    }
    return {name: value for name, value in all_of_it.items() if value}


def _computed(training: Dataset) -> Dataset:
    """The images whose features are computed for a training: of a part of a split the whole, where all can be read."""
    if training.whole is None or training.num_skipped != training.whole.num_skipped:
        return training
    return dataclasses.replace(training.whole, outputs=training.outputs)


def _refuse_full_disk(folder: Path, num_bytes: int) -> None:
    """Beforehand, for it may take hours until the disk is full. The folder's files count as free: most are reused."""
    held = sum(path.stat().st_size for path in folder.glob("*/*") if path.is_file())
    free = shutil.disk_usage(folder.parent).free + held
    if num_bytes > free:
        sizes = f"{num_bytes / MIB:,.0f} MiB are needed, {free / MIB:,.0f} MiB are free"
        raise OSError(errno.ENOSPC, f"No space left on device: {sizes}", str(folder))


def _scores_of(features: Features, split: SplitModel, batch_size: int, task: str) -> Callable[[], AnyScores]:
    """Scores the validation split by the head alone."""
    infer = _head_of(split)

    def feature_rows() -> Iterator[tuple[Any, Any, Any]]:
        for start in range(0, len(features.labels), batch_size):
            values, labels = features.batch(slice(start, start + batch_size))
            yield values, labels, np.full(len(labels), b"")

    return lambda: SCORERS[task]([lambda values: infer(*values)], feature_rows())


def _head_of(split: SplitModel) -> Callable[..., Tensor]:
    """From a batch of the frontier's values, of any size, to logits."""
    specs = [tf.TensorSpec([None, *spec.shape[1:]], spec.dtype) for spec in split.frontier]
    function = tf.function(lambda *values: split.head(list(values), tf.zeros([3], tf.int32)).logits, autograph=False)
    head: Callable[..., Tensor] = function.get_concrete_function(*specs)
    return head


def function_of_images(split: SplitModel) -> Trunk:
    """The trunk traced here, for batches of any size: a network's trace takes seconds."""
    model = split.model
    shape = [None, model.image_size, model.image_size, model.channels]
    function: Trunk = tf.function(split.trunk, autograph=False).get_concrete_function(tf.TensorSpec(shape, tf.float32))
    return function
