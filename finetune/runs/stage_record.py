"""stages.json: which stage of a run made which steps. TensorFlow is not needed.

    {"stages": [{"name": "head", "first_step": 0, "last_step": 600}, {"name": "all", "first_step": 600, ...}]}

A stage is noted before its first step, and its last step once the checkpoint of it is written. So the place of a run
follows from its newest whole checkpoint, whatever it was at when it was broken off.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from finetune.errors import UserError
from finetune.files.json_files import Number, read_json
from finetune.files.whole_files import write_json

STAGES_FILE = "stages.json"
STAGES_SHAPE = {
    "stages": [{"name": str, "first_step": Number(int, at_least=0), "last_step": int | None}],
}
_MEND = "Copy it from where it came from. Without it nothing says which stage the run is at: begin another run."


@dataclasses.dataclass(frozen=True)
class StageRecord:
    """A stage as it went: number of updates made before it, and up to its end; None: it isn't at its end yet."""

    name: str
    first_step: int
    last_step: int | None = None


@dataclasses.dataclass(frozen=True)
class StagePlace:
    """Where a run is.

    Attributes:
        index: Of the stage; one more than the last: the run is at its end.
        first_step: Number of updates made before the stage.
        begins: Whether the stage takes over from the one before it with the next step.
    """

    index: int = 0
    first_step: int = 0
    begins: bool = False


# Of a run without stages.
ONLY_STAGE = StagePlace()


def read_stage_records(folder: Path) -> list[StageRecord]:
    """The stages of a run up to now, the oldest first; none where there is no such file.

    Raises:
        UserError: The file holds something else.
    """
    path = folder / STAGES_FILE
    if not path.exists():
        return []
    stages = read_json(path, STAGES_SHAPE, _MEND)["stages"]
    records = [StageRecord(stage["name"], stage["first_step"], stage["last_step"]) for stage in stages]
    ends = [0, *(record.last_step for record in records)]
    for record, end_before in zip(records, ends, strict=False):
        last = record.last_step
        if record.first_step != end_before or (last is not None and last < record.first_step):
            raise UserError(
                f"{path}: the stage {record.name!r} goes from step {record.first_step} to {last}, where the one before "
                f"ends at {end_before}.",
                _MEND,
            )
    return records


def write_stage_records(folder: Path, records: Sequence[StageRecord]) -> None:
    """Writes the file, whole or not at all."""
    write_json(folder / STAGES_FILE, {"stages": [dataclasses.asdict(record) for record in records]})


def find_place(records: Sequence[StageRecord], step: int) -> StagePlace:
    """Where a run is after so many updates; a stage without steps that was made ends where it begins."""
    begun = [record for record in records if record.first_step <= step]
    if not begun:
        return StagePlace()
    index, last = len(begun) - 1, begun[-1]
    if last.last_step is not None and step >= last.last_step:
        return StagePlace(index + 1, last.last_step, begins=True)
    return StagePlace(index, last.first_step, begins=index > 0 and step == last.first_step)
