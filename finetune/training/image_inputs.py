"""Training and validation from images: what a run is fed where nothing is computed beforehand."""

import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from finetune.datasets.bad_records import reading
from finetune.datasets.decoding import ReadOptions
from finetune.datasets.pipeline import (
    BatchShare,
    evaluation_batches,
    in_batches,
    served_batches,
    training_examples,
    view_batches,
)
from finetune.datasets.record_index import RecordIndex
from finetune.datasets.service_watch import watched
from finetune.datasets.unlabelled import UnlabelledImages
from finetune.datasets.unlabelled_batches import picked_examples, reading_unlabelled, unlabelled_evaluation_batches
from finetune.errors import UserError
from finetune.evaluation.multilabel_metrics import AnyScores
from finetune.evaluation.scoring import SCORERS, Infer, inference_function
from finetune.evaluation.side_by_side import in_turn
from finetune.model.model import Outputs
from finetune.model.out_of_memory import out_of_memory_told
from finetune.progress import progress
from finetune.training.mixed_batches import MixedSteps
from finetune.training.run_log import NUM_SAMPLE_IMAGES
from finetune.training.shared_validation import scorer
from finetune.training.state import TrainingState
from finetune.training.training_data import TrainingData
from finetune.trunk.features import Features
from finetune.trunk.split_model import SplitModel
from finetune.types import Array, Tensor

# Two small batches of the validation split are scored before the first step.
REHEARSAL_BATCHES = 2
REHEARSAL_BATCH_SIZE = 4


