"""`finetune-eval`: the accuracy of a checkpoint on a split, each image counted once."""

import contextlib
import dataclasses
import functools
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from finetune.commands.command import EXIT_DONE, run_command, say
from finetune.commands.decisions import check_choice, decided, print_decision, refuse_unwritable
from finetune.commands.evaluation_shares import PROGRAM, merged_evaluation, part_of_split, write_evaluation_share
from finetune.commands.label_thresholds import chosen_thresholds
from finetune.commands.multilabel_evaluation import print_label_result, refuse_of_one_label, write_label_results
from finetune.commands.tensorflow_start import start_tensorflow
from finetune.commands.verbs import VERBS
from finetune.errors import UserError
from finetune.evaluation.class_areas import keeps_logits
from finetune.evaluation.comparison import Comparison
from finetune.evaluation.cross_validation import write_folds
from finetune.evaluation.label_errors import write_label_errors
from finetune.evaluation.metrics import Scores, wilson_interval
from finetune.evaluation.multilabel_metrics import MultilabelScores
from finetune.evaluation.multilabel_result import MultilabelResult
from finetune.evaluation.result_files import (
    COMPARISON_FILE,
    METRICS_FILE,
    REPORT_FILE,
    EvalResult,
    append_to_history,
    class_names_of,
    write_comparison,
    write_confusion_matrix,
    write_differences,
    write_metrics,
    write_predictions,
)
from finetune.evaluation.similar_images import SimilarImages
from finetune.files.folder_lock import sole_writer
from finetune.files.shares import SHARES_FOLDER, Share, remove_shares, whole_share
from finetune.files.whole_files import gone_if_empty, make_writable, whole_set
from finetune.files.write_errors import write_errors_told
from finetune.nets import spec_of
from finetune.notices import tell_once
from finetune.remote.session import bring
from finetune.remote.urls import named, url_of
from finetune.runs.label_thresholds import LABEL_THRESHOLDS_FILE, LabelThresholds, thresholds_in_use
from finetune.runs.run_folder import warn_of_other_rules
from finetune.runs.trained_network import (
    names_of_outputs,
    network_settings,
    restore_networks,
    restore_weights,
    weights_sha256,
)
from finetune.settings.choices import MULTILABEL, NO_DECISION
from finetune.settings.evaluate import EvalSettings

if TYPE_CHECKING:
    from finetune.datasets.dataset import Dataset
    from finetune.datasets.decoding import ReadOptions
    from finetune.evaluation.explainer import Explainer
    from finetune.model.checkpoint import Checkpoint

EXIT_BELOW_ACCURACY = 3
SECONDS_BETWEEN_LOOKS = 1.0
SECONDS_BETWEEN_LISTINGS = 10.0  # Of what lies at a URL.

AnyResult: TypeAlias = EvalResult | MultilabelResult
Passed = TypeVar("Passed", Scores, MultilabelScores)

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
        of_share = _Evaluator(settings, _open(settings), part=lambda dataset: part_of_split(dataset, share))
        return of_share.evaluate_share(share)
    return _Evaluator(settings, _open(settings), part=part).evaluate()


def _merge(settings: EvalSettings, count: int) -> EvalResult:
    """Writes the files of an evaluation whose shares are there, and removes these."""
    result = merged_evaluation(settings, count)
    with write_errors_told():
        _make_writable(result.output_dir)
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
            evaluator = _Evaluator(settings, checkpoint)
        else:
            evaluator.restore(checkpoint)
        result = evaluator.evaluate()
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
    first = _Evaluator(settings, checkpoints[0])
    second = _Evaluator(settings, checkpoints[1], class_names=first.class_names)
    output_dir = settings.output_dir or Path(second.checkpoint.prefix).parent / f"compare_{settings.split}"
    with gone_if_empty(output_dir), write_errors_told():
        _make_writable(output_dir)
        comparison = Comparison(first.score(), second.score())
        with _whole_results(output_dir, last=COMPARISON_FILE) as staging:
            runs = [named(evaluator.checkpoint.prefix) for evaluator in (first, second)]
            write_comparison(staging, runs, comparison)
            write_differences(staging, first.class_names, comparison)
    return comparison, output_dir


