"""What a result rests on: software, machine, settings and data; and what of it has changed. TensorFlow is not loaded.

provenance.json holds the facts of the run's last part, from its start or resumption on, and under "before" those of the
parts before it, the oldest first: nothing of it is overwritten.
"""

import dataclasses
import importlib.metadata
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune import __version__
from finetune.files.json_files import MayLack, Number, read_json, read_json_or_tell
from finetune.settings.choices import DECISIVE_SETTINGS
from finetune.settings.flags import flags_of
from finetune.settings.settings_file import plain_value
from finetune.settings.stage import StageSettings
from finetune.settings.train import DeviceSettings, TrainSettings

if TYPE_CHECKING:
    from finetune.datasets.dataset import Dataset
    from finetune.datasets.unlabelled import UnlabelledImages

PROVENANCE_FILE = "provenance.json"
DATA_SHAPE = {
    "name": str,
    "split": str,
    "num_examples": Number(int, at_least=0),
    "sha256": str,
    "part_of": MayLack(str),  # Hash of the whole split, where a fold of it was left out.
}
UNLABELLED_SHAPE = {
    "num_examples": Number(int, at_least=0),
    "sha256": str,
    "num_of_validation": Number(int, at_least=0),
    "records_sha256": str | None,
}
# Older runs have fewer of these.
_PART_SHAPE = {
    "versions": MayLack({...: str}),
    "machine": MayLack(dict),
    "settings": MayLack(dict),
    "first_step": MayLack(Number(int, at_least=0)),
    "cached_views": MayLack(Number(int, at_least=0)),
    "data": MayLack(DATA_SHAPE),
    "validation": MayLack(DATA_SHAPE),
    "unlabeled": MayLack(UNLABELLED_SHAPE),
}
PROVENANCE_SHAPE = {**_PART_SHAPE, "before": MayLack([_PART_SHAPE])}
PACKAGES = ("tensorflow", "tf-slim", "numpy", "pillow")
# Versions that the last bits of a weight may hang on.
COMPUTING_PACKAGES = ("finetune", "tensorflow", "numpy")
# Decide how a training begins, when it ends and where features lie, not what a step does.
_NOT_OF_A_STEP = ("probe", "max_steps", "epochs", "cache_memory", "deterministic", "clone_on_cpu")
# Said by scopes where a step is made.
_SAID_OTHERWISE = ("trainable_layers", "trainable_from", "freeze_until")

_MEND = "Copy it from where it came from, or remove it: then what has changed since can't be said."

Facts = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Change:
    """What isn't what it was.

    Attributes:
        name: As --allow-changed takes it.
        before: What it was.
        now: What it is.
    """

    name: str
    before: Any
    now: Any

    @property
    def makes_another_run(self) -> bool:
        """Whether steps are given something else, or compute something else, in more than last bits."""
        return self.name in ("data", "unlabeled") or self.name in DECISIVE_SETTINGS

    @property
    def is_a_setting(self) -> bool:
        """Whether it was given, as a flag or in a file."""
        return any(flag.name == self.name for flag in flags_of(TrainSettings))

    def __str__(self) -> str:
        if self.name in ("data", "validation", "unlabeled"):
            return f"{self.name} (sha256) is {_short(self.now)}, was {_short(self.before)}"
        return f"{self.name} is {self.now}, was {self.before}"


def software_versions() -> dict[str, str]:
    """Version by name of this package, of those that figures may depend on, and of Python."""
    packages = {name: importlib.metadata.version(name) for name in PACKAGES}
    return {"finetune": __version__, **packages, "Python": platform.python_version()}


def describe_run(
    training: "Dataset",
    validation: "Dataset | None",
    hashes: Mapping[str, str],
    *,
    settings: Mapping[str, Any],
    machine: Mapping[str, Any],
    first_step: int,
    unlabelled: "UnlabelledImages | None" = None,
) -> Facts:
    """The facts of a part of a run: the software, the machine, the settings, and the data by name, size and hash.

    Args:
        training: The split that is trained on.
        validation: None where there is none.
        hashes: Of each split's bytes, by its name.
        settings: As config.toml holds them.
        machine: What computes.
        first_step: Number of updates made before this part.
        unlabelled: Images that it labels itself; None: there are none.
    """
    described = {
        "first_step": first_step,
        "versions": software_versions(),
        "machine": dict(machine),
        "settings": dict(settings),
        "data": _describe(training, hashes),
    }
    if validation is not None:
        described["validation"] = _describe(validation, hashes)
    if unlabelled is not None:
        described["unlabeled"] = {
            "num_examples": len(unlabelled.records),
            "sha256": unlabelled.sha256,
            "num_of_validation": unlabelled.num_of_validation,
            "records_sha256": unlabelled.records_sha256,
        }
    return described


