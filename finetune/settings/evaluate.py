"""Settings of `finetune-eval`."""

import dataclasses
from pathlib import Path
from typing import ClassVar

from finetune.errors import UserError
from finetune.settings.choices import (
    EXPLANATIONS,
    MATCH_LABELS_HELP,
    MOST_IMAGE_SIZE,
    ON_CORRUPT,
    ON_CORRUPT_HELP,
    PRECISIONS,
    RESIZE_HELP,
    RESIZES,
    SINGLE_LABEL,
    TASK_HELP,
    TASKS,
    TEST_TIME_AUGMENTATIONS,
    WAYS_TO_MATCH,
)
from finetune.settings.decisions import ChoiceSettings
from finetune.settings.flags import CommandSettings, flag
from finetune.settings.gpus import PassSettings
from finetune.settings.head import TrainedHeadSettings
from finetune.settings.shares import ShareSettings
from finetune.settings.train import DEFAULT_RUN_DIR, only
from finetune.settings.trust import TRUST_CODE_HELP


@dataclasses.dataclass(frozen=True)
class EvalDataSettings(CommandSettings):
    """The records, and how they are read."""

    title: ClassVar[str] = "Data"

    dataset_dir: Path = flag(access="read", help="folder of the TFRecord shards")
    dataset_name: str | None = flag(None, help="which data set, where the folder holds several")
    split: str = flag("validation", slim=["dataset_split_name"], help="split to evaluate on")
    labels_offset: int | None = flag(None, at_least=0, help="subtracted from every label; not given: the run's")
    image_key: str | None = flag(None, metavar="KEY", help="of the image in the records; not given: the run's")
    label_key: str | None = flag(None, metavar="KEY", help="of the label in the records; not given: the run's")
    match_labels: str | None = flag(None, choices=WAYS_TO_MATCH, help=MATCH_LABELS_HELP)
    on_corrupt: str = flag("fail", choices=ON_CORRUPT, help=ON_CORRUPT_HELP)
    batch_size: int = flag(100, above=0, help="images at a time, on each device; the result doesn't depend on it")
    max_num_batches: int | None = flag(None, above=0, metavar="N", help="only so many batches; not given: all")
    num_preprocessing_threads: int | None = flag(None, above=0, metavar="N", help="not given: chosen while running")


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvalNetworkSettings(TrainedHeadSettings):
    """The weights, and how their network is rebuilt; what is not given is known from a run's own settings."""

    title: ClassVar[str] = "Checkpoint and network"

    checkpoint: tuple[Path, ...] = flag(
        (DEFAULT_RUN_DIR,),
        slim=["checkpoint_path"],
        access="restore",
        help="a run's folder (its best checkpoint, else its newest), a checkpoint's prefix, or a V1 file; "
        "given several times: the mean of their weights",
    )
    checkpoint_prefix: str = flag("", help="of the checkpoint's names, to be taken off: module of module/CifarNet/...")
    average: int | None = flag(
        None, above=0, metavar="N", help="the mean of the weights of the run's last N checkpoints"
    )
    moving_average: bool | None = flag(None, help="the moving averages of the weights; not given: as the run")
    moving_average_decay: float | None = flag(
        None, at_least=0, at_most=1, metavar="DECAY", help="any value: the same as --moving-average"
    )
    model: str | None = flag(None, slim=["model_name"], help="not given: the run's")
    task: str | None = flag(None, choices=TASKS, help=f"{TASK_HELP}; not given: the run's, else {SINGLE_LABEL}")
    trust_code: bool = flag(False, help=TRUST_CODE_HELP)
    preprocessing: str | None = flag(None, slim=["preprocessing_name"], help="not given: the run's")
    resize: str | None = flag(None, choices=RESIZES, help=f"{RESIZE_HELP}; not given: the run's")
    precision: str | None = flag(None, choices=PRECISIONS, help="type that layers compute in; not given: the run's")
    image_size: int | None = flag(
        None, above=0, at_most=MOST_IMAGE_SIZE, slim=["eval_image_size"], metavar="PIXELS", help="not given: the run's"
    )
    use_grayscale: bool | None = flag(None, help="images of one channel; not given: as the run")


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvalSettings(EvalDataSettings, EvalNetworkSettings, ChoiceSettings, ShareSettings, PassSettings):
    """Settings of `finetune-eval`."""

    title: ClassVar[str] = "Evaluation"

    tta: str = flag(
        "none", choices=TEST_TIME_AUGMENTATIONS, help="flip: mean probabilities of an image and its mirror image"
    )
    compare: tuple[Path, ...] = flag(
        (),
        access="restore",
        metavar="RUN",
        num_values=2,
        help="is one of two runs better? McNemar's test, and where they differ",
    )
    output_dir: Path | None = flag(
        None, slim=["eval_dir"], access="write", help="where the files go; not given: eval_SPLIT beside the checkpoint"
    )
    report: bool = flag(True, help="draw the plots and write report.html")
    nearest: int | None = flag(
        None, above=0, metavar="K", help="in the report, beside each mistake the K most similar training images"
    )
    explain: str | None = flag(
        None, choices=EXPLANATIONS, help="show in the report what of an image spoke for the class it was mistaken for"
    )
    write_logits: bool = flag(False, help="put every logit into predictions.csv")
    assert_accuracy_at_least: float | None = flag(
        None, at_least=0, at_most=1, metavar="SHARE", help="exit with status 3 below this accuracy"
    )
    watch: bool = flag(False, help="evaluate each new checkpoint of a run as it appears")
    timeout: float = flag(
        1800.0, above=0, metavar="SECONDS", help="with --watch: stop when none has appeared for so long"
    )

    master: str = only("", "one process drives all devices")
    quantize: bool = only(False, "quantised training left TensorFlow with version 1")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.checkpoint:
            raise UserError("--checkpoint names nothing.", "Give a run's folder or a checkpoint, or leave it out.")
        self._refuse_contradictions()
        if self.explain is not None:
            self._refuse_explaining_nothing()

    def _refuse_contradictions(self) -> None:
        """Each of these says what is evaluated; two of them would say it twice."""
        wanted = {
            "--checkpoint, given several times,": len(self.checkpoint) > 1,
            "--average": self.average is not None,
            "--watch": self.watch,
            "--compare": bool(self.compare),
        }
        given = [name for name, is_given in wanted.items() if is_given]
        if len(given) > 1:
            raise UserError(f"{given[0]} and {given[1]} don't go together.", "Leave one of them out.")
        if self.compare and self.checkpoint != (DEFAULT_RUN_DIR,):
            raise UserError("--compare and --checkpoint don't go together.", "Give both runs after --compare.")
        if self.compare and (self.assert_accuracy_at_least is not None or self.write_logits):
            raise UserError(
                "--compare goes neither with --assert-accuracy-at-least nor with --write-logits.",
                "Evaluate the runs one by one for these.",
            )
        one_by_one = "--compare" if self.compare else "--watch" if self.watch else None
        if one_by_one is not None and self.chooses:
            chosen = "--calibrate" if self.rule is None else "--threshold"
            raise UserError(
                f"{one_by_one} and {chosen} don't go together: what is chosen is for one checkpoint.",
                "Evaluate that checkpoint alone.",
            )
        self._refuse_idle_nearest()
        flag = "--shard" if self.shard is not None else "--merge-shards"
        unshared = {
            "--watch": self.watch,
            "--compare": bool(self.compare),
            "--max-num-batches": self.max_num_batches is not None,
        }
        for name, is_given in unshared.items():
            if is_given and (self.shard is not None or self.merge_shards is not None):
                raise UserError(f"{flag} and {name} don't go together: shares are of all images.", "Leave one out.")

    def _refuse_idle_nearest(self) -> None:
        """What makes no report of mistakes has no use for similar images."""
        without_report = {
            "--no-report": not self.report,
            "--watch": self.watch,
            "--compare": bool(self.compare),
            "--shard": self.shard is not None,
            "--merge-shards": self.merge_shards is not None,
        }
        for name, is_given in without_report.items():
            if is_given and self.nearest is not None:
                raise UserError(
                    f"--nearest and {name} don't go together: similar images stand in the report of one evaluation.",
                    "Leave one of them out.",
                )

    def _refuse_explaining_nothing(self) -> None:
        without_mistakes = {
            "--no-report": not self.report,
            "--compare": bool(self.compare),
            "--shard": self.shard is not None,
            "--merge-shards": self.merge_shards is not None,
        }
        for name, is_given in without_mistakes.items():
            if is_given:
                raise UserError(
                    f"--explain and {name} don't go together: the mistakes of a report are explained, by the network "
                    "that made them.",
                    "Leave one out.",
                )
