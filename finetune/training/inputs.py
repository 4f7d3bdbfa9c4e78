"""What a training step and a validation are given: images, or features that were computed once; and why."""

import logging

import tensorflow as tf

from finetune.errors import UserError
from finetune.model.model import Model
from finetune.model.scopes import VariablePlan
from finetune.runs.run_folder import FEATURES_FOLDER, RunFolder
from finetune.settings.config import TrainSettings
from finetune.training.feature_inputs import MIB, feature_inputs
from finetune.training.image_inputs import TrainingData, TrainingInputs, image_inputs
from finetune.training.moving_averages import MovingAverages
from finetune.trunk.split_model import SplitModel

log = logging.getLogger("finetune")

# So many views of an image are kept where training augments it and nothing else is asked for.
AUTO_VIEWS = 4


def make_inputs(
    settings: TrainSettings,
    run: RunFolder,
    model: Model,
    plan: VariablePlan,
    data: TrainingData,
    averages: MovingAverages | None,
) -> TrainingInputs:
    """Cached features where settings and plan allow it and it pays, else images; says which, and why.

    Raises:
        UserError: Features are asked for that can't be cached; the data is damaged.
    """
    num_views, split, why = _choose(settings, model, plan, data)
    if num_views and split is not None:
        try:
            inputs = feature_inputs(settings, run, model, plan, data, averages, split, num_views)
        except OSError as error:
            why = f"the features can't be written to {run.path / FEATURES_FOLDER}: {error.strerror or error}"
        else:
            log.info("Features: %s", why)
            return inputs
    log.info("Features: computed in every step, since %s.", why)
    return image_inputs(settings, model, data, averages)


def _choose(
    settings: TrainSettings, model: Model, plan: VariablePlan, data: TrainingData
) -> tuple[int, SplitModel | None, str]:
    """The number of views to cache, 0 for none, the split model, and the reason in words."""
    if settings.cache_features == "off":
        return 0, None, "--cache-features is off"
    why_not = None
    split = None
    if tf.distribute.get_strategy().num_replicas_in_sync > 1:
        why_not = "several devices train"
    elif not plan.frozen:
        why_not = "nothing is frozen"
    elif settings.batch_norm == "slim":
        why_not = "slim's batch norm makes every layer depend on the batch"
    else:
        split = SplitModel(model, plan, is_training=True)
        if split.starts_at_images:
            why_not = "the first layers change in training"
    if settings.cache_features != "auto":
        if why_not is not None:
            raise UserError(f"--cache-features {settings.cache_features}: {why_not}.", "Give --cache-features off.")
        return _with_reason(int(settings.cache_features), split, data)
    if why_not is not None:
        return 0, None, why_not
    wanted = AUTO_VIEWS if data.preprocessing.is_random else 1
    num_images = data.training.num_examples
    if settings.max_steps is not None and settings.max_steps * settings.batch_size <= wanted * num_images:
        return 0, None, "the run is so short that caching would not pay"
    return _with_reason(wanted, split, data)


def _with_reason(num_views: int, split: SplitModel | None, data: TrainingData) -> tuple[int, SplitModel | None, str]:
    assert split is not None
    views = f"{num_views} augmented views of each" if data.preprocessing.is_random else "each"
    size = num_views * data.training.num_examples * split.num_bytes / MIB
    shapes = ", ".join(str(list(spec.shape[1:])) for spec in split.frontier)
    why = f"frozen layers run once for {views} of {data.training.num_examples} images, up to {shapes} ({size:.1f} MiB)"
    return num_views, split, f"{why}; --cache-features off runs them in every step."
