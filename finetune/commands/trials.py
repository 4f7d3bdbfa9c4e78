"""The trials of a sweep as settings: which may be searched, and what a trial is trained with."""

import functools
from collections.abc import Mapping

from finetune.errors import UserError
from finetune.settings.flags import Flag, flags_of
from finetune.settings.pseudo_labels import PseudoLabelSettings
from finetune.settings.search_space import Point, Space, corners, parse_space, point_text, values_of
from finetune.settings.stage import StageSettings
from finetune.settings.stopping import StoppingSettings
from finetune.settings.train import (
    CourseSettings,
    DataSettings,
    DeviceSettings,
    NetworkSettings,
    RunSettings,
    TrainSettings,
)

# Trials differ in how a network is trained alone: they agree in what it is validated on, and by which measure.
_NOT_SEARCHED = ("trust_code", "best_by", "time_limit", "track")
_SEARCHED_OF_OTHERS = (
    "preprocessing",
    "resize",
    "seed",
    "pseudo_label_fraction",
    "pseudo_label_threshold",
    "pseudo_label_refresh",
)


def checked_space(settings: TrainSettings) -> Space:
    """What a sweep searches, each end of a range and each choice checked by making a trial's settings of it.

    Raises:
        UserError: There is no such setting; values that aren't allowed, or don't go together.
    """
    if settings.run.verify:
        raise UserError("--verify is of one run, not of a sweep.", "Give a trial's folder by --train-dir.")
    space = parse_space(settings.search.sweep, _searched_flags())
    for point in corners(space):
        try:
            settings_of_trial(settings, space, point)
        except UserError as error:
            raise UserError(f"--sweep, at {point_text(point)}: {error}") from error
    return space


def settings_of_trial(settings: TrainSettings, space: Space, point: Mapping[str, Point]) -> TrainSettings:
    """The settings of a trial: as if its values had been given in place of the sweep.

    Raises:
        UserError: They don't go together.
    """
    values = values_of(space, _searched_flags(), point)
    no_sweep = {"resume": False, "allow_changed": (), "sweep": (), "trials": None, "prune": True}
    # A sweep that goes on knows the records of its photographs, too.
    records = {"dataset_dir": None} if settings.source.photographs_path is not None else {}
    return TrainSettings(**{**settings.given, **no_sweep, **records, **values})


@functools.cache
def _searched_flags() -> Mapping[str, Flag]:
    """The settings that a sweep may search, by name."""
    groups = (NetworkSettings, CourseSettings, StageSettings, StoppingSettings, DeviceSettings)
    flags = {flag.name: flag for settings_class in groups for flag in flags_of(settings_class)}
    rest = (DataSettings, RunSettings, PseudoLabelSettings)
    others = {flag.name: flag for settings_class in rest for flag in flags_of(settings_class)}
    searched = {name: flag for name, flag in flags.items() if name not in _NOT_SEARCHED}
    return {**searched, **{name: others[name] for name in _SEARCHED_OF_OTHERS}}
