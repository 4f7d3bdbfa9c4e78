"""Steps of a run, made again in memory: whether they give what its checkpoint holds."""

from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np

from finetune.errors import UserError
from finetune.model.checkpoint import GLOBAL_STEP, Checkpoint
from finetune.model.checkpoint_names import RECORD_FINGERPRINTS
from finetune.notices import few
from finetune.progress import progress
from finetune.training.recalibration import Recalibration
from finetune.training.schedules import CutSchedule
from finetune.training.state import TrainingState
from finetune.training.step import TrainingStep
from finetune.trunk.features import values_hash
from finetune.types import Array


def replay(
    state: TrainingState,
    training_step: TrainingStep,
    batches: Iterator[Any],
    schedule: CutSchedule,
    steps: range,
    chain: Mapping[int, str],
    recalibration: Recalibration | None = None,
    recalibrated: Collection[int] = (),
) -> None:
    """Makes steps again.

    Args:
        state: Of the run before them.
        training_step: Makes an update.
        batches: What they are given.
        schedule: Learning rate by step.
        steps: Numbers of the updates made before each of them.
        chain: The hash over what the run's steps were given, by the number of updates, as metrics.jsonl has it.
        recalibration: Of batch norm's statistics.
        recalibrated: Numbers of updates after which the run made one.

    Raises:
        UserError: They are given something else than the run's were.
    """
    known_step = steps.start
    with progress("Steps made again", len(steps)) as advance:
        for step in steps:
            training_step(next(batches), step, schedule(step))
            advance(1)
            if recalibration is not None and step + 1 in recalibrated:
                recalibration()
            if state.seen is None or step + 1 not in chain:
                continue
            if state.seen.link != chain[step + 1]:
                raise UserError(
                    f"--verify: in steps {known_step + 1} to {step + 1} the run was given other images, or in another "
                    f"order: their hash is {state.seen.link}, metrics.jsonl says {chain[step + 1]}.",
                    "The data, or the TensorFlow that shuffles them, aren't what they were (provenance.json).",
                )
            known_step = step + 1


def compare(
    state: TrainingState, checkpoint: Checkpoint, steps: range, *, only: Collection[str] | None = None
) -> tuple[int, str]:
    """Compares what steps gave with what the run's checkpoint of them holds, to the bit.

    Args:
        state: After the steps.
        checkpoint: Of the run.
        steps: Which.
        only: Names of what is compared; None: all.

    Returns:
        How many arrays that are, weights, slots, averages, and the SHA-256 of all of them.

    Raises:
        UserError: They differ; where, and by how much.
    """
    # Fingerprints are of other data where the run went on with other data on purpose.
    names = sorted(set(checkpoint.shapes if only is None else only) - {GLOBAL_STEP, RECORD_FINGERPRINTS})
    now = state.values()
    kept = {name: checkpoint.read(name) for name in names}
    hashes = [values_hash((name, values[name]) for name in names if name in values) for values in (now, kept)]
    if hashes[0] == hashes[1]:
        return len(names), hashes[0]
    differing = [name for name in names if name not in now or not _are_equal(now[name], kept[name])]
    largest = max((_difference(now[name], kept[name]) for name in differing if name in now), default=np.inf)
    raise UserError(
        f"--verify: steps {steps.start + 1} to {steps.stop}, made again, don't give what {checkpoint.prefix} holds: "
        f"{len(differing)} of {len(names)} arrays differ, by up to {largest:.3g}: {few(differing)} (sha256 "
        f"{hashes[0][:12]}…, {hashes[1][:12]}… in the checkpoint).",
        "They were given the same. Differences of last bits come from another TensorFlow, processor or number of "
        "threads, or from a GPU without --deterministic; larger ones from other settings, or a file that was changed.",
    )


def _are_equal(first: Array, second: Array) -> bool:
    return first.shape == second.shape and first.tobytes() == second.tobytes()


def _difference(first: Array, second: Array) -> float:
    if first.shape != second.shape:
        return float("inf")
    return float(np.max(np.abs(first.astype(np.float64) - second.astype(np.float64)), initial=0.0))
