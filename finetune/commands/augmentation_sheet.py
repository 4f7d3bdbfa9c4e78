"""`finetune-inspect --augment`: a contact sheet of what a network will see in training."""

import dataclasses
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.commands.stages import stages_of
from finetune.errors import UserError
from finetune.files.whole_files import write_bytes
from finetune.nets import get_spec
from finetune.settings.augmentation import AugmentationSettings
from finetune.settings.flags import flags_of
from finetune.settings.inspect import InspectSettings
from finetune.settings.settings_file import CONFIG_FILE, read_toml
from finetune.settings.stage import StageSettings
from finetune.settings.stages import Stage
from finetune.settings.train import CourseSettings, DataSettings, NetworkSettings, TrainSettings
from finetune.settings.trust import TRUST_CODE, refuse_modules

if TYPE_CHECKING:
    from finetune.datasets.dataset import Dataset
    from finetune.training.image_inputs import TrainingImages
    from finetune.types import Array

# Given for the sheet, these take the place of a run's.
_OF_TRAINING = (
    "dataset_dir",
    "dataset_name",
    "split",
    "preprocessing",
    "model",
    "image_size",
    "use_grayscale",
    "seed",
)


def draw_sheet(settings: InspectSettings) -> str:
    """Writes the sheet; returns what it shows, in words.

    A row is an image of the training split, from its first record on: as it is, then as the first epochs of a training
    with these settings are given it, values brought back from the network's range.

    Raises:
        UserError: There are no records, no such run or stage; settings that don't go together; a damaged record.
        OSError: It can't be written.
    """
    from finetune.evaluation.plots import LIGHT, contact_sheet_figure, render

    training, augmentation = _training(settings)
    images = _training_images(training, augmentation, settings.num_examples)
    dataset = images.data.training
    draws, labels = _draws(images, settings.num_draws)
    originals = list(_originals(images, len(labels)))
    names = [_name(dataset, label + images.options.labels_offset) for label in labels]
    told = _in_words(augmentation)
    title = f"{training.network.model}, {images.options.image_size} pixels: {told}; seed {images.seed}"
    figure = contact_sheet_figure(title, names, originals, draws, LIGHT)
    write_bytes(settings.output, render(figure, "png"))
    return f"{settings.output}: {len(labels)} images of {dataset.split} in {settings.num_draws} epochs; {told}"


def _training(settings: InspectSettings) -> tuple[TrainSettings, AugmentationSettings]:
    """The settings of the training, and its augmentation: that of one of its stages, or as it is given."""
    values = _values_of_run(settings) | _given(settings, _OF_TRAINING)
    if values.get("dataset_dir") is None:
        raise UserError(
            "--augment: there are no images to show.", "Give records by --dataset-dir, or the folder of a run."
        )
    training = TrainSettings(**values)
    stages = stages_of(training)
    number = settings.stage or len(stages)
    if number > len(stages):
        raise UserError(f"--stage is {number}, but the training has {len(stages)}.", "Leave it out for the last one.")
    own = _given(settings, [flag.name for flag in flags_of(AugmentationSettings)])
    return training, Stage(own=own).settings(stages[number - 1].settings(training.stage)).augment


def _values_of_run(settings: InspectSettings) -> dict[str, Any]:
    """What a run, or a file of settings of finetune-train, says of what is trained on what; nothing without one."""
    if not settings.checkpoints:
        return {}
    path = Path(settings.checkpoints[0])
    path = path / CONFIG_FILE if path.is_dir() else path
    values = read_toml(TrainSettings, path)
    groups = (DataSettings, NetworkSettings, CourseSettings, StageSettings)
    names = {flag.name for group in groups for flag in flags_of(group)}.union({"seed"}).difference({TRUST_CODE})
    found = {name: value for name, value in values.items() if name in names}
    refuse_modules(found, {TRUST_CODE: settings.trust_code, **_given(settings, ("model", "preprocessing"))}, path)
    return found


def _given(settings: InspectSettings, names: Iterable[str]) -> dict[str, Any]:
    values = {name: getattr(settings, name) for name in names}
    return {name: value for name, value in values.items() if value not in (None, (), False)}


def _training_images(training: TrainSettings, augmentation: AugmentationSettings, batch_size: int) -> "TrainingImages":
    """The images of the training, in batches of another size, without those to validate on."""
    from finetune.commands.prepared_run import training_images
    from finetune.training.training_data import (
        TrainingData,
        find_preprocessing,
        find_training_split,
        without_corrupt,
    )

    spec = get_spec(training.network.model)
    dataset = find_training_split(training.data)
    preprocessing = find_preprocessing(training.data, spec, augmentation)
    data = without_corrupt(training.data, TrainingData(dataset, None, preprocessing, dataset.class_names))
    image_size = training.network.image_size or spec.image_size
    channels = 1 if training.network.use_grayscale else spec.channels
    images = training_images(training, data, image_size, channels)
    return dataclasses.replace(images, batch_size=batch_size)


def _draws(images: "TrainingImages", num_draws: int) -> tuple[list["Array"], list[int]]:
    """The first images as each of the first epochs is given them, float32 [B,H,W,C] in [0, 255], and their labels."""
    from finetune.datasets.pipeline import reading
    from finetune.preprocessing.steps import to_pixels

    options, draws, labels = images.options, [], []
    steps = options.preprocessing.evaluation_steps(options.image_size, options.image_size, options.channels)
    with reading(images.data.training, options.labels_offset):
        for epoch in range(num_draws):
            batch, batch_labels, _ = next(iter(images.view_batches(epoch)))
            draws.append(to_pixels(batch.numpy(), steps))
            labels = batch_labels.numpy().tolist()
    return draws, labels


def _originals(images: "TrainingImages", num_images: int) -> "Iterator[Array]":
    """The first images as the records hold them, uint8 [H,W,C]."""
    from finetune.datasets.pipeline import decode_image, reading, records_in_order
    from finetune.datasets.schema import parse_record

    dataset = images.data.training
    with reading(dataset, images.options.labels_offset):
        for serialized in records_in_order(dataset).take(num_images):
            encoded = parse_record(serialized, dataset.schema).encoded
            yield decode_image(encoded, images.options.channels).numpy()


def _name(dataset: "Dataset", label: int) -> str:
    return dataset.class_names[label] if dataset.class_names else str(label)


def _in_words(augmentation: AugmentationSettings) -> str:
    parts = [f"augmentation {augmentation.augmentation}"]
    if augmentation.augmentation == "randaugment":
        parts[0] += f" {augmentation.num_operations},{augmentation.strength}"
    if augmentation.crop_area:
        parts.append("crop area " + " to ".join(f"{share:g}" for share in augmentation.crop_area))
    if augmentation.random_erasing:
        parts.append(f"random erasing {augmentation.random_erasing:g}")
    return ", ".join(parts)
