"""Settings of `finetune-predict`."""

import dataclasses
from pathlib import Path
from typing import ClassVar

from finetune.errors import UserError
from finetune.settings.choices import DEFAULT_MAX_MEGAPIXELS, MOST_MEGAPIXELS, PREDICTION_FORMATS
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
    reject_below: float | None = flag(
        None,
        at_least=0,
        at_most=1,
        metavar="P",
        help="don't know, where the likeliest class has a lower probability; finetune-eval's report says what that is "
        "good for",
    )
    output: Path | None = flag(None, access="write", metavar="FILE.csv|.json|.txt", help="not given: standard output")
    format: str | None = flag(
        None, choices=PREDICTION_FORMATS, help="not given: what the output is called, lines on standard output"
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
