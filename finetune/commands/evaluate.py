"""`finetune-eval`: the accuracy of a checkpoint on a split, each image counted once."""

import dataclasses
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from finetune.commands.command import EXIT_DONE, run_command, say
from finetune.commands.decisions import check_choice, decided, print_decision
from finetune.commands.embeddings import similar_to_mistakes
from finetune.commands.evaluation_files import make_output_dir, whole_results, write_results
from finetune.commands.evaluation_shares import PROGRAM, merged_evaluation, part_of_split, write_evaluation_share
from finetune.commands.evaluator import Evaluator, open_to_evaluate
from finetune.commands.multilabel_evaluation import evaluate_labels, print_label_result
from finetune.commands.tensorflow_start import start_tensorflow
from finetune.commands.verbs import VERBS
from finetune.errors import UserError
from finetune.evaluation.class_areas import keeps_logits
from finetune.evaluation.comparison import Comparison
from finetune.evaluation.metrics import Scores, wilson_interval
from finetune.evaluation.multilabel_result import MultilabelResult
from finetune.evaluation.result_files import (
    COMPARISON_FILE,
    REPORT_FILE,
    EvalResult,
    append_to_history,
    write_comparison,
    write_differences,
)
from finetune.files.shares import SHARES_FOLDER, Share, remove_shares, whole_share
from finetune.files.whole_files import gone_if_empty
from finetune.files.write_errors import write_errors_told
from finetune.remote.session import bring
from finetune.remote.urls import named, url_of
from finetune.settings.choices import MULTILABEL
from finetune.settings.evaluate import EvalSettings

if TYPE_CHECKING:
    from finetune.datasets.dataset import Dataset
    from finetune.model.checkpoint import Checkpoint

EXIT_BELOW_ACCURACY = 3
SECONDS_BETWEEN_LOOKS = 1.0
SECONDS_BETWEEN_LISTINGS = 10.0  # Of what lies at a URL.

AnyResult: TypeAlias = EvalResult | MultilabelResult

log = logging.getLogger("finetune")


def main(argv: Sequence[str] | None = None, prog: str = "finetune-eval") -> int:
    """The command."""
    return run_command(
        EvalSettings,
        _evaluate_and_print,
        prog=prog,
        argv=argv,
        description=f"{VERBS['eval'].summary} Every image counts once, whatever the batch size.",
    )


def evaluate(settings: EvalSettings, *, part: "Callable[[Dataset], Dataset] | None" = None) -> AnyResult:
    """Scores a split and writes metrics.json, predictions.csv, confusion_matrix.csv, and the report with its plots.

    Where an image has any number of labels there is no confusion matrix.

    Args:
        settings: What is scored, and by what.
        part: Gives the part of the split that counts; None: all of it does.

    Returns:
        Of a share, with `settings.shard`, what its own images came to.

    Raises:
        UserError: What the user can mend: the checkpoint, the data, a network that doesn't fit them; shares that are
            missing, or not of one piece.
    """
    from finetune.model.gpus import use_gpus

    if settings.merge_shards is not None:
        return _merge(settings, settings.merge_shards)
    use_gpus(settings)
    share = settings.share
    if share is not None:
        of_share = Evaluator(settings, open_to_evaluate(settings), part=lambda dataset: part_of_split(dataset, share))
        return _evaluate_share(of_share, share)
    return _evaluate(Evaluator(settings, open_to_evaluate(settings), part=part))


def _merge(settings: EvalSettings, count: int) -> EvalResult:
    """Writes the files of an evaluation whose shares are there, and removes these."""
    result = merged_evaluation(settings, count)
    with write_errors_told():
        make_output_dir(result.output_dir)
        write_results(result, with_report=settings.report)
    remove_shares(result.output_dir / SHARES_FOLDER, count, program=PROGRAM)
    return result


