"""What a training step and a validation are given: images, or features that were computed once; and why."""

import logging
import shutil
from collections.abc import Sequence

import tensorflow as tf

from finetune.errors import UserError
from finetune.model.scopes import VariablePlan
from finetune.settings.stage import StageSettings
from finetune.training.feature_inputs import MIB, CachedViews, feature_inputs
from finetune.training.image_inputs import TrainingImages, TrainingInputs, image_inputs
from finetune.training.state import TrainingState
from finetune.trunk.features import FeatureFolder
from finetune.trunk.split_model import SplitModel

log = logging.getLogger("finetune")

# So many views of an image are kept where training augments it and nothing else is asked for.
AUTO_VIEWS = 4

SEVERAL_DEVICES = "several devices train"
NOTHING_FROZEN = "nothing is frozen"
SLIM_BATCH_NORM = "slim's batch norm makes every layer depend on the batch"
CACHE_OFF = "--cache-features is off"
MIXED = "{} mixes images in front of the frozen layers"


def make_inputs(
    stage: StageSettings,
    images: TrainingImages,
    state: TrainingState,
    plan: VariablePlan,
    folder: FeatureFolder,
    *,
    num_steps: int | None,
    were_cached: bool,
    needed_by: str = "",
) -> TrainingInputs:
    """Cached features where settings and plan allow it and it pays, else images; says which, and why.

    Args:
        stage: Whether to cache features, and what decides whether that can be done and pays.
        images: Of the run.
        state: Of the run, its model frozen by the plan.
        plan: Which variables training changes.
        folder: Where features go that are too large for memory.
        num_steps: Of the stage; None: without end.
        were_cached: Whether the run goes on from steps that were given features.
        needed_by: The flag that is to be given features, which then are cached wherever they can be; empty: none.

    Raises:
        UserError: Features are asked for that can't be cached; the data is damaged.
        OSError: The features of a run that goes on can't be written: images would come in another order; or they are
            needed.
    """
    views, why = _choose(stage, images, state, plan, num_steps, needed_by)
    if views is not None:
        if images.input_workers:
            log.info("--data-service has nothing to do here: steps are given features of frozen layers, not images.")
        try:
            inputs = feature_inputs(images, state, views, folder, stage.cache.cache_memory * MIB)
        except OSError as error:
            if were_cached or needed_by:
                raise
            shutil.rmtree(folder.path, ignore_errors=True)  # Checkpoints need the room.
            why = f"the features can't be written to {folder.path}: {error.strerror or error}"
        else:
            log.info("Features: %s", _description(views, images))
            return inputs
    log.info("Features: computed in every step, since %s.", why)
    return image_inputs(images, state)


def _choose(
    stage: StageSettings,
    images: TrainingImages,
    state: TrainingState,
    plan: VariablePlan,
    num_steps: int | None,
    needed_by: str,
) -> tuple[CachedViews | None, str]:
    """The views to cache, or None and the reason in words."""
    wanted = stage.cache.cache_features
    if wanted == "off":
        return None, CACHE_OFF
    mixing = stage.objective.mixing_flag
    if mixing:
        return None, MIXED.format(mixing)
    split, why_not = _split(stage, state, plan)
    if split is None and wanted != "auto" and not needed_by:
        raise UserError(f"--cache-features {wanted}: {why_not}.", "Give --cache-features off.")
    if split is None:
        return None, why_not
    num_views = count_views(stage, images)
    if wanted != "auto":
        return CachedViews(split, num_views), ""
    num_images = images.data.training.num_examples
    is_short = num_steps is not None and num_steps * stage.images_per_update <= num_views * num_images
    if is_short and not needed_by:
        return None, "the run is so short that caching would not pay"
    return CachedViews(split, num_views), ""


def _split(stage: StageSettings, state: TrainingState, plan: VariablePlan) -> tuple[SplitModel | None, str]:
    """The model in two, or None and why there is nothing to be computed once."""
    obstacle = next(iter(_obstacles(stage, plan)), None)
    if obstacle is not None:
        return None, obstacle
    split = SplitModel(state.model, plan, is_training=True)
    if split.starts_at_images:
        return None, "the first layers change in training"
    return split, ""


def count_views(stage: StageSettings, images: TrainingImages) -> int:
    """Of each training image, where features are cached."""
    if stage.cache.cache_features != "auto":
        return int(stage.cache.cache_features)
    return AUTO_VIEWS if images.options.preprocessing.is_random else 1


def refuse_without_features(
    stage: StageSettings, head_scopes: Sequence[str], plan: VariablePlan, needed_by: str
) -> None:
    """Refuses settings under which no features are computed beforehand, by which a flag's work is done.

    Raises:
        UserError: All that stands in the way, with what mends it.
    """
    mends = {
        SEVERAL_DEVICES: "--strategy one --num-clones 1",
        NOTHING_FROZEN: f"--trainable-scopes {','.join(head_scopes)}",
        SLIM_BATCH_NORM: "--batch-norm plan",
        CACHE_OFF: "--cache-features auto",
    }
    found = [*_obstacles(stage, plan), *([CACHE_OFF] if stage.cache.cache_features == "off" else [])]
    if found:
        raise UserError(
            f"{needed_by} needs the features of frozen layers, computed once, but {' and '.join(found)}.",
            f"Give {' '.join(mends[obstacle] for obstacle in found)}",
        )


def _obstacles(stage: StageSettings, plan: VariablePlan) -> list[str]:
    """Why there is nothing to be computed once, as far as settings and plan tell."""
    standing = {
        SEVERAL_DEVICES: tf.distribute.get_strategy().num_replicas_in_sync > 1,
        NOTHING_FROZEN: not plan.frozen,
        SLIM_BATCH_NORM: stage.batch_norm == "slim",
    }
    return [obstacle for obstacle, stands in standing.items() if stands]


def _description(views: CachedViews, images: TrainingImages) -> str:
    num_images = images.data.training.num_examples
    each = f"{views.num_views} augmented views of each" if images.options.preprocessing.is_random else "each"
    shapes = ", ".join(str(list(spec.shape[1:])) for spec in views.split.frontier)
    unlabelled = images.data.unlabelled
    num_unlabelled = len(unlabelled.records) if unlabelled is not None else 0
    size = f"{views.num_bytes(num_images + num_unlabelled) / MIB:.1f} MiB"
    more = f" and {num_unlabelled} unlabelled ones" if num_unlabelled else ""
    why = f"frozen layers run once for {each} of {num_images} images{more}, up to {shapes} ({size})"
    return f"{why}; --cache-features off runs them in every step."
