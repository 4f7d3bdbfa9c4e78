"""The checkpoint that a run begins from, or goes on from."""

import shlex
from pathlib import Path

from finetune.errors import UserError
from finetune.model.checkpoint import Checkpoint, newest_whole, open_checkpoint
from finetune.settings.settings_file import CONFIG_FILE
from finetune.settings.train import NetworkSettings


def open_weights(settings: NetworkSettings, *, resumed: Path | None) -> Checkpoint | None:
    """1. The newest whole one of the run to resume; 2. the pretrained one; 3. none: from scratch.

    Raises:
        UserError: The run holds no whole checkpoint; there is none of the name, or none that can be read.
    """
    if resumed is not None:
        checkpoint = newest_whole(resumed)
        if checkpoint is None:
            raise no_whole_checkpoint(resumed)
        return checkpoint
    if settings.checkpoint is None:
        if settings.checkpoint_prefix:
            raise UserError("--checkpoint-prefix is of the names in a checkpoint.", "Give one with --checkpoint.")
        return None
    return open_checkpoint(settings.checkpoint, name_prefix=settings.checkpoint_prefix, model=settings.model)


def no_whole_checkpoint(train_dir: Path) -> UserError:
    """The mistake of resuming a run that has none."""
    return UserError(
        f"--resume: {train_dir} holds no whole checkpoint.",
        f"Start it anew, without --resume: --config {shlex.quote(str(train_dir / CONFIG_FILE))} --train-dir OTHER",
    )


def step_of(checkpoint: Checkpoint) -> int:
    """Number of the updates that a run's checkpoint comes after.

    Raises:
        UserError: It doesn't say.
    """
    step = checkpoint.step()
    if step is None:
        raise UserError(f"--resume: {checkpoint.prefix} holds no global_step.", "Start a new run with --checkpoint.")
    return step
