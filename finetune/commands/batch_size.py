"""`--batch-size auto`: the largest batch, the default or its halves, that the steps of all stages find memory for."""

import dataclasses
import gc
import itertools
import logging
from collections.abc import Sequence

import tensorflow as tf

from finetune.commands.prepared_run import prepare
from finetune.commands.stages import settings_alone, stages_of, with_size_of_batches
from finetune.datasets.bad_records import reading
from finetune.errors import UserError
from finetune.model.out_of_memory import OUT_OF_MEMORY, halves
from finetune.nets import get_spec
from finetune.notices import silence
from finetune.runs.run_folder import FEATURES_FOLDER
from finetune.settings.stage import DEFAULT_BATCH_SIZE, CacheSettings, ScheduleSettings, StageSettings
from finetune.settings.train import DeviceSettings, TrainSettings
from finetune.training.batch_size import LARGEST_SHARE, FittingSize, double_while_it_fits, halve_until_it_fits
from finetune.training.devices import Devices
from finetune.training.machine_memory import PeakMemory, free_bytes, taken_bytes
from finetune.training.starting_weights import open_weights
from finetune.training.training_data import TrainingData, refuse_large_batch, with_augmentation
from finetune.trunk.features import FeatureFolder

# The first one builds the graph, and takes what the others take again.
NUM_STEPS = 2

log = logging.getLogger("finetune")


def with_batch_size(settings: TrainSettings, data: TrainingData, devices: Devices) -> TrainSettings:
    """The settings of a run with a number in place of "auto", the same in all of its stages; says which, and why.

    It begins with the default, that learning rates are meant for: `auto` is for want of memory, and a larger batch at
    the same rate would be another training. Steps are tried with networks of their own, of which nothing is kept.

    Args:
        settings: Of a run that begins.
        data: Its splits.
        devices: Its devices.

    Raises:
        UserError: A single image finds no memory, or how much there is isn't known; whatever the run is refused for.
    """
    numbers = [number for number, stage in enumerate(_stages(settings)) if stage.batch_size == "auto"]
    if not numbers:
        return settings
    size, why = _largest_size(settings, numbers, data, devices.strategy.num_replicas_in_sync), ""
    log.info("Batch: --batch-size auto tries what steps find memory for, up to %d images.", size)
    for number in numbers:
        found = _find(settings, number, size, data, devices)
        if found.size is None:
            recompute = (
                ""
                if _stages(settings)[number].recompute_activations
                else "give --recompute-activations where more than a head is trained, "
            )
            raise UserError(
                f"--batch-size auto: no steps find enough memory: {found.why}.",
                f"Leave more memory free, {recompute}train fewer layers (--trainable-layers), or give a smaller "
                "--image-size.",
            )
        size, why = found.size, found.why or why
    gc.collect()  # The run needs the memory of the last network.
    because = f", since {why}" if why else ""
    log.info("Batch: --batch-size %d%s. --learning-rate stays what it is.", size, because)
    return with_size_of_batches(settings, size)


def _stages(settings: TrainSettings) -> list[StageSettings]:
    return [stage.settings(settings.stage) for stage in stages_of(settings)]


def _largest_size(settings: TrainSettings, numbers: Sequence[int], data: TrainingData, num_devices: int) -> int:
    """The default, or as many as each stage's steps can have of a smaller split."""
    parts = num_devices * max(_stages(settings)[number].accumulate_steps for number in numbers)
    size = min(DEFAULT_BATCH_SIZE, data.training.num_examples // parts)
    for stage in _stages(with_size_of_batches(settings, max(1, size))):
        refuse_large_batch(stage.on_devices(num_devices), num_devices, data.training)
    return size


def _find(settings: TrainSettings, number: int, largest: int, data: TrainingData, devices: Devices) -> FittingSize:
    """The largest batch that a stage's steps find memory for."""

    def make_steps(size: int) -> None:
        _make_steps(with_size_of_batches(settings, size), number, data, devices)

    def peak_of(size: int) -> int:
        with PeakMemory() as peak:
            make_steps(size)
        return peak.num_bytes

    least = 2 if _stages(settings)[number].objective.mixing_flag else 1
    sizes = [size for size in halves(largest) if size >= least]
    if _trains_on_gpus(settings.devices):
        return halve_until_it_fits(sizes, make_steps)
    free = free_bytes()
    if free is None:
        raise UserError(
            "--batch-size auto: the system ends a program that takes too much of the processor's memory, and how much "
            "is free isn't known here.",
            f"Give a number, such as --batch-size {DEFAULT_BATCH_SIZE // 4}.",
        )
    return double_while_it_fits(sizes, peak_of, taken_bytes() + round(LARGEST_SHARE * free))


def _trains_on_gpus(devices: DeviceSettings) -> bool:
    return bool(tf.config.get_visible_devices("GPU")) and not devices.clone_on_cpu


def _make_steps(settings: TrainSettings, number: int, data: TrainingData, devices: Devices) -> None:
    """Makes a stage's first steps on images, whose memory features don't exceed; nothing is said, and nothing kept.

    Raises:
        MemoryError, tf.errors.ResourceExhaustedError: There is not enough memory.
        UserError: Whatever the stage is refused for.
    """
    gc.collect()  # The networks of other sizes.
    told = _of_trial(settings, number, data.training.num_examples)
    try:
        with silence():
            data = with_augmentation(data, told.data, get_spec(told.network.model), told.stage.augment)
            source = open_weights(told.network, resumed=None)
            ready = prepare(told, data, devices, source, FeatureFolder(told.run.folder / FEATURES_FOLDER), None)
            with reading(data.training, told.data.labels_offset):
                batches = list(itertools.islice(ready.batches, NUM_STEPS))
                ready.training_step.trace(batches[0], 0)
                for step, batch in enumerate(batches):
                    ready.training_step(batch, step, ready.schedule(step)).numpy()
    except UserError as error:
        if isinstance(error.__cause__, OUT_OF_MEMORY):
            raise error.__cause__ from None
        raise


def _of_trial(settings: TrainSettings, number: int, num_images: int) -> TrainSettings:
    """The settings of a stage for steps without what comes before them, in the precision that takes most memory."""
    told = settings_alone(settings, number, num_images)
    stage = dataclasses.replace(
        told.stage,
        max_steps=NUM_STEPS,
        probe=False,
        head_weight_decay=None if told.stage.head_weight_decay == "auto" else told.stage.head_weight_decay,
        schedule=ScheduleSettings(),
        cache=CacheSettings(cache_features="off"),
    )
    run = dataclasses.replace(settings.run, find_learning_rate=False)
    precision = "float32" if settings.devices.precision == "auto" else settings.devices.precision
    devices = dataclasses.replace(told.devices, precision=precision)
    return dataclasses.replace(told, stage=stage, run=run, devices=devices)
