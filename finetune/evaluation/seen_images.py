"""What a run had seen of the images that score it: its accuracy on them is not its accuracy on new ones."""

from pathlib import Path

from finetune.runs.provenance import Facts, parts_of, read_provenance_or_tell
from finetune.runs.run_folder import RunFolder, settings_of_run


def caution(run_folder: Path, checkpoint_name: str, data_sha256: str) -> str | None:
    """Words on how an accuracy flatters a checkpoint; None where the images are new to its run, or nothing is known.

    Args:
        run_folder: Where the checkpoint is.
        checkpoint_name: Its name there.
        data_sha256: Hash of the split that scored it.
    """
    provenance = read_provenance_or_tell(run_folder)
    validation = provenance.get("validation")
    trained_on = [part["data"] for part in parts_of(provenance) if "data" in part]
    if any(data["sha256"] == data_sha256 for data in trained_on):
        return "these images trained it: expect less on new ones"
    of_these = [data for data in trained_on if data.get("part_of") == data_sha256]
    if of_these:
        return f"{of_these[-1]['num_examples']:,} of these images trained it: expect less on new ones"
    if any(_were_unlabelled(part, data_sha256) for part in parts_of(provenance)):
        return "it was trained on these images, their labels unseen (pseudo-labels): expect a little less on new ones"
    if validation is None or validation["sha256"] != data_sha256 or not _is_best(run_folder, checkpoint_name):
        return None
    num_candidates = sum(
        line.get("split") == validation["split"] for line in RunFolder(run_folder).read_metrics_or_tell()
    )
    if num_candidates < 2:
        return None
    measure = (settings_of_run(run_folder) or {}).get("best_by", "accuracy")
    return (
        f"the best of {num_candidates} checkpoints by its {measure} on these images: expect a little less on new ones"
    )


def _were_unlabelled(part: Facts, data_sha256: str) -> bool:
    """Whether images of this split were among those that the run labelled itself."""
    unlabelled = part.get("unlabeled")
    if unlabelled is None:
        return False
    is_validation = part.get("validation", {}).get("sha256") == data_sha256
    return unlabelled["records_sha256"] == data_sha256 or (is_validation and unlabelled["num_of_validation"] > 0)


def _is_best(run_folder: Path, checkpoint_name: str) -> bool:
    from finetune.model.checkpoint import best_checkpoint  # TensorFlow is loaded late.

    return best_checkpoint(run_folder) == str(run_folder / checkpoint_name)
