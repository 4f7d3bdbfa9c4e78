"""A run that goes on: what isn't what it was when its last step was made, refused or said."""

import dataclasses
import logging
import math
from collections.abc import Collection
from pathlib import Path
from typing import Any

from finetune.errors import UserError
from finetune.nets.keras_networks.model_file import keep_to
from finetune.notices import few
from finetune.runs.provenance import Change, Facts, changes_between, read_provenance
from finetune.runs.run_folder import ARCHITECTURE_FILE, RunFolder, settings_of_run
from finetune.settings.flags import dashed, flags_of, flat_values
from finetune.settings.settings_file import plain_value
from finetune.settings.stage import StageSettings
from finetune.settings.train import NetworkSettings, TrainSettings
from finetune.training.seen_records import SeenRecords

log = logging.getLogger("finetune")

MOST_NAMED_RECORDS = 3
# How a step's batch is parted among devices and passes.
PARTS_OF_BATCH = ("batch_size", "accumulate_steps", "num_clones", "worker_replicas")
# What a run is begun from, which doesn't matter where it is resumed.
RESTORING = ("checkpoint", "checkpoint_prefix", "exclude_scopes", "ignore_missing_vars", "ema", "grayscale_stem")


def check_changes(
    before: Facts, now: Facts, seen: SeenRecords, *, allowed: Collection[str], argument: str, parts_matter: bool
) -> list[Change]:
    """Refuses what makes the run another one, and says what else has changed.

    Args:
        before: The facts of the run's last step; nothing: they aren't known.
        now: The facts of the next one.
        seen: What the run's steps were given.
        allowed: Names of what may have changed.
        argument: What is asked for, for messages.
        parts_matter: Whether a step does something else where its batch is parted in another way.

    Returns:
        All that has changed.

    Raises:
        UserError: The run would be another one, and that isn't allowed.
    """
    unknown = [what for what in ("data", "versions", "machine", "settings") if what not in before]
    if unknown:
        log.info("Of the run's last step %s can't be compared: provenance.json doesn't say.", " and ".join(unknown))
    changes = _without_equal_records(changes_between(before, now), before, now, seen)
    same_batch = not parts_matter and _images_per_update(before) == _images_per_update(now)
    parted = {change.name for change in changes if same_batch and change.name in PARTS_OF_BATCH}
    decisive = [change for change in changes if change.makes_another_run and change.name not in parted]
    refused = [change for change in decisive if change.name not in allowed]
    if refused:
        names = ",".join(change.name for change in refused)
        is_parted = not parts_matter and any(change.name in PARTS_OF_BATCH for change in refused)
        same = (
            f"--global-batch-size {_images_per_update(before)}, which keeps the images of a step; " if is_parted else ""
        )
        raise UserError(
            f"{argument}: this would be another run than the one that made the last checkpoint: "
            f"{'; '.join(_in_words(change, before, now, seen) for change in refused)}.",
            f"Give {same}what it was trained with, or go on all the same by --resume --allow-changed {names}.",
        )
    if decisive:
        log.warning("Goes on as another run, since --allow-changed says so: %s.", "; ".join(map(str, decisive)))
    if {"data", "unlabeled"}.intersection(allowed):
        seen.accept_other_data()
    elif decisive:
        seen.accept_other_order()
    others = [change for change in changes if change not in decisive and change.name != "validation"]
    settings = [str(change) for change in others if change.is_a_setting]
    if settings:
        same = f" Each step has the {_images_per_update(now)} images that it would have had." if parted else ""
        log.info("Changed from here on: %s.%s", "; ".join(settings), same)
    surroundings = [str(change) for change in others if not change.is_a_setting]
    if surroundings:
        log.warning(
            "Weights may come out otherwise in their last bits than they would have: %s.", "; ".join(surroundings)
        )
    return changes


def _images_per_update(facts: Facts) -> int:
    """On all devices together."""
    defaults = {flag.name: flag.default for flag in flags_of(TrainSettings)}
    settings = facts.get("settings", {})
    return math.prod(settings.get(name, defaults[name]) for name in PARTS_OF_BATCH)


def _without_equal_records(changes: list[Change], before: Facts, now: Facts, seen: SeenRecords) -> list[Change]:
    """Leaves the data out where its files are others, but each image and its class is what the run's steps saw."""
    data = next((change for change in changes if change.name == "data"), None)
    if data is None or _num_records(before) != _num_records(now) or not seen.has_seen_all() or seen.changed_records():
        return changes
    log.info("The files of the training data are others, their images and classes those that the run has seen.")
    return [change for change in changes if change is not data]


def _in_words(change: Change, before: Facts, now: Facts, seen: SeenRecords) -> str:
    if change.name != "data":
        return str(change)
    if _num_records(before) != _num_records(now):
        return f"{change}, with {_num_records(now)} records that were {_num_records(before)}"
    changed = seen.changed_records()
    if not changed:
        return f"{change}, though not in the records that its steps have seen so far"
    names = [seen.name_of(number) for number in changed[:MOST_NAMED_RECORDS]]
    return f"{change}; what has changed is {few(names, MOST_NAMED_RECORDS, total=len(changed))}"


def _num_records(facts: Facts) -> Any:
    return facts["data"].get("num_examples")


def as_begun(settings: NetworkSettings, train_dir: Path) -> NetworkSettings:
    """With what a run was begun from as it was: where it is resumed, all values come from the run."""
    run = settings_of_run(train_dir)
    if run is None:
        return settings
    given = flat_values(settings)
    as_begun = {flag.name: run.get(flag.name, flag.default) for flag in flags_of(NetworkSettings)}
    begun = {name: as_begun[name] for name in RESTORING if as_begun[name] != given[name]}
    if begun:
        log.info("--resume: all values come from the run; not followed: %s.", ", ".join(map(dashed, begun)))
    resumed = dataclasses.replace(settings, **begun)
    keep_to(resumed.model, train_dir / ARCHITECTURE_FILE if resumed.model == run.get("model") else None)
    return resumed


def recorded_facts(run: RunFolder) -> Facts:
    """What the run says of itself; of an older run config.toml has the settings."""
    recorded, settings = read_provenance(run.path) or {}, settings_of_run(run.path)
    if "settings" in recorded or settings is None:
        return recorded
    return {**recorded, "settings": {name: plain_value(value) for name, value in settings.items()}}


def cached_as_before(stage: StageSettings, recorded: Facts) -> StageSettings:
    """What --cache-features auto came to holds for all of a run: other inputs would come in another order."""
    num_views = recorded.get("cached_views")
    if num_views is None or stage.cache.cache_features != "auto":
        return stage
    log.info("--cache-features auto: as the run was begun, %s.", f"{num_views} views" if num_views else "none")
    return dataclasses.replace(stage, cache=dataclasses.replace(stage.cache, cache_features=str(num_views or "off")))
