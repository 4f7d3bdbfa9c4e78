"""`finetune-export`: a checkpoint in a format that other programs run, measured against the network it was made of."""

import dataclasses
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.commands.command import run_command, say
from finetune.commands.tensorflow_start import start_tensorflow
from finetune.commands.verbs import VERBS
from finetune.errors import UserError
from finetune.exports.signatures import of_labels
from finetune.exports.staged_output import staged_output
from finetune.files.whole_files import write_json
from finetune.prediction.classifier import restore_classifier
from finetune.runs.run_folder import warn_of_other_rules
from finetune.settings.augmentation import AugmentationSettings
from finetune.settings.choices import CALIBRATION_SPLIT
from finetune.settings.export import ExportSettings
from finetune.types import Array

if TYPE_CHECKING:
    from finetune.datasets.dataset import Dataset
    from finetune.exports.exported import Exported
    from finetune.exports.measure import Measured
    from finetune.prediction.classifier import Classifier

TAKES_FILES = "saved_model"
SOFTMAX_FORMATS = ("keras", "keras-weights")

DESCRIPTION_FILE = "export.json"
PREPARATION_PAGE = "docs/preparing_images.md"

log = logging.getLogger("finetune")


@dataclasses.dataclass(frozen=True)
class ExportResult:
    """What was written.

    Attributes:
        output_dir: The folder.
        measured: The network, then each exported classifier, on the same images.
        num_images: How many images they were measured on.
        split: Of these images; None: they were made up.
        caution: Words on how the accuracy on them flatters the checkpoint; None where nothing is known.
    """

    output_dir: Path
    measured: "tuple[Measured, ...]"
    num_images: int
    split: str | None
    caution: str | None


def main(argv: Sequence[str] | None = None, prog: str = "finetune-export") -> int:
    """The command."""
    return run_command(
        ExportSettings,
        _export_and_print,
        prog=prog,
        argv=argv,
        description=f"{VERBS['export'].summary} Measures how near the result is to the network.",
    )


def export(settings: ExportSettings) -> ExportResult:
    """Writes a classifier in another format, and measures it there before it gets its final name.

    Raises:
        UserError: An output folder that isn't free; what `restore_classifier` refuses; records of other classes; an
            exported classifier that computes something else.
    """
    import tensorflow as tf

    from finetune.datasets.description import LABELS_FILE, write_labels

    with staged_output(settings.output_dir, DESCRIPTION_FILE, overwrite=settings.overwrite) as folder:
        classifier = restore_classifier(settings)
        # Whatever its run computed in, for the devices that exports run on are others.
        classifier.model.compute_dtype = tf.float32
        if classifier.is_multilabel and settings.format in SOFTMAX_FORMATS:
            raise UserError(
                f"--format {settings.format} is of networks that end in a softmax; this one tells several labels an "
                "image by a sigmoid each.",
                "Take --format saved_model, tflite, onnx or openvino.",
            )
        dataset = _find_dataset(settings, classifier, settings.split) if settings.dataset_dir else None
        if dataset is not None:
            warn_of_other_rules(dataset.image_rules, Path(classifier.checkpoint.prefix).parent)
        write_labels(folder / LABELS_FILE, classifier.class_names)
        calibration = _calibration_set(settings, classifier)
        exported = _write(settings, classifier, folder, calibration)
        result = _measure(settings, classifier, dataset, exported)
        write_json(folder / DESCRIPTION_FILE, _describe(settings, classifier, calibration, exported, result))
    return result


def _export_and_print(settings: ExportSettings) -> None:
    start_tensorflow()
    result = export(settings)
    source = f"{result.num_images} images of {result.split}" if result.split else "made-up images, no --dataset-dir"
    is_multilabel = any(one.mean_average_precision is not None for one in result.measured)
    measure = "mAP" if is_multilabel else "accuracy"
    say(f"{'':15} {'size':>9}  {measure:>8}  largest difference of a probability ({source})")
    for one in result.measured:
        figure = one.mean_average_precision if is_multilabel else one.accuracy
        accuracy = "-" if figure is None else f"{figure:.4f}"
        difference = f"{one.largest_difference:.1e}" if one.file else ""
        say(f"{one.name:15} {one.num_bytes / 1e6:6.1f} MB  {accuracy:>8}  {difference}".rstrip())
    if result.caution:
        say(f"caution: {result.caution}")
    say(f"written to {result.output_dir}")
    if settings.format != TAKES_FILES:
        say(
            f"It takes prepared images: {result.output_dir / DESCRIPTION_FILE} says how (image_preparation), "
            f"{PREPARATION_PAGE} does it with NumPy and Pillow."
        )


