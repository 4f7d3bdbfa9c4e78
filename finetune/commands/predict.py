"""`finetune-predict`: the classes of image files.

Exit status 4 says that all went well but for files that could not be read: they have error rows.
"""

import contextlib
import dataclasses
import io
import logging
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TextIO, cast

from finetune.commands.command import EXIT_DONE, run_command, standard_output
from finetune.commands.embeddings import feature_network_of, keep_features, nearest_images
from finetune.commands.prediction_shares import (
    PROGRAM,
    images_of,
    merged_predictions,
    place_of_shares,
    write_prediction_share,
)
from finetune.commands.tensorflow_start import start_tensorflow
from finetune.commands.verbs import VERBS
from finetune.datasets.remarks import changed_images
from finetune.embeddings.feature_files import refuse_without_parquet
from finetune.errors import UserError, visible
from finetune.files.folder_lock import sole_writer
from finetune.files.shares import Share, remove_shares, whole_share
from finetune.files.whole_files import whole_file
from finetune.files.write_errors import write_errors_told
from finetune.model.openvino_network import load_openvino
from finetune.prediction.classifier import Classifier, restore_classifier
from finetune.prediction.find_images import STANDARD_INPUT, find_images, left_out
from finetune.prediction.multilabel_writers import LABEL_WRITERS
from finetune.prediction.writers import WRITERS, Asked, Prediction
from finetune.progress import progress
from finetune.remote.urls import named, with_urls
from finetune.settings.predict import PredictSettings
from finetune.settings.task import refuse_of_one_label

EXIT_UNREADABLE_IMAGES = 4

FORMAT_BY_SUFFIX = {".csv": "csv", ".json": "json", ".txt": "lines"}

log = logging.getLogger("finetune")


def main(argv: Sequence[str] | None = None, prog: str = "finetune-predict") -> int:
    """The command."""
    return run_command(
        PredictSettings,
        _predict_and_write,
        prog=prog,
        argv=argv,
        description=f"{VERBS['predict'].summary} A file that can't be read gets an error in place of a "
        f"class, and the exit status is {EXIT_UNREADABLE_IMAGES}.",
    )


def predict(settings: PredictSettings) -> Iterator[Prediction]:
    """Predicts the classes of image files, in their order, as they are asked for. `format` is not used.

    With `settings.explain` a picture of each guess has been written when its prediction is handed out.

    With `settings.shard` the images are those of the share; with `settings.merge_shards` the predictions are those that
    the command has kept of the shares, beside `output`, which is not used otherwise.

    Raises:
        UserError: No images, or nothing of a given name; what `restore_classifier` refuses; shares that are missing, or
            not of one piece.
    """
    if settings.merge_shards is not None:
        return merged_predictions(settings, settings.merge_shards)
    share = settings.share
    filenames = find_images(settings.images) if share is None else images_of(settings, share)[1]
    return _classified(_restored(settings), filenames, settings)


def _restored(settings: PredictSettings) -> Classifier:
    """The classifier; nothing is read where what is to compute it isn't installed."""
    if settings.engine == "openvino":
        load_openvino(f"--engine {settings.engine}")
    return restore_classifier(settings, settings.num_clones)


def _classified(classifier: Classifier, filenames: Iterable[str], settings: PredictSettings) -> Iterator[Prediction]:
    from finetune.prediction.heat_maps import HeatMaps
    from finetune.prediction.stream import classify

    if classifier.is_multilabel:
        _refuse_of_one_label(settings)
    wanted_by = "--features" if settings.features is not None else "--nearest" if settings.nearest is not None else None
    network = feature_network_of(classifier, wanted_by) if wanted_by is not None else None
    heat_maps = None
    if settings.explain is not None and settings.heat_map_dir is not None:
        heat_maps = HeatMaps(classifier, settings.explain, settings.heat_map_dir, settings.top_k)
    predictions = classify(
        classifier,
        filenames,
        top_k=settings.top_k,
        batch_size=settings.batch_size,
        num_threads=settings.num_preprocessing_threads,
        reject_below=settings.reject_below,
        engine=settings.engine,
        features=network.pooled if network is not None else None,
        nearest=nearest_images(network, settings) if network is not None else None,
        heat_maps=heat_maps,
    )
    if network is None or settings.features is None:
        return predictions
    return keep_features(predictions, settings.features, network)


def _predict_and_write(settings: PredictSettings) -> int:
    output_format = _choose_format(settings)
    if settings.output is not None:
        _refuse_no_file(settings.output, "--output")
    if settings.features is not None:
        _refuse_no_file(settings.features, "--features")
        refuse_without_parquet(settings.features, "--features")
    if settings.share is not None and settings.output is not None:
        return _predict_share(settings, settings.share, settings.output)
    if settings.merge_shards is None:
        find_images(settings.images)  # What isn't there is told before TensorFlow has started.
        start_tensorflow()
    tally = _Tally()
    predictions, write = _predictions_and_writer(settings, output_format)
    with _open_output(settings.output) as file, _progress(settings) as advance:
        write(map(_told, tally.count(predictions, advance)), file)
    if settings.merge_shards is not None and settings.output is not None:
        remove_shares(place_of_shares(settings.output), settings.merge_shards, program=PROGRAM)
    for remark in (*changed_images(tally.changed), *left_out(settings.images)):
        log.info("%s", remark)
    log.info("%d images predicted, %d could not be read.", tally.num_predicted, tally.num_unreadable)
    if settings.reject_below is not None:
        log.info("%d of them rejected, below %g.", tally.num_rejected, settings.reject_below)
    return EXIT_UNREADABLE_IMAGES if tally.num_unreadable else EXIT_DONE


