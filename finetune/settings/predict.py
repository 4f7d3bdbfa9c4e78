"""Settings of `finetune-predict`."""

import dataclasses
from pathlib import Path
from typing import ClassVar

from finetune.errors import UserError
from finetune.settings.choices import (
    DEFAULT_MAX_MEGAPIXELS,
    ENGINES,
    EXPLANATIONS,
    FEATURE_SUFFIXES,
    MOST_MEGAPIXELS,
    PRECISIONS,
    PREDICTION_FORMATS,
)
from finetune.settings.classifier import ClassifierSettings
from finetune.settings.flags import flag
from finetune.settings.gpus import PassSettings
from finetune.settings.shares import ShareSettings


@dataclasses.dataclass(frozen=True, kw_only=True)
class PredictSettings(ClassifierSettings, ShareSettings, PassSettings):
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
    batch_size: int = flag(32, above=0, help="images at a time, on each device; the result doesn't depend on it")
    num_preprocessing_threads: int | None = flag(
        None, above=0, metavar="N", help="that read and decode images; not given: a few more than there are cores"
    )

    engine: str = flag(
        "tensorflow", choices=ENGINES, help="what computes the network; openvino: on the processor, by its own kernels"
    )
    precision: str | None = flag(None, choices=PRECISIONS, help="type that layers compute in; not given: the run's")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.engine == "openvino" and (without_effect := self._about_gpus()):
            raise UserError(
                f"--engine openvino computes on the processor: {without_effect} would have no effect.",
                "Leave one of them out.",
            )
        if self.output is None and (self.shard is not None or self.merge_shards is not None):
            flag = "--shard" if self.shard is not None else "--merge-shards"
            raise UserError(f"{flag} needs --output: shares are kept beside it.", "Give --output predictions.csv")
        if self.explain is None and self.explain_dir is not None:
            raise UserError("--explain-dir: nothing is explained.", f"Give --explain {' or '.join(EXPLANATIONS)}, too.")
        if self.explain is not None and self.heat_map_dir is None:
            raise UserError("--explain: there is no place for the pictures.", "Give --explain-dir, or --output.")
        self._check_features()

    @property
    def heat_map_dir(self) -> Path | None:
        """Where the pictures go that `explain` asks for; None: it asks for none, or there is no place for them."""
        if self.explain is None:
            return None
        if self.explain_dir is not None or self.output is None:
            return self.explain_dir
        return self.output.with_name(f"{self.output.stem}_heatmaps")

    def _check_features(self) -> None:
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
        if of_all is not None and (self.engine != "tensorflow" or self.num_clones > 1):
            other = f"--num-clones {self.num_clones}" if self.engine == "tensorflow" else f"--engine {self.engine}"
            raise UserError(
                f"{of_all} and {other} don't go together: features are computed by TensorFlow, on one device.",
                "Leave one of them out.",
            )

    def _about_gpus(self) -> str:
        """What is given of devices other than the processor; empty: nothing."""
        if isinstance(self.gpu, tuple):
            return f"--gpu {','.join(map(str, self.gpu))}"
        return f"--num-clones {self.num_clones}" if self.num_clones > 1 else self.about_memory
