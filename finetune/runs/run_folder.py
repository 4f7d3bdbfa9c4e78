"""The files of a run beside its checkpoints: settings, plan, labels, metrics. TensorFlow is not needed."""

import contextlib
import dataclasses
import json
import logging
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import tomli_w

from finetune.datasets.description import LABELS_FILE, write_labels
from finetune.datasets.image_rules import IMAGE_RULES_SHAPE, RULES_OF_OTHER_RECORDS, ImageRules
from finetune.errors import UserError
from finetune.files.folder_lock import sole_use
from finetune.files.json_files import MayLack, Number, read_json, read_json_lines
from finetune.files.whole_files import (
    append_line,
    complete_sets,
    gone_if_empty,
    make_writable,
    partial_path,
    uncompleted_sets,
    write_json,
    write_text,
)
from finetune.model.checkpoint_names import BEST_FILE
from finetune.model.scopes import VariablePlan
from finetune.notices import few, tell_once
from finetune.runs.decision_file import DECISION_FILE
from finetune.runs.label_thresholds import LABEL_THRESHOLDS_FILE
from finetune.runs.provenance import PROVENANCE_FILE
from finetune.runs.stage_record import STAGES_FILE
from finetune.settings.settings_file import CONFIG_FILE, read_toml
from finetune.settings.train import TrainSettings

PLAN_FILE = "plan.json"
METRICS_FILE = "metrics.jsonl"
FEATURES_FOLDER = "features"
IMAGES_FILE = "images.json"
RATE_CUTS_FILE = "rate_cuts.json"
PSEUDO_LABELS_FILE = "pseudo_labels.csv"
ARCHITECTURE_FILE = "architecture.json"
_SETTINGS_FILES = (
    CONFIG_FILE,
    PLAN_FILE,
    METRICS_FILE,
    IMAGES_FILE,
    LABELS_FILE,
    PROVENANCE_FILE,
    RATE_CUTS_FILE,
    STAGES_FILE,
    PSEUDO_LABELS_FILE,
    ARCHITECTURE_FILE,
)
# What is said of a run's checkpoints.
DESCRIBING_FILES = (*_SETTINGS_FILES, BEST_FILE, DECISION_FILE, LABEL_THRESHOLDS_FILE)
_DATA_OF_CHECKPOINT = re.compile(r"(model\.ckpt-\d+)\.data-\d{5}-of-\d{5}")

METRICS_SHAPE = {
    "step": Number(int, at_least=0),
    "loss": MayLack(Number()),
    "weight_decay_loss": MayLack(Number()),
    "accuracy": MayLack(Number(at_least=0, at_most=1)),
    "balanced_accuracy": MayLack(Number(at_least=0, at_most=1)),
    "macro_f1": MayLack(Number(at_least=0, at_most=1)),
    "mean_average_precision": MayLack(Number(at_least=0, at_most=1)),
    "split": MayLack(str),
    "is_extra": MayLack(bool),
}
MEND_METRICS = (
    'Each line is an object of a step\'s figures, such as {"step": 10, "loss": 0.5}. Take the line out, or move the '
    "file away: the run goes on without."
)

log = logging.getLogger("finetune")


