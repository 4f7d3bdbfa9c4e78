"""`finetune-inspect --augment`: a contact sheet of what a network will see in training."""

import dataclasses
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.commands.stages import stages_of
from finetune.errors import UserError
from finetune.files.whole_files import write_bytes
from finetune.nets import get_spec
from finetune.remote.session import bring
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
    from finetune.training.mixing import Mixing
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


@dataclasses.dataclass(frozen=True)
class SheetRow:
    """A training image as it is, uint8 [H,W,C], and as each of the first epochs is given it.

    Attributes:
        number: Of its record in the split.
        class_name: Its class.
        original: uint8 [H,W,C].
        draws: For each epoch float32 [height,width,C], brought back from the network's range to [0, 255].
    """

    number: int
    class_name: str
    original: "Array"
    draws: list["Array"]


def draw_sheet(settings: InspectSettings) -> str:
    """Writes the sheet; returns what it shows, in words.

    Raises:
        UserError: There are no records, no such run or stage; settings that don't go together; a damaged record.
        OSError: It can't be written.
    """
    from finetune.commands.objective import make_mixing
    from finetune.evaluation.contact_sheet import contact_sheet_figure
    from finetune.evaluation.plots import LIGHT, render

    training, stage = sheet_training(settings)
    images = _training_images(training, stage.augment)
    mixing = make_mixing(stage, images.data.training.num_classes)
    rows = sheet_rows(images, settings.num_examples, settings.num_draws, mixing)
    told = _in_words(stage)
    figure = contact_sheet_figure(
        f"{training.network.model}, {images.options.image_size} pixels: {told}; seed {images.seed}",
        [row.class_name for row in rows],
        [[row.original, *row.draws] for row in rows],
        LIGHT,
    )
    write_bytes(settings.output, render(figure, "png"))
    return f"{settings.output}: {len(rows)} images of {images.data.training.split}, {settings.num_draws} epochs; {told}"