def _find_dataset(settings: ExportSettings, classifier: "Classifier", split: str) -> "Dataset":
    from finetune.datasets.class_matching import match_labels
    from finetune.datasets.dataset_search import find_dataset
    from finetune.runs.trained_network import tell_by_number

    assert settings.dataset_dir is not None
    dataset = find_dataset(
        settings.dataset_dir,
        settings.dataset_name,
        split,
        labels_offset=classifier.network.labels_offset,
        image_key=classifier.network.image_key,
        label_key=classifier.network.label_key,
        task=classifier.network.task,
    )
    if classifier.has_class_names and settings.match_labels != "index":
        return match_labels(
            dataset,
            classifier.class_names,
            classifier.checkpoint.prefix,
            labels_offset=classifier.network.labels_offset,
            how=settings.match_labels,
            may_lack_classes=True,
        )
    num_classes = dataset.num_classes - classifier.network.labels_offset
    if num_classes != classifier.model.num_classes:
        raise UserError(
            f"--dataset-dir: {dataset.name} has {num_classes} classes, but {classifier.checkpoint.prefix} has "
            f"{classifier.model.num_classes} outputs.",
            "Give the records that it was trained on.",
        )
    if not classifier.has_class_names:
        tell_by_number(classifier.checkpoint)
    return dataset


def _write(
    settings: ExportSettings, classifier: "Classifier", folder: Path, calibration: "Dataset | None"
) -> "list[Exported]":
    if settings.format == "saved_model":
        from finetune.exports.saved_model import write_saved_model

        return [write_saved_model(classifier, folder)]
    if settings.format == "onnx":
        from finetune.exports.onnx_model import write_onnx

        return [write_onnx(classifier, folder)]
    if settings.format == "openvino":
        from finetune.exports.openvino_model import write_openvino

        return [write_openvino(classifier, folder)]
    if settings.format == "keras":
        from finetune.exports.keras_model import write_keras_model

        return [write_keras_model(classifier, folder)]
    if settings.format == "keras-weights":
        from finetune.exports.keras_weights_file import write_keras_weights_file

        return [write_keras_weights_file(classifier, folder)]
    from finetune.exports.tflite_model import write_tflite

    images = list(_calibration_images(settings, classifier, calibration)) if calibration is not None else []
    return [write_tflite(classifier, folder, quantization, images) for quantization in settings.quantize]


def _calibration_set(settings: ExportSettings, classifier: "Classifier") -> "Dataset | None":
    """The split that int8 takes its ranges from; None where nothing is made in int8."""
    from finetune.datasets.dataset_search import find_splits

    if "int8" not in settings.quantize:
        return None
    assert settings.dataset_dir is not None
    has_training_split = CALIBRATION_SPLIT in find_splits(settings.dataset_dir, settings.dataset_name)
    return _find_dataset(settings, classifier, CALIBRATION_SPLIT if has_training_split else settings.split)


def _num_calibration_images(settings: ExportSettings, dataset: "Dataset") -> int:
    return min(settings.num_calibration_images, dataset.num_examples)


def _calibration_images(settings: ExportSettings, classifier: "Classifier", dataset: "Dataset") -> "Iterator[Array]":
    """Prepared images, float32 [1,H,W,C], drawn from all over the split: records may be sorted by class."""
    from finetune.datasets.bad_records import reading
    from finetune.datasets.pipeline import training_batches

    plain = dataclasses.replace(classifier.preprocessing, augmentation=AugmentationSettings(augmentation="none"))
    options = dataclasses.replace(classifier.read_options, preprocessing=plain)
    batches = training_batches(dataset, options, batch_size=1, seed=0)
    num_images = _num_calibration_images(settings, dataset)
    log.info("Calibrating on %d images of %s.", num_images, dataset.split)
    with reading(dataset, classifier.network.labels_offset):
        for images, *_ in batches.take(num_images):
            yield images.numpy()


