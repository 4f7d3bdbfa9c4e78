"""Settings of `finetune-predict`."""

import dataclasses
from pathlib import Path
from typing import ClassVar

from finetune.errors import UserError
from finetune.settings.choices import DEFAULT_MAX_MEGAPIXELS, EXPLANATIONS, MOST_MEGAPIXELS, PREDICTION_FORMATS
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
    explain: str | None = flag(
        None,
        choices=EXPLANATIONS,
        help="write a picture of each image that shows what spoke for its class",
    )
    explain_dir: Path | None = flag(
        None, access="write", metavar="DIR", help="where these go; not given: FILE_heatmaps beside the output"
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
        if self.explain is None and self.explain_dir is not None:
            raise UserError("--explain-dir: nothing is explained.", f"Give --explain {' or '.join(EXPLANATIONS)}, too.")
        if self.explain is not None and self.heat_map_dir is None:
            raise UserError("--explain: there is no place for the pictures.", "Give --explain-dir, or --output.")

    @property
    def heat_map_dir(self) -> Path | None:
        """Where the pictures go that `explain` asks for; None: it asks for none, or there is no place for them."""
        if self.explain is None:
            return None
        if self.explain_dir is not None or self.output is None:
            return self.explain_dir
        return self.output.with_name(f"{self.output.stem}_heatmaps")