class _Evaluator:
    """A network and a split: scores one checkpoint of the network after another.

    `class_names` are the network's, in the order of its outputs, unless they are given in another order. `part` gives
    the part of the split that counts.
    """

    def __init__(
        self,
        settings: EvalSettings,
        checkpoint: "Checkpoint",
        class_names: Sequence[str] | None = None,
        part: "Callable[[Dataset], Dataset] | None" = None,
    ) -> None:
        from finetune.datasets.bad_records import without_undecodable
        from finetune.datasets.class_matching import match_labels, output_order
        from finetune.datasets.dataset import find_dataset
        from finetune.evaluation.scoring import inference_function, with_outputs_in_order
        from finetune.preprocessing import get_preprocessing

        self._settings = settings
        self.checkpoint = checkpoint
        self._network = network_settings(settings, checkpoint.prefix)
        if self._network.task == MULTILABEL:
            refuse_of_one_label(settings)
        self._preprocessing = get_preprocessing(self._network.preprocessing, resize=self._network.resize)
        offset, how = self._network.labels_offset, settings.match_labels
        dataset = find_dataset(
            settings.dataset_dir,
            settings.dataset_name,
            settings.split,
            labels_offset=offset,
            image_key=self._network.image_key,
            label_key=self._network.label_key,
            on_corrupt=settings.on_corrupt,
            task=self._network.task,
        )
        if dataset.schema.has_weights:
            tell_once(f"{settings.dataset_dir}: images have weights, which count in training alone.")
        dataset = dataset if part is None else part(dataset)
        names = names_of_outputs(checkpoint, spec_of(self._network), offset) if how != "index" else None
        self._has_class_names = names is not None
        own_names = list(names) if names is not None else class_names_of(dataset, offset)
        self.class_names = own_names if class_names is None else list(class_names)
        self._dataset = match_labels(
            dataset,
            None if names is None and class_names is None else self.class_names,
            checkpoint.prefix,
            labels_offset=offset,
            how=how,
            may_lack_classes=True,
        )
        if settings.on_corrupt == "skip":
            self._dataset = without_undecodable(self._dataset, offset)
        warn_of_other_rules(self._dataset.image_rules, Path(checkpoint.prefix).parent)
        copies = restore_networks(self._network, len(own_names), checkpoint, settings.num_clones)
        order = output_order(own_names, self.class_names, checkpoint.prefix, how)
        self._models = list(copies.values())
        self._infers = [
            with_outputs_in_order(inference_function(model, device), order) for device, model in copies.items()
        ]
        self._explainer = self._make_explainer(settings.explain) if settings.explain is not None else None

    def restore(self, checkpoint: "Checkpoint") -> None:
        """Goes over to another checkpoint of the same network."""
        for model in self._models:
            restore_weights(model, self._network, checkpoint)
        self.checkpoint = checkpoint

    @functools.cached_property
    def _data_sha256(self) -> str:
        from finetune.datasets.dataset import content_hash

        return content_hash(self._dataset)

    def evaluate(self) -> AnyResult:
        """Scores the split and writes the files."""
        output_dir = self._output_dir()
        if self._network.task == MULTILABEL:
            return self._evaluate_labels(output_dir)
        check_choice(self._settings, self.class_names, Path(self.checkpoint.prefix).parent)
        with gone_if_empty(output_dir), write_errors_told():
            _make_writable(output_dir)
            result = decided(self._result(output_dir), self._settings, lambda: weights_sha256(self._models[0]))
            if self._settings.nearest is not None:
                result = dataclasses.replace(result, similar=self._similar(result.scores, self._settings.nearest))
            write_results(result, with_report=self._settings.report)
        return result

    def _evaluate_labels(self, output_dir: Path) -> MultilabelResult:
        """As `evaluate`, where an image has any number of labels; keeps the thresholds that are asked for."""
        if self._settings.rule is not None:
            refuse_unwritable(Path(self.checkpoint.prefix).parent / LABEL_THRESHOLDS_FILE)
        with gone_if_empty(output_dir), write_errors_told():
            _make_writable(output_dir)
            result, chosen = self._label_result(output_dir)
            with _whole_results(output_dir, last=METRICS_FILE) as staging:
                write_label_results(dataclasses.replace(result, output_dir=staging), with_report=self._settings.report)
            if chosen is not None:
                chosen.write(result.run_folder)
        return result

    def _label_result(self, output_dir: Path) -> tuple[MultilabelResult, LabelThresholds | None]:
        """What the split comes to, and the thresholds that are chosen on it; None: none are."""
        from finetune.evaluation.scoring import score_labels

        settings, prefix, chosen = self._settings, self.checkpoint.prefix, None
        scores = self._scored_by(score_labels)
        if settings.rule is None:
            given = NO_DECISION if settings.threshold == NO_DECISION else settings.threshold_by_hand
            thresholds, by = thresholds_in_use(given, prefix, self.class_names)
        else:
            chosen = chosen_thresholds(
                scores,
                self.class_names,
                settings.rule,
                checkpoint=prefix,
                split=self._dataset.split,
                data_sha256=self._data_sha256,
            )
            thresholds, by = chosen.of_classes(self.class_names), f"chosen by {chosen}"
        result = MultilabelResult(
            checkpoint=prefix,
            checkpoint_name=_name(self.checkpoint),
            step=self.checkpoint.step(),
            network=self._network,
            tta=settings.tta,
            dataset=self._dataset,
            data_sha256=self._data_sha256,
            scores=scores,
            thresholds=thresholds,
            thresholds_by=by,
            class_names=self.class_names,
            output_dir=output_dir,
        )
        return result, chosen

    def _similar(self, scores: Scores, num_nearest: int) -> SimilarImages | None:
        from finetune.commands.embeddings import similar_to_mistakes
        from finetune.embeddings.pooled_features import PooledFeatures
        from finetune.embeddings.training_images import FeatureNetwork

        network = FeatureNetwork(
            pooled=PooledFeatures(self._models[0], "--nearest"),
            network=self._network,
            options=self._read_options(),
            checkpoint=self.checkpoint.prefix,
            class_names=self.class_names,
            has_class_names=self._has_class_names,
            weights_sha256=weights_sha256(self._models[0]),
        )
        return similar_to_mistakes(scores, self._dataset, network, num_nearest)

    def evaluate_share(self, share: Share) -> EvalResult:
        """Scores one share of the split, and keeps what its images came to."""
        output_dir = self._output_dir()
        with whole_share(output_dir / SHARES_FOLDER, share, flag="--output-dir", program=PROGRAM) as folder:
            result = self._result(output_dir)
            write_evaluation_share(folder, share, result, weights_sha256(self._models[0]), self._settings)
        return result

    def _output_dir(self) -> Path:
        return self._settings.output_dir or Path(self.checkpoint.prefix).parent / f"eval_{self._settings.split}"

    def _result(self, output_dir: Path) -> EvalResult:
        return EvalResult(
            checkpoint=self.checkpoint.prefix,
            checkpoint_name=_name(self.checkpoint),
            step=self.checkpoint.step(),
            network=self._network,
            tta=self._settings.tta,
            dataset=self._dataset,
            data_sha256=self._data_sha256,
            scores=self.score(keep_logits=self._settings.write_logits or self._keeps_logits()),
            class_names=self.class_names,
            output_dir=output_dir,
            writes_logits=self._settings.write_logits,
            explainer=self._explainer,
        )

    def _make_explainer(self, method: str) -> "Explainer":
        from finetune.evaluation.explainer import Explainer

        return Explainer(self._models[0], method, self._read_options())

    def _keeps_logits(self) -> bool:
        """Whether they are few enough for curves and decisions: of a share, those of all together."""
        most, dataset = self._settings.max_num_batches, self._dataset.whole or self._dataset
        num_images = (
            dataset.num_examples if most is None else min(dataset.num_examples, most * self._settings.batch_size)
        )
        return keeps_logits(num_images, len(self.class_names))

    def _read_options(self) -> "ReadOptions":
        from finetune.datasets.decoding import ReadOptions

        return ReadOptions(
            self._preprocessing,
            self._models[0].image_size,
            self._models[0].channels,
            labels_offset=self._network.labels_offset,
            num_parallel_calls=self._settings.num_preprocessing_threads,
        )

    def score(self, *, keep_logits: bool = False) -> Scores:
        """One pass over the split."""
        from finetune.evaluation.scoring import score

        return self._scored_by(functools.partial(score, keep_logits=keep_logits))

    def _scored_by(self, scorer: Callable[..., Passed]) -> Passed:
        """What a scorer makes of the split."""
        from finetune.datasets.bad_records import reading
        from finetune.datasets.pipeline import evaluation_batches
        from finetune.evaluation.test_time_augmentation import with_mirror_images
        from finetune.progress import progress

        settings, offset = self._settings, self._network.labels_offset
        batches = evaluation_batches(self._dataset, self._read_options(), batch_size=settings.batch_size)
        num_images = self._dataset.num_examples
        if settings.max_num_batches is not None:
            batches = batches.take(settings.max_num_batches)
            num_images = min(num_images, settings.max_num_batches * settings.batch_size)
        infers = self._infers
        if settings.tta == "flip":
            infers = [with_mirror_images(infer, self._network.task) for infer in infers]
        with reading(self._dataset, offset), progress(f"Evaluating {settings.split}", num_images) as advance:
            return scorer(infers, batches, on_batch=advance)


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