@dataclasses.dataclass(frozen=True)
class RunFolder:
    """A run's folder, `--train-dir`."""

    path: Path

    @contextlib.contextmanager
    def begun(self, *, resume: bool) -> Iterator[None]:
        """Makes the folder, for one program at a time; a run that fails before its first checkpoint takes with it what
        it made.

        So the next try is not refused. Features that lie in files stay, for they are taken up. What a killed program
        left is put in place where it is whole, and removed where it isn't.

        Raises:
            UserError: It can't be made; it isn't empty and the run is not to be resumed; it holds no checkpoint and is;
                another program trains in it.
        """
        self._find_content(resume=resume)
        with gone_if_empty(self.path):
            self._make()
            with sole_use(self.path, flag="--train-dir", program="finetune-train"):
                self._clear_up()
                found = self._find_content(resume=resume)  # Anew: another program may just have ended.
                try:
                    yield
                except BaseException:
                    if not self.has_checkpoint():
                        self._remove_all_but(found)
                    raise

    def _find_content(self, *, resume: bool) -> list[str]:
        """What lies in the folder, where a run may be begun, or resumed, with that in it."""
        found = self._content()
        if resume and not self.has_checkpoint():
            elsewhere = ", in another --train-dir" if found else ""
            raise UserError(
                f"--resume: {self.path} holds no whole checkpoint.", f"Start the run anew, without --resume{elsewhere}."
            )
        if found and not resume:
            self._refuse(found)
        return found

    def _clear_up(self) -> None:
        """After a program that was killed."""
        from finetune.model.checkpoint import STATE_FILE  # TensorFlow is loaded late.

        complete_sets(self.path)
        unfinished = [
            *map(partial_path, (self.path / name for name in (*_SETTINGS_FILES, BEST_FILE, STATE_FILE))),
            *self.path.glob(".model.ckpt-*.partial"),
            *(self.path / FEATURES_FOLDER).glob("*.partial"),
            *self._halves_of_checkpoints(),
        ]
        for path in unfinished:
            _remove(path)

    def _halves_of_checkpoints(self) -> list[Path]:
        """Data of checkpoints that a program was killed in deleting: without the index nothing reads them."""
        halves = []
        for path in self.path.glob("*.data-*"):
            match = _DATA_OF_CHECKPOINT.fullmatch(path.name)
            if match and not (self.path / f"{match[1]}.index").exists():
                halves.append(path)
        return halves

    def _content(self) -> list[str]:
        """What lies in the folder and isn't a run's to take over: hidden files and features don't count."""
        if not self.path.is_dir():
            return []
        names = sorted(path.name for path in self.path.iterdir())
        return [name for name in names if not name.startswith(".") and name != FEATURES_FOLDER]

    def has_checkpoint(self) -> bool:
        """Whether there is one to go on from, whole or not."""
        return any(self.path.glob("*.index")) or bool(uncompleted_sets(self.path))

    def _refuse(self, found: Sequence[str]) -> None:
        if self.has_checkpoint():
            mend = "Go on with that run by --resume, or give another --train-dir."
        elif CONFIG_FILE in found:
            kept = f" but for {FEATURES_FOLDER}/" if (self.path / FEATURES_FOLDER).exists() else ""
            mend = f"That run ended before its first checkpoint: remove the folder{kept}, or give another --train-dir."
        else:
            mend = "Give another --train-dir."
        raise UserError(f"--train-dir: {self.path} is not empty: it holds {few(found)}.", mend)

    def _make(self) -> None:
        try:
            make_writable(self.path)
        except OSError as error:
            raise UserError(
                f"--train-dir: {self.path} can't be written: {error.strerror}.", "Give another --train-dir."
            ) from error

    def _remove_all_but(self, found: Sequence[str]) -> None:
        for name in set(self._content()) - set(found):
            _remove(self.path / name)

    def write_settings(
        self, settings: Mapping[str, Any], plan: VariablePlan, class_names: Sequence[str] | None
    ) -> None:
        """Writes the settings as resolved, a flat TOML table, the plan, and the names of the classes."""
        write_text(self.path / CONFIG_FILE, tomli_w.dumps(settings))
        self.write_json(PLAN_FILE, {"variables": [dataclasses.asdict(variable) for variable in plan.variables]})
        if class_names is not None:
            write_labels(self.path / LABELS_FILE, class_names)

    def write_json(self, name: str, content: Any) -> None:
        """Writes a file of the run, whole or not at all."""
        write_json(self.path / name, content)

    def write_metrics(self, step: int, figures: Mapping[str, Any]) -> None:
        """Appends a line to metrics.jsonl."""
        append_line(self.path / METRICS_FILE, json.dumps({"step": step, **figures}))

    def forget_best(self) -> None:
        """Removes best.json, whose accuracy is of other validation images than the next ones will be."""
        path = self.path / BEST_FILE
        if path.exists():
            log.warning(
                "The validation images aren't those before: the accuracy in %s can't be compared with the next ones, "
                "and the best is looked for anew. It was: %s",
                path,
                " ".join(path.read_text(encoding="utf-8").split()),
            )
            path.unlink()

    def lend_features(self) -> contextlib.AbstractContextManager[Path]:
        """A folder that holds what features the run's has, and goes with whatever else is written to it."""
        return _linked_folder(self.path / FEATURES_FOLDER)

    def read_metrics(self) -> list[dict[str, Any]]:
        """All lines of metrics.jsonl; none where there is no such file.

        Raises:
            UserError: A line is none of a run's.
        """
        path = self.path / METRICS_FILE
        return list(read_json_lines(path, METRICS_SHAPE, MEND_METRICS)) if path.exists() else []

    def read_metrics_or_tell(self) -> list[dict[str, Any]]:
        """As `read_metrics`; where the file is damaged, which is said, none."""
        try:
            return self.read_metrics()
        except UserError as error:
            tell_once(f"{str(error).splitlines()[0]} The run's metrics are left out.")
            return []

    def forget_metrics_after(self, step: int) -> None:
        """Drops what was logged after the checkpoint that the run goes on from: it is about to be logged again.

        So is a validation outside of the schedule, made since the time was up: a run that goes on is as if it hadn't
        been stopped.
        """
        kept = (line for line in self.read_metrics() if line["step"] <= step and not line.get("is_extra"))
        lines = [json.dumps(line) + "\n" for line in kept]
        write_text(self.path / METRICS_FILE, "".join(lines))


@contextlib.contextmanager
def _linked_folder(folder: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="finetune-") as temporary:
        for path in folder.iterdir() if folder.is_dir() else ():
            (Path(temporary) / path.name).symlink_to(path.absolute(), target_is_directory=path.is_dir())
        yield Path(temporary)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def settings_of_run(folder: Path) -> dict[str, Any] | None:
    """The settings that a run was made with, by field name; None where the folder is not a run of ours."""
    path = folder / CONFIG_FILE
    return read_toml(TrainSettings, path) if path.is_file() else None


def image_rules_of_run(folder: Path) -> ImageRules | None:
    """How image files became the pixels that a run was trained on; None where the folder is not a run of ours.

    Raises:
        UserError: The run's file can't be read, or holds no rules.
    """
    path = folder / IMAGES_FILE
    if not path.is_file():  # Runs had no such file while convert dropped transparency and took the high byte.
        return RULES_OF_OTHER_RECORDS if (folder / CONFIG_FILE).is_file() else None
    mend = 'It says how images were prepared, such as {"background": "white", "sample_bits": null}.'
    content = read_json(path, IMAGE_RULES_SHAPE, mend)
    try:
        return ImageRules.from_json(content)
    except UserError as error:
        raise UserError(f"{path}: {str(error).splitlines()[0]}", mend) from error


def warn_of_other_rules(rules: ImageRules, folder: Path) -> None:
    """Says how images made by these rules differ from those that the run in the folder was trained on, if it is one."""
    of_run = image_rules_of_run(folder)
    for difference in rules.differences(of_run) if of_run else []:
        log.warning("Otherwise than the images that %s was trained on: %s.", folder, difference)
