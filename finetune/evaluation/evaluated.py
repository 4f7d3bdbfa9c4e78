"""What was evaluated, whatever an image's labels are, and what to say of it."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.datasets.dataset import Dataset
from finetune.evaluation.seen_images import caution

if TYPE_CHECKING:
    from finetune.runs.trained_network import TrainedNetwork


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluated:
    """A checkpoint and a split.

    Attributes:
        checkpoint: Prefix of the checkpoint; of the last one where several were averaged.
        checkpoint_name: Its name without the folder, or the names of those that were averaged.
        step: Its global step; None where it holds none.
        network: What the network was rebuilt with.
        tta: Test-time augmentation, "none" or "flip".
        dataset: The split.
        data_sha256: Hash of all the split's bytes.
        class_names: By class; its number where the data set has no names.
        output_dir: Where the files go.
    """

    checkpoint: str
    checkpoint_name: str
    step: int | None
    network: "TrainedNetwork"
    tta: str
    dataset: Dataset
    data_sha256: str
    class_names: list[str]
    output_dir: Path

    @property
    def run_folder(self) -> Path:
        """Where the checkpoint is."""
        return Path(self.checkpoint).parent

    @property
    def caution(self) -> str | None:
        """What to say beside the figures where the run had seen the images; None where they are new to it."""
        return caution(self.run_folder, self.checkpoint_name, self.data_sha256)

    def facts(self) -> dict[str, Any]:
        """By their names in metrics.json."""
        return {
            "split": self.dataset.split,
            "data_sha256": self.data_sha256,
            "num_skipped": self.dataset.num_skipped,
            "checkpoint": self.checkpoint_name,
            "step": self.step,
            "moving_average": self.network.use_moving_averages,
            "tta": self.tta,
        }
