"""Settings of `finetune-predict`."""

import dataclasses
from pathlib import Path
from typing import ClassVar

from finetune.errors import UserError
from finetune.settings.choices import (
    DEFAULT_MAX_MEGAPIXELS,
    FEATURE_SUFFIXES,
    MOST_MEGAPIXELS,
    PREDICTION_FORMATS,
)
from finetune.settings.classifier import ClassifierSettings
from finetune.settings.flags import flag
from finetune.settings.shares import ShareSettings


@dataclasses.dataclass(frozen=True, kw_only=True)
class PredictSettings(ClassifierSettings, ShareSettings):
    """Settings of `finetune-predict`."""

    title: ClassVar[str] = "Images and predictions"

    images: tuple[str, ...] = flag(
        (),
        positional=True,
        is_path=True,
        access="read",
        metavar="IMAGES",
        help="files, folders, globs; - for paths on standard input",
    )
    top_k: int = flag(1, above=0, metavar="K", help="the K likeliest classes of each image")
    output: Path | None = flag(None, access="write", metavar="FILE.csv|.json|.txt", help="not given: standard output")
    format: str | None = flag(
        None, choices=PREDICTION_FORMATS, help="not given: what the output is called, lines on standard output"
    )
    features: Path | None = flag(
        None, access="write", metavar="FILE.npz|.parquet", help="what the classification layer is given of each image"
    )
    nearest: int | None = flag(None, above=0, metavar="K", help="the K most similar training images of each image")
    nearest_to: Path | None = flag(
        None,
        access="read",
        metavar="FILE.npz",
        help="with --nearest: look among these --features; not given: the training images of the checkpoint's run",
    )
    max_megapixels: float = flag(
        DEFAULT_MAX_MEGAPIXELS, above=0, at_most=MOST_MEGAPIXELS, metavar="N", help="larger images get an error row"
    )
    batch_size: int = flag(32, above=0, help="images at a time; the result doesn't depend on it")
    num_preprocessing_threads: int | None = flag(
        None, above=0, metavar="N", help="that read and decode images; not given: a few more than there are cores"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.output is None and (self.shard is not None or self.merge_shards is not None):
            flag = "--shard" if self.shard is not None else "--merge-shards"
            raise UserError(f"{flag} needs --output: shares are kept beside it.", "Give --output predictions.csv")
        if self.features is not None and self.features.suffix.lower() not in FEATURE_SUFFIXES:
            ends = " or ".join(FEATURE_SUFFIXES)
            raise UserError(f"--features: {self.features} ends in none of {ends}.", "Name the file so.")
        if self.features is not None and self.features == self.output:
            raise UserError(f"--features and --output are both {self.output}.", "Give another name to one of them.")
        if self.nearest_to is not None and self.nearest is None:
            raise UserError("--nearest-to: how many images are to be found isn't said.", "Give --nearest K with it.")
        of_all = "--features" if self.features is not None else "--nearest" if self.nearest is not None else None
        if of_all is not None and (self.shard is not None or self.merge_shards is not None):
            raise UserError(
                f"{of_all} and shares don't go together: a share keeps predictions alone.",
                "Leave out --shard or --merge-shards; several machines can each take some of the images.",
            )
