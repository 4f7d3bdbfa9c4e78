"""`finetune-train --resume --verify`: steps of a run made again, and what came of them compared."""

import dataclasses
import itertools
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from finetune.commands.command import say
from finetune.commands.photographs import on_records
from finetune.errors import UserError
from finetune.nets import get_spec
from finetune.runs.provenance import Facts, changes_between, facts_at
from finetune.runs.run_folder import RunFolder
from finetune.settings.choices import DECISIVE_SETTINGS
from finetune.settings.flags import flags_of
from finetune.settings.stage import StageSettings
from finetune.settings.train import TrainSettings

if TYPE_CHECKING:
    from finetune.model.checkpoint import Checkpoint

log = logging.getLogger("finetune")


@dataclasses.dataclass(frozen=True)
class Verification:
    """What was proven of a run.

    Attributes:
        first_step: Number of updates made before those that were made again.
        last_step: Number of updates at the end.
        checkpoint: Prefix of what the run has kept of them.
        num_arrays: How many were compared: weights, slots, averages.
        sha256: Of all of them, the same in both.
    """

    first_step: int
    last_step: int
    checkpoint: str
    num_arrays: int
    sha256: str


def verify(settings: TrainSettings) -> Verification:
    """Makes the steps between a run's last two checkpoints again, in memory, and compares; the run stays as it is.

    Where there is only one checkpoint, the steps are those from the start.

    Raises:
        UserError: Something differs, which is said; there is no whole checkpoint, or the start can't be made again.
    """
    from finetune.commands.prepared_run import prepare
    from finetune.commands.run_precision import with_precision
    from finetune.commands.stages import find_place_of_run, first_pseudo_labels, settings_of_stage
    from finetune.commands.training_inputs import find_data, refuse_large_batches
    from finetune.commands.unlabelled import with_unlabelled
    from finetune.commands.workers import choose_devices
    from finetune.datasets.bad_records import reading
    from finetune.model.checkpoint import whole_checkpoints
    from finetune.model.gpus import use_gpus
    from finetune.training.replay import compare, replay
    from finetune.training.resumption import as_begun, recorded_facts
    from finetune.training.starting_weights import no_whole_checkpoint, step_of
    from finetune.training.training_data import with_augmentation, without_corrupt
    from finetune.trunk.features import FeatureFolder

    use_gpus(settings.gpus)
    settings, devices = choose_devices(settings)
    run = RunFolder(settings.run.folder)
    settings = on_records(settings)
    settings = dataclasses.replace(
        settings,
        run=dataclasses.replace(settings.run, resume=True),
        network=as_begun(settings.network, run.path),
    )
    checkpoints = list(itertools.islice(whole_checkpoints(run.path), 2))
    if not checkpoints:
        raise no_whole_checkpoint(run.path)
    last, *older = checkpoints
    history, last_step = recorded_facts(run), step_of(last)
    _refuse_changes_within(history, range(step_of(older[0]) if older else 0, last_step))
    place = find_place_of_run(run, settings, step_of(older[0]) if older else 0)
    next_place = find_place_of_run(run, settings, last_step)
    if place.index and not older:
        raise UserError(
            f"--verify: {last.prefix} is the only checkpoint of the run, and its stage began from another one.",
            "Verify when there are two checkpoints (--save-interval-seconds).",
        )
    settings, source = (settings, older[0]) if older else _from_the_start(settings, last)
    data = dataclasses.replace(without_corrupt(settings.data, find_data(settings)), validation=None)
    settings, data = with_unlabelled(settings, data)
    told = settings_of_stage(with_precision(settings, data, devices), place, data.training.num_examples)
    labels_from = first_pseudo_labels(settings, place, told)
    settings = _as_recorded(told, facts_at(history, last_step))
    data = with_augmentation(data, settings.data, get_spec(settings.network.model), settings.stage.augment)
    refuse_large_batches(settings, data)
    with run.lend_features() as path:
        features = FeatureFolder(path)
        ready = prepare(
            settings, data, devices, source, features, history, place, compared_step=last_step, labels_from=labels_from
        )
        steps = range(ready.first_step, last_step)
        lines = run.read_metrics()
        chain = {line["step"]: line["data_chain"] for line in lines if "data_chain" in line}
        recalibrated = {line["step"] for line in lines if "batch_norm_batches" in line}
        with reading(data.training, settings.data.labels_offset):
            replay(
                ready.state,
                ready.training_step,
                ready.batches,
                ready.schedule,
                steps,
                chain,
                ready.recalibration,
                recalibrated,
            )
    # A guarded stage that has just begun has its own slots in the checkpoint that the one before it ended with.
    is_of_next = settings.stopping.on_divergence == "halve" and next_place.begins
    only = ready.state.model.model_variables if is_of_next else None
    num_arrays, sha256 = compare(ready.state, last, steps, only=only)
    return Verification(steps.start, steps.stop, last.prefix, num_arrays, sha256)


def _refuse_changes_within(history: Facts, steps: range) -> None:
    changes = changes_between(facts_at(history, steps.start + 1), facts_at(history, steps.stop))
    decisive = [str(change) for change in changes if change.makes_another_run or change.is_a_setting]
    if decisive:
        raise UserError(
            f"--verify: between the steps {steps.start} and {steps.stop} the run went on otherwise than before: "
            f"{'; '.join(decisive)}. They can't be made again in one go.",
            "Verify when there are two checkpoints of after that (--save-interval-seconds).",
        )


def _as_recorded(settings: TrainSettings, facts: Facts) -> TrainSettings:
    """With the schedule and the like of the steps that were made: config.toml may be of steps that are yet to come."""
    of_run = facts.get("settings", {})
    names = {flag.name for flag in flags_of(StageSettings)}.difference(DECISIVE_SETTINGS).intersection(of_run)
    return dataclasses.replace(settings, **{name: of_run[name] for name in names})


def _from_the_start(settings: TrainSettings, only: "Checkpoint") -> "tuple[TrainSettings, Checkpoint | None]":
    """The settings of a run as it was begun, and the weights that it was begun from."""
    from finetune.training.starting_weights import open_weights

    log.info("%s is the only checkpoint of the run: its steps are made again from the start.", only.prefix)
    run = dataclasses.replace(settings.run, resume=False, verify=False, allow_changed=())
    begun = dataclasses.replace(settings, run=run)
    try:
        return begun, open_weights(begun.network, resumed=None)
    except UserError as error:
        raise UserError(
            f"--verify: {only.prefix} is the only checkpoint of the run, and its start can't be made again: "
            f"{str(error).splitlines()[0]}",
            "Verify when there are two checkpoints (--save-interval-seconds), or put the pretrained one back.",
        ) from error


def print_verification(proven: Verification, train_dir: Path) -> None:
    """The line for the user."""
    say(
        f"proven: steps {proven.first_step + 1} to {proven.last_step} of {train_dir}, made again, give what "
        f"{Path(proven.checkpoint).name} holds, bit for bit: {proven.num_arrays} arrays, sha256 {proven.sha256[:16]}"
    )
