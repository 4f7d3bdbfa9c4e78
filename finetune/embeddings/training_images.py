"""The images that a run was trained on, with their features: computed once for its weights, and kept beside them."""

import dataclasses
import logging
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from finetune.datasets.bad_records import reading, without_undecodable
from finetune.datasets.class_matching import match_labels
from finetune.datasets.dataset import Dataset, content_hash
from finetune.datasets.dataset_search import find_dataset
from finetune.datasets.decoding import ReadOptions
from finetune.datasets.folds import assign_folds
from finetune.datasets.pipeline import evaluation_batches
from finetune.embeddings.feature_files import KEY, WEIGHTS, FeatureRow, StoredFeatures, feature_file, read_features
from finetune.embeddings.pooled_features import PooledFeatures
from finetune.errors import UserError
from finetune.evaluation.metrics import log_softmax
from finetune.files.folder_lock import sole_writer
from finetune.files.write_errors import write_errors_told
from finetune.progress import progress
from finetune.remote.session import bring
from finetune.remote.urls import named
from finetune.runs.provenance import parts_of, read_provenance_or_tell, software_versions
from finetune.runs.run_folder import settings_of_run
from finetune.runs.trained_network import TrainedNetwork
from finetune.settings.settings_file import CONFIG_FILE
from finetune.settings.train import TrainSettings
from finetune.trunk.features import features_key

IMAGES_AT_A_TIME = 64

log = logging.getLogger("finetune")


@dataclasses.dataclass(frozen=True)
class TrainedOn:
    """What a run was trained on: its split, and the features in the order of its records."""

    dataset: Dataset
    features: StoredFeatures


@dataclasses.dataclass(frozen=True)
class FeatureNetwork:
    """A network whose features are compared, and how it is given images.

    Attributes:
        pooled: Gives them.
        network: What it was rebuilt with.
        options: How its images are read from records.
        checkpoint: Prefix of its weights.
        class_names: One for each output.
        has_class_names: Whether they are names, not mere labels.
        weights_sha256: By which it is known.
    """

    pooled: PooledFeatures
    network: TrainedNetwork
    options: ReadOptions
    checkpoint: str
    class_names: Sequence[str]
    has_class_names: bool
    weights_sha256: str

    @property
    def run_folder(self) -> Path:
        """Where the checkpoint is."""
        return Path(self.checkpoint).parent


def find_trained_on(network: FeatureNetwork, argument: str) -> TrainedOn:
    """The training images of the network's run, with features that lie beside its checkpoints or are computed now.

    Args:
        network: With the weights of a run.
        argument: What needs them, for messages.

    Raises:
        UserError: The checkpoint is no run's; the run's records are gone; there is no room for the features.
    """
    dataset = _training_split(network, argument)
    data_sha256 = content_hash(dataset)
    _tell_of_other_images(network.run_folder, dataset, data_sha256)
    path = network.run_folder / f"nearest_{dataset.split}.npz"
    key = features_key(
        weights=network.weights_sha256,
        network=dataclasses.asdict(network.network),
        data=data_sha256,
        labels=[dataset.outputs, network.class_names],
        versions=software_versions(),
    )
    with sole_writer(path, flag=argument, program="finetune", wait=True):
        found = _kept(path, key, dataset.num_examples, argument)
        if found is None:
            _refuse_without_room(path, dataset.num_examples, network.pooled.num_features, argument)
            with write_errors_told():
                _write(path, key, dataset, network)
            found = read_features(path, argument)
    return TrainedOn(dataset, found)


def features_elsewhere(path: Path, network: FeatureNetwork, argument: str) -> StoredFeatures:
    """Features from a file that was made by the same network.

    Raises:
        UserError: As `read_features`; it was made by another one.
    """
    stored = read_features(path, argument)
    if stored.notes.get(WEIGHTS) != network.weights_sha256:
        raise UserError(
            f"{argument}: the features in {path} were not made by the weights of {network.checkpoint}: those of two "
            "networks can't be compared.",
            f"Make them anew by finetune-predict --checkpoint {named(network.checkpoint)} --features {path} IMAGES",
        )
    return stored


