"""Thresholds of several labels an image, chosen on a split to be kept beside the checkpoint."""

import logging
from pathlib import Path

from finetune.errors import UserError
from finetune.evaluation.multilabel_metrics import MultilabelScores
from finetune.evaluation.thresholds import choose_threshold
from finetune.notices import few
from finetune.runs.label_thresholds import DEFAULT_THRESHOLD, LabelThresholds
from finetune.settings.threshold import ThresholdRule

log = logging.getLogger("finetune")


def chosen_thresholds(
    scores: MultilabelScores,
    names: list[str],
    rule: ThresholdRule,
    *,
    checkpoint: str,
    weights_sha256: str,
    split: str,
    data_sha256: str,
) -> LabelThresholds:
    """For each class the threshold that a rule asks for; 0.5, which is said, for one that all images have, or none.

    Args:
        scores: Of a split.
        names: Of the classes.
        rule: What is asked for.
        checkpoint: Prefix of the checkpoint that scored it.
        weights_sha256: Hash of its weights.
        split: Its name.
        data_sha256: Its hash.

    Raises:
        UserError: No threshold of a class fulfils the rule.
    """
    thresholds, not_chosen = {}, []
    for label, name in enumerate(names):
        is_positive = scores.labels[:, label]
        if is_positive.all() or not is_positive.any():
            thresholds[name] = DEFAULT_THRESHOLD
            not_chosen.append(name)
            continue
        try:
            thresholds[name] = choose_threshold(scores.probabilities[:, label], is_positive, rule).value
        except UserError as error:
            raise UserError(f"The class {name}: {error}") from error
    if not_chosen:
        log.warning(
            "--threshold: of the images of %s none has %s, or all have: %g counts.",
            *(split, few(not_chosen), DEFAULT_THRESHOLD),
        )
    return LabelThresholds(
        Path(checkpoint).name,
        weights_sha256,
        str(rule),
        split,
        data_sha256,
        scores.num_examples,
        thresholds,
        tuple(not_chosen),
    )