def _measure(
    settings: ExportSettings, classifier: "Classifier", dataset: "Dataset | None", exported: "list[Exported]"
) -> ExportResult:
    from finetune.datasets.bad_records import reading
    from finetune.datasets.dataset import content_hash
    from finetune.evaluation.seen_images import caution
    from finetune.exports.measure import batches_of_split, fixed_batch, measure
    from finetune.progress import progress

    if dataset is None:
        batch = fixed_batch(classifier)
        measured = measure(classifier, exported, [batch])
        return ExportResult(settings.output_dir, tuple(measured), len(batch.encoded), None, None)
    num_images = dataset.num_examples
    if settings.max_num_batches is not None:
        num_images = min(num_images, settings.max_num_batches * settings.batch_size)
    batches = batches_of_split(classifier, dataset, settings.batch_size, settings.max_num_batches)
    with reading(dataset, classifier.network.labels_offset), progress("Measuring", num_images) as advance:
        measured = measure(classifier, exported, batches, advance)
    checkpoint = Path(classifier.checkpoint.prefix)
    words = caution(checkpoint.parent, checkpoint.name, content_hash(dataset))
    return ExportResult(settings.output_dir, tuple(measured), num_images, dataset.split, words)


def _describe(
    settings: ExportSettings,
    classifier: "Classifier",
    calibration: "Dataset | None",
    exported: "list[Exported]",
    result: ExportResult,
) -> dict[str, Any]:
    """What export.json says: all that is needed to use the files without this package, and how they were measured."""
    from finetune.exports.image_preparation import image_preparation

    model = classifier.model
    return {
        "format": settings.format,
        "model": model.spec.name,
        "head": classifier.network.head,
        "head_pooling": classifier.network.head_pooling,
        "checkpoint": Path(classifier.checkpoint.prefix).name,
        "step": classifier.checkpoint.step(),
        "moving_average": classifier.network.use_moving_averages,
        "image_size": model.image_size,
        "channels": model.channels,
        "preprocessing": classifier.preprocessing.name,
        "resize": classifier.preprocessing.resize,
        "image_preparation": image_preparation(
            classifier, by_caller=settings.format != TAKES_FILES, more_steps=exported[0].more_steps
        ),
        "class_names": list(classifier.class_names),
        "labels_offset": classifier.network.labels_offset,
        **_describe_decision(classifier),
        **(
            {"task": classifier.network.task, "thresholds": list(classifier.thresholds)}
            if classifier.is_multilabel
            else {}
        ),
        "classes_in_words": "Output i, from 0 on, is class_names[i], and line i of labels.txt; "
        "in the records its label is i + labels_offset.",
        "files": [
            {
                "name": one.name,
                "file": one.file,
                "loading": one.loading,
                "signatures": [
                    dataclasses.asdict(of_labels(signature) if classifier.is_multilabel else signature)
                    for signature in one.signatures
                ],
            }
            for one in exported
        ],
        "calibrated_on": calibration
        and {"split": calibration.split, "num_images": _num_calibration_images(settings, calibration)},
        "measured_on": {"split": result.split, "num_images": result.num_images, "caution": result.caution},
        "measured_in_words": (
            "mean_average_precision is the mean over the classes that some of these images have and some haven't; "
            if classifier.is_multilabel
            else "accuracy is the share of these images whose likeliest class is their label; "
        )
        + "largest_difference is of a probability from the network's, on the same images.",
        "measured": [_measured(one) for one in result.measured],
    }


def _describe_decision(classifier: "Classifier") -> dict[str, Any]:
    """The temperature that is in the exported files, and the threshold that their probabilities are made for."""
    facts = classifier.decision.facts()
    if not facts:
        return {}
    words = (
        ["Logits are divided by the temperature already: probabilities are calibrated."]
        if "temperature" in facts
        else []
    )
    words += (
        [
            "An image is of positive_class where its probability is at least the threshold's value, else of the "
            "likeliest other class; a SavedModel's prediction is that."
        ]
        if "threshold" in facts
        else []
    )
    return {**facts, "decision_in_words": " ".join(words)}


def _measured(one: "Measured") -> dict[str, Any]:
    """As export.json has it: with the figure of the network's task alone."""
    figures = dataclasses.asdict(one)
    del figures["mean_average_precision" if one.mean_average_precision is None else "accuracy"]
    return figures