def _training_split(network: FeatureNetwork, argument: str) -> Dataset:
    """As the run's training found it, its labels in the order of the network's outputs."""
    values = settings_of_run(network.run_folder)
    if values is None:
        raise UserError(
            f"{argument}: {network.checkpoint} is no run's, so its training images aren't known.",
            "Give a run's folder with --checkpoint.",
        )
    settings = TrainSettings(**values)
    data, offset = settings.data, settings.data.labels_offset
    bring(data.records)
    if not data.records.is_dir():
        raise UserError(
            f"{argument}: the records that {network.run_folder} was trained on aren't there: {named(data.records)}.",
            f"Put them there, or give their folder in {network.run_folder / CONFIG_FILE} (dataset_dir).",
        )
    dataset = find_dataset(
        data.records,
        data.dataset_name,
        data.split,
        labels_offset=offset,
        image_key=data.image_key,
        label_key=data.label_key,
        on_corrupt=data.on_corrupt,
    )
    if data.folds is not None and data.fold is not None:
        dataset = assign_folds(dataset, data.folds, settings.run.seed, offset).without(dataset, data.fold)
    if data.on_corrupt == "skip":
        dataset = without_undecodable(dataset, offset)
    names = network.class_names if network.has_class_names else None
    return match_labels(
        dataset, names, network.checkpoint, labels_offset=offset, how=data.match_labels, may_lack_classes=True
    )


def _tell_of_other_images(run_folder: Path, dataset: Dataset, data_sha256: str) -> None:
    known = [part["data"]["sha256"] for part in parts_of(read_provenance_or_tell(run_folder)) if "data" in part]
    if known and data_sha256 not in known:
        log.warning("The images of %s aren't those that %s was trained on.", dataset.split, run_folder)


def _kept(path: Path, key: str, num_images: int, argument: str) -> StoredFeatures | None:
    """Those of the same images by the same network; None where there are none, or others."""
    if not path.is_file():
        return None
    try:
        found = read_features(path, argument)
    except UserError as error:
        log.info("%s They are computed anew.", str(error).splitlines()[0])
        return None
    if found.notes.get(KEY) != key or len(found.features) != num_images:
        return None
    log.info("Features of %s: %s holds them already.", path.stem.removeprefix("nearest_"), path)
    return found


def _refuse_without_room(path: Path, num_images: int, num_features: int, argument: str) -> None:
    """Before hours of computing: at the end they lie there twice for a moment."""
    num_bytes = 4 * num_images * num_features
    free = shutil.disk_usage(path.parent).free
    log.info("Features of %d images, %d each: %.1f MB in %s.", num_images, num_features, num_bytes / 1e6, path)
    if free < 2 * num_bytes:
        raise UserError(
            f"{argument}: features of {num_images:,} training images take {num_bytes / 1e6:,.0f} MB, and twice that "
            f"while they are written; {path.parent} has room for {free / 1e6:,.0f} MB.",
            "Make room there.",
        )


def _write(path: Path, key: str, dataset: Dataset, network: FeatureNetwork) -> None:
    notes = {WEIGHTS: network.weights_sha256, KEY: key}
    offset = network.options.labels_offset
    with (
        feature_file(path, network.pooled.num_features, notes, with_labels=True) as file,
        reading(dataset, offset),
        progress(f"Features of {dataset.split}", dataset.num_examples) as advance,
    ):
        for rows in _rows(dataset, network):
            for row in rows:
                file.add(row)
            advance(len(rows))


def _rows(dataset: Dataset, network: FeatureNetwork) -> Iterator[list[FeatureRow]]:
    names = network.class_names
    for images, labels, filenames in evaluation_batches(dataset, network.options, batch_size=IMAGES_AT_A_TIME):
        logits, features = network.pooled(images)
        probabilities = np.exp(log_softmax(logits))
        classes = logits.argmax(axis=1)
        yield [
            FeatureRow(
                filename.decode("utf-8", "surrogateescape"),
                int(class_id),
                names[class_id],
                float(of_image[class_id]),
                of_features,
                int(label),
                names[label],
            )
            for filename, label, class_id, of_image, of_features in zip(
                filenames.numpy(), labels.numpy(), classes, probabilities, features, strict=True
            )
        ]
