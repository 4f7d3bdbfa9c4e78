"""A checkpoint ready to classify: its network with the weights, the preprocessing, and the names of the classes."""

import dataclasses
import logging
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from finetune.datasets.description import LABELS_FILE, read_labels
from finetune.datasets.image_rules import DEFAULT_RULES, ImageRules
from finetune.errors import UserError
from finetune.notices import tell_once
from finetune.prediction.decision import find_decision
from finetune.runs.decision_file import Decision
from finetune.runs.label_thresholds import thresholds_in_use
from finetune.runs.run_folder import image_rules_of_run, settings_of_run, warn_of_other_rules
from finetune.runs.trained_network import (
    TrainedNetwork,
    labels_offset_of_run,
    network_settings,
    restore_networks,
    weights_sha256,
)
from finetune.settings.choices import MULTILABEL
from finetune.settings.classifier import ClassifierSettings
from finetune.settings.task import refuse_of_one_label
from finetune.types import Tensor

if TYPE_CHECKING:
    from finetune.datasets.decoding import ReadOptions
    from finetune.model.checkpoint import Checkpoint
    from finetune.model.model import Model
    from finetune.preprocessing import Preprocessing


log = logging.getLogger("finetune")


@dataclasses.dataclass(frozen=True)
class Classifier:
    """What turns images into classes.

    Attributes:
        copies: The network with its weights, the same on each device that computes; None: where TensorFlow chooses.
        network: What it was rebuilt with.
        preprocessing: Whose evaluation mode its images go through.
        class_names: One for each output; a class without a known name is called by its label.
        has_class_names: Whether they are names, not mere labels.
        checkpoint: Where the weights are from.
        image_rules: How image files become pixels.
        decision: How its logits become a class; nothing of it where an image has any number of labels.
        thresholds: Where an image has any number of labels, probabilities from which on it has a class, by class.
    """

    copies: Mapping[str | None, "Model"]
    network: TrainedNetwork
    preprocessing: "Preprocessing"
    class_names: tuple[str, ...]
    has_class_names: bool
    checkpoint: "Checkpoint"
    image_rules: ImageRules
    decision: Decision = Decision()
    thresholds: tuple[float, ...] = ()

    @property
    def is_multilabel(self) -> bool:
        """Whether an image has any number of labels."""
        return self.network.task == MULTILABEL

    @property
    def cut(self) -> tuple[int, float] | None:
        """Number of the class that there is a threshold for, and the threshold; None: the likeliest class is taken."""
        return self.decision.cut(self.class_names)

    @property
    def model(self) -> "Model":
        """On the first of the devices."""
        return next(iter(self.copies.values()))

    @property
    def read_options(self) -> "ReadOptions":
        """How its images and labels are read from records."""
        from finetune.datasets.decoding import ReadOptions

        return ReadOptions(
            self.preprocessing, self.model.image_size, self.model.channels, labels_offset=self.network.labels_offset
        )

    def prepare(self, encoded: Tensor) -> Tensor:
        """From the bytes of a record's or a prepared image, a scalar string, to float32 [H,W,C].

        The values are in the preprocessing's range.
        """
        from finetune.datasets.decoding import decode_image

        return self.prepare_pixels(decode_image(encoded, self.model.channels))

    def prepare_pixels(self, image: Tensor) -> Tensor:
        """From an image uint8 [H,W,C] of any size to float32 [image_size,image_size,C]."""
        return self.preprocessing.evaluate(image, self.model.image_size, self.model.image_size)


