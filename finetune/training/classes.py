"""Classes of the data and of the network that training goes on from, matched by name before the first step."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from finetune.datasets.class_matching import match_labels
from finetune.datasets.description import LABELS_FILE, read_labels
from finetune.errors import UserError
from finetune.model.scopes import VariablePlan, in_any_scope, new_run_with_weights
from finetune.runs.run_folder import settings_of_run
from finetune.runs.trained_network import names_of_outputs
from finetune.settings.choices import SINGLE_LABEL
from finetune.settings.train import DataSettings

if TYPE_CHECKING:
    from finetune.model.checkpoint import Checkpoint
    from finetune.nets.spec import NetSpec
    from finetune.training.training_data import TrainingData


def refuse_task_of_other_run(task: str, train_dir: Path) -> None:
    """A run goes on with its own task: another one has another loss, and other measures of what is the best.

    Raises:
        UserError: It was begun with another one.
    """
    of_run = (settings_of_run(train_dir) or {}).get("task", SINGLE_LABEL)
    if task != of_run:
        raise UserError(
            f"--resume: --task is {task}, but {train_dir} was begun with {of_run}.",
            f"Leave out --task, or {new_run_with_weights(train_dir)}",
        )


def match_to_run(settings: DataSettings, train_dir: Path, data: "TrainingData", spec: "NetSpec") -> "TrainingData":
    """The data of a run that is resumed, its labels in the order of the run's labels.txt.

    Raises:
        UserError: The run has other classes.
    """
    path = train_dir / LABELS_FILE
    if not path.is_file():
        return data
    new_run = f"{new_run_with_weights(train_dir)} --exclude-scopes {','.join(spec.head_scopes)}"
    mend = f"Resume with the run's own --dataset-dir, or {new_run}"
    return _matched(settings, data, read_labels(path), str(train_dir), mend)


def match_to_restored_head(
    settings: DataSettings, data: "TrainingData", plan: VariablePlan, source: "Checkpoint", spec: "NetSpec"
) -> "TrainingData":
    """The data, its labels in the order of a checkpoint's classes, where the head is restored from it.

    Raises:
        UserError: The head is of other classes.
    """
    head = [variable for variable in plan.restored if in_any_scope(variable.name, spec.logits_scopes)]
    names = names_of_outputs(source, spec, settings.labels_offset) if head else None
    if names is None or settings.match_labels == "index":
        return data
    mend = f"For a new head: --exclude-scopes {','.join(spec.head_scopes)}"
    own_names = data.training.class_names or tuple(map(str, range(settings.labels_offset)))
    of_no_output = own_names[: settings.labels_offset]
    return _matched(settings, data, (*of_no_output, *names), source.prefix, mend)


def _matched(
    settings: DataSettings, data: "TrainingData", class_names: tuple[str, ...], owner: str, mend: str
) -> "TrainingData":
    training = match_labels(
        data.training,
        class_names[settings.labels_offset :],
        owner,
        labels_offset=settings.labels_offset,
        how=settings.match_labels,
        other_mend=mend,
    )
    # Both splits are of one data set: what is said of the first holds for the second.
    validation = data.validation and dataclasses.replace(
        data.validation, outputs=training.outputs, num_network_outputs=training.num_network_outputs
    )
    return dataclasses.replace(data, training=training, validation=validation, class_names=class_names)