def read_provenance(run_folder: Path) -> Facts | None:
    """What a run was made with, and before that; None where its folder doesn't say.

    Raises:
        UserError: The file holds something else.
    """
    path = run_folder / PROVENANCE_FILE
    return read_json(path, PROVENANCE_SHAPE, _MEND) if path.is_file() else None


def read_provenance_or_tell(run_folder: Path) -> Facts:
    """As `read_provenance`; empty where there is no such file, or, which is told, a damaged one."""
    without = "What the run was trained with isn't known."
    return read_json_or_tell(run_folder / PROVENANCE_FILE, PROVENANCE_SHAPE, without) or {}


def with_history(now: Facts, recorded: Facts | None) -> Facts:
    """What provenance.json is to hold: `now` in front of what it holds; nothing new where no fact has changed."""
    if recorded is None:
        return now
    *before, last = parts_of(recorded)
    if {**last, "first_step": 0} == {**now, "first_step": 0}:
        return recorded
    return {**now, "before": [*before, last]}


def facts_at(recorded: Facts, step: int) -> Facts:
    """The facts of the part of a run that made a step."""
    parts = parts_of(recorded)
    return next((part for part in reversed(parts) if part.get("first_step", 0) < step), parts[0])


def at_next_stage(before: Facts, now: Facts) -> Facts:
    """The facts of a stage's end, with what the next stage may have otherwise as that has it."""
    kept = {name: fact for name, fact in before.items() if name != "cached_views"}
    if "settings" in kept:
        of_stage = {flag.name for flag in flags_of(StageSettings)}
        of_run = {name: value for name, value in kept["settings"].items() if name not in of_stage}
        kept["settings"] = of_run | {name: now["settings"][name] for name in of_stage.intersection(now["settings"])}
    return kept


def same_validation_since(recorded: Facts) -> int:
    """Number of updates made before the first validation on the images that the last part of a run validates on."""
    *before, since = parts_of(recorded)
    images = _hash_of("validation", since)
    for part in reversed(before):
        if "data" in part and _hash_of("validation", part) != images:
            break
        since = part
    return int(since.get("first_step", 0))


def changes_between(before: Facts, now: Facts) -> list[Change]:
    """What differs of what both say, compared by name."""
    then, today = _by_name(before), _by_name(now)
    return [Change(name, then[name], today[name]) for name in then if name in today and then[name] != today[name]]


def parts_of(recorded: Facts) -> list[Facts]:
    """The facts of each part of a run, the oldest first."""
    return [*recorded.get("before", []), {name: fact for name, fact in recorded.items() if name != "before"}]


def _by_name(facts: Facts) -> Facts:
    named = {name: facts["versions"][name] for name in COMPUTING_PACKAGES if name in facts.get("versions", {})}
    named |= facts.get("machine", {})
    if "data" in facts:
        named["data"] = facts["data"]["sha256"]
        named["validation"] = _hash_of("validation", facts)
        named["unlabeled"] = _hash_of("unlabeled", facts)
    return named | (_settings_by_name(facts["settings"]) if "settings" in facts else {})


def _settings_by_name(settings: Mapping[str, Any]) -> Facts:
    """Those that a step hangs on; one that an older run doesn't know is what it is by default."""
    of_steps = {flag.name for settings_class in (StageSettings, DeviceSettings) for flag in flags_of(settings_class)}
    of_steps = of_steps.union(DECISIVE_SETTINGS).difference(_NOT_OF_A_STEP, _SAID_OTHERWISE)
    return {
        flag.name: settings.get(flag.name, plain_value(flag.default))
        for flag in flags_of(TrainSettings)
        if flag.name in of_steps
    }


def _hash_of(what: str, facts: Facts) -> str | None:
    sha256: str | None = facts.get(what, {}).get("sha256")
    return sha256


def _short(sha256: str | None) -> str:
    return f"{sha256[:12]}…" if sha256 else "none"


def _describe(dataset: "Dataset", hashes: Mapping[str, str]) -> dict[str, Any]:
    from finetune.datasets.dataset import content_hash  # Not needed by most readers of provenance.

    part_of = {} if dataset.whole is None else {"part_of": content_hash(dataset.whole)}
    return {
        "name": dataset.name,
        "split": dataset.split,
        "num_examples": dataset.num_examples,
        "sha256": hashes[dataset.split],
        "num_skipped": dataset.num_skipped,
        **part_of,
    }