def watch(settings: EvalSettings) -> Iterator[AnyResult]:
    """Evaluates the newest checkpoint of a run and each that comes after it, as it appears.

    Ends when none has appeared for `settings.timeout` seconds; the time of an evaluation doesn't count.

    Raises:
        UserError: As `evaluate`; none appeared at all.
    """
    from finetune.model.gpus import use_gpus

    use_gpus(settings)
    folder = settings.checkpoint[0]
    evaluator = None
    for checkpoint in _new_checkpoints(folder, settings.timeout, settings.checkpoint_prefix):
        if evaluator is None:
            evaluator = Evaluator(settings, checkpoint)
        else:
            evaluator.restore(checkpoint)
        result = _evaluate(evaluator)
        with write_errors_told():
            append_to_history(result.output_dir, result.checkpoint_name, result.step, result.scores.summary())
        yield result
    if evaluator is None:
        raise UserError(
            f"--watch: no checkpoint appeared in {folder} within {settings.timeout:g} seconds.",
            "Give the run's folder with --checkpoint, and a longer --timeout if it needs one.",
        )


def compare(settings: EvalSettings) -> tuple[Comparison, Path]:
    """Scores a split with the two runs of `settings.compare`; writes comparison.json and differences.csv.

    Returns:
        The comparison, and the folder of the two files.

    Raises:
        UserError: As `evaluate`; the runs don't have the same classes.
    """
    from finetune.model.checkpoint import open_checkpoint
    from finetune.model.gpus import use_gpus

    use_gpus(settings)
    checkpoints = [
        open_checkpoint(run, name_prefix=settings.checkpoint_prefix, argument="--compare", model=settings.model)
        for run in settings.compare
    ]
    first = Evaluator(settings, checkpoints[0])
    second = Evaluator(settings, checkpoints[1], class_names=first.class_names)
    output_dir = settings.output_dir or Path(second.checkpoint.prefix).parent / f"compare_{settings.split}"
    with gone_if_empty(output_dir), write_errors_told():
        make_output_dir(output_dir)
        comparison = Comparison(first.score(), second.score())
        with whole_results(output_dir, last=COMPARISON_FILE) as staging:
            runs = [named(evaluator.checkpoint.prefix) for evaluator in (first, second)]
            write_comparison(staging, runs, comparison)
            write_differences(staging, first.class_names, comparison)
    return comparison, output_dir


def _evaluate(evaluator: Evaluator) -> AnyResult:
    """Scores the split and writes the files."""
    settings = evaluator.settings
    if evaluator.network.task == MULTILABEL:
        return evaluate_labels(evaluator)
    check_choice(settings, evaluator.class_names, evaluator.run_folder)
    with gone_if_empty(evaluator.output_dir), write_errors_told():
        make_output_dir(evaluator.output_dir)
        result = decided(_result(evaluator), settings, lambda: evaluator.weights_sha256)
        if settings.nearest is not None:
            result = dataclasses.replace(
                result, similar=similar_to_mistakes(evaluator, result.scores, settings.nearest)
            )
        write_results(result, with_report=settings.report)
    return result


def _evaluate_share(evaluator: Evaluator, share: Share) -> EvalResult:
    """Scores one share of the split, and keeps what its images came to."""
    place = evaluator.output_dir / SHARES_FOLDER
    with whole_share(place, share, flag="--output-dir", program=PROGRAM) as folder:
        result = _result(evaluator)
        write_evaluation_share(folder, share, result, evaluator.weights_sha256, evaluator.settings)
    return result


def _result(evaluator: Evaluator) -> EvalResult:
    settings, of_part = evaluator.settings, evaluator.dataset
    # Where they are few enough for curves and decisions: of a share, those of all together.
    num_images = evaluator.num_images if of_part.whole is None else of_part.whole.num_examples
    keeps = keeps_logits(num_images, len(evaluator.class_names))
    return EvalResult(
        **evaluator.evaluated,
        scores=evaluator.score(keep_logits=settings.write_logits or keeps),
        writes_logits=settings.write_logits,
        explainer=evaluator.explainer,
    )


