"""`finetune-inspect --summary` and `--plot`: a network by its layers, under a plan or as a run has trained it."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.commands.command import say
from finetune.commands.inspect_plan import NamedNetwork, named_network, open_named, planner
from finetune.commands.stages import name_of, stages_of, with_scopes
from finetune.commands.tables import is_on_terminal, print_table
from finetune.errors import UserError
from finetune.model.scopes import NetworkVariable, VariablePlan
from finetune.nets.keras_networks.model_file import keep_to
from finetune.runs.run_folder import ARCHITECTURE_FILE, settings_of_run
from finetune.runs.stage_record import find_place, read_stage_records
from finetune.settings.flags import flags_of
from finetune.settings.head import HEAD_FLAGS
from finetune.settings.inspect import InspectSettings
from finetune.settings.settings_file import CONFIG_FILE
from finetune.settings.stage import StageSettings
from finetune.settings.train import DEFAULT_MODEL, CourseSettings, NetworkSettings, TrainSettings
from finetune.settings.trust import TRUST_CODE, refuse_modules

if TYPE_CHECKING:
    from finetune.model.checkpoint import Checkpoint
    from finetune.summaries.summary import NetworkSummary

_WAYS = ("trainable_scopes", "trainable_layers", "trainable_from", "freeze_until")


@dataclasses.dataclass(frozen=True)
class ShownNetwork:
    """A network, by whose plan or run it is trained, and the file that it is drawn in, if it is, and how."""

    summary: "NetworkSummary"
    trained_by: str
    plot: Path | None
    drawn_by: str | None

    def describe(self) -> dict[str, Any]:
        """For programs."""
        from finetune.summaries.summary import describe_network

        return {
            **describe_network(self.summary),
            "trained_by": self.trained_by,
            "plot": None if self.plot is None else str(self.plot),
        }

    def print_summary(self) -> None:
        """Prints the tables: on a terminal by groups of layers, in files a line for each layer."""
        from finetune.summaries.table import layers_table, layers_tree, totals_table

        print_table(layers_tree(self.summary) if is_on_terminal() else layers_table(self.summary))
        say()
        print_table(totals_table(self.summary))

    def in_words(self) -> str:
        """What else there is to say, in lines."""
        from finetune.summaries.summary import frontier_in_words, network_in_words

        lines = [network_in_words(self.summary), f"trained: {self.trained_by}", *frontier_in_words(self.summary)]
        if self.plot is not None:
            lines.append(f"drawn, {self.drawn_by}: {self.plot}")
        return "\n".join(lines)


@dataclasses.dataclass(frozen=True)
class _Training:
    """What is trained: of which network, in one stage of which training, and by whose word."""

    settings: InspectSettings
    stage: StageSettings
    is_first_stage: bool
    told: str


def look_at_network(settings: InspectSettings) -> ShownNetwork:
    """Looks at the network of the settings, without making its weights; draws it where that is asked for.

    Raises:
        UserError: There is no such network, run, stage or layer; the drawing can't be written.
        OSError: Likewise.
    """
    import tensorflow as tf

    from finetune.files.whole_files import write_bytes
    from finetune.model.model import Model
    from finetune.summaries.drawing import make_drawing
    from finetune.summaries.rendering import render_drawing
    from finetune.summaries.summary import summarise

    if settings.plot is not None:
        _check_writable(settings.plot)
    training = _training(settings)
    network = named_network(training.settings)
    with tf.Graph().as_default():  # Where variables take no memory.
        model = Model(
            network.spec,
            network.num_classes,
            image_size=network.image_size,
            channels=network.channels,
            initialise=False,
        )
        plan = _plan(training, network, model.network_variables())
        model.freeze(plan, training.stage.batch_norm)
        summary = summarise(model, plan)
    drawn_by = None
    if settings.plot is not None:
        drawing = make_drawing(summary, training.told)
        content, drawn_by = render_drawing(drawing, settings.plot.suffix.lower().removeprefix("."))
        write_bytes(settings.plot, content)
    return ShownNetwork(summary, training.told, settings.plot, drawn_by)


def _check_writable(path: Path) -> None:
    """Before anything is computed."""
    folder = path.parent
    if path.is_dir():
        raise UserError(f"--plot: {path} is a folder.", "Name a file in it.")
    if not folder.is_dir():
        raise UserError(f"--plot: {path} can't be written: there is no folder {folder}.", "Make it first.")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UserError(f"--plot: {path} can't be written: {folder} is read-only.", "Name a file in another folder.")


def _plan(training: _Training, network: NamedNetwork, variables: Sequence[NetworkVariable]) -> VariablePlan:
    """The plan; where no weights are named, as with weights that fit: where they come from isn't shown."""
    fitting = {variable.name: variable.shape for variable in variables}
    shapes = network.checkpoint.shapes if network.checkpoint is not None else fitting
    make_plan = planner(training.settings, network, variables, shapes)
    return make_plan(training.stage.trainable_scopes, training.is_first_stage)


