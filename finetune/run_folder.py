"""The files of a run beside its checkpoints: settings, plan, labels, metrics. TensorFlow is not needed."""

import dataclasses
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tomli_w

from finetune.config import TrainSettings
from finetune.datasets.image_rules import RULES_OF_OTHER_RECORDS, ImageRules
from finetune.errors import UserError
from finetune.flags import read_toml, to_toml_table
from finetune.scopes import VariablePlan

CONFIG_FILE = "config.toml"
PLAN_FILE = "plan.json"
LABELS_FILE = "labels.txt"
METRICS_FILE = "metrics.jsonl"
IMAGES_FILE = "images.json"

log = logging.getLogger("finetune")


@dataclasses.dataclass(frozen=True)
class RunFolder:
    """A run's folder, `--train-dir`."""

    path: Path

    def start(self, *, resume: bool) -> None:
        """Makes the folder.

        Raises:
            UserError: It can't be made, or it isn't empty and the run is not to be resumed.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            probe = self.path / ".writable"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise UserError(
                f"--train-dir: {self.path} can't be written: {error.strerror}.", "Give another --train-dir."
            ) from error
        found = sorted(other.name for other in self.path.iterdir() if not other.name.startswith("."))
        if found and not resume:
            raise UserError(
                f"--train-dir: {self.path} is not empty: it holds {', '.join(found[:3])}"
                f"{' and more' if len(found) > 3 else ''}.",
                "Go on with that run by --resume, or give another --train-dir.",
            )

    def write_settings(self, settings: TrainSettings, plan: VariablePlan, class_names: Sequence[str] | None) -> None:
        """Writes the settings as resolved, the plan, and the names of the classes."""
        with (self.path / CONFIG_FILE).open("wb") as file:
            tomli_w.dump(to_toml_table(settings), file)
        self.write_json(PLAN_FILE, {"variables": [dataclasses.asdict(variable) for variable in plan.variables]})
        if class_names is not None:
            lines = "".join(f"{label}:{name}\n" for label, name in enumerate(class_names))
            (self.path / LABELS_FILE).write_text(lines, encoding="utf-8")

    def write_json(self, name: str, content: Any) -> None:
        """Writes a file of the run, whole or not at all."""
        partial = self.path / f"{name}.partial"
        partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        partial.replace(self.path / name)

    def write_metrics(self, step: int, figures: Mapping[str, Any]) -> None:
        """Appends a line to metrics.jsonl."""
        with (self.path / METRICS_FILE).open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **figures}) + "\n")

    def read_metrics(self) -> list[dict[str, Any]]:
        """All lines of metrics.jsonl; none where there is no such file."""
        path = self.path / METRICS_FILE
        if not path.exists():
            return []
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]

    def forget_metrics_after(self, step: int) -> None:
        """Drops what was logged after the checkpoint that the run goes on from: it is about to be logged again."""
        lines = [json.dumps(line) + "\n" for line in self.read_metrics() if line["step"] <= step]
        (self.path / METRICS_FILE).write_text("".join(lines), encoding="utf-8")


def settings_of_run(folder: Path) -> dict[str, Any] | None:
    """The settings that a run was made with, by field name; None where the folder is not a run of ours."""
    path = folder / CONFIG_FILE
    return read_toml(TrainSettings, path) if path.is_file() else None


def image_rules_of_run(folder: Path) -> ImageRules | None:
    """How image files became the pixels that a run was trained on; None where the folder is not a run of ours.

    Raises:
        UserError: The run's file can't be read.
    """
    path = folder / IMAGES_FILE
    if not path.is_file():  # Runs had no such file while convert dropped transparency and took the high byte.
        return RULES_OF_OTHER_RECORDS if (folder / CONFIG_FILE).is_file() else None
    try:
        return ImageRules.from_json(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} can't be read ({type(error).__name__}: {error}).",
            'It says how images were prepared, such as {"background": "white", "sample_bits": null}.',
        ) from error


def warn_of_other_rules(rules: ImageRules, folder: Path) -> None:
    """Says how images made by these rules differ from those that the run in the folder was trained on, if it is one."""
    of_run = image_rules_of_run(folder)
    for difference in rules.differences(of_run) if of_run else []:
        log.warning("Otherwise than the images that %s was trained on: %s.", folder, difference)