def sheet_rows(
    images: "TrainingImages", num_rows: int, num_epochs: int, mixing: "Mixing | None" = None
) -> list[SheetRow]:
    """Images from all over the split, for records may be sorted by class, as training's own pipeline gives them.

    Where images are mixed it is each with that of the next row, as in a batch of these alone.

    Raises:
        UserError: A record is damaged.
    """
    import tensorflow as tf

    from finetune.datasets.bad_records import reading
    from finetune.preprocessing.steps import to_pixels

    dataset, options = images.data.training, images.options
    num_rows = min(num_rows, dataset.num_examples)
    numbers = [dataset.num_examples * row // num_rows for row in range(num_rows)]
    steps = options.preprocessing.evaluation_steps(options.image_size, options.image_size, options.channels)
    images = dataclasses.replace(images, batch_size=num_rows)
    with reading(dataset, options.labels_offset):
        batches = [next(iter(images.view_batches(epoch, numbers))) for epoch in range(num_epochs)]
        labels = [_labels_of(each, options.labels_offset) for each in batches[0][1].numpy()]
        originals = list(_originals(dataset, options.channels, numbers))
    if mixing is not None:
        seeds = [tf.constant([images.seed, epoch]) for epoch in range(num_epochs)]
        batches = [mixing(batch[0], batch[1], seed) for batch, seed in zip(batches, seeds, strict=True)]
    epochs = [to_pixels(batch[0].numpy(), steps) for batch in batches]
    called = dataset.class_names or tuple(map(str, range(dataset.num_classes)))
    names = [", ".join(called[label] for label in of_image) for of_image in labels]
    return [SheetRow(numbers[i], names[i], originals[i], [epoch[i] for epoch in epochs]) for i in range(num_rows)]


def _labels_of(output: Any, labels_offset: int) -> list[int]:
    """The labels of an image, of its output or of 1 and 0 for each output."""
    return [int(label) + labels_offset for label in (output.nonzero()[0] if output.ndim else [output])]


def sheet_training(settings: InspectSettings) -> tuple[TrainSettings, StageSettings]:
    """The settings of the training, and of one of its stages, but for what is given."""
    values = _values_of_run(settings) | _given(settings, _OF_TRAINING)
    if values.get("dataset_dir") is None:
        raise UserError(
            "--augment: there are no images to show.", "Give records by --dataset-dir, or the folder of a run."
        )
    bring(Path(values["dataset_dir"]))
    training = TrainSettings(**values)
    stages = stages_of(training)
    number = settings.stage or len(stages)
    if number > len(stages):
        raise UserError(f"--stage is {number}, but the training has {len(stages)}.", "Leave it out for the last one.")
    own = _given(settings, [flag.name for flag in flags_of(AugmentationSettings)] + ["mixup", "cutmix"])
    return training, Stage(own=own).settings(stages[number - 1].settings(training.stage))


def _values_of_run(settings: InspectSettings) -> dict[str, Any]:
    """What a run, or a file of settings of finetune-train, says of what is trained on what; nothing without one."""
    if not settings.checkpoints:
        return {}
    path = Path(settings.checkpoints[0])
    path = path / CONFIG_FILE if path.is_dir() else path
    if not path.is_file():
        raise UserError(
            f"--augment: there is no {path}.", "Name the folder of a run, or a settings file of finetune-train."
        )
    values = read_toml(TrainSettings, path)
    groups = (DataSettings, NetworkSettings, CourseSettings, StageSettings)
    names = {flag.name for group in groups for flag in flags_of(group)}.union({"seed"}).difference({TRUST_CODE})
    found = {name: value for name, value in values.items() if name in names}
    refuse_modules(found, {TRUST_CODE: settings.trust_code, **_given(settings, ("model", "preprocessing"))}, path)
    return found


def _given(settings: InspectSettings, names: Iterable[str]) -> dict[str, Any]:
    """Settings that are not the defaults, which stand for what isn't given: 0 is."""
    defaults = {flag.name: flag.default for flag in flags_of(InspectSettings)}
    return {name: getattr(settings, name) for name in names if getattr(settings, name) != defaults[name]}


def _training_images(training: TrainSettings, augmentation: AugmentationSettings) -> "TrainingImages":
    """The images of the training, without those to validate on."""
    from finetune.commands.training_inputs import training_images
    from finetune.training.training_data import (
        TrainingData,
        find_preprocessing,
        find_training_split,
        without_corrupt,
    )

    network, spec = training.network, get_spec(training.network.model)
    preprocessing = find_preprocessing(training.data, spec, augmentation)
    dataset = find_training_split(training.data)
    data = without_corrupt(training.data, TrainingData(dataset, None, preprocessing, dataset.class_names))
    channels = 1 if network.use_grayscale else spec.channels
    return training_images(training, data, network.image_size or spec.image_size, channels)


def _originals(dataset: "Dataset", channels: int, numbers: Collection[int]) -> "Iterator[Array]":
    """Images as the records hold them, uint8 [H,W,C]."""
    from finetune.datasets.decoding import decode_image
    from finetune.datasets.record_streams import records_in_order
    from finetune.datasets.schema import parse_record

    for number, serialized in enumerate(records_in_order(dataset).take(max(numbers) + 1)):
        if number in numbers:
            yield decode_image(parse_record(serialized, dataset.schema).encoded, channels).numpy()


def _in_words(stage: StageSettings) -> str:
    augmentation = stage.augment
    parts = [f"augmentation {augmentation.augmentation}"]
    if augmentation.augmentation == "randaugment":
        parts[0] += f" {augmentation.num_operations},{augmentation.strength}"
    if augmentation.crop_area:
        parts.append("crop area " + " to ".join(f"{share:g}" for share in augmentation.crop_area))
    if augmentation.random_erasing:
        parts.append(f"random erasing {augmentation.random_erasing:g}")
    mixed = {"mixup": stage.objective.mixup, "cutmix": stage.objective.cutmix}
    parts += [f"{name} {alpha:g}" for name, alpha in mixed.items() if alpha]
    return ", ".join(parts)
