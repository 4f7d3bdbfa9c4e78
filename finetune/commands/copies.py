"""What a command reads and writes at URLs, by its settings: the copies of that are at hand while it works."""

import contextlib
import functools
import glob
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar, cast

from finetune.cluster.discovery import find_workers
from finetune.commands.photographs import RECORDS_FOLDER
from finetune.commands.prediction_shares import place_of_shares
from finetune.errors import UserError
from finetune.remote.session import Copy, at_hand
from finetune.remote.urls import url_of
from finetune.runs.decision_file import DECISION_FILE
from finetune.runs.run_folder import DESCRIBING_FILES, FEATURES_FOLDER
from finetune.settings.evaluate import EvalSettings
from finetune.settings.flags import Flag, flags_of, flat_values, names_urls
from finetune.settings.predict import PredictSettings
from finetune.settings.train import TrainSettings

# Of checkpoints that are read and written, which files beside them are needed.
_BESIDE: dict[str, tuple[str, ...]] = {"restore": DESCRIBING_FILES, "save": ()}
# Of tables of labels in place of a folder of photographs.
TABLE_ENDINGS = (".csv", ".tsv", ".txt")

Verb = TypeVar("Verb", bound=Callable[..., Any])


@contextlib.contextmanager
def copies_at_hand(settings: Any) -> Iterator[None]:
    """Within, what settings name by URL is at hand; what is written there is sent.

    Raises:
        UserError: As `at_hand`; what is asked for can't be done at a URL.
    """
    copies = copies_of(settings) if names_urls(settings) else []
    with at_hand([copy for copy in copies if url_of(copy.place) is not None]):
        yield


def with_copies(verb: Verb) -> Verb:
    """The function of a command, for Python: with `copies_at_hand` of its first argument, `settings`, around it."""

    @functools.wraps(verb)
    def with_copies_at_hand(*given: Any, **by_name: Any) -> Any:
        with copies_at_hand(given[0] if given else by_name["settings"]):
            return verb(*given, **by_name)

    return cast(Verb, with_copies_at_hand)


def copies_of(settings: Any) -> list[Copy]:
    """All that settings name, at URLs and elsewhere.

    Raises:
        UserError: Workers are to train in step, and who they are can't be found out.
    """
    values = flat_values(settings)
    if isinstance(settings, TrainSettings):
        return _copies_of_training(settings, values)
    copies = _copies_of(flags_of(type(settings)), values)
    if isinstance(settings, EvalSettings) and settings.output_dir is None:
        name = f"compare_{settings.split}" if settings.compare else f"eval_{settings.split}"
        networks = settings.compare[1:] or settings.checkpoint
        # Beside a checkpoint, which is a folder or lies in one.
        folders = dict.fromkeys(folder / name for path in networks for folder in (path, path.parent))
        copies += [Copy(folder, is_written=True, is_certain=False) for folder in folders]
    if isinstance(settings, EvalSettings) and settings.chooses:
        files = dict.fromkeys(folder / DECISION_FILE for path in settings.checkpoint for folder in (path, path.parent))
        copies += [Copy(file, is_written=True, is_certain=False) for file in files]
    if isinstance(settings, PredictSettings) and settings.output is not None:
        is_shared = settings.shard is not None or settings.merge_shards is not None
        copies += [Copy(place_of_shares(settings.output), is_written=True)] if is_shared else []
        if settings.heat_map_dir is not None and settings.explain_dir is None:
            copies.append(Copy(settings.heat_map_dir, is_written=True))
    return copies


def _copies_of(flags: tuple[Flag, ...], values: dict[str, Any]) -> list[Copy]:
    copies = []
    for flag in flags:
        value = values[flag.name]
        for path in value if isinstance(value, tuple) else () if value is None else (value,):
            if flag.access is not None:
                place = Path(path) if flag.kind is Path else _without_pattern(path)
                copies.append(
                    Copy(
                        place,
                        is_written=flag.access in ("write", "save"),
                        beside=_BESIDE.get(flag.access),
                        left_out=(FEATURES_FOLDER,) if flag.access == "restore" else (),
                    )
                )
    return copies


def _copies_of_training(settings: TrainSettings, values: dict[str, Any]) -> list[Copy]:
    workers = find_workers(settings.cluster, os.environ, is_resumed=settings.run.resume)
    is_chief = workers is None or workers.index == 0
    # What a run begins from is of no use to one that goes on.
    needless = ["train_dir", *(["checkpoint"] if settings.run.resume and not settings.run.verify else [])]
    copies = _copies_of(tuple(flag for flag in flags_of(TrainSettings) if flag.name not in needless), values)
    run, photographs = settings.run.train_dir, settings.source.photographs_path
    if photographs is not None and photographs.suffix.lower() in TABLE_ENDINGS:
        copies.append(Copy(photographs.parent))  # The images of a table lie beside it.
    if run is None:
        return copies
    if settings.search.sweep and url_of(run) is not None:
        raise UserError(
            f"--train-dir: {url_of(run)}: a sweep keeps a database, which is whole in a folder of this machine alone.",
            "Give such a folder.",
        )
    copies.append(Copy(run, is_written=is_chief, left_out=(FEATURES_FOLDER,)))
    if is_chief and (photographs is not None or settings.pseudo.unlabeled_dir is not None):
        copies.append(Copy(run.parent / RECORDS_FOLDER, is_written=True, is_read=False))
    return copies


def _without_pattern(word: str) -> Path:
    """A path, or of a pattern the folder that all of its matches lie in."""
    parts = Path(word).parts
    plain = next((index for index, part in enumerate(parts) if glob.has_magic(part)), len(parts))
    return Path(*parts[:plain])
