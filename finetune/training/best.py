"""Which validation of a run is the best: by best.json, and by the validations in metrics.jsonl."""

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from finetune.evaluation.multilabel_metrics import AnyScores
from finetune.files.json_files import MayLack, Number, read_json_or_tell
from finetune.model.checkpoint import RUN_PREFIX, checkpoints_by_step, is_whole
from finetune.model.checkpoint_names import BEST_FILE
from finetune.runs.run_folder import RunFolder

log = logging.getLogger("finetune")

BEST_SHAPE = {
    "checkpoint": str,
    "step": Number(int, at_least=0),
    "accuracy": MayLack(Number(at_least=0, at_most=1)),
    "loss": Number(at_least=0),
    "balanced_accuracy": MayLack(Number(at_least=0, at_most=1)),
    "macro_f1": MayLack(Number(at_least=0, at_most=1)),
    "mean_average_precision": MayLack(Number(at_least=0, at_most=1)),
    "is_extra": MayLack(bool),
}
# --best-by by the names in metrics.jsonl, where these are others.
_NAMES = {"f1": "macro_f1"}


@dataclasses.dataclass(frozen=True)
class Best:
    """What a validation came to; of the best one so far: best.json.

    Attributes:
        checkpoint: Name of the checkpoint of its step.
        step: Number of updates made before.
        accuracy, balanced_accuracy, macro_f1, mean_average_precision: 0 to 1; None: an older version recorded it,
            without, or it is of another task.
        loss: Mean cross-entropy.
        is_extra: Made since the time was up, outside of the schedule: a resumption takes it back.
    """

    checkpoint: str
    step: int
    accuracy: float | None
    loss: float
    balanced_accuracy: float | None = None
    macro_f1: float | None = None
    mean_average_precision: float | None = None
    is_extra: bool = False

    def value(self, best_by: str) -> float | None:
        """The measure of --best-by; None: it isn't known."""
        value: float | None = getattr(self, _NAMES.get(best_by, best_by))
        return value

    def worth(self, best_by: str) -> float | None:
        """The measure of --best-by, the higher the better; None: it isn't known."""
        value = self.value(best_by)
        return -value if best_by == "loss" and value is not None else value

    def is_better(self, other: "Best | None", best_by: str) -> bool:
        """Whether it is better than another one by a measure, of two equals by its loss."""
        mine, theirs = self.worth(best_by), other.worth(best_by) if other is not None else None
        if other is None or mine is None or theirs is None:
            return mine is not None
        return (mine, -self.loss) > (theirs, -other.loss)

    def to_json(self) -> dict[str, Any]:
        """As best.json has it: without what isn't known."""
        return {
            name: value for name, value in dataclasses.asdict(self).items() if value is not None and value is not False
        }


def validated(step: int, scores: AnyScores, *, is_extra: bool = False) -> Best:
    """What the validation after a step came to."""
    measures: dict[str, Any] = {"accuracy": None, **scores.measures()}
    return Best(f"{RUN_PREFIX}-{step}", step, **measures, is_extra=is_extra)


def read_validations(run: RunFolder, eval_split: str, after_step: int, last_step: int) -> list[Best]:
    """What the run's validations after a step, and up to another one, came to, by its metrics; without extra ones."""
    return [
        Best(
            f"{RUN_PREFIX}-{line['step']}",
            line["step"],
            line.get("accuracy"),
            line["loss"],
            line.get("balanced_accuracy"),
            line.get("macro_f1"),
            line.get("mean_average_precision"),
        )
        for line in run.read_metrics()
        if line.get("split") == eval_split and after_step < line["step"] <= last_step and not line.get("is_extra")
    ]


def find_best(run: RunFolder, first_step: int, validations: Sequence[Best], best_by: str = "accuracy") -> Best | None:
    """The best checkpoint up to the step that a run goes on from, by best.json and by the validations in metrics.jsonl.

    The two differ where the program was killed after it had saved the best checkpoint and before it wrote best.json,
    where the best one is damaged, where it was validated outside of the schedule, and where the measure is another one:
    then best.json is written anew, or removed.

    Returns:
        None where no validation's checkpoint is there and whole.
    """
    named = _read_best(run)
    candidates = {best.checkpoint: best for best in (*([named] if named else []), *validations)}
    there = {Path(prefix).name for prefix in checkpoints_by_step(run.path)}
    # A checkpoint after the first step was passed over, for it is damaged.
    found = [best for best in candidates.values() if best.step <= first_step and best.checkpoint in there]
    known = [(worth, best) for best in found if (worth := best.worth(best_by)) is not None and not best.is_extra]
    by_worth = sorted(known, key=lambda pair: (-pair[0], pair[1].loss, pair[1].step))
    best = next((best for _, best in by_worth if is_whole(str(run.path / best.checkpoint))), None)
    if best != named:
        _name_best(run, named, best, best_by)
    return best


def _name_best(run: RunFolder, named: Best | None, best: Best | None, best_by: str) -> None:
    path = run.path / BEST_FILE
    now = f"{best.checkpoint} is the best there is by {best_by}, and is named now" if best else "none is named now"
    if named is not None and named.is_extra:
        log.info("%s was validated when the time was up, outside of the schedule: %s.", named.checkpoint, now)
    elif best is None:
        what = "is not there whole" if named is None or named.worth(best_by) is not None else f"has no known {best_by}"
        log.warning("%s names %s, which %s: the best is looked for anew.", path, _name(named), what)
    else:
        log.warning("%s names %s: %s.", path, _name(named), now)
    if best is None:
        path.unlink(missing_ok=True)
    else:
        run.write_json(BEST_FILE, best.to_json())


def _read_best(run: RunFolder) -> Best | None:
    """What best.json holds; None where there is none, or, which is told, it is damaged."""
    content = read_json_or_tell(run.path / BEST_FILE, BEST_SHAPE, "The best is looked for in the run's metrics.")
    if content is None:
        return None
    return Best(**{"accuracy": None, **{name: content[name] for name in BEST_SHAPE if name in content}})


def _name(best: Best | None) -> str:
    return best.checkpoint if best is not None else "no checkpoint"