def restore_classifier(settings: ClassifierSettings, num_clones: int = 1) -> Classifier:
    """Rebuilds a network, as its run made it, with a checkpoint's weights, on so many devices.

    Raises:
        UserError: No such checkpoint; a network that isn't told and can't be recognised, or another one's; names that
            don't fit the number of classes; a GPU that isn't there.
    """
    from finetune.model.checkpoint import open_checkpoint
    from finetune.model.gpus import use_gpus
    from finetune.model.recognise import count_classes, variable_shapes
    from finetune.nets import spec_of
    from finetune.preprocessing import get_preprocessing

    use_gpus(settings)
    checkpoint = open_checkpoint(settings.checkpoint, name_prefix=settings.checkpoint_prefix, model=settings.model)
    rules = _image_rules(settings, Path(checkpoint.prefix).parent)
    network = network_settings(_with_model(settings, checkpoint), checkpoint.prefix)
    preprocessing = get_preprocessing(network.preprocessing, resize=network.resize)
    num_classes = count_classes(spec_of(network), variable_shapes(checkpoint.shapes))
    # Without a head to count by, restoring tells what is missing.
    copies = restore_networks(network, num_classes or 1, checkpoint, num_clones)
    num_outputs = next(iter(copies.values())).num_classes
    names = _class_names(settings.labels, network.labels_offset, checkpoint, num_outputs)
    labels = tuple(map(str, range(network.labels_offset, network.labels_offset + num_outputs)))
    classifier = Classifier(copies, network, preprocessing, names or labels, names is not None, checkpoint, rules)
    if classifier.is_multilabel:
        return dataclasses.replace(classifier, thresholds=_thresholds(settings, classifier))
    return dataclasses.replace(classifier, decision=find_decision(classifier, settings))


def _thresholds(settings: ClassifierSettings, classifier: Classifier) -> tuple[float, ...]:
    """Where an image has any number of labels: as given, else as chosen for the checkpoint.

    Raises:
        UserError: What is of one label an image is asked for.
    """
    refuse_of_one_label(
        {"--positive-class": settings.positive_class is not None, "--calibrate": settings.calibrate is not None}
    )
    given = settings.threshold
    prefix, names = classifier.checkpoint.prefix, classifier.class_names
    thresholds, by = thresholds_in_use(given, prefix, names, lambda: weights_sha256(classifier.model))
    tell_once(f"Thresholds: {by}.")
    return thresholds


def _image_rules(settings: ClassifierSettings, folder: Path) -> ImageRules:
    """What the command says, else what the run was trained on, else the default."""
    of_run = image_rules_of_run(folder)
    given = {name: getattr(settings, name, None) for name in ("background", "sample_bits", "max_megapixels")}
    rules = dataclasses.replace(
        of_run or DEFAULT_RULES, **{name: value for name, value in given.items() if value is not None}
    )
    warn_of_other_rules(rules, folder)
    return rules


def _with_model(settings: ClassifierSettings, checkpoint: "Checkpoint") -> ClassifierSettings:
    """The settings with the network that the checkpoint looks like, where neither they nor a run name one."""
    from finetune.model.recognise import recognise, recognise_under_prefix

    if settings.model is not None or settings_of_run(Path(checkpoint.prefix).parent) is not None:
        return settings
    likeness = recognise(checkpoint.shapes)
    if likeness is None:
        prefixed = recognise_under_prefix(checkpoint.shapes)
        if prefixed is not None:
            prefix = f"{checkpoint.name_prefix}/{prefixed[0]}".strip("/")
            raise UserError(
                f"--checkpoint: {checkpoint.prefix} holds a {prefixed[1].spec.name}, but under the prefix {prefix}/.",
                f"Take it off: --checkpoint-prefix {shlex.quote(prefix)}",
            )
        raise UserError(
            f"--checkpoint: {checkpoint.prefix} is no run's, and its variables are of no network known here.",
            "Name its network with --model.",
        )
    log.info("%s holds a %s.", checkpoint.prefix, likeness.spec.name)
    return dataclasses.replace(settings, model=likeness.spec.name)


def _class_names(
    labels: Path | None, offset: int, checkpoint: "Checkpoint", num_classes: int
) -> tuple[str, ...] | None:
    """Names of the outputs, as told, else from labels.txt beside the checkpoint; None: there is no such file."""
    beside = Path(checkpoint.prefix).parent / LABELS_FILE
    path = labels or beside
    if not path.is_file():
        if labels is not None:
            raise UserError(f"--labels: there is no file {labels}.")
        return None
    offset_beside = labels_offset_of_run(beside.parent, offset)
    names = read_labels(path)[offset if labels is not None else offset_beside :]
    if labels is not None and beside.is_file() and read_labels(beside)[offset_beside:] != names:
        log.warning("%s names other classes, or the same in another order, than %s: it counts.", labels, beside)
    if len(names) != num_classes:
        after = f" from label {offset} on" if offset else ""
        raise UserError(
            f"{path} names {len(names)} classes{after}, but the checkpoint has {num_classes} outputs.",
            "Give the file that fits with --labels, or the label of the first output with --labels-offset.",
        )
    return names
