"""What the steps of a stage lessen, from its settings and from the records: the loss, weights, and what is drawn."""

import dataclasses
from collections.abc import Sequence

from finetune.commands.stages import stages_of
from finetune.datasets.record_index import RecordIndex, index_records
from finetune.settings.choices import MULTILABEL
from finetune.settings.stage import StageSettings
from finetune.settings.train import TrainSettings
from finetune.training.example_weights import (
    check_class_names,
    class_weights,
    needs_index,
    positive_weights,
    tell_balanced_sampling,
    tell_weights_of_images,
)
from finetune.training.head_decay import decayed_variables
from finetune.training.losses import MultilabelLoss, TrainingLoss
from finetune.training.mixing import Mixing
from finetune.training.state import TrainingState
from finetune.training.training_data import TrainingData, num_outputs


def check_classes_of_stages(settings: TrainSettings, data: TrainingData) -> None:
    """Before the first stage is begun.

    Raises:
        UserError: A class is weighted by a name that none has.
    """
    for stage in stages_of(settings):
        check_class_names(stage.settings(settings.stage).objective, _names_of_outputs(settings, data))


def find_index(settings: TrainSettings, data: TrainingData) -> RecordIndex | None:
    """What has to be known of all records of training beforehand, and says what it comes to; None: nothing.

    Raises:
        UserError: A record can't be read, or has a weight that is none.
    """
    objective, dataset = settings.stage.objective, data.training
    if not needs_index(objective, has_weights=dataset.schema.has_weights):
        return None
    index = index_records(dataset, settings.data.labels_offset)
    tell_weights_of_images(index)
    if objective.balanced_sampling:
        tell_balanced_sampling(index, num_outputs(settings.data, data))
    return index


def find_class_weights(settings: TrainSettings, data: TrainingData, index: RecordIndex | None) -> tuple[float, ...]:
    """By output of the network, and says what they are; empty where all classes count alike.

    Raises:
        UserError: A class is weighted by a name that none has.
    """
    objective, names = settings.stage.objective, _names_of_outputs(settings, data)
    check_class_names(objective, names)
    return class_weights(objective, names or (), num_outputs(settings.data, data), index)


def find_loss_of_labels(
    settings: TrainSettings, data: TrainingData, index: RecordIndex | None
) -> MultilabelLoss | None:
    """The loss where an image has any number of labels, and says what counts for more in it; None: it has one."""
    if settings.data.task != MULTILABEL:
        return None
    stage, names = settings.stage, _names_of_outputs(settings, data)
    weights = positive_weights(stage.objective, names or (), num_outputs(settings.data, data), index)
    return MultilabelLoss(stage.label_smoothing, weights)


def make_loss(
    stage: StageSettings,
    state: TrainingState,
    class_weights: Sequence[float],
    of_labels: MultilabelLoss | None = None,
) -> TrainingLoss:
    """What a step lessens."""
    loss = TrainingLoss(
        stage.label_smoothing,
        focal_gamma=stage.objective.focal_gamma if stage.objective.loss == "focal" else None,
        class_weights=class_weights,
        of_labels=of_labels,
    )
    if stage.update.decouples_decay:
        return loss
    decayed, head = decayed_variables(stage, state.model, state.optimizer.variables)
    head_decay = stage.head_decay if head else 0.0
    return dataclasses.replace(
        loss, weight_decay=stage.weight_decay, decayed=decayed, head_weight_decay=head_decay, head=head
    )


def make_mixing(stage: StageSettings, num_classes: int) -> Mixing | None:
    """How images of a batch are mixed; None: they aren't."""
    objective = stage.objective
    return Mixing(num_classes, objective.mixup, objective.cutmix) if objective.mixing_flag else None


def _names_of_outputs(settings: TrainSettings, data: TrainingData) -> tuple[str, ...] | None:
    return None if data.class_names is None else data.class_names[settings.data.labels_offset :]
