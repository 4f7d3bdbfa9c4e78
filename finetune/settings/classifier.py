"""Settings of what turns a checkpoint into a classifier: of `finetune-predict` and `finetune-export`."""

import dataclasses
from pathlib import Path
from typing import ClassVar

from finetune.settings.choices import (
    DEFAULT_BACKGROUND,
    LEAST_SAMPLE_BITS,
    MOST_IMAGE_SIZE,
    MOST_SAMPLE_BITS,
    RESIZE_HELP,
    RESIZES,
    SINGLE_LABEL,
    TASK_HELP,
    TASKS,
)
from finetune.settings.decisions import UseSettings
from finetune.settings.flags import flag
from finetune.settings.gpus import GpuSettings
from finetune.settings.head import TrainedHeadSettings
from finetune.settings.trust import TRUST_CODE_HELP


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassifierSettings(TrainedHeadSettings, UseSettings, GpuSettings):
    """Which checkpoint, and how its network is rebuilt; what is not given is known from a run's own settings."""

    title: ClassVar[str] = "Checkpoint and network"

    checkpoint: Path = flag(
        slim=["checkpoint_path"],
        access="restore",
        help="a run's folder (its best checkpoint, else its newest), a checkpoint's prefix, or a V1 file",
    )
    checkpoint_prefix: str = flag("", help="of the checkpoint's names, to be taken off: module of module/CifarNet/...")
    labels: Path | None = flag(
        None,
        access="read",
        metavar="FILE",
        help="names of the classes, id:name a line; not given: labels.txt beside the checkpoint",
    )
    model: str | None = flag(
        None, slim=["model_name"], help="not given: the run's, else the network whose variables the checkpoint holds"
    )
    task: str | None = flag(None, choices=TASKS, help=f"{TASK_HELP}; not given: the run's, else {SINGLE_LABEL}")
    trust_code: bool = flag(False, help=TRUST_CODE_HELP)
    preprocessing: str | None = flag(None, slim=["preprocessing_name"], help="not given: the run's")
    resize: str | None = flag(None, choices=RESIZES, help=f"{RESIZE_HELP}; not given: the run's")
    image_size: int | None = flag(
        None, above=0, at_most=MOST_IMAGE_SIZE, slim=["eval_image_size"], metavar="PIXELS", help="not given: the run's"
    )
    use_grayscale: bool | None = flag(None, help="images of one channel; not given: as the run")
    labels_offset: int | None = flag(
        None, at_least=0, help="number of the label that the first output is; not given: the run's"
    )
    moving_average: bool | None = flag(None, help="use the moving averages of the weights; not given: as the run")
    background: str | None = flag(
        None, metavar="COLOUR", help=f"what transparency is laid on; not given: as the run, else {DEFAULT_BACKGROUND}"
    )
    sample_bits: int | None = flag(
        None,
        at_least=LEAST_SAMPLE_BITS,
        at_most=MOST_SAMPLE_BITS,
        metavar="N",
        help="bits that files of 16 a sample use; not given: as the run, else 16",
    )
