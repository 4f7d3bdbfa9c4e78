"""How a classifier's logits become a class: by what finetune-eval chose for its weights, or as the command says."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from finetune.evaluation.decisions import find_positive
from finetune.runs.decision_file import DECISION_FILE, Decision, Scorer, Threshold, read_decision
from finetune.runs.trained_network import scored_with, weights_sha256
from finetune.settings.choices import NO_DECISION
from finetune.settings.decisions import UseSettings

if TYPE_CHECKING:
    from finetune.prediction.classifier import Classifier

log = logging.getLogger("finetune")


def find_decision(classifier: "Classifier", settings: UseSettings) -> Decision:
    """What decides for a classifier; it is told.

    Raises:
        UserError: decision.json can't be read; a threshold is for no class that there is.
    """
    folder = Path(classifier.checkpoint.prefix).parent
    if settings.calibrate == NO_DECISION and settings.threshold is not None:
        kept = Decision()
    else:
        kept = read_decision(folder, lambda: _scorer_of(classifier))
    temperature = None if settings.calibrate == NO_DECISION else kept.temperature
    threshold = kept.threshold
    if threshold is not None and temperature != kept.temperature:
        log.info("%s: its threshold goes with its temperature: neither is used.", folder / DECISION_FILE)
        threshold = None
    if settings.threshold == NO_DECISION:
        threshold = None
    elif isinstance(settings.threshold, float):
        positive = find_positive(settings.positive_class, classifier.class_names)
        threshold = Threshold(settings.threshold, classifier.class_names[positive])
    if temperature is not None:
        log.info("Logits are divided by %.4g, fitted on %s.", temperature.value, temperature.chosen_on.split)
    if threshold is not None:
        log.info("Threshold: %s.", threshold)
    return Decision(temperature, threshold)


def _scorer_of(classifier: "Classifier") -> Scorer:
    return Scorer(
        checkpoint=Path(classifier.checkpoint.prefix).name,
        step=classifier.checkpoint.step(),
        weights_sha256=weights_sha256(classifier.model),
        classes=classifier.class_names,
        scored_with=scored_with(classifier.network),
    )
