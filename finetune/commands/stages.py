"""The stages of a training: what each is told, and what the run's folder says of them."""

import dataclasses
import functools
import itertools
from typing import Any

from finetune.errors import UserError
from finetune.model.depth import scopes_behind, scopes_of_layers
from finetune.nets import spec_of
from finetune.runs.run_folder import RunFolder
from finetune.runs.stage_record import ONLY_STAGE, STAGES_FILE, StagePlace, StageRecord, find_place, read_stage_records
from finetune.settings.flags import flat_values
from finetune.settings.stage import StageSettings
from finetune.settings.stages import Stage, names_everywhere
from finetune.settings.train import CourseSettings, NetworkSettings, TrainSettings


def stages_of(settings: TrainSettings) -> tuple[Stage, ...]:
    """All stages of a run; where the settings have none they are one."""
    return settings.course.stages or (Stage(),)


def settings_of_stage(settings: TrainSettings, place: StagePlace, num_images: int) -> TrainSettings:
    """The settings of a run with those of one of its stages in place of those around it.

    What is trained is then said by scopes, and `max_steps` is the step that the stage ends at.

    Args:
        settings: Of the run.
        place: Which stage.
        num_images: That the run is trained on, for lengths in epochs.

    Raises:
        UserError: There is no such layer; the settings don't go together; a step's images can't be shared out.
    """
    stage = stages_of(settings)[place.index].settings(settings.stage).on_devices(settings.num_devices)
    stage = with_scopes(stage, settings.network)
    num_steps = _num_steps(stage, num_images, settings.num_devices)
    end = None if num_steps is None else place.first_step + num_steps
    stage = dataclasses.replace(stage, max_steps=end, epochs=None)
    return dataclasses.replace(settings, stage=stage, course=CourseSettings())


def settings_alone(settings: TrainSettings, number: int, num_images: int) -> TrainSettings:
    """The settings of a stage without those before it, on the weights that the run begins with: to try its steps.

    What an earlier stage trains is trained, too: its random values have no place in a plan that keeps them.

    Args:
        settings: Of the run.
        number: Which stage, counted from 0.
        num_images: As for `settings_of_stage`.

    Raises:
        UserError: As `settings_of_stage`.
    """
    told = [settings_of_stage(settings, StagePlace(index), num_images) for index in range(number + 1)]
    scopes = [each.stage.trainable_scopes for each in told]
    all_of_them = tuple(dict.fromkeys(itertools.chain(*scopes))) if all(scopes) else ()
    return dataclasses.replace(told[-1], stage=dataclasses.replace(told[-1].stage, trainable_scopes=all_of_them))


def with_size_of_batches(settings: TrainSettings, size: int) -> TrainSettings:
    """The settings of a run with so many images in place of each --batch-size auto."""
    sized = {"batch_size": size}
    course, around = settings.course, settings.stage
    stages = tuple(
        dataclasses.replace(stage, own={**stage.own, **sized}) if stage.own.get("batch_size") == "auto" else stage
        for stage in course.stages
    )
    return dataclasses.replace(
        settings,
        course=dataclasses.replace(course, stages=stages),
        stage=dataclasses.replace(around, batch_size=size if around.batch_size == "auto" else around.batch_size),
    )


def with_images_of_rates(settings: TrainSettings) -> TrainSettings:
    """The settings of a run with how many images the rates of each stage are for, where they scale."""
    if not settings.course.stages:
        return dataclasses.replace(settings, stage=settings.stage.with_images_of_rates())
    stages = []
    for stage in settings.course.stages:
        told = stage.settings(settings.stage)
        found = _differences(told, told.with_images_of_rates())
        stages.append(dataclasses.replace(stage, own={**stage.own, **found}))
    return dataclasses.replace(settings, course=dataclasses.replace(settings.course, stages=tuple(stages)))


def with_scopes(stage: StageSettings, network: NetworkSettings) -> StageSettings:
    """What is trained, said by scopes where it was said by layers.

    Raises:
        UserError: There is no such layer.
    """
    scopes = stage.trainable_scopes
    if stage.trainable_layers is not None:
        scopes = scopes_of_layers(spec_of(network), stage.trainable_layers)
    elif stage.trainable_from is not None:
        from finetune.foreign_weights.keras_layer_order import scopes_from_layer

        scopes = scopes_from_layer(spec_of(network), network.model, stage.trainable_from)
    elif stage.freeze_until is not None:
        from finetune.trunk.upstream import variables_until

        spec, channels = spec_of(network), 1 if network.use_grayscale else None
        until = functools.partial(variables_until, spec, image_size=network.image_size, channels=channels)
        scopes = scopes_behind(spec, stage.freeze_until, until)
    return dataclasses.replace(
        stage, trainable_scopes=scopes, trainable_layers=None, trainable_from=None, freeze_until=None
    )