@dataclasses.dataclass(frozen=True)
class TrainingImages:
    """The images of a run, batch by batch, as its network takes them.

    Attributes:
        data: The splits.
        options: How their records are read.
        batch_size: Images in a pass of the network, for each device.
        seed: Of the order and the augmentation.
        passes_per_step: Whose images a step is given at once.
        balanced: Of the training split, whose classes are drawn equally often; None: each image once an epoch.
        input_workers: `host:port` of each process that decodes and augments for the steps; empty: this one does.
    """

    data: TrainingData
    options: ReadOptions
    batch_size: int
    seed: int
    passes_per_step: int = 1
    balanced: RecordIndex | None = None
    input_workers: tuple[str, ...] = ()

    @property
    def images_per_step(self) -> int:
        """For each device."""
        return self.batch_size * self.passes_per_step

    def training_batches(self, first_step: int, num_devices: int, worker: int, num_workers: int) -> tf.data.Dataset:
        """Augmented images, labels, weights where they have such, and what tells them apart, without end.

        They are for steps from `first_step` on: batches for one device after the other, those of one worker.

        Args:
            first_step: Number of updates made.
            num_devices: Of all workers.
            worker: Its index.
            num_workers: How many there are, with as many devices each.
        """
        if self.input_workers:
            return served_batches(
                self.data.training,
                self.options,
                workers=self.input_workers,
                step_size=self.images_per_step * num_devices,
                batch_size=self.images_per_step,
                seed=self.seed,
                num_before=first_step * self.images_per_step * num_devices,
            )
        share = BatchShare(worker, num_workers, self.images_per_step * num_devices // num_workers)
        examples = training_examples(
            self.data.training,
            self.options,
            seed=self.seed,
            num_before=first_step * self.images_per_step * num_devices,
            balanced=self.balanced,
            share=share if num_workers > 1 else None,
        )
        return in_batches(examples, self.images_per_step)

    def mixed_batches(self, steps: MixedSteps) -> tf.data.Dataset:
        """As `training_batches`, with pseudo-labelled images among them."""
        assert self.data.unlabelled is not None
        training, num_before = self.data.training, steps.num_labelled_before
        examples = training_examples(
            training, self.options, seed=self.seed, num_before=num_before, balanced=self.balanced
        )
        if steps.has_pseudo_labels:
            pseudo = picked_examples(
                self.data.unlabelled,
                self.options,
                steps.picks,
                seed=self.seed,
                are_weighted=training.schema.has_weights,
            )
            kinds = tf.data.Dataset.from_generator(lambda: _kinds(steps), output_signature=tf.TensorSpec([], tf.int64))
            examples = tf.data.Dataset.choose_from_datasets([examples, pseudo], kinds)
        return in_batches(examples, steps.mixture.images_per_step)

    def view_batches(self, view: int, numbers: Sequence[int] | None = None) -> tf.data.Dataset:
        """The training images once, in the order of the files, under one outcome of the augmentation.

        Args:
            view: Number of the outcome: that of the epoch of the same number.
            numbers: Of the records, where not all are wanted.
        """
        return view_batches(
            self.data.training, self.options, batch_size=self.batch_size, seed=self.seed, view=view, numbers=numbers
        )

    def first_batch(self, num_images: int) -> tuple[Tensor, Tensor]:
        """The first training images of the files, [B,H,W,C], and their labels [B]."""
        batches = view_batches(self.data.training, self.options, batch_size=num_images, seed=self.seed, view=0)
        images, labels, *_ = next(iter(batches))
        return images, labels

    def sample(self) -> Tensor:
        """A few training images, [B,H,W,C]."""
        return self.first_batch(NUM_SAMPLE_IMAGES)[0]


@dataclasses.dataclass(frozen=True)
class CachedFeatures:
    """What the trunk made of the training images.

    Attributes:
        split: The model in two, as training runs it.
        views: The features under each outcome of the augmentation, the images in the order of the files.
    """

    split: SplitModel
    views: Sequence[Features]


@dataclasses.dataclass(frozen=True)
class TrainingInputs:
    """What feeds a run.

    Attributes:
        forward: The training pass, from a batch's inputs and a dropout seed [3] to outputs.
        batches: Without end, from a step on: inputs, labels, weights where images have such, and what tells the images
            apart, int64 [B,3]; for all devices a record's number in the split, its fingerprint, and the seed of the
            augmentation or a view.
        validate: Scores the validation split; None where there is none.
        validate_plain: The same by the plain weights, where `validate` is by averages of them; None where it isn't.
        eval_split: Name of the validation split; empty where there is none.
        batch_size: Images in a pass of the network, for each device.
        steps_per_call: How many steps are made in one call, where nothing is to be done between them.
        num_views: Of each training image, whose features are kept; 0: none are.
        features: Names of the folders of features that are read from files.
        cached: The features; None where images are computed in every step.
        mixed_batches: As `batches`, with pseudo-labelled images among them; None where there are no unlabelled ones.
        unlabelled_logits: The network's for the unlabelled images as evaluation has them, float [N,num_classes].
    """

    forward: Callable[[Any, Tensor], Outputs]
    batches: Callable[[int], Iterator[Any]]
    validate: Callable[[], AnyScores] | None
    eval_split: str
    batch_size: int
    steps_per_call: int = 1
    num_views: int = 0
    features: tuple[str, ...] = ()
    validate_plain: Callable[[], AnyScores] | None = None
    cached: CachedFeatures | None = None
    mixed_batches: Callable[[MixedSteps], Iterator[Any]] | None = None
    unlabelled_logits: Callable[[], Array] | None = None


def image_inputs(images: TrainingImages, state: TrainingState) -> TrainingInputs:
    """Every step is given augmented images of its own.

    Raises:
        UserError: They are to be drawn in balance from files that can't be read at any place.
    """
    _refuse_compressed(images)
    strategy = tf.distribute.get_strategy()
    model, dataset, unlabelled = state.model, images.data.validation, images.data.unlabelled

    def batches(first_step: int) -> Iterator[Any]:
        def of_worker(context: tf.distribute.InputContext) -> tf.data.Dataset:
            num_devices, num_workers = context.num_replicas_in_sync, context.num_input_pipelines
            return images.training_batches(first_step, num_devices, context.input_pipeline_id, num_workers)

        distributed = strategy.distribute_datasets_from_function(of_worker)
        return identified(watched(distributed, images.input_workers) if images.input_workers else distributed)

    def identified(batches: Iterable[Any]) -> Iterator[Any]:
        for *given, records in batches:
            yield *given, of_all_devices(records)

    of_all_devices = _joiner(strategy)
    validate = validate_plain = None
    if dataset is not None or unlabelled is not None:
        infers = [inference_function(model, device) for device in _devices_of(strategy)]
    if dataset is not None:
        run = scorer(
            infers, dataset, images.options, strategy, batch_size=images.batch_size, num_classes=model.num_classes
        )
        rehearsal = evaluation_batches(dataset, images.options, batch_size=REHEARSAL_BATCH_SIZE)
        validate, validate_plain = validation(images, state, run), plain_validation(images, state, run)
        with reading(dataset, images.options.labels_offset):
            # What fails in a validation should do so before hours of training, not after.
            SCORERS[dataset.task](infers, rehearsal.take(REHEARSAL_BATCHES))
    return TrainingInputs(
        forward=lambda batch, seed: model(batch, is_training=True, seed=seed),
        batches=batches,
        validate=validate,
        eval_split=images.data.eval_split,
        batch_size=images.batch_size,
        validate_plain=validate_plain,
        mixed_batches=None
        if unlabelled is None
        else lambda steps: identified(strategy.experimental_distribute_dataset(images.mixed_batches(steps))),
        unlabelled_logits=None if unlabelled is None else lambda: _logits(unlabelled, images, infers),
    )


def _devices_of(strategy: Any) -> Sequence[str | None]:
    """Devices of this process that have the variables each; None: one, which TensorFlow chooses."""
    return strategy.extended.worker_devices if isinstance(strategy, tf.distribute.MirroredStrategy) else [None]


def _joiner(strategy: Any) -> Callable[[Any], Array]:
    """From what the devices of this worker were given, each [b,...], to what those of all workers were, in order."""

    def of_worker(values: Any) -> Array:
        return np.concatenate([part.numpy() for part in strategy.experimental_local_results(values)])

    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return of_worker
    gather = tf.function(lambda values: strategy.gather(values, axis=0), autograph=False)
    return lambda values: gather(values).numpy()


def _refuse_compressed(images: TrainingImages) -> None:
    compressed = next((shard for shard in images.data.training.shards if shard.compression), None)
    if images.balanced is not None and compressed is not None:
        raise UserError(
            f"--balanced-sampling reads each image from its own place, and {compressed.path} is compressed "
            f"({compressed.compression}).",
            "Unpack the shards, or make up for rare classes by --class-weights balanced.",
        )


def _kinds(steps: MixedSteps) -> Iterator[int]:
    """Of each image in its turn whether it is pseudo-labelled, 0 or 1."""
    for step in itertools.count(steps.first_step):
        for number in steps.num_in_batches(step):
            yield from [0] * (steps.mixture.batch_size - number) + [1] * number


def _logits(unlabelled: UnlabelledImages, images: TrainingImages, infers: Sequence[Infer]) -> Array:
    batches = unlabelled_evaluation_batches(unlabelled, images.options, batch_size=images.batch_size)
    parts = []
    with (
        progress("Pseudo-labels", len(unlabelled.records)) as advance,
        reading_unlabelled(unlabelled),
        out_of_memory_told(images.batch_size),
    ):
        for _, logits in in_turn(infers, (prepared for prepared, _ in batches)):
            parts.append(np.asarray(logits))
            advance(len(parts[-1]))
    return np.concatenate(parts)


def validation(images: TrainingImages, state: TrainingState, run: Callable[[], AnyScores]) -> Callable[[], AnyScores]:
    """With the moving averages where they are kept, for they are what will be used."""
    dataset = images.data.validation
    assert dataset is not None

    def validate() -> AnyScores:
        state.share_statistics()
        in_place = state.averages.in_place() if state.averages is not None else contextlib.nullcontext()
        with reading(dataset, images.options.labels_offset), in_place:
            return run()

    return validate


def plain_validation(
    images: TrainingImages, state: TrainingState, run: Callable[[], AnyScores]
) -> Callable[[], AnyScores] | None:
    """With the weights themselves, where moving averages are kept beside them; None where they aren't.

    It is told and never counts: what commands take of a run is one or the other for all of its checkpoints.
    """
    dataset = images.data.validation
    assert dataset is not None
    if state.averages is None:
        return None

    def validate() -> AnyScores:
        with reading(dataset, images.options.labels_offset):
            return run()

    return validate
