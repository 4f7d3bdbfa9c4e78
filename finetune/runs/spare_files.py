"""What a run's folder can do without, for when its disk is full."""

import logging
import shutil
from collections.abc import Collection
from pathlib import Path

from finetune.model.checkpoint import delete_oldest, newest_whole
from finetune.notices import few
from finetune.runs.run_folder import FEATURES_FOLDER

log = logging.getLogger("finetune")


def delete_spare_files(train_dir: Path, num_kept: int, features: Collection[str]) -> bool:
    """Deletes checkpoints that the run would soon delete itself, and features that it doesn't read; says which.

    The last checkpoint that is whole stays, and the best one, whatever `num_kept` says.

    Args:
        train_dir: Folder of the run.
        num_kept: How many of the newest checkpoints stay.
        features: Names of the folders of features that are in use.

    Returns:
        Whether there were any.
    """
    folder = train_dir / FEATURES_FOLDER
    unread = [path for path in sorted(folder.iterdir()) if path.name not in features] if folder.is_dir() else []
    for path in unread:
        shutil.rmtree(path, ignore_errors=True)
    last = newest_whole(train_dir)
    checkpoints = delete_oldest(train_dir, num_kept, sparing=[last.prefix]) if last is not None else []
    deleted = [*(Path(prefix).name for prefix in checkpoints), *(f"{FEATURES_FOLDER}/{path.name}" for path in unread)]
    if deleted:
        log.warning("There was no room left in %s: to make some, %s went.", train_dir, few(deleted))
    return bool(deleted)