def recorded_settings(
    settings: TrainSettings, place: StagePlace, told: TrainSettings, resolved: TrainSettings
) -> TrainSettings:
    """The settings of a run as config.toml is to hold them: with what its stage found out, such as a learning rate.

    Args:
        settings: Of the run.
        place: Which stage.
        told: The stage's settings, as `settings_of_stage` gives them.
        resolved: The same, as the stage is trained with.
    """
    if not settings.course.stages:
        return resolved
    found = _differences(told.stage, resolved.stage)
    stages = list(settings.course.stages)
    stages[place.index] = dataclasses.replace(stages[place.index], own={**stages[place.index].own, **found})
    course = dataclasses.replace(settings.course, stages=tuple(stages))
    defaults = flat_values(StageSettings())
    around = dataclasses.replace(settings.stage, **{name: defaults[name] for name in names_everywhere(stages)})
    return dataclasses.replace(resolved, stage=around, course=course)


def find_place_of_run(run: RunFolder, settings: TrainSettings, step: int) -> StagePlace:
    """Where a run is after so many updates; one that is at its end is at the end of its last stage.

    Raises:
        UserError: stages.json is missing, or speaks of other stages.
    """
    if not (settings.course.stages and settings.run.resume):
        return ONLY_STAGE
    records = read_stage_records(run.path)
    if not records:
        raise UserError(
            f"--resume: {run.path / STAGES_FILE} is missing, which says what stage the run is at.",
            "Copy it from where it came from, or begin another run; one that was begun without stages goes on without "
            "--stages.",
        )
    _check_records(settings, records)
    place = find_place(records, step)
    num_stages = len(settings.course.stages)
    return place if place.index < num_stages else StagePlace(num_stages - 1, records[num_stages - 1].first_step)


def last_step(settings: TrainSettings, place: StagePlace, num_images: int) -> int | None:
    """Number of updates at the end of a run; None: without end.

    Args:
        settings: Of the run.
        place: Where it is.
        num_images: That it is trained on.
    """
    num_devices, last = settings.devices.num_clones, place.first_step
    for stage in stages_of(settings)[place.index :]:
        num_steps = _num_steps(stage.settings(settings.stage).on_devices(num_devices), num_images, num_devices)
        if num_steps is None:
            return None
        last += num_steps
    return last


def first_pseudo_labels(settings: TrainSettings, place: StagePlace, told: TrainSettings) -> int | None:
    """Number of updates made when a stage's first pseudo-labels are; None: it has none.

    The first of several stages has none, and the others have them from their beginning. A training of one stage begins
    without, for as many steps as labels are kept later, unless a probe has made its head the best there is.

    Args:
        settings: Of the run.
        place: Which stage.
        told: The stage's settings, as `settings_of_stage` gives them.

    Raises:
        UserError: The training of one stage would end before.
    """
    if settings.pseudo.unlabeled_dir is None or (len(stages_of(settings)) > 1 and not place.index):
        return None
    if place.index or told.stage.probe:
        return place.first_step
    begin, end = settings.pseudo.pseudo_label_refresh, told.stage.max_steps
    if end is not None and end <= begin:
        raise UserError(
            f"--unlabeled-dir would have no effect: the training ends after {end} steps, and images are labelled after "
            f"the first --pseudo-label-refresh {begin}.",
            f"Give --pseudo-label-refresh {max(1, end // 10)}, or more steps." if end > 1 else "Give more steps.",
        )
    return begin


def name_of(stage: Stage, number: int) -> str:
    """What a stage is called: by its name, by what it trains, or by its number, counted from 0."""
    own = stage.own
    by_layers = own.get("trainable_layers") or (own.get("trainable_from") and f"from {own['trainable_from']}")
    behind = own.get("freeze_until") and f"behind {own['freeze_until']}"
    return stage.name or by_layers or behind or ",".join(own.get("trainable_scopes", ())) or f"stage {number + 1}"


def _num_steps(stage: StageSettings, num_images: int, num_devices: int) -> int | None:
    if stage.epochs is None:
        return stage.max_steps
    return max(1, round(stage.epochs * num_images / (stage.images_per_update * num_devices)))


def _differences(told: StageSettings, resolved: StageSettings) -> dict[str, Any]:
    before, after = flat_values(told), flat_values(resolved)
    return {name: value for name, value in after.items() if value != before[name]}


def _check_records(settings: TrainSettings, records: list[StageRecord]) -> None:
    """Refuses stages that aren't those that a run has been through.

    Raises:
        UserError: One was called otherwise, or is no more.
    """
    names = [name_of(stage, number) for number, stage in enumerate(stages_of(settings))]
    for number, record in enumerate(records):
        if number >= len(names) or names[number] != record.name:
            now = f"{names[number]!r}" if number < len(names) else "not there"
            raise UserError(
                f"--resume: stage {number + 1} of the run was {record.name!r}, and is {now} now.",
                "Stages that were begun stay as they are; leave --stages out, or begin another run.",
            )
