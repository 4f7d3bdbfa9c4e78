"""The splits that a run trains and validates on."""

import dataclasses
import functools
import logging
from pathlib import Path

from finetune.datasets.bad_records import without_undecodable
from finetune.datasets.dataset import Dataset, content_hash
from finetune.datasets.dataset_search import find_dataset, find_splits
from finetune.datasets.folds import assign_folds
from finetune.datasets.unlabelled import UnlabelledImages
from finetune.errors import UserError
from finetune.nets.spec import NetSpec
from finetune.notices import tell_once
from finetune.preprocessing import Preprocessing, get_preprocessing
from finetune.settings.augmentation import AugmentationSettings
from finetune.settings.stage import StageSettings
from finetune.settings.train import DataSettings
from finetune.training.classes import match_to_run, refuse_task_of_other_run

log = logging.getLogger("finetune")

DEFAULT_EVAL_SPLIT = "validation"


@dataclasses.dataclass(frozen=True)
class TrainingData:
    """The splits and how their images are prepared.

    Attributes:
        training: The split to train on.
        validation: None where there is no such split.
        preprocessing: Of both.
        class_names: By label, as the run keeps them; None: they aren't known.
        unlabelled: Images that the run labels itself; None: there are none.
    """

    training: Dataset
    validation: Dataset | None
    preprocessing: Preprocessing
    class_names: tuple[str, ...] | None
    unlabelled: UnlabelledImages | None = None

    @property
    def eval_split(self) -> str:
        """Name of the validation split; empty where there is none."""
        return self.validation.split if self.validation is not None else ""

    @property
    def num_skipped(self) -> dict[str, int]:
        """How many records of each split are left out since they can't be read, by its name."""
        datasets = [dataset for dataset in (self.training, self.validation) if dataset is not None]
        return {dataset.split: dataset.num_skipped for dataset in datasets}

    @functools.cached_property
    def hashes(self) -> dict[str, str]:
        """Of each split's bytes, by its name; to be had once, since without dataset.json all of them are read."""
        datasets = [dataset for dataset in (self.training, self.validation) if dataset is not None]
        return {dataset.split: content_hash(dataset) for dataset in datasets}


def find_data(
    settings: DataSettings, spec: NetSpec, augmentation: AugmentationSettings, *, resumed: Path | None, seed: int
) -> TrainingData:
    """The splits of the settings.

    Args:
        settings: Which they are, and how they are read.
        spec: The network's, for its own preprocessing.
        augmentation: Of the training images.
        resumed: Folder of the run that goes on, whose labels' order theirs becomes; None: a new one begins.
        seed: Of the division into folds, where one of these is left out.

    Raises:
        UserError: There is no such split; the run that is resumed has other classes.
    """
    if resumed is not None:
        refuse_task_of_other_run(settings.task, resumed)
    preprocessing = find_preprocessing(settings, spec, augmentation)
    training = find_training_split(settings)
    validation = None
    eval_split = settings.eval_split or DEFAULT_EVAL_SPLIT
    if settings.eval_split is None and eval_split not in find_splits(settings.records, settings.dataset_name):
        log.info("There is no split %s: training goes without validation (see --eval-split).", eval_split)
    else:
        validation = _find_split(settings, eval_split)
    if settings.folds is not None and validation is not None and validation.split == training.split:
        raise UserError(
            f"--folds divides the split {training.split}, and --eval-split is the same: folds that are left out would "
            "choose the checkpoint that they score.",
            "Give another --eval-split, or leave it out.",
        )
    if settings.folds is not None and settings.fold is not None:
        folds = assign_folds(training, settings.folds, seed, settings.labels_offset)
        training = folds.without(training, settings.fold)
        log.info("Fold %d of %d is left out: %d images.", settings.fold, settings.folds, training.num_examples)
    data = TrainingData(training, validation, preprocessing, training.class_names)
    return data if resumed is None else match_to_run(settings, resumed, data, spec)


def with_augmentation(
    data: TrainingData, settings: DataSettings, spec: NetSpec, augmentation: AugmentationSettings
) -> TrainingData:
    """The data under another augmentation of the training images."""
    return dataclasses.replace(data, preprocessing=find_preprocessing(settings, spec, augmentation))


def find_preprocessing(settings: DataSettings, spec: NetSpec, augmentation: AugmentationSettings) -> Preprocessing:
    """What images go through.

    Raises:
        UserError: There is no such preprocessing; a part of the augmentation has no effect with it.
    """
    preprocessing = get_preprocessing(settings.preprocessing or spec.preprocessing, augmentation, settings.resize)
    if settings.resize is not None and preprocessing.trains_on_windows:
        tell_once(
            f"--resize {settings.resize}: of whole pictures, in validation and wherever the network is used. Training "
            "sees random windows as before; with --augmentation flip or none it sees the same as validation."
        )
    return preprocessing


def without_corrupt(settings: DataSettings, data: TrainingData) -> TrainingData:
    """The data without the records whose images can't be decoded, where these are to be left out."""
    if settings.on_corrupt != "skip":
        return data
    training = without_undecodable(data.training, settings.labels_offset)
    validation = data.validation and without_undecodable(data.validation, settings.labels_offset)
    return dataclasses.replace(data, training=training, validation=validation)


def find_training_split(settings: DataSettings) -> Dataset:
    """The split to train on.

    Raises:
        UserError: There is none.
    """
    return _find_split(settings, settings.split)


def _find_split(settings: DataSettings, split: str) -> Dataset:
    return find_dataset(
        settings.records,
        settings.dataset_name,
        split,
        labels_offset=settings.labels_offset,
        image_key=settings.image_key,
        label_key=settings.label_key,
        on_corrupt=settings.on_corrupt,
        task=settings.task,
    )


def refuse_large_batch(settings: StageSettings, num_devices: int, dataset: Dataset) -> None:
    """Training takes each image once before it takes one again.

    Raises:
        UserError: A step takes more images than there are.
    """
    images_per_step, num_images = settings.images_per_update * num_devices, dataset.num_examples
    if images_per_step > num_images:
        most = num_images // (settings.accumulate_steps * num_devices)
        more_of = "--accumulate-steps" if settings.accumulate_steps > 1 else "--num-clones, or train on fewer workers"
        raise UserError(
            f"--batch-size: a step takes {images_per_step} images, but the split {dataset.split} has {num_images}.",
            f"Give --batch-size {most} or less." if most else f"Give a smaller {more_of}.",
        )


def num_outputs(settings: DataSettings, data: TrainingData) -> int:
    """How many classes the network has to tell apart."""
    return data.training.num_classes - settings.labels_offset
