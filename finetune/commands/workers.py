"""The processes of a training: how they meet, what each sees of the run's folder, and that they begin with the same."""

import contextlib
import dataclasses
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from finetune.cluster.discovery import Workers, find_workers
from finetune.cluster.meeting import meet
from finetune.cluster.team import Team
from finetune.commands.stages import stages_of
from finetune.errors import UserError
from finetune.remote.session import bring
from finetune.runs.provenance import software_versions
from finetune.runs.run_folder import RunFolder
from finetune.settings.flags import flags_of
from finetune.settings.recipes import RECIPES
from finetune.settings.settings_file import to_toml_table
from finetune.settings.train import SlimTrainSettings, TrainSettings

if TYPE_CHECKING:
    from finetune.commands.prepared_run import PreparedRun
    from finetune.training.devices import Devices

# Until a connection that broke says whose it was; TensorFlow may have told first that somebody is gone.
SECONDS_FOR_THE_NAME = 5.0
_EVENTS = "events.out.tfevents"

log = logging.getLogger("finetune")


@contextlib.contextmanager
def working_together(settings: TrainSettings) -> Iterator[tuple[TrainSettings, "Devices"]]:
    """The settings with the number of devices and workers that there are, and these; others have met when it begins.

    Raises:
        UserError: Devices or workers are missing; a worker is to do something else; the settings don't go with several.
        WorkerLostError: A worker has ended before the others.
    """
    workers = find_fitting_workers(settings)
    if workers is None:
        yield choose_devices(settings)
        return
    _tell_of_slim(settings.slim, workers.number)
    from tensorflow import errors

    from finetune.training.devices import Devices, make_deterministic, multi_worker_strategy

    with meet(workers, _facts(settings), settings.cluster.worker_timeout) as team:
        on_cpu = settings.devices.clone_on_cpu
        if settings.devices.deterministic:
            make_deterministic(on_cpu=on_cpu)
        strategy = multi_worker_strategy(team, settings.devices.num_clones, on_cpu=on_cpu)
        found = dataclasses.replace(settings.cluster, worker_replicas=team.number)
        try:
            with _quiet_but_for_warnings(team):
                yield dataclasses.replace(settings, cluster=found), Devices(strategy, team)
        except errors.OpError as error:
            loss = team.loss(SECONDS_FOR_THE_NAME)
            if loss is None:
                raise
            raise loss from error


@contextlib.contextmanager
def _quiet_but_for_warnings(team: Team) -> Iterator[None]:
    """Within it one worker tells of the training, and the others of what is wrong with theirs."""
    before = log.level
    if not team.is_chief:
        log.info("Worker 0 tells of the training, and writes the run's folder.")
        log.setLevel(logging.WARNING)
    try:
        yield
    finally:
        log.setLevel(before)


def choose_devices(settings: TrainSettings) -> tuple[TrainSettings, "Devices"]:
    """The settings with the number of devices of this process, which trains alone, and these.

    Raises:
        UserError: There are fewer than are asked for.
    """
    from finetune.training.devices import (
        Devices,
        choose_strategy,
        count_devices,
        count_idle_gpus,
        make_deterministic,
    )

    devices, strategy = settings.devices, settings.cluster.strategy
    on_cpu = devices.clone_on_cpu
    if strategy == "one" and devices.num_clones > 1:
        raise UserError(
            f"--strategy one is of one device, and --num-clones is {devices.num_clones}.", "Leave one of them out."
        )
    if strategy == "mirrored" and devices.num_clones == 1:
        devices = dataclasses.replace(devices, num_clones=count_devices(on_cpu=on_cpu))
        log.info("--strategy mirrored: --num-clones %d.", devices.num_clones)
    idle = count_idle_gpus(devices.num_clones, on_cpu=on_cpu)
    if strategy == "auto" and idle:
        log.info(
            "%d of %d GPUs have nothing to do: --strategy mirrored takes all, each with --batch-size images in a step.",
            idle,
            idle + devices.num_clones,
        )
    if devices.deterministic:
        make_deterministic(on_cpu=on_cpu)
    alone = dataclasses.replace(settings.cluster, worker_replicas=1)
    settings = dataclasses.replace(settings, devices=devices, cluster=alone)
    _tell_of_slim(settings.slim, 1)
    return settings, Devices(choose_strategy(devices.num_clones, on_cpu=on_cpu), Team())


@contextlib.contextmanager
def begun_together(settings: TrainSettings, team: Team) -> Iterator[tuple[RunFolder, TrainSettings]]:
    """The run's folder as this worker has it, and settings that name it.

    The chief writes to the folder itself. Each other worker has one of its own, for as long as it trains, that begins
    with what the run's holds: it reads from there where the run is, and what it writes goes with it.

    Raises:
        UserError: As `RunFolder.begun`; a worker doesn't see the run's folder.
    """
    run = RunFolder(settings.run.folder)
    if team.is_chief:
        with run.begun(resume=settings.run.resume):
            team.gathered(_checkpoints(run.path))
            team.gathered(None)
            yield run, settings
        return
    checkpoints = team.gathered([])[0]
    with tempfile.TemporaryDirectory(prefix="finetune-worker-") as temporary:
        if settings.run.resume:
            _copy_run(run.path, Path(temporary), checkpoints)
        team.gathered(None)  # Until then the chief leaves the folder as it is.
        of_worker = dataclasses.replace(settings.run, train_dir=Path(temporary), max_to_keep=1, report=False)
        yield RunFolder(Path(temporary)), dataclasses.replace(settings, run=of_worker)


