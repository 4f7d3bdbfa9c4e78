"""Predictions shared out: the images of a share, what its job keeps, and all shares as one stream."""

import dataclasses
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from finetune.commands.shares import command_of_share, facts_of_settings, facts_of_software
from finetune.errors import UserError
from finetune.files.json_files import MayLack, Number
from finetune.files.shares import SHARES_FOLDER, FoundShare, Share, check_shapes, find_shares, read_rows, write_share
from finetune.model.openvino_network import load_openvino
from finetune.prediction.classifier import Classifier
from finetune.prediction.find_images import find_images
from finetune.prediction.writers import Guess, Prediction
from finetune.remote.urls import named
from finetune.runs.trained_network import weights_sha256
from finetune.settings.predict import PredictSettings

PROGRAM = "finetune-predict"
# They decide on how fast it goes, or on what is done with the whole.
NOT_OF_THE_RESULT = ("batch_size", "num_preprocessing_threads", "format", "trust_code")
FACTS_SHAPE = {"classes": [str], "images": {"number": Number(int, at_least=1), "names (sha256)": str}}
ROW_SHAPE = {
    "filename": str,
    "classes": MayLack([Number(int, at_least=0)]),
    "probabilities": MayLack([Number(float, at_least=0, at_most=1)]),
    "rejected": MayLack(bool),
    "heatmaps": MayLack([str]),
    "error": MayLack(str),
    "changes": MayLack([str]),
}


def place_of_shares(output: Path) -> Path:
    """Where the shares of a file of predictions lie."""
    return output.with_name(f"{SHARES_FOLDER}-{output.name}")


def images_of(settings: PredictSettings, share: Share) -> tuple[list[str], Sequence[str]]:
    """All images that are found, and those of a share.

    Raises:
        UserError: As `find_images`; there are more shares than images.
    """
    filenames = list(find_images(settings.images))
    share.refuse_too_many(len(filenames), "images")
    part = share.part_of(len(filenames))
    return filenames, filenames[part.start : part.stop]


def write_prediction_share(
    folder: Path,
    share: Share,
    filenames: Sequence[str],
    predictions: Iterable[Prediction],
    classifier: Classifier,
    settings: PredictSettings,
) -> None:
    """Writes the predictions of a share, as they come.

    Args:
        folder: Where they go.
        share: Which one it is.
        filenames: Of all shares' images.
        predictions: Of its own.
        classifier: That makes them.
        settings: Of the command.
    """
    facts = {
        **facts_of_settings(settings, NOT_OF_THE_RESULT),
        **facts_of_software(),
        **_facts_of_engine(settings.engine),
        "checkpoint": Path(classifier.checkpoint.prefix).name,
        "weights (sha256)": weights_sha256(classifier.model),
        "network": dataclasses.asdict(classifier.network),
        "classes": classifier.class_names,
        "decision": classifier.decision.facts(),
        "rules of the images": classifier.image_rules.to_json(),
        "images": {"number": len(filenames), "names (sha256)": _hash_of(filenames)},
    }
    write_share(folder, share, facts=facts, own={}, rows=map(_row_of, predictions))


def _facts_of_engine(engine: str) -> dict[str, str]:
    """The version of what computes in TensorFlow's place, whose own is among those of the software."""
    return {} if engine == "tensorflow" else {"version of openvino": load_openvino(f"--engine {engine}").__version__}


def merged_predictions(settings: PredictSettings, count: int) -> Iterator[Prediction]:
    """The predictions of all shares, in the order of the images; each image is there once when it ends.

    Args:
        settings: Of the command.
        count: Number of shares.

    Raises:
        UserError: As `find_shares`, before the first prediction is handed out.
    """
    assert settings.output is not None
    again = command_of_share(settings, PROGRAM)
    mend = f"Make the shares again, by {again(f'I/{count}')}"
    place = place_of_shares(settings.output)
    shares = find_shares(place, count, facts_of_settings(settings, NOT_OF_THE_RESULT), again)
    for found in shares:
        check_shapes(found, FACTS_SHAPE, {}, mend)
        expected = len(found.share.part_of(found.facts["images"]["number"]))
        if found.num_rows != expected:
            raise UserError(
                f"{found.folder} has predictions of {found.num_rows} images; share {found.share} has {expected}.", mend
            )
    return _in_order(shares, mend)


def _in_order(shares: Sequence[FoundShare], mend: str) -> Iterator[Prediction]:
    facts = shares[0].facts
    names = _NamesHash()
    for found in shares:
        for row in read_rows(found, ROW_SHAPE, mend):
            names.add(row["filename"])
            yield _prediction_of(row, facts["classes"], found, mend)
    if names.hexdigest() != facts["images"]["names (sha256)"]:
        raise UserError("--merge-shards: the shares together don't hold each image once, in the order of all.", mend)


class _NamesHash:
    """A hash of file names, one after the other."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()

    def add(self, filename: str) -> None:
        self._digest.update(filename.encode("utf-8", "surrogateescape") + b"\0")

    def hexdigest(self) -> str:
        return self._digest.hexdigest()


def _hash_of(filenames: Iterable[str]) -> str:
    names = _NamesHash()
    for filename in filenames:
        names.add(named(filename))
    return names.hexdigest()


def _row_of(prediction: Prediction) -> dict[str, Any]:
    row: dict[str, Any] = {"filename": named(prediction.filename)}
    if prediction.error is not None:
        return {**row, "error": prediction.error}
    row["classes"] = [guess.class_id for guess in prediction.guesses]
    row["probabilities"] = [guess.probability for guess in prediction.guesses]
    if prediction.is_rejected:
        row["rejected"] = True
    heatmaps = [guess.heatmap for guess in prediction.guesses if guess.heatmap is not None]
    row |= {"heatmaps": heatmaps} if heatmaps else {}
    return {**row, "changes": prediction.changes} if prediction.changes else row


def _prediction_of(row: dict[str, Any], class_names: Sequence[str], found: FoundShare, mend: str) -> Prediction:
    if "error" in row:
        return Prediction(row["filename"], (), row["error"])
    classes, probabilities = row.get("classes", []), row.get("probabilities", [])
    heatmaps = row.get("heatmaps", [None] * len(classes))
    if not classes or not len(classes) == len(probabilities) == len(heatmaps) or max(classes) >= len(class_names):
        raise UserError(f"{found.folder} has no guesses of {row['filename']} that could be.", mend)
    told = zip(classes, probabilities, heatmaps, strict=True)
    guesses = (Guess(each, class_names[each], share, heatmap) for each, share, heatmap in told)
    return Prediction(
        row["filename"],
        tuple(guesses),
        changes=tuple(row.get("changes", ())),
        is_rejected=row.get("rejected", False),
    )
