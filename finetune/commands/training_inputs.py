"""What a training reads."""

import logging

from finetune.commands.stages import stages_of
from finetune.datasets.decoding import ReadOptions
from finetune.datasets.record_index import RecordIndex
from finetune.errors import UserError
from finetune.nets import spec_of
from finetune.settings.train import TrainSettings
from finetune.training import training_data
from finetune.training.image_inputs import TrainingImages
from finetune.training.training_data import TrainingData, refuse_large_batch

log = logging.getLogger("finetune")


def find_data(settings: TrainSettings) -> TrainingData:
    """The splits to train and to validate on.

    Raises:
        UserError: There is no such split; the run that is resumed has other classes.
    """
    spec = spec_of(settings.network)
    for stage in stages_of(settings):  # What one of them can't have is said before the first.
        training_data.find_preprocessing(settings.data, spec, stage.settings(settings.stage).augment)
    augmentation = stages_of(settings)[0].settings(settings.stage).augment
    return training_data.find_data(
        settings.data, spec, augmentation, resumed=settings.run.resumed, seed=settings.run.seed
    )


def refuse_large_batches(settings: TrainSettings, data: TrainingData) -> None:
    """Refuses steps, of any stage, that take more images than there are.

    Raises:
        UserError: One does.
    """
    num_devices = settings.num_devices
    for stage in stages_of(settings):
        told = stage.settings(settings.stage)
        if told.batch_size != "auto":
            refuse_large_batch(told.on_devices(num_devices), num_devices, data.training)


def training_images(
    settings: TrainSettings, data: TrainingData, image_size: int, channels: int, index: RecordIndex | None = None
) -> TrainingImages:
    """The images of the settings' training, in batches.

    Args:
        settings: How they are read, in which batches, and the seed.
        data: Their splits and preprocessing.
        image_size: Height and width that the network takes, in pixels.
        channels: That it takes.
        index: Of the records to train on, where classes are drawn equally often.
    """
    options = ReadOptions(
        data.preprocessing,
        image_size,
        channels,
        labels_offset=settings.data.labels_offset,
        num_parallel_calls=settings.data.num_preprocessing_threads,
        num_readers=settings.data.num_readers,
    )
    stage = settings.stage
    _refuse_what_is_not_served(settings, data)
    return TrainingImages(
        data,
        options,
        stage.images_per_pass,
        settings.run.seed,
        passes_per_step=stage.accumulate_steps,
        balanced=index if stage.objective.balanced_sampling else None,
        input_workers=settings.cluster.data_service,
    )


def _refuse_what_is_not_served(settings: TrainSettings, data: TrainingData) -> None:
    """Input workers run graphs of TensorFlow alone, for one process that trains.

    Raises:
        UserError: Images are read by Python, or several processes train.
    """
    read_by_python = {
        "--balanced-sampling": settings.stage.objective.balanced_sampling,
        "--unlabeled-dir": data.unlabelled is not None,
        "--on-corrupt skip, where records are damaged,": bool(data.training.num_skipped),
        "training on several workers": settings.cluster.worker_replicas > 1,
    }
    found = [what for what, is_so in read_by_python.items() if is_so]
    if settings.cluster.data_service and found:
        raise UserError(
            f"--data-service doesn't go with {' and '.join(found)}: input workers can't read for it.",
            "Leave one of them out.",
        )