def _predictions_and_writer(
    settings: PredictSettings, output_format: str
) -> tuple[Iterator[Prediction], Callable[[Iterable[Prediction], TextIO], None]]:
    """What the images show, and what writes it in the form that the network's task has."""
    write = WRITERS[output_format]
    asked = Asked(
        top_k=settings.top_k,
        may_reject=settings.reject_below is not None,
        num_nearest=settings.nearest or 0,
        is_explained=settings.explain is not None,
    )

    def write_guesses(predictions: Iterable[Prediction], file: TextIO) -> None:
        write(predictions, file, asked)

    if settings.merge_shards is not None:
        return merged_predictions(settings, settings.merge_shards), write_guesses
    classifier = _restored(settings)
    predictions = _classified(classifier, find_images(settings.images), settings)
    if classifier.is_multilabel:
        names, write_labels = classifier.class_names, LABEL_WRITERS[output_format]
        return predictions, lambda each, file: write_labels(each, file, names)
    return predictions, write_guesses


def _refuse_of_one_label(settings: PredictSettings) -> None:
    """Refuses what is of networks that tell one label an image."""
    only_single_label = {
        "--top-k": settings.top_k != 1,
        "--shard": settings.shard is not None,
        "--reject-below": settings.reject_below is not None,
        "--features": settings.features is not None,
        "--nearest": settings.nearest is not None,
        "--explain": settings.explain is not None,
    }
    refuse_of_one_label(only_single_label, "Leave it out: all classes that reach their thresholds are told.")


def _predict_share(settings: PredictSettings, share: Share, output: Path) -> int:
    """Keeps the predictions of one share. The exit status for files that can't be read is that of the whole."""
    filenames, own = images_of(settings, share)
    start_tensorflow()
    tally, place = _Tally(), place_of_shares(output)
    with (
        whole_share(place, share, flag="--output", program=PROGRAM) as folder,
        progress(f"Predicting share {share}", len(own)) as advance,
    ):
        classifier = _restored(settings)
        predictions = tally.count(_classified(classifier, own, settings), advance)
        write_prediction_share(folder, share, filenames, predictions, classifier, settings)
    counts = f"{tally.num_predicted} images predicted, {tally.num_unreadable} could not be read"
    log.info("Share %s of %d images: %s.", share, len(filenames), counts)
    log.info("Kept in %s; when all are there: --merge-shards %d", place / share.folder_name, share.count)
    return EXIT_DONE


def _told(prediction: Prediction) -> Prediction:
    """By its URL where it is of a copy."""
    error = None if prediction.error is None else with_urls(prediction.error)
    return dataclasses.replace(prediction, filename=named(prediction.filename), error=error)


def _refuse_no_file(path: Path, flag: str) -> None:
    if path.is_dir():
        raise UserError(f"{flag}: {path} is a folder.", "Name a file in it.")
    if not path.parent.is_dir():
        raise UserError(f"{flag}: {path} can't be written: there is no folder {path.parent}.", "Make it first.")


def _choose_format(settings: PredictSettings) -> str:
    if settings.format is not None:
        return settings.format
    if settings.output is None:
        return "lines"
    suffix = settings.output.suffix.lower()
    if suffix not in FORMAT_BY_SUFFIX:
        raise UserError(
            f"--output: {settings.output} ends in none of {', '.join(FORMAT_BY_SUFFIX)}.",
            f"Name the format with --format {'|'.join(WRITERS)}.",
        )
    return FORMAT_BY_SUFFIX[suffix]


class _Tally:
    """Counts predictions as they pass."""

    def __init__(self) -> None:
        self.num_predicted = 0
        self.num_unreadable = 0
        self.num_rejected = 0
        self.changed: Counter[str] = Counter()

    def count(self, predictions: Iterable[Prediction], advance: Callable[[int], None]) -> Iterator[Prediction]:
        for prediction in predictions:
            if prediction.error is None:
                self.num_predicted += 1
            else:
                self.num_unreadable += 1
            self.num_rejected += prediction.is_rejected
            self.changed.update(prediction.changes)
            yield prediction
            advance(1)


class _Terminal(io.TextIOBase):
    """A terminal, to which control characters in names go as escapes."""

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def write(self, text: str) -> int:
        return self._file.write(visible(text))


@contextlib.contextmanager
def _open_output(path: Path | None) -> Iterator[TextIO]:
    """A file to write to that gets its name when it is whole, or standard output."""
    if path is None:
        with standard_output() as file:
            yield cast(TextIO, _Terminal(file)) if file.isatty() else file
        return
    try:
        with (
            sole_writer(path, flag="--output", program=PROGRAM),
            write_errors_told(),
            whole_file(path, newline="") as file,
        ):
            yield file
    except OSError as error:
        raise UserError(f"--output: {path} can't be written: {error.strerror}.") from error


@contextlib.contextmanager
def _progress(settings: PredictSettings) -> Iterator[Callable[[int], None]]:
    """A bar, unless the end isn't known or the predictions themselves run over the screen."""
    if (
        STANDARD_INPUT in settings.images
        or settings.merge_shards is not None
        or (settings.output is None and sys.stdout.isatty())
    ):
        yield lambda num_images: None
        return
    with progress("Predicting", sum(1 for _ in find_images(settings.images))) as advance:
        yield advance
