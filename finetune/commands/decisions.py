"""What an evaluation chooses, or uses: a temperature, and a threshold on the probabilities that it gives."""

import dataclasses
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from finetune.commands.command import say
from finetune.errors import UserError
from finetune.evaluation.calibration import calibration
from finetune.evaluation.class_areas import MOST_LOGITS, ClassProbabilities
from finetune.evaluation.decisions import POSITIVE_CLASS, find_positive, judge
from finetune.evaluation.metrics import score_batch
from finetune.evaluation.result_files import EvalResult
from finetune.evaluation.temperature import fit_temperature
from finetune.evaluation.thresholds import choose_threshold
from finetune.files.whole_files import make_writable
from finetune.files.write_errors import write_errors_told
from finetune.notices import tell_once
from finetune.runs.decision_file import (
    DECISION_FILE,
    ChosenOn,
    Decision,
    Scorer,
    Temperature,
    Threshold,
    read_decision,
    write_decision,
)
from finetune.runs.trained_network import scored_with
from finetune.settings.choices import NO_DECISION
from finetune.settings.decisions import ChoiceSettings

log = logging.getLogger("finetune")


def check_choice(settings: ChoiceSettings, class_names: Sequence[str], run_folder: Path) -> None:
    """Refuses, before any image is scored, what can't be chosen or kept.

    Raises:
        UserError: The threshold is for no class that there is; nothing can be written beside the checkpoint.
    """
    if settings.positive_class is not None or settings.rule is not None or settings.threshold_by_hand is not None:
        find_positive(settings.positive_class, class_names)
    if settings.chooses:
        refuse_unwritable(run_folder / DECISION_FILE)


def refuse_unwritable(path: Path) -> None:
    """Refuses what can't be kept beside a checkpoint.

    Raises:
        UserError: There can be no such file.
    """
    try:
        make_writable(path.parent)
    except OSError as error:
        raise UserError(
            f"{path} can't be written: {error.strerror}.",
            "Copy the checkpoint, with what lies beside it, to where it can be, and evaluate it there.",
        ) from error


def decided(result: EvalResult, settings: ChoiceSettings, weights_sha256: Callable[[], str]) -> EvalResult:
    """The result with what is chosen by the settings, or else with what decision.json has for the checkpoint.

    What is newly chosen is kept there.

    Args:
        result: Of the network's own probabilities.
        settings: What is asked for.
        weights_sha256: Gives the hash of the network's weights.

    Raises:
        UserError: Nothing can be chosen on these images, or no threshold fulfils the rule; decision.json can't be
            read or written; too many logits.
    """
    scorer = _scorer_of(result, weights_sha256)
    is_needless = not settings.chooses and settings.calibrate == settings.threshold == NO_DECISION
    kept = Decision() if is_needless else read_decision(result.run_folder, scorer)
    is_asked = settings.chooses or settings.threshold_by_hand is not None
    if (is_asked or kept != Decision()) and result.scores.logits is None:
        return _without(result, is_asked=is_asked)
    named = settings.positive_class
    positive = None if named is None else find_positive(named, result.class_names)
    temperature = _temperature(result, settings, kept)
    result = _calibrated(dataclasses.replace(result, positive_class=positive), temperature)
    threshold = _threshold(result, settings, kept, temperature)
    decision = Decision(temperature, threshold)
    result = dataclasses.replace(result, decision=decision)
    if threshold is not None:
        result = _judged(result, threshold)
    elif named is not None and len(result.class_names) > 2:
        tell_once(f"{POSITIVE_CLASS}: of more than two classes it is for a threshold, and there is none.")
    if settings.chooses:
        _keep(result, scorer(), decision, kept)
    return result


def print_decision(result: EvalResult) -> None:
    """The lines for the user."""
    areas, decision, judgement = result.class_areas, result.decision, result.judgement
    if areas is not None and areas.mean.roc_auc is not None:
        of = f"of {result.class_names[areas.labels[0]]}" if len(areas.labels) == 1 else "macro mean"
        say(f"ROC AUC {areas.mean.roc_auc:.4f}, average precision {areas.mean.average_precision:.4f} ({of})")
    if decision.temperature is not None and result.uncalibrated is not None:
        error = calibration(result.scores).expected_error
        say(
            f"temperature {decision.divisor:.4g}, fitted on {decision.temperature.chosen_on.split}: expected "
            f"calibration error {error:.4f}, without it {result.uncalibrated.expected_error:.4f}"
        )
    if judgement is not None:
        outcome = judgement.outcome
        say(f"threshold: {judgement.threshold}")
        cost = "" if judgement.cost is None else f", cost {judgement.cost:g}"
        say(
            f"decided by it: accuracy {judgement.accuracy:.4f}, precision {outcome.precision:.4f}, recall "
            f"{outcome.recall:.4f}, F1 {outcome.f1:.4f}{cost}"
        )
        if judgement.caution:
            say(f"caution: {judgement.caution}")


