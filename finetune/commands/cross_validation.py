"""`finetune-train --folds K`: K runs, each on all but one part of the split, and what they say of the parts left out.

Each fold is a run like any other, in fold-N within --train-dir. Nothing of the part that is left out is looked at until
the run has come to its end: a validation split chooses the checkpoint and ends the run early, as without folds.
"""

import contextlib
import dataclasses
import logging
import shlex
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tomli_w

from finetune.commands.command import say
from finetune.commands.evaluate import accuracy_in_words, evaluate
from finetune.commands.evaluation_files import write_results
from finetune.commands.photographs import on_records, run_folder_chosen
from finetune.commands.published_weights import with_published_weights
from finetune.commands.train import TrainResult, train_run
from finetune.errors import Interrupted, UserError
from finetune.evaluation.cross_validation import figures_of, spreads_of
from finetune.evaluation.fold_files import (
    DIVISION,
    FOLDS_FILE,
    Outcome,
    describe_folds,
    fold_folder,
    is_done,
    read_folds,
    read_outcome,
    write_outcome,
)
from finetune.evaluation.label_errors import LABEL_ERRORS_FILE, find_label_errors
from finetune.evaluation.metrics import log_softmax, score_batch
from finetune.evaluation.result_files import REPORT_FILE, EvalResult
from finetune.files.folder_lock import sole_use
from finetune.files.whole_files import complete_sets, gone_if_empty, make_writable, whole_set, write_json, write_text
from finetune.files.write_errors import write_errors_told
from finetune.notices import few
from finetune.runs.run_folder import FEATURES_FOLDER, RunFolder, settings_of_run
from finetune.settings.evaluate import EvalSettings
from finetune.settings.flags import dashed, flags_of, flat_values
from finetune.settings.settings_file import CONFIG_FILE, to_toml_table
from finetune.settings.train import TrainSettings

if TYPE_CHECKING:
    from finetune.datasets.dataset import Dataset
    from finetune.datasets.folds import Folds

LEFT_OUT_FOLDER = "eval_left_out"
# What may change from one start of a cross-validation to the next: where files lie, and when to stop for a while.
CHANGEABLE = ("train_dir", "dataset_dir", "time_limit", "report", "track")

log = logging.getLogger("finetune")


@dataclasses.dataclass(frozen=True)
class CrossValidation:
    """What the folds of a split came to.

    Attributes:
        train_dir: The folder around the runs, with the results.
        evaluation: Of all images, each scored by the run that it was left out of; None: the time limit came before.
    """

    train_dir: Path
    evaluation: EvalResult | None


def cross_validate(settings: TrainSettings) -> CrossValidation:
    """Trains a network without each fold of the split in turn, scores the fold by it, and looks for wrong labels.

    Raises:
        UserError: As `train`; the cross-validation that is to go on is another one; a fold failed.
        Interrupted: Ctrl-C or SIGTERM, once the step is made and its checkpoint is written.
    """
    from finetune.model.gpus import use_gpus

    start = time.monotonic()
    _refuse_of_one_run(settings)
    use_gpus(settings.gpus)
    with run_folder_chosen(settings) as chosen:
        folder = chosen.run.folder
        try:
            _check_content(folder, resume=settings.run.resume)
            found = on_records(with_published_weights(chosen))
            with write_errors_told(lambda: f"Make room there. {_how_to_go_on(folder)}"), _begun(found):
                return _cross_validate(found, start)
        except Interrupted as stop:
            raise Interrupted(f"{str(stop).splitlines()[0]}\n  {_how_to_go_on(folder)}", stop.signal_number) from stop


def cross_validate_and_print(settings: TrainSettings) -> None:
    """The command."""
    done = cross_validate(settings)
    if done.evaluation is None:
        say(f"stopped by --time-limit {settings.stopping.time_limit}. {_how_to_go_on(done.train_dir)}")
        return
    result = done.evaluation
    spreads = spreads_of(result.folds)
    say(f"{len(result.folds)} folds of {result.dataset.split}, each image scored by the run that it was left out of:")
    say(f"accuracy {accuracy_in_words(result.scores)}")
    say("over the folds, and 95 % interval of the mean:")
    for measure, spread in spreads.items():
        low, high = spread.interval_95
        say(f"  {measure.replace('_', ' ')} {spread.mean:.4f} ({low:.4f} to {high:.4f})")
    if result.label_errors is not None:
        num_errors, where = result.label_errors.num_errors, result.output_dir / LABEL_ERRORS_FILE
        say(f"{num_errors} labels are probably wrong; all that are in doubt, ranked: {where}")
    say(f"written to {result.output_dir if settings.run.report is False else result.output_dir / REPORT_FILE}")
    say("For a network of all images give the same command without --folds, and another --train-dir.")


