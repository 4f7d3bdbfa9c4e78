"""`--precision auto`: what was found the fastest here before, or is measured now, where the run is long enough for it.

One precision holds for a whole run. It is measured on what the stage that computes most spends its time on, before the
first stage begins, with a network of its own, of which nothing is kept.
"""

import dataclasses
import datetime
import gc
import hashlib
import logging
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf

from finetune.commands.network import restored_model
from finetune.commands.stages import settings_alone, stages_of
from finetune.commands.training_inputs import training_images
from finetune.datasets.bad_records import reading
from finetune.model.out_of_memory import out_of_memory_told
from finetune.nets import get_spec, spec_of
from finetune.notices import silence
from finetune.published.obtain import default_folder
from finetune.settings.recipes import RECIPES
from finetune.settings.train import TrainSettings
from finetune.training.devices import Devices, describe_machine
from finetune.training.inputs import AUTO_VIEWS
from finetune.training.kept_precisions import FILE_NAME, KeptPrecision, find_kept, keep
from finetune.training.precision import (
    StepMeasure,
    agrees,
    cpu_name,
    fastest_that_agrees,
    measure_step,
    supported_precisions,
    tell_of_given,
)
from finetune.training.starting_weights import open_weights
from finetune.training.training_data import TrainingData, with_augmentation

# Batches that a run computes, below which it hasn't measured: two passes are traced and tried, which takes as long as
# some forty batches, and half precision saves two fifths of a batch where it saves much.
LEAST_BATCHES = 200

log = logging.getLogger("finetune")


@dataclasses.dataclass(frozen=True)
class _Work:
    """What a stage computes.

    Attributes:
        settings: Of the stage alone.
        on_features: Whether its steps are given features, and train layers before the head: these are what takes time,
            not the frozen ones, which run once. Of a head alone it is what makes the features.
        num_batches: That go through layers before the head.
    """

    settings: TrainSettings
    on_features: bool
    num_batches: float


def with_precision(settings: TrainSettings, data: TrainingData, devices: Devices) -> TrainSettings:
    """The settings of a run with a precision in place of "auto"; says which, and why.

    Args:
        settings: Of the run, the size of its batches known.
        data: Its splits.
        devices: Its devices.

    Raises:
        UserError: Whatever the run is refused for.
    """
    precision = settings.devices.precision
    supported = supported_precisions(on_cpu=settings.devices.clone_on_cpu)
    if precision == "auto":
        precision = _find(settings, data, devices, supported)
    else:
        tell_of_given(precision, supported)
    return dataclasses.replace(settings, devices=dataclasses.replace(settings.devices, precision=precision))


def _find(settings: TrainSettings, data: TrainingData, devices: Devices, supported: Sequence[str]) -> str:
    if len(supported) == 1:
        log.info("Precision: float32, the only one that this device has units for.")
        return "float32"
    if devices.team.number > 1:  # Each would measure by its own clock, and all must take the same.
        log.info("Precision: float32. Several workers don't measure: --precision says another.")
        return "float32"
    works = _works_of_stages(settings, data.training.num_examples)
    most = max(reversed(works), key=lambda work: work.num_batches)
    path, of = default_folder() / FILE_NAME, _what_it_depends_on(most, devices)
    kept = find_kept(path, of, supported)
    if kept is not None:
        told = f"as measured here on {kept.date}: {_in_words(kept)}"
        log.info("Precision: %s, %s. Without the line in %s it is measured anew.", kept.precision, told, path)
        return kept.precision
    num_batches = sum(work.num_batches for work in works)
    if settings.course.recipe in RECIPES and num_batches < LEAST_BATCHES:
        why = f"the run computes some {math.ceil(num_batches)} batches, too few to pay for measuring"
        log.info("Precision: float32, since %s %s; --precision says another.", why, _listed(supported))
        return "float32"
    return _measured(most, data, devices, supported, path, of)


def _works_of_stages(settings: TrainSettings, num_images: int) -> list[_Work]:
    stages = [settings_alone(settings, number, num_images) for number in range(len(stages_of(settings)))]
    return [_work_of(stage, num_images) for stage in stages]