def _scorer_of(result: EvalResult, weights_sha256: Callable[[], str]) -> Callable[[], Scorer]:
    return lambda: Scorer(
        checkpoint=result.checkpoint_name,
        step=result.step,
        weights_sha256=weights_sha256(),
        classes=tuple(result.class_names),
        scored_with=scored_with(result.network, result.tta),
    )


def _without(result: EvalResult, *, is_asked: bool) -> EvalResult:
    """As the network has it, where there are too many logits to keep for anything else."""
    what = f"{result.scores.num_examples:,} images of {result.scores.num_classes:,} classes are more than"
    limit = f"{MOST_LOGITS:,} logits, which are kept"
    if is_asked:
        raise UserError(f"--threshold and --calibrate: {what} {limit}.", "Take fewer images, by --max-num-batches.")
    tell_once(f"{what} {limit}: the figures are without what {result.run_folder / DECISION_FILE} says.")
    return result


def _temperature(result: EvalResult, settings: ChoiceSettings, kept: Decision) -> Temperature | None:
    if settings.calibrate == NO_DECISION:
        return None
    if settings.calibrate is None:
        return kept.temperature
    scores = result.scores
    assert scores.logits is not None
    return Temperature(fit_temperature(scores.logits, scores.labels), _chosen_on(result))


def _calibrated(result: EvalResult, temperature: Temperature | None) -> EvalResult:
    """The result with probabilities and losses of divided logits."""
    scores = result.scores
    if temperature is None or scores.logits is None:
        return result
    calibrated = score_batch(
        scores.logits, scores.labels, scores.filenames, keep_logits=True, temperature=temperature.value
    )
    return dataclasses.replace(
        result, scores=calibrated, uncalibrated=calibration(scores), decision=Decision(temperature)
    )


def _threshold(
    result: EvalResult, settings: ChoiceSettings, kept: Decision, temperature: Temperature | None
) -> Threshold | None:
    """What the settings ask for, else the one that is kept, unless it is for probabilities of another temperature."""
    names, by_hand, rule = result.class_names, settings.threshold_by_hand, settings.rule
    if by_hand is not None:
        return Threshold(by_hand, names[find_positive(settings.positive_class, names)])
    if rule is not None:
        positive = find_positive(settings.positive_class, names)
        assert result.scores.logits is not None
        probabilities = ClassProbabilities(result.scores.logits, result.decision.divisor).of(positive)
        chosen = choose_threshold(probabilities, result.scores.labels == positive, rule)
        return Threshold(chosen.value, names[positive], str(rule), _chosen_on(result))
    if settings.threshold == NO_DECISION or kept.threshold is None:
        return None
    if temperature != kept.temperature:
        if not settings.chooses:
            tell_once(f"{result.run_folder / DECISION_FILE}: its threshold goes with its temperature: neither is used.")
        return None
    if settings.positive_class not in (None, kept.threshold.positive_class):
        raise UserError(
            f"{POSITIVE_CLASS} is {settings.positive_class}, but the threshold that was chosen is for "
            f"{kept.threshold.positive_class}.",
            "Choose one for that class, by --threshold RULE, or give --threshold none.",
        )
    return kept.threshold


def _judged(result: EvalResult, threshold: Threshold) -> EvalResult:
    positive = find_positive(threshold.positive_class, result.class_names)
    judgement = judge(
        result.scores, threshold, positive, temperature=result.decision.divisor, data_sha256=result.data_sha256
    )
    return dataclasses.replace(result, positive_class=positive, judgement=judgement)


def _keep(result: EvalResult, scorer: Scorer, decision: Decision, before: Decision) -> None:
    """Writes what was chosen, and says what goes with that; a threshold by hand isn't kept."""
    threshold, path = decision.threshold, result.run_folder / DECISION_FILE
    if threshold is not None and threshold.chosen_on is None:
        decision = dataclasses.replace(decision, threshold=None)
    if before.temperature is not None and decision.temperature is None:
        log.info("%s: the temperature %.4g that it had is left out.", path, before.temperature.value)
    if before.threshold is not None and decision.threshold is None:
        log.info(
            "%s: the threshold that it had (%s) is void, being of probabilities of another temperature. Choose it "
            "anew with --threshold.",
            path,
            before.threshold,
        )
    with write_errors_told():
        write_decision(result.run_folder, scorer, decision)
    log.info("Kept in %s, for %s alone.", path, result.checkpoint_name)


def _chosen_on(result: EvalResult) -> ChosenOn:
    return ChosenOn(result.dataset.split, result.data_sha256, result.scores.num_examples)