def check_same_start(team: Team, ready: "PreparedRun") -> None:
    """Makes sure that all workers begin with the same weights and images: each has read them by itself.

    Raises:
        UserError: They don't.
    """
    if team.number == 1:
        return
    from finetune.trunk.features import values_hash

    own = {
        "step": ready.first_step,
        "weights": values_hash((name, v.numpy()) for name, v in ready.state.model.model_variables.items()),
        **{f"split {name}": sha256 for name, sha256 in ready.data.hashes.items()},
    }
    for index, theirs in enumerate(team.gathered(own)):
        different = [name for name in sorted({*own, *theirs}) if own.get(name) != theirs.get(name)]
        if different:
            said = "; ".join(f"{name}: {theirs.get(name)} there, {own.get(name)} here" for name in different)
            raise UserError(
                f"Worker {index} begins with something else than worker {team.index}: {said}.",
                "Give all of them the same --checkpoint and the same records.",
            )


def _checkpoints(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("model.ckpt-*.index"))


def _copy_run(run: Path, own: Path, checkpoints: list[str]) -> None:
    """Links to checkpoints, which are never changed, and copies of all else but events and features."""
    bring(run)  # The chief may have sent what was its alone.
    missing = [name for name in checkpoints if not (run / name).is_file()]
    if missing:
        raise UserError(
            f"--train-dir: {run} isn't here what it is for worker 0: {missing[-1]} is missing.",
            "Put the run on a file system that all workers share.",
        )
    of_chief = tuple(f"{name.removesuffix('.index')}." for name in checkpoints)
    for path in run.iterdir():
        if path.name.startswith("model.ckpt-"):
            if path.name.startswith(of_chief):  # A copy may hold others, which were never sent.
                (own / path.name).symlink_to(path.absolute())
        elif path.is_file() and not path.name.startswith((".", _EVENTS)):
            shutil.copyfile(path, own / path.name)


def _facts(settings: TrainSettings) -> dict[str, str]:
    """What all workers must have alike before they begin; paths may differ, what lies there is compared later."""
    import tensorflow as tf

    gpus = [] if settings.devices.clone_on_cpu else tf.config.get_visible_devices("GPU")
    paths = {flag.name for flag in flags_of(TrainSettings) if flag.kind is Path}
    table: Mapping[str, object] = to_toml_table(settings)
    told = {f"--{name.replace('_', '-')}": str(value) for name, value in table.items() if name not in paths}
    versions = {name: version for name, version in software_versions().items() if name != "Python"}
    return {**versions, **told, "--resume": str(settings.run.resume), "kind of device": "GPU" if gpus else "CPU"}


def find_fitting_workers(settings: TrainSettings) -> Workers | None:
    """The processes that train in step; None: this one works alone.

    Raises:
        UserError: As `find_workers`; the settings ask for what one process does by itself.
    """
    workers = find_workers(settings.cluster, os.environ, is_resumed=settings.run.resume)
    if workers is not None:
        _refuse_work_of_one(settings)
    return workers


def _refuse_work_of_one(settings: TrainSettings) -> None:
    alone = {
        "--unlabeled-dir": settings.pseudo.unlabeled_dir is not None,
        "--sweep": bool(settings.search.sweep),
        "--folds": settings.data.is_cross_validation,
        "--verify": settings.run.verify,
        # What each would find by its own clock and memory, in steps that are of all.
        "--precision auto": settings.devices.precision == "auto" and settings.course.recipe not in RECIPES,
        "--batch-size auto": any(stage.settings(settings.stage).batch_size == "auto" for stage in stages_of(settings)),
    }
    found = [option for option, is_given in alone.items() if is_given]
    if found:
        raise UserError(
            f"{' and '.join(found)}: one process does this by itself, and several are to train in step.",
            "Leave it out, or start one, whose config.toml keeps what it finds; --strategy one lets each work alone.",
        )
    if settings.source.photographs_path is not None and settings.run.train_dir is None:
        raise UserError("Several workers need to know where their run is.", "Give --train-dir.")


def _tell_of_slim(slim: SlimTrainSettings, number: int) -> None:
    """What slim's flags of its parameter servers mean here.

    Raises:
        UserError: A step that adds up some of the workers alone is asked for.
    """
    if slim.num_ps_tasks:
        log.info(
            "--num-ps-tasks %d: there are no parameter servers here. Every worker keeps all variables, and they add up "
            "their gradients in each step: start the workers alone.",
            slim.num_ps_tasks,
        )
    if slim.sync_replicas and slim.replicas_to_aggregate != number:
        raise UserError(
            f"--replicas-to-aggregate is {slim.replicas_to_aggregate}, but each step adds up all workers, {number}.",
            f"Give --replicas-to-aggregate {number}, or leave --sync-replicas out: workers are always in step here.",
        )
