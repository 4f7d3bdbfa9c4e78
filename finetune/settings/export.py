"""Settings of `finetune-export`."""

import dataclasses
from pathlib import Path
from typing import ClassVar

from finetune.errors import UserError
from finetune.settings.choices import (
    CALIBRATION_SPLIT,
    EXPORT_FORMATS,
    MATCH_LABELS_HELP,
    QUANTIZATIONS,
    WAYS_TO_MATCH,
)
from finetune.settings.classifier import ClassifierSettings
from finetune.settings.flags import CommandSettings, flag


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeasuringSettings(CommandSettings):
    """The records that an export is measured and calibrated on."""

    title: ClassVar[str] = "Images to measure on"

    dataset_dir: Path | None = flag(
        None,
        access="read",
        help="records to measure the accuracy on, and to calibrate int8 on; not given: a few made-up images",
    )
    dataset_name: str | None = flag(None, help="which data set, where the folder holds several")
    split: str = flag("validation", help="split to measure on")
    image_key: str | None = flag(None, metavar="KEY", help="of the image in the records; not given: the run's")
    label_key: str | None = flag(None, metavar="KEY", help="of the label in the records; not given: the run's")
    match_labels: str | None = flag(None, choices=WAYS_TO_MATCH, help=MATCH_LABELS_HELP)
    batch_size: int = flag(32, above=0, help="images at a time in measuring; the result doesn't depend on it")
    max_num_batches: int | None = flag(
        None, above=0, metavar="N", help="measure on so many batches only; not given: all"
    )
    num_calibration_images: int = flag(
        200, above=0, metavar="N", help=f"of the split {CALIBRATION_SPLIT}, else of --split, for int8"
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportSettings(MeasuringSettings, ClassifierSettings):
    """Settings of `finetune-export`."""

    title: ClassVar[str] = "Export"

    output_dir: Path = flag(access="write", help="folder to write; it must be new or empty")
    format: str = flag(
        "saved_model",
        choices=EXPORT_FORMATS,
        help="saved_model takes JPEG or PNG bytes, or pixels; all others take prepared images",
    )
    quantize: tuple[str, ...] = flag(
        ("none",), choices=QUANTIZATIONS, help="of tflite, one or several: a file for each"
    )
    overwrite: bool = flag(False, help="replace an earlier export in --output-dir, the whole folder")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.format != "tflite" and self.quantize != ("none",):
            raise UserError(f"--quantize is for --format tflite, not for {self.format}.", "Leave one of them out.")
        if "int8" in self.quantize and self.dataset_dir is None:
            raise UserError("--quantize int8 needs images to calibrate on.", "Give records with --dataset-dir.")
