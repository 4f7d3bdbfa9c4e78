"""`finetune-eval`: the accuracy of a checkpoint on a split, each image counted once."""

import csv
import dataclasses
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.command import run_command
from finetune.config import DEFAULT_MODEL, EvalSettings
from finetune.errors import UserError
from finetune.metrics import Scores
from finetune.run_folder import settings_of_run
from finetune.scopes import plan_variables
from finetune.tensorflow_start import start_tensorflow

if TYPE_CHECKING:
    from finetune.checkpoint import Checkpoint
    from finetune.datasets.dataset import Dataset
    from finetune.model import Model
    from finetune.preprocessing import Preprocessing

log = logging.getLogger("finetune")

METRICS_FILE = "metrics.json"
PREDICTIONS_FILE = "predictions.csv"


@dataclasses.dataclass(frozen=True)
class EvalResult:
    """What an evaluation came to.

    Attributes:
        checkpoint: Prefix of the checkpoint.
        step: Its global step; None where it holds none.
        split: The split's name.
        scores: One entry for each image.
        class_names: By class id; None where the data set has none.
        output_dir: Where the files were written.
    """

    checkpoint: str
    step: int | None
    split: str
    scores: Scores
    class_names: Sequence[str] | None
    output_dir: Path


@dataclasses.dataclass(frozen=True)
class _Network:
    """The settings that a network must be rebuilt with: the command's, else the run's, else the network's own."""

    model: str
    preprocessing: str
    image_size: int | None
    use_grayscale: bool
    labels_offset: int
    use_moving_averages: bool


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    return run_command(
        EvalSettings,
        _evaluate_and_print,
        prog="finetune-eval",
        argv=argv,
        description="Evaluate a checkpoint on a split: every image once, whatever the batch size.",
    )


def evaluate(settings: EvalSettings) -> EvalResult:
    """Scores a split and writes metrics.json and predictions.csv.

    Raises:
        UserError: What the user can mend: the checkpoint, the data, a network that doesn't fit them.
    """
    from finetune.checkpoint import open_checkpoint
    from finetune.datasets.dataset import find_dataset
    from finetune.preprocessing import get_preprocessing

    checkpoint = open_checkpoint(settings.checkpoint)
    network = _resolve(settings, checkpoint)
    preprocessing = get_preprocessing(network.preprocessing)
    dataset = find_dataset(settings.dataset_dir, settings.dataset_name, settings.split)
    output_dir = settings.output_dir or Path(checkpoint.prefix).parent / f"eval_{settings.split}"
    _make_writable(output_dir)
    model = _restore_model(network, dataset, checkpoint)
    scores = _score(settings, network, model, preprocessing, dataset)
    result = EvalResult(checkpoint.prefix, checkpoint.step(), settings.split, scores, dataset.class_names, output_dir)
    _write_metrics(result)
    _write_predictions(result)
    return result


def _evaluate_and_print(settings: EvalSettings) -> None:
    start_tensorflow()
    result = evaluate(settings)
    scores = result.scores
    num_right = int((scores.ranks == 0).sum())
    print(f"accuracy {scores.accuracy:.4f} ({num_right} of {scores.num_examples} images)")
    print(f"top-{min(5, scores.num_classes)} accuracy {scores.top_5_accuracy:.4f}")
    print(f"loss {scores.loss:.4f}")
    print(f"written to {result.output_dir}")


def _resolve(settings: EvalSettings, checkpoint: "Checkpoint") -> _Network:
    run = settings_of_run(Path(checkpoint.prefix).parent) or {}

    def known(name: str, default: Any) -> Any:
        given = getattr(settings, name)
        return given if given is not None else run.get(name, default)

    model = known("model", DEFAULT_MODEL)
    has_own_preprocessing = settings.model is None or settings.model == run.get("model")
    return _Network(
        model=model,
        preprocessing=known("preprocessing", model) if has_own_preprocessing else settings.preprocessing or model,
        image_size=known("image_size", None),
        use_grayscale=known("use_grayscale", False),
        labels_offset=known("labels_offset", 0),
        use_moving_averages=known("moving_average_decay", None) is not None,
    )


def _restore_model(network: _Network, dataset: "Dataset", checkpoint: "Checkpoint") -> "Model":
    from finetune.model import Model
    from finetune.nets import get_spec
    from finetune.scopes import MOVING_AVERAGE_SUFFIX

    spec = get_spec(network.model)
    if network.use_moving_averages and not any(name.endswith(MOVING_AVERAGE_SUFFIX) for name in checkpoint.shapes):
        raise UserError(f"--moving-average-decay: {checkpoint.prefix} holds no moving averages.", "Leave the flag out.")
    model = Model(
        spec,
        dataset.num_classes - network.labels_offset,
        image_size=network.image_size,
        channels=1 if network.use_grayscale else None,
    )
    plan = plan_variables(
        model.network_variables(),
        checkpoint_shapes=checkpoint.shapes,
        use_moving_averages=network.use_moving_averages,
        is_for_training=False,
    )
    model.restore(checkpoint, plan)
    return model


def _score(
    settings: EvalSettings, network: _Network, model: "Model", preprocessing: "Preprocessing", dataset: "Dataset"
) -> Scores:
    from finetune.datasets.pipeline import evaluation_batches, reading
    from finetune.progress import progress
    from finetune.scoring import inference_function, score

    batches = evaluation_batches(
        dataset,
        preprocessing,
        image_size=model.image_size,
        channels=model.channels,
        batch_size=settings.batch_size,
        labels_offset=network.labels_offset,
        num_parallel_calls=settings.num_preprocessing_threads,
    )
    num_images = dataset.num_examples
    if settings.max_num_batches is not None:
        batches = batches.take(settings.max_num_batches)
        num_images = min(num_images, settings.max_num_batches * settings.batch_size)
    with reading(dataset, network.labels_offset), progress(f"Evaluating {settings.split}", num_images) as advance:
        return score(inference_function(model), batches, keep_logits=settings.write_logits, on_batch=advance)


def _make_writable(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        message = f"--output-dir: {folder} can't be written: {error.strerror}."
        raise UserError(message, "Give another --output-dir.") from error


def _write_metrics(result: EvalResult) -> None:
    figures = {
        **result.scores.summary(),
        "split": result.split,
        "checkpoint": Path(result.checkpoint).name,
        "step": result.step,
    }
    (result.output_dir / METRICS_FILE).write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


def _write_predictions(result: EvalResult) -> None:
    scores = result.scores
    names = _names(result.class_names, scores.num_classes)
    header = ["filename", "label", "prediction", "label_name", "prediction_name", "probability", "rank"]
    logit_columns = [f"logit_{index}" for index in range(scores.num_classes)] if scores.logits is not None else []
    with (result.output_dir / PREDICTIONS_FILE).open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([*header, *logit_columns])
        for index, filename in enumerate(scores.filenames):
            label, prediction = int(scores.labels[index]), int(scores.predictions[index])
            row = [filename, label, prediction, names[label], names[prediction]]
            row += [f"{scores.probabilities[index]:.9g}", int(scores.ranks[index])]
            writer.writerow([*row, *(scores.logits[index].tolist() if scores.logits is not None else [])])


def _names(class_names: Sequence[str] | None, num_classes: int) -> list[str]:
    """A name for each class; its number where there is none."""
    known = list(class_names or [])
    return [known[index] if index < len(known) else str(index) for index in range(num_classes)]