def _evaluate_and_print(settings: EvalSettings) -> int:
    start_tensorflow()
    if settings.compare:
        _print_comparison(settings, *compare(settings))
        return EXIT_DONE
    if settings.share is not None:
        if settings.chooses:
            log.info("--threshold and --calibrate choose when all shares are there: give them with --merge-shards.")
        _print_share(evaluate(settings), settings.share)
        return EXIT_DONE
    for result in watch(settings) if settings.watch else [evaluate(settings)]:
        print_result(result, with_report=settings.report)
    least = settings.assert_accuracy_at_least
    if least is not None and isinstance(result, EvalResult) and result.scores.accuracy < least:
        log.error("The accuracy %.6g is below --assert-accuracy-at-least %g.", result.scores.accuracy, least)
        return EXIT_BELOW_ACCURACY
    return EXIT_DONE


def _print_share(result: AnyResult, share: Share) -> None:
    """What a job tells of its share."""
    assert isinstance(result, EvalResult)
    scores = result.scores
    say(f"share {share} of {result.dataset.split}: {scores.num_right} of {scores.num_examples} images right")
    kept = result.output_dir / SHARES_FOLDER / share.folder_name
    say(f"kept in {kept}; when all are there: --merge-shards {share.count}")


def print_result(result: AnyResult, *, with_report: bool) -> None:
    """The lines for the user."""
    if isinstance(result, MultilabelResult):
        print_label_result(result, with_report=with_report)
        return
    scores = result.scores
    say(f"{result.checkpoint_name} on {result.dataset.split}:")
    say(f"accuracy {accuracy_in_words(scores)}")
    if result.dataset.num_skipped:
        say(f"skipped {result.dataset.num_skipped} records that can't be read")
    if result.caution:
        say(f"caution: {result.caution}")
    say(f"top-{min(5, scores.num_classes)} accuracy {scores.top_5_accuracy:.4f}")
    say(f"loss {scores.loss:.4f}")
    print_decision(result)
    say(f"written to {result.output_dir / REPORT_FILE if with_report else result.output_dir}")


def _print_comparison(settings: EvalSettings, comparison: Comparison, output_dir: Path) -> None:
    first, second = settings.compare
    test = comparison.mcnemar
    say(f"a: {first}: accuracy {accuracy_in_words(comparison.first)}")
    say(f"b: {second}: accuracy {accuracy_in_words(comparison.second)}")
    say(f"right: only a {comparison.only_first_right}, only b {comparison.only_second_right} images")
    say(f"McNemar's test ({test.method}): p = {test.p_value:.3g}")
    say(f"{len(comparison.differing)} images that they take for different classes: written to {output_dir}")


def accuracy_in_words(scores: Scores) -> str:
    """The accuracy with its interval."""
    low, high = wilson_interval(scores.num_right, scores.num_examples)
    of_all = f"{scores.num_right} of {scores.num_examples} images"
    return f"{scores.accuracy:.4f} ({of_all}; 95 % interval {low:.4f} to {high:.4f})"


def _new_checkpoints(folder: Path, timeout_seconds: float, name_prefix: str) -> Iterator["Checkpoint"]:
    """The newest checkpoint of a run and those that appear after it, until none does for so long."""
    from finetune.model.checkpoint import Checkpoint, checkpoints_by_step

    seen = set(checkpoints_by_step(folder)[:-1])
    last_seen = time.monotonic()
    while time.monotonic() - last_seen < timeout_seconds:
        new = [prefix for prefix in checkpoints_by_step(folder) if prefix not in seen]
        if not new:
            time.sleep(min(_seconds_between_looks(folder), timeout_seconds))
            bring(folder)
            continue
        seen.add(new[0])
        yield Checkpoint(new[0], name_prefix=name_prefix)
        last_seen = time.monotonic()


def _seconds_between_looks(folder: Path) -> float:
    return SECONDS_BETWEEN_LOOKS if url_of(folder) is None else SECONDS_BETWEEN_LISTINGS