def _refuse_of_one_run(settings: TrainSettings) -> None:
    fold = fold_folder(settings.run.folder, 1)
    of_one_run = {"--verify": settings.run.verify, "--allow-changed": bool(settings.run.allow_changed)}
    for option, is_given in of_one_run.items():
        if is_given:
            raise UserError(f"{option} is of one run; this is a cross-validation.", f"Give --train-dir {fold}.")


def _how_to_go_on(folder: Path) -> str:
    if (folder / FOLDS_FILE).exists():
        return "Go on by " + shlex.join(["finetune-train", "--resume", "--train-dir", str(folder)])
    return "Nothing is begun yet: give the same command again."


@contextlib.contextmanager
def _begun(settings: TrainSettings) -> Iterator[None]:
    """The folder around the runs, for one program at a time; one that fails before the first checkpoint goes again."""
    folder = settings.run.folder
    with gone_if_empty(folder):
        try:
            make_writable(folder)
        except OSError as error:
            message = f"--train-dir: {folder} can't be written: {error.strerror}."
            raise UserError(message, "Give another --train-dir.") from error
        with sole_use(folder, flag="--train-dir", program="finetune-train"):
            complete_sets(folder)
            _check_content(folder, resume=settings.run.resume)
            try:
                yield
            except BaseException:
                begins = not settings.run.resume
                if begins and not any(RunFolder(path).has_checkpoint() for path in folder.glob("fold-*")):
                    for name in (FOLDS_FILE, CONFIG_FILE):
                        (folder / name).unlink(missing_ok=True)
                raise


def _check_content(folder: Path, *, resume: bool) -> None:
    found = sorted(path.name for path in folder.iterdir() if not path.name.startswith(".")) if folder.is_dir() else []
    found = [name for name in found if name != FEATURES_FOLDER]
    if resume and FOLDS_FILE not in found:
        raise UserError(f"--resume: {folder} holds no {FOLDS_FILE}.", "Begin anew, without --resume.")
    if found and not resume:
        mend = "Go on with its folds by --resume, or give" if FOLDS_FILE in found else "Give"
        raise UserError(f"--train-dir: {folder} is not empty: it holds {few(found)}.", f"{mend} another --train-dir.")


def _cross_validate(settings: TrainSettings, start: float) -> CrossValidation:
    from finetune.commands.training_inputs import find_data
    from finetune.datasets.dataset import content_hash
    from finetune.datasets.folds import assign_folds, warn_of_rare_classes

    folder, num_folds = settings.run.folder, settings.data.folds
    assert num_folds is not None
    data = find_data(dataclasses.replace(settings, run=dataclasses.replace(settings.run, resume=False)))
    split, seed = data.training, settings.run.seed
    folds = assign_folds(split, num_folds, seed, settings.data.labels_offset)
    warn_of_rare_classes(folds, split.class_names)
    described = describe_folds(folds, split, content_hash(split), seed)
    if settings.run.resume:
        described = _as_begun(settings, described)
    else:
        with whole_set(folder, "folds", last=FOLDS_FILE) as staging:
            write_text(staging / CONFIG_FILE, tomli_w.dumps(to_toml_table(settings)))
            write_json(staging / FOLDS_FILE, described)
    for fold in range(1, num_folds + 1):
        if is_done(folder, fold, described):
            log.info("Fold %d of %d is done.", fold, num_folds)
            continue
        log.info("Fold %d of %d:", fold, num_folds)
        with _named(fold, num_folds):
            if _train_fold(settings, fold, start).ended_by == "time":
                return CrossValidation(folder, None)
            outcome = _score_fold(settings, folds, fold)
        described["folds"][fold - 1]["outcome_sha256"] = write_outcome(fold_folder(folder, fold), outcome)
        write_json(folder / FOLDS_FILE, described)
    shutil.rmtree(folder / FEATURES_FOLDER, ignore_errors=True)
    result = _pooled(settings, split, folds, described["data_sha256"])
    write_results(result, with_report=settings.run.report is not False)
    return CrossValidation(folder, result)


def _as_begun(settings: TrainSettings, now: dict[str, Any]) -> dict[str, Any]:
    """What folds.json says, where the settings and the data are those that it was begun with.

    Raises:
        UserError: They aren't.
    """
    folder = settings.run.folder
    recorded, values = settings_of_run(folder) or {}, flat_values(settings)
    changed = [
        f"{dashed(each.name)} is {values[each.name]}, was {recorded.get(each.name, each.default)}"
        for each in flags_of(TrainSettings)
        if each.is_recorded and each.name not in CHANGEABLE
        if values[each.name] != recorded.get(each.name, each.default)
    ]
    if changed:
        raise UserError(
            f"--resume: folds are trained alike, but {'; '.join(changed)}.",
            "Leave it out, or begin another cross-validation.",
        )
    begun = read_folds(folder)
    others = [name for name in DIVISION if begun[name] != now[name]]
    if others:
        raise UserError(
            f"--resume: the data isn't what {folder} was begun with: {few(others)} of {FOLDS_FILE} would be others.",
            "Put the data back as it was, or begin another cross-validation.",
        )
    return begun