def _open(settings: EvalSettings) -> "Checkpoint":
    """The checkpoint to evaluate, or the mean of several."""
    from finetune.model.checkpoint import open_checkpoint
    from finetune.runs.mean_checkpoint import MeanCheckpoint, last_checkpoints

    if settings.average is not None:
        return MeanCheckpoint(last_checkpoints(settings.checkpoint[0], settings.average, settings.checkpoint_prefix))
    checkpoints = [
        open_checkpoint(path, name_prefix=settings.checkpoint_prefix, model=settings.model)
        for path in settings.checkpoint
    ]
    return MeanCheckpoint(checkpoints) if len(checkpoints) > 1 else checkpoints[0]


def _name(checkpoint: "Checkpoint") -> str:
    from finetune.runs.mean_checkpoint import MeanCheckpoint

    if isinstance(checkpoint, MeanCheckpoint):
        return f"mean of {', '.join(Path(prefix).name for prefix in checkpoint.prefixes)}"
    return Path(checkpoint.prefix).name


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


def write_results(result: EvalResult, *, with_report: bool) -> None:
    """Writes all files of a result, together."""
    with _whole_results(result.output_dir, last=METRICS_FILE) as staging:
        staged = dataclasses.replace(result, output_dir=staging)
        write_metrics(staged)
        write_predictions(staged)
        write_confusion_matrix(staged)
        if staged.folds:
            write_folds(staging, staged.folds)
        if staged.label_errors is not None:
            write_label_errors(staging, staged.label_errors, staged.scores.filenames, staged.class_names)
        if with_report:
            from finetune.evaluation.report import write_report

            write_report(staged)


@contextlib.contextmanager
def _whole_results(output_dir: Path, *, last: str) -> Iterator[Path]:
    """A folder for files that appear together, and after those of an evaluation that is just writing its own there."""
    name = Path(last).stem
    with (
        sole_writer(output_dir / name, flag="--output-dir", program=PROGRAM, wait=True),
        whole_set(output_dir, name, last=last) as staging,
    ):
        yield staging


def _make_writable(folder: Path) -> None:
    try:
        make_writable(folder)
    except OSError as error:
        message = f"--output-dir: {folder} can't be written: {error.strerror}."
        raise UserError(message, "Give another --output-dir.") from error
