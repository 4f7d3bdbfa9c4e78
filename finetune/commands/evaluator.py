"""A network and a split, for evaluations of one checkpoint after another."""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from finetune.commands.multilabel_evaluation import check_evaluation
from finetune.evaluation.metrics import Scores
from finetune.evaluation.multilabel_metrics import MultilabelScores
from finetune.evaluation.result_files import class_names_of
from finetune.nets import spec_of
from finetune.notices import tell_once
from finetune.runs.run_folder import warn_of_other_rules
from finetune.runs.trained_network import (
    names_of_outputs,
    network_settings,
    restore_networks,
    restore_weights,
    weights_sha256,
)
from finetune.settings.choices import MULTILABEL
from finetune.settings.evaluate import EvalSettings

if TYPE_CHECKING:
    from finetune.datasets.dataset import Dataset
    from finetune.datasets.decoding import ReadOptions
    from finetune.evaluation.explainer import Explainer
    from finetune.model.checkpoint import Checkpoint
    from finetune.model.model import Model

Passed = TypeVar("Passed", Scores, MultilabelScores)


class Evaluator:
    """Scores one checkpoint of a network after another.

    Attributes:
        settings: What is scored, and by what.
        checkpoint: Whose weights the network has.
        network: What it is rebuilt with.
        dataset: The split.
        class_names: Of the outputs.
        has_class_names: Whether they are names that are known, not those of the data by number.
        explainer: Of the network; None: mistakes aren't explained.
    """

    def __init__(
        self,
        settings: EvalSettings,
        checkpoint: "Checkpoint",
        class_names: Sequence[str] | None = None,
        part: "Callable[[Dataset], Dataset] | None" = None,
    ) -> None:
        """Finds the split, and makes the network with the checkpoint's weights.

        Args:
            settings: What is scored, and by what.
            checkpoint: The first.
            class_names: The order of the outputs; None: the network's own.
            part: Gives the part of the split that counts; None: all of it does.

        Raises:
            UserError: What the user can mend: the data, a network that doesn't fit checkpoint or data.
        """
        from finetune.datasets.bad_records import without_undecodable
        from finetune.datasets.class_matching import match_labels, output_order
        from finetune.datasets.dataset_search import find_dataset
        from finetune.evaluation.scoring import inference_function, with_outputs_in_order
        from finetune.preprocessing import get_preprocessing

        self.settings = settings
        self.checkpoint = checkpoint
        self.network = network_settings(settings, checkpoint.prefix)
        if self.network.task == MULTILABEL:
            check_evaluation(settings)
        self._preprocessing = get_preprocessing(self.network.preprocessing, resize=self.network.resize)
        offset, how = self.network.labels_offset, settings.match_labels
        dataset = find_dataset(
            settings.dataset_dir,
            settings.dataset_name,
            settings.split,
            labels_offset=offset,
            image_key=self.network.image_key,
            label_key=self.network.label_key,
            on_corrupt=settings.on_corrupt,
            task=self.network.task,
        )
        if dataset.schema.has_weights:
            tell_once(f"{settings.dataset_dir}: images have weights, which count in training alone.")
        dataset = dataset if part is None else part(dataset)
        names = names_of_outputs(checkpoint, spec_of(self.network), offset) if how != "index" else None
        self.has_class_names = names is not None
        own_names = list(names) if names is not None else class_names_of(dataset, offset)
        self.class_names = own_names if class_names is None else list(class_names)
        self.dataset = match_labels(
            dataset,
            None if names is None and class_names is None else self.class_names,
            checkpoint.prefix,
            labels_offset=offset,
            how=how,
            may_lack_classes=True,
        )
        if settings.on_corrupt == "skip":
            self.dataset = without_undecodable(self.dataset, offset)
        warn_of_other_rules(self.dataset.image_rules, Path(checkpoint.prefix).parent)
        copies = restore_networks(self.network, len(own_names), checkpoint, settings.num_clones)
        order = output_order(own_names, self.class_names, checkpoint.prefix, how)
        self._models = list(copies.values())
        self._infers = [
            with_outputs_in_order(inference_function(model, device), order) for device, model in copies.items()
        ]
        self.explainer = self._make_explainer(settings.explain) if settings.explain is not None else None

    def restore(self, checkpoint: "Checkpoint") -> None:
        """Goes over to another checkpoint of the same network."""
        for model in self._models:
            restore_weights(model, self.network, checkpoint)
        self.checkpoint = checkpoint

    def _make_explainer(self, method: str) -> "Explainer":
        from finetune.evaluation.explainer import Explainer

        return Explainer(self.model, method, self.read_options())

    @property
    def model(self) -> "Model":
        """The network, on the first of its devices."""
        return self._models[0]

    @property
    def checkpoint_name(self) -> str:
        """In words."""
        from finetune.runs.mean_checkpoint import MeanCheckpoint

        if isinstance(self.checkpoint, MeanCheckpoint):
            return f"mean of {', '.join(Path(prefix).name for prefix in self.checkpoint.prefixes)}"
        return Path(self.checkpoint.prefix).name

    @property
    def run_folder(self) -> Path:
        """Where the checkpoint is."""
        return Path(self.checkpoint.prefix).parent

    @property
    def output_dir(self) -> Path:
        """Where the files go."""
        return self.settings.output_dir or self.run_folder / f"eval_{self.settings.split}"

    @property
    def weights_sha256(self) -> str:
        """Of the network's weights."""
        return weights_sha256(self.model)

    @functools.cached_property
    def data_sha256(self) -> str:
        """Of all bytes of the split."""
        from finetune.datasets.dataset import content_hash

        return content_hash(self.dataset)

    @property
    def evaluated(self) -> dict[str, Any]:
        """What results say of it: the values of `Evaluated`."""
        return {
            "checkpoint": self.checkpoint.prefix,
            "checkpoint_name": self.checkpoint_name,
            "step": self.checkpoint.step(),
            "network": self.network,
            "tta": self.settings.tta,
            "dataset": self.dataset,
            "data_sha256": self.data_sha256,
            "class_names": self.class_names,
            "output_dir": self.output_dir,
        }

    @property
    def num_images(self) -> int:
        """That a pass scores."""
        most, whole = self.settings.max_num_batches, self.dataset.num_examples
        return whole if most is None else min(whole, most * self.settings.batch_size)

    def read_options(self) -> "ReadOptions":
        """How images of the split become what the network takes."""
        from finetune.datasets.decoding import ReadOptions

        return ReadOptions(
            self._preprocessing,
            self.model.image_size,
            self.model.channels,
            labels_offset=self.network.labels_offset,
            num_parallel_calls=self.settings.num_preprocessing_threads,
        )

    def score(self, *, keep_logits: bool = False) -> Scores:
        """One pass over the split."""
        from finetune.evaluation.scoring import score

        return self.scored_by(functools.partial(score, keep_logits=keep_logits))

    def scored_by(self, scorer: Callable[..., Passed]) -> Passed:
        """What a scorer makes of the split."""
        from finetune.datasets.bad_records import reading
        from finetune.datasets.pipeline import evaluation_batches
        from finetune.evaluation.test_time_augmentation import with_mirror_images
        from finetune.progress import progress

        settings, offset = self.settings, self.network.labels_offset
        batches = evaluation_batches(self.dataset, self.read_options(), batch_size=settings.batch_size)
        if settings.max_num_batches is not None:
            batches = batches.take(settings.max_num_batches)
        infers = self._infers
        if settings.tta == "flip":
            infers = [with_mirror_images(infer, self.network.task) for infer in infers]
        with reading(self.dataset, offset), progress(f"Evaluating {settings.split}", self.num_images) as advance:
            return scorer(infers, batches, on_batch=advance)


def open_to_evaluate(settings: EvalSettings) -> "Checkpoint":
    """The checkpoint that is to be evaluated, or the mean of several.

    Raises:
        UserError: There is none, or it can't be read.
    """
    from finetune.model.checkpoint import open_checkpoint
    from finetune.runs.mean_checkpoint import MeanCheckpoint, last_checkpoints

    if settings.average is not None:
        return MeanCheckpoint(last_checkpoints(settings.checkpoint[0], settings.average, settings.checkpoint_prefix))
    checkpoints = [
        open_checkpoint(path, name_prefix=settings.checkpoint_prefix, model=settings.model)
        for path in settings.checkpoint
    ]
    return MeanCheckpoint(checkpoints) if len(checkpoints) > 1 else checkpoints[0]