@contextlib.contextmanager
def _named(fold: int, num_folds: int) -> Iterator[None]:
    try:
        yield
    except UserError as error:
        raise UserError(f"Fold {fold} of {num_folds}: {error}") from error


def _train_fold(settings: TrainSettings, fold: int, start: float) -> TrainResult:
    """Begins a fold's run, or goes on with it."""
    from finetune.commands.train_stage import RunOfSeveral
    from finetune.trunk.features import FeatureFolder

    path = fold_folder(settings.run.folder, fold)
    of_folds = RunOfSeveral(FeatureFolder(settings.run.folder / FEATURES_FOLDER, is_shared=True))
    if RunFolder(path).has_checkpoint():
        now = {"resume": True, "train_dir": path, "trust_code": settings.network.trust_code}
        now |= {"dataset_dir": settings.data.dataset_dir, "time_limit": settings.stopping.time_limit}
        return train_run(TrainSettings(**{**(settings_of_run(path) or {}), **now}), start, of_folds)
    if path.is_dir():  # Of a program that was killed before the first checkpoint.
        shutil.rmtree(path)
    run = dataclasses.replace(settings.run, train_dir=path, resume=False, report=False)
    data = dataclasses.replace(settings.data, fold=fold)
    devices = dataclasses.replace(settings.devices, precision=_precision_of_folds(settings))
    return train_run(dataclasses.replace(settings, run=run, data=data, devices=devices), start, of_folds)


def _precision_of_folds(settings: TrainSettings) -> str:
    """That the first fold's run was given or has found: all compute alike, and share features."""
    first = settings_of_run(fold_folder(settings.run.folder, 1)) or {}
    return str(first.get("precision", settings.devices.precision))


def _score_fold(settings: TrainSettings, folds: "Folds", fold: int) -> Outcome:
    result = evaluate(_evaluation(settings, fold), part=lambda split: folds.only(split, fold))
    assert isinstance(result, EvalResult)
    return Outcome(result.step, result.class_names, result.scores)


def _evaluation(settings: TrainSettings, fold: int) -> EvalSettings:
    data, network = settings.data, settings.network
    path = fold_folder(settings.run.folder, fold)
    return EvalSettings(
        checkpoint=(path,),
        dataset_dir=data.records,
        dataset_name=data.dataset_name,
        split=data.split,
        match_labels=data.match_labels,
        on_corrupt=data.on_corrupt,
        num_preprocessing_threads=data.num_preprocessing_threads,
        model=network.model,
        trust_code=network.trust_code,
        output_dir=path / LEFT_OUT_FOLDER,
        write_logits=True,
        report=False,
        **flat_values(settings.gpus),
    )


def _pooled(settings: TrainSettings, split: "Dataset", folds: "Folds", data_sha256: str) -> EvalResult:
    """All images, in the order of the records, each as the run scored it that it was left out of."""
    from finetune.datasets.bad_records import without_undecodable
    from finetune.model.checkpoint import open_checkpoint
    from finetune.runs.trained_network import network_settings

    if settings.data.on_corrupt == "skip":
        split = without_undecodable(split, settings.data.labels_offset)
    folder, num_folds = settings.run.folder, folds.num_folds
    outcomes = [read_outcome(fold_folder(folder, fold)) for fold in range(1, num_folds + 1)]
    if any(outcome.class_names != outcomes[0].class_names for outcome in outcomes):
        raise UserError(f"The classes of the folds in {folder} aren't the same.", "Begin another cross-validation.")
    order = np.argsort(np.argsort(folds.of_records(split), kind="stable"), kind="stable")
    filenames = [name for outcome in outcomes for name in outcome.scores.filenames]
    logits = np.concatenate([outcome.scores.logits for outcome in outcomes])[order]
    labels = np.concatenate([outcome.scores.labels for outcome in outcomes])[order]
    scores = score_batch(logits, labels, [filenames[position] for position in order], keep_logits=True)
    evaluation = _evaluation(settings, 1)
    checkpoint = open_checkpoint(fold_folder(folder, 1), model=settings.network.model)
    return EvalResult(
        checkpoint=checkpoint.prefix,
        checkpoint_name=f"{num_folds} folds",
        step=None,
        network=network_settings(evaluation, checkpoint.prefix),
        tta=evaluation.tta,
        dataset=split,
        data_sha256=data_sha256,
        scores=scores,
        class_names=outcomes[0].class_names,
        output_dir=folder,
        folds=tuple(figures_of(fold, each.step, each.scores) for fold, each in enumerate(outcomes, start=1)),
        label_errors=find_label_errors(np.exp(log_softmax(logits)), labels),
    )