def _training(settings: InspectSettings) -> _Training:
    """What the flags say; without a network among them what the checkpoint's run says."""
    if settings.model is not None:
        return _of_flags(settings)
    checkpoint = open_named(settings, settings.checkpoints[0])
    folder = Path(checkpoint.prefix).parent
    run = settings_of_run(folder)
    if run is None:
        return _of_flags(dataclasses.replace(settings, model=_recognised(checkpoint)))
    refuse_modules(run, {TRUST_CODE: settings.trust_code}, folder / CONFIG_FILE)
    known = dataclasses.replace(settings, **_as_of_run(settings, run))
    keep_to(str(known.model), folder / ARCHITECTURE_FILE)
    if settings.trained.what_is_trained:
        return _of_flags(known)
    names = {flag.name for group in (NetworkSettings, CourseSettings, StageSettings) for flag in flags_of(group)}
    training = TrainSettings(dataset_dir=Path(), **{name: value for name, value in run.items() if name in names})
    place = find_place(read_stage_records(folder), checkpoint.step() or 0)
    # Of a stage that is about to begin nothing is trained yet.
    return _of_training(known, training, place.index if place.begins else place.index + 1, f"as in {folder}")


def _recognised(checkpoint: "Checkpoint") -> str:
    from finetune.model.recognise import recognise

    likeness = recognise(checkpoint.shapes)
    if likeness is None:
        raise UserError(
            f"CHECKPOINT: {checkpoint.prefix} is no run's, and its variables are no network's of the table.",
            "Name its network with --model.",
        )
    return likeness.spec.name


def _as_of_run(settings: InspectSettings, run: Mapping[str, Any]) -> dict[str, Any]:
    """The run's network, but for what is given."""
    of_network = {flag.name: flag.default for flag in flags_of(NetworkSettings)}
    names = [
        name
        for name in ("image_size", "use_grayscale", *HEAD_FLAGS)
        if name in run and getattr(settings, name) == of_network[name]
    ]
    return {"model": run.get("model", DEFAULT_MODEL), **{name: run[name] for name in names}}


def _of_flags(settings: InspectSettings) -> _Training:
    """What a training would do that is given these flags."""
    names = ("model", "image_size", "use_grayscale", "recipe", "stages", *HEAD_FLAGS, *_WAYS)
    given = {name: getattr(settings, name) for name in names if getattr(settings, name)}
    training = TrainSettings(dataset_dir=Path(), **given)
    by_stages = "--stages" if settings.stages else f"--recipe {settings.recipe}" if settings.recipe else None
    told = by_stages or settings.trained.what_is_trained or "all, for no flag says what"
    return _of_training(settings, training, len(stages_of(training)), told)


def _of_training(settings: InspectSettings, training: TrainSettings, number: int, told: str) -> _Training:
    """One stage of a training: the one that is asked for, else that of this number."""
    stages = stages_of(training)
    number = settings.stage or number
    if number > len(stages):
        raise UserError(f"--stage is {number}, but the training has {len(stages)}.", "Leave it out for the last one.")
    stage = stages[number - 1]
    if len(stages) > 1:
        told += f", stage {number} of {len(stages)}: {name_of(stage, number - 1)}"
    return _Training(settings, with_scopes(stage.settings(training.stage), training.network), number == 1, told)
