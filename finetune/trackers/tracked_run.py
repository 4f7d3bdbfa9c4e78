"""A run that is told to a tracker, if to any: whatever happens to the tracker, the training goes on."""

import contextlib
import importlib.util
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from finetune.errors import UserError
from finetune.files.json_files import MayLack, read_json_or_tell
from finetune.files.whole_files import write_json
from finetune.notices import on_one_line
from finetune.settings.choices import NO_TRACKER
from finetune.trackers.mlflow_tracker import MlflowTracker
from finetune.trackers.tracker import Ending, Tracker
from finetune.trackers.wandb_tracker import WandbTracker

TRACKING_FILE = "tracking.json"
TRACKING_SHAPE = {"mlflow": MayLack(str), "wandb": MayLack(str)}

TRACKERS: Mapping[str, Callable[[Path, str | None], Tracker]] = {"mlflow": MlflowTracker, "wandb": WandbTracker}

log = logging.getLogger("finetune")


def refuse_missing_tracker(kind: str) -> None:
    """Refuses a tracker that isn't installed, before anything is begun.

    Args:
        kind: As `--track` takes it.

    Raises:
        UserError: It isn't there.
    """
    if kind != NO_TRACKER and importlib.util.find_spec(kind) is None:
        raise UserError(
            f"--track {kind}: {kind} is not installed.",
            f"It comes with the extra {kind}: pip install 'slim-finetune[{kind}]'; or give --track {NO_TRACKER}",
        )


class TrackedRun:
    """What a training tells of itself; nowhere, until `tracking` has begun, or where no tracker is asked for.

    A tracker that fails is said to, once, and is told nothing more.
    """

    def __init__(self, kind: str = NO_TRACKER) -> None:
        """Of a kind as `--track` takes it."""
        self._kind = kind
        self._tracker: Tracker | None = None

    @contextlib.contextmanager
    def ending_if_it_fails(self) -> Iterator[None]:
        """As `ending` where an exception ends the context; else the tracker's run goes on."""
        try:
            yield
        except BaseException as error:
            self._end("failed" if isinstance(error, Exception) else "killed")
            raise

    @contextlib.contextmanager
    def ending(self) -> Iterator[None]:
        """Whatever ends the context ends the tracker's run."""
        with self.ending_if_it_fails():
            yield
        self._end("finished")

    def begin(self, run_folder: Path) -> None:
        """Goes on with the tracker's run that the folder names, or begins one and names it there.

        Raises:
            UserError: The tracker can't.
        """
        if self._kind == NO_TRACKER:
            return
        refuse_missing_tracker(self._kind)
        path = run_folder / TRACKING_FILE
        known = read_json_or_tell(path, TRACKING_SHAPE, "Another run begins in the tracker.") or {}
        before = known.get(self._kind)
        try:
            self._tracker = TRACKERS[self._kind](run_folder, before)
        except Exception as error:
            raise UserError(
                f"--track {self._kind}: {_reason(error)}", f"Mend that, or go without: --track {NO_TRACKER}"
            ) from error
        if before is not None and self._tracker.run_id != before:
            log.warning("--track %s: the run %s isn't there any more; another one begins.", self._kind, before)
        write_json(path, {**known, self._kind: self._tracker.run_id})

    def parameters(self, table: Mapping[str, Any]) -> None:
        """The run's settings, a flat table."""
        self._try(lambda tracker: tracker.parameters({name: str(value) for name, value in table.items()}))

    def metrics(self, step: int, figures: Mapping[str, float]) -> None:
        """Figures of a step."""
        self._try(lambda tracker: tracker.metrics(step, figures))

    def files(self, folder: Path, names: Sequence[str]) -> None:
        """Files of a folder, of which it may have some only; they are kept in one of the same name."""
        paths = [folder / name for name in names if (folder / name).is_file()]
        self._try(lambda tracker: tracker.files(paths, folder.name))

    def _end(self, ending: Ending) -> None:
        self._try(lambda tracker: tracker.end(ending))
        self._tracker = None

    def _try(self, tell: Callable[[Tracker], None]) -> None:
        tracker = self._tracker
        if tracker is None:
            return
        try:
            tell(tracker)
        except Exception as error:
            self._tracker = None
            log.warning("--track %s: %s The run goes on, and is tracked no more.", self._kind, _reason(error))
            with contextlib.suppress(Exception):  # Its process, if it has one, may still be there.
                tracker.end("failed")


def _reason(error: Exception) -> str:
    """An error in a sentence."""
    text = on_one_line(" ".join(str(error).split())) or type(error).__name__
    return text if text.endswith(".") else f"{text}."