def _work_of(settings: TrainSettings, num_images: int) -> _Work:
    stage = settings.stage
    num_steps = math.inf if stage.max_steps is None else stage.max_steps * stage.accumulate_steps
    num_views = _num_views(settings)
    once = num_views * num_images / stage.images_per_pass
    is_cached = bool(num_views) and (stage.cache.cache_features != "auto" or stage.probe or once < num_steps)
    head_scopes = spec_of(settings.network).head_scopes
    is_head_alone = bool(stage.trainable_scopes) and set(stage.trainable_scopes).issubset(head_scopes)
    if is_cached and is_head_alone:
        return _Work(settings, on_features=False, num_batches=once)
    return _Work(settings, on_features=is_cached and bool(stage.trainable_scopes), num_batches=num_steps)


def _num_views(settings: TrainSettings) -> int:
    """Of each image, whose features are kept, as far as the settings tell; 0: none are."""
    stage = settings.stage
    wanted = stage.cache.cache_features
    if wanted == "off" or stage.objective.mixing_flag or stage.batch_norm == "slim" or settings.num_devices > 1:
        return 0
    return AUTO_VIEWS if wanted == "auto" else int(wanted)


def _what_it_depends_on(work: _Work, devices: Devices) -> dict[str, Any]:
    """Of how fast steps are, and whether losses agree, as it is kept: in JSON's types."""
    settings = work.settings
    network, stage = settings.network, settings.stage
    trained = hashlib.sha256("\n".join(sorted(stage.trainable_scopes)).encode()).hexdigest()[:12]
    return {
        "model": network.model,
        "checkpoint": None if network.checkpoint is None else str(network.checkpoint.absolute()),
        "head": f"{network.head}, {network.head_pooling}",
        "image_size": network.image_size or spec_of(network).image_size,
        "grayscale": network.use_grayscale,
        "batch_size": stage.images_per_pass,
        "trained": trained if stage.trainable_scopes else "all",
        "on_features": work.on_features,
        "batch_norm": stage.batch_norm,
        "recompute_activations": stage.recompute_activations,
        "num_devices": devices.strategy.num_replicas_in_sync,
        "tensorflow": tf.version.VERSION,
        "processor_name": cpu_name(),
        **describe_machine(on_cpu=settings.devices.clone_on_cpu),
    }


def _measured(
    work: _Work,
    data: TrainingData,
    devices: Devices,
    supported: Sequence[str],
    path: Path,
    of: Mapping[str, Any],
) -> str:
    """Measures, says what came of it, and keeps it."""
    log.info("Precision: %s are measured.", _listed(supported))
    start = time.monotonic()
    with silence(), devices.strategy.scope():
        measures = _measure(work, data, supported)
    gc.collect()  # The run needs the memory of this network.
    fastest = fastest_that_agrees(measures)
    today = datetime.datetime.now().astimezone().date().isoformat()
    kept = KeptPrecision(fastest, {name: round(measure.seconds, 4) for name, measure in measures.items()}, today)
    others = [name for name, measure in measures.items() if not agrees(measure, measures["float32"])]
    differing = f" (the loss in {' and '.join(others)} differs)" if others else ""
    where = f"; kept in {path}" if keep(path, of, kept) else ""
    took = time.monotonic() - start
    log.info("Precision: %s. Measured in %.1f seconds: %s%s%s.", fastest, took, _in_words(kept), differing, where)
    return fastest


def _measure(work: _Work, data: TrainingData, precisions: Sequence[str]) -> dict[str, StepMeasure]:
    settings = work.settings
    spec = get_spec(settings.network.model)
    data = with_augmentation(data, settings.data, spec, settings.stage.augment)
    source = open_weights(settings.network, resumed=settings.run.resumed)
    model, plan, data = restored_model(settings, dataclasses.replace(data, unlabelled=None), source)
    images = training_images(settings, data, model.image_size, model.channels)
    trained = [model.model_variables[variable.name] for variable in plan.trained]
    frozen_by = plan if work.on_features else None
    with reading(data.training, settings.data.labels_offset):
        batch = images.first_batch(images.batch_size)
    with out_of_memory_told(images.batch_size):
        return {
            name: measure_step(
                model, trained, batch, name, frozen_by, recompute_activations=settings.stage.recompute_activations
            )
            for name in precisions
        }


def _in_words(kept: KeptPrecision) -> str:
    return ", ".join(f"{name} {1000 * seconds:.0f} ms a step" for name, seconds in kept.seconds.items())


def _listed(precisions: Sequence[str]) -> str:
    return f"{', '.join(precisions[:-1])} and {precisions[-1]}"
